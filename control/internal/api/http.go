package api

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"nabat/proto"
)

// maxBody bounds a request's body: NATS takes 1 MiB, and base64 adds a third.
const maxBody = 2 << 20

// HTTP answers the verbs over HTTP. Public keys and the description are open;
// everything else needs an API key.
func (a *API) HTTP() http.Handler {
	mux := http.NewServeMux()
	for _, v := range a.verbs {
		for _, path := range strings.Fields(v.path) {
			mux.HandleFunc(v.method+" "+path, func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, v, path) })
		}
	}
	mux.HandleFunc("GET /openapi.yaml", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(proto.OpenAPI) // the caller is gone when it fails
	})
	mux.HandleFunc(rest, func(w http.ResponseWriter, r *http.Request) {
		if list := methods(mux, r); len(list) > 0 {
			w.Header().Set("Allow", strings.Join(list, ", "))
			fail(w, refuse(methodNotAllowed, "%s takes %s", r.URL.Path, strings.Join(list, " and ")))
			return
		}
		fail(w, refuse(notFound, "there is no such request: /openapi.yaml lists them"))
	})
	return mux
}

// rest is what no verb has.
const rest = "/v1/"

// methods lists those with which a verb has the request's path.
func methods(mux *http.ServeMux, r *http.Request) (list []string) {
	for _, method := range []string{http.MethodDelete, http.MethodGet, http.MethodPost} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := mux.Handler(other); pattern != rest {
			list = append(list, method)
		}
	}
	return list
}

func (a *API) serve(w http.ResponseWriter, r *http.Request, v *verb, path string) {
	from, err := a.authenticate(r, v)
	w.Header().Set("X-Request-Id", from.id)
	if err == nil && !a.enter() {
		w.Header().Set("Retry-After", "1")
		fail(w, a.crowded(v, from))
		return
	}
	var body []byte
	if err == nil {
		defer a.leave()
		body, err = admit(w, r, v, path)
	}
	if err != nil {
		if err.Code == unauthorized {
			w.Header().Set("WWW-Authenticate", `Bearer realm="nabat"`)
		}
		a.opts.Counts.Request(v.name, "http", err.Code, 0)
		fail(w, err)
		return
	}
	reply, err := a.run(r.Context(), v, from, body)
	if err != nil {
		fail(w, err)
		return
	}
	if stream, ok := reply.(*tapStream); ok {
		stream.serve(w, r)
		return
	}
	answer(w, http.StatusOK, encode(reply))
}

// admit makes the request out of body, path and query.
func admit(w http.ResponseWriter, r *http.Request, v *verb, path string) ([]byte, *Error) {
	if err := sameSite(r, v); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, refuse(tooLarge, "the body is larger than 2 MiB")
	case err != nil:
		return nil, badRequest("the body did not arrive: %v", err)
	case len(body) > 0 && v.method == http.MethodGet:
		return nil, badRequest("%s takes no body: fields stand in the query", path)
	case len(body) > 0:
		if t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.TrimSpace(t) != "application/json" {
			return nil, refuse(unsupportedMedia, "send Content-Type: application/json")
		}
	}
	var list []parameter
	for _, part := range strings.Split(path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			name = strings.TrimSuffix(name, "}")
			list = append(list, parameter{name, []string{r.PathValue(name)}})
		}
	}
	for name, values := range r.URL.Query() {
		list = append(list, parameter{name, values})
	}
	body, err = v.handle.withParameters(body, list)
	var refused *Error
	if errors.As(err, &refused) {
		return nil, refused
	}
	return body, nil
}

// sameSite keeps web pages of other sites from calling what changes something in
// an API that a browser can reach. A form can post without asking first (CORS),
// but not JSON, and browsers of today say where a request comes from.
func sameSite(r *http.Request, v *verb) *Error {
	if v.method == http.MethodGet {
		return nil
	}
	if t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); v.method == http.MethodPost && strings.TrimSpace(t) != "application/json" {
		return refuse(unsupportedMedia, "send Content-Type: application/json")
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return nil
	}
	return refuse(originNotAllowed, "pages of other sites may not use this API")
}

func fail(w http.ResponseWriter, e *Error) {
	answer(w, e.status(), encode(map[string]any{"error": e}))
}

func answer(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the caller is gone when it fails
}
