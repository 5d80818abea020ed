package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"net/http"
	"strings"

	"nabat/proto"
)

// maxBody bounds a request's body: NATS takes 1 MiB, and base64 adds a third.
const maxBody = 2 << 20

// HTTP answers the verbs over HTTP. Public keys and the description are open;
// everything else needs the API key.
func (a *API) HTTP() http.Handler {
	mux := http.NewServeMux()
	for _, v := range a.verbs {
		mux.HandleFunc(v.method+" "+v.path, func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, v) })
	}
	mux.HandleFunc("GET /openapi.yaml", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(proto.OpenAPI) // the caller is gone when it fails
	})
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		for _, v := range a.verbs {
			if v.path == r.URL.Path {
				w.Header().Set("Allow", v.method)
				fail(w, &Error{405, "method_not_allowed", v.path + " takes " + v.method})
				return
			}
		}
		fail(w, &Error{404, "not_found", "there is no such request: /openapi.yaml lists them"})
	})
	return mux
}

func (a *API) serve(w http.ResponseWriter, r *http.Request, v verb) {
	body, err := a.admit(w, r, v)
	if err != nil {
		a.opts.Counts.Request(v.name, "http", err.Code, 0)
		fail(w, err)
		return
	}
	reply, err := a.run(r.Context(), v, "http", body)
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusOK, encode(reply))
}

// admit reads the body of a request that may be made.
func (a *API) admit(w http.ResponseWriter, r *http.Request, v verb) ([]byte, *Error) {
	if v.name != "jwks" && !a.authorized(r) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="nabat"`)
		return nil, &Error{401, "unauthorized", "show the API key: Authorization: Bearer KEY"}
	}
	if err := sameSite(r, v); err != nil {
		return nil, err
	}
	if v.fields != nil {
		return parameters(r, v.fields)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, &Error{413, "too_large", "the body is larger than 2 MiB"}
	case err != nil:
		return nil, badRequest("the body did not arrive: %v", err)
	}
	return body, nil
}

// sameSite keeps web pages of other sites from posting to an API that a browser
// can reach: they cannot send JSON without asking first (CORS), and nothing here
// answers that question.
func sameSite(r *http.Request, v verb) *Error {
	if v.method != http.MethodPost {
		return nil
	}
	if t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.TrimSpace(t) != "application/json" {
		return &Error{415, "unsupported_media_type", "send Content-Type: application/json"}
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return nil
	}
	return &Error{403, "origin_not_allowed", "pages of other sites may not use this API"}
}

// authorized compares digests, so that neither time nor length tells about the
// key.
func (a *API) authorized(r *http.Request) bool {
	if a.opts.Key == "" {
		return true
	}
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	got, want := sha256.Sum256([]byte(strings.TrimSpace(key))), sha256.Sum256([]byte(a.opts.Key))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

func fail(w http.ResponseWriter, e *Error) { answer(w, e.Status, encode(map[string]any{"error": e})) }

func answer(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the caller is gone when it fails
}
