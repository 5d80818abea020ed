// Package api is control's API: the same verbs over NATS, as a micro service,
// and over HTTP.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"nabat/control/internal/blocks"
	"nabat/control/internal/metrics"
	"nabat/control/internal/policies"
	"nabat/control/internal/tokens"
	"nabat/internal/bus"
)

// Options of an API.
type Options struct {
	Tokens   *tokens.Issuer
	Blocks   *blocks.Keeper
	Policies *policies.Publisher
	NATS     *nats.Conn
	Picture  Picture
	Prefix   string // of room subjects
	Key      string // that HTTP callers show; empty: open
	Counts   *metrics.Counts
	Log      *slog.Logger
}

// API answers requests. Safe from any goroutine.
type API struct {
	opts  Options
	verbs []verb

	waiting sync.WaitGroup // requests over NATS that may wait for what was reported
	places  chan struct{}  // bounds them
}

// maxWaiting bounds the requests about presence that are answered at once.
const maxWaiting = 1024

// verb is one request of the API, however it arrives.
type verb struct {
	name   string // behind nabat.api.
	method string // HTTP
	path   string
	handle func(body []byte) (any, error)

	// Of verbs that may wait, instead of handle; over HTTP their requests come in
	// path and query.
	wait   func(ctx context.Context, body []byte) (any, error)
	fields []string
}

// Error is a refusal: an HTTP status, a code for programs and words for people.
type Error struct {
	Status int    `json:"-"`
	Code   string `json:"code"`
	Reason string `json:"reason"`
}

func (e *Error) Error() string { return e.Code + ": " + e.Reason }

func badRequest(format string, args ...any) *Error {
	return &Error{400, "bad_request", fmt.Sprintf(format, args...)}
}

// New returns the API.
func New(o Options) *API {
	a := &API{opts: o, places: make(chan struct{}, maxWaiting)}
	a.verbs = []verb{
		{name: "token.issue", method: "POST", path: "/v1/tokens", handle: a.issueToken},
		{name: "publish", method: "POST", path: "/v1/publish", handle: a.publish},
		{name: "policies", method: "GET", path: "/v1/policies", handle: a.policies},
		{name: "jwks", method: "GET", path: "/v1/jwks", handle: a.jwks},
		{name: "presence", method: "GET", path: "/v1/rooms/{room}/presence", wait: typed(a.members), fields: []string{"room", "#limit", "after"}},
		{name: "rooms", method: "GET", path: "/v1/rooms", wait: typed(a.rooms), fields: []string{"prefix", "search", "sort", "#limit", "after"}},
		{name: "nodes", method: "GET", path: "/v1/nodes", wait: typed(a.nodes), fields: []string{}},
		{name: "user.presence", method: "GET", path: "/v1/users/{user}/presence", wait: typed(a.user), fields: []string{"user"}},
	}
	a.verbs = append(a.verbs, a.keyVerbs()...)
	return a
}

// Serve answers over NATS until the service is stopped. Replicas share the work.
func (a *API) Serve() (micro.Service, error) {
	service, err := micro.AddService(a.opts.NATS, micro.Config{Name: "nabat-api", Version: "1.0.0",
		Description: "Nabat's API: tokens, publish, policies. proto/BUS.md describes every request."})
	if err != nil {
		return nil, fmt.Errorf("NATS service: %w", err)
	}
	for _, v := range a.verbs {
		err := service.AddEndpoint(endpointName(v.name), micro.HandlerFunc(func(r micro.Request) {
			if v.wait == nil {
				a.respond(v, r)
				return
			}
			a.places <- struct{}{}
			a.waiting.Go(func() {
				defer func() { <-a.places }()
				a.respond(v, r)
			})
		}), micro.WithEndpointSubject(bus.APIPrefix+v.name))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("NATS endpoint %s: %w", v.name, err), service.Stop())
		}
	}
	return service, nil
}

// respond answers one request over NATS. The caller may be gone: nothing to do
// about it.
func (a *API) respond(v verb, r micro.Request) {
	ctx := context.WithValue(context.Background(), seenKey{}, r.Headers().Get(bus.HeaderSeen))
	reply, err := a.run(ctx, v, "nats", r.Data())
	if err != nil {
		_ = r.Error(err.Code, err.Reason, encode(map[string]any{"error": err}))
		return
	}
	_ = r.Respond(encode(reply))
}

// Wait returns when the requests that came over NATS before the service was
// stopped are answered.
func (a *API) Wait() { a.waiting.Wait() }

// endpointName: a micro endpoint's name has no dots.
func endpointName(verb string) string {
	return string(bytes.ReplaceAll([]byte(verb), []byte("."), []byte("-")))
}

// run answers one request and counts it.
func (a *API) run(ctx context.Context, v verb, via string, body []byte) (any, *Error) {
	begin := time.Now()
	var reply any
	var err error
	if v.wait != nil {
		reply, err = v.wait(ctx, body)
	} else {
		reply, err = v.handle(body)
	}
	code := "ok"
	var refused *Error
	if err != nil {
		if !errors.As(err, &refused) {
			a.opts.Log.Error("an API request failed", "verb", v.name, "error", err)
			refused = &Error{500, "internal", "the request failed; control's log says why"}
		}
		code = refused.Code
	}
	a.opts.Counts.Request(v.name, via, code, time.Since(begin).Seconds())
	return reply, refused
}

func encode(v any) []byte {
	if raw, ok := v.(json.RawMessage); ok {
		return raw
	}
	data, err := json.Marshal(v)
	if err != nil {
		panic("api: " + err.Error()) // replies are texts and numbers
	}
	return data
}

// decode reads a request strictly: one object, no unknown field.
func decode(body []byte, into any) *Error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		if errors.Is(err, io.EOF) {
			return badRequest("the body is empty: it must be a JSON object")
		}
		return badRequest("the body is not the JSON object of this request: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return badRequest("there is more behind the JSON object")
	}
	return nil
}
