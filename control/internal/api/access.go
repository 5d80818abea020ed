package api

import (
	"context"
	"net/http"
	"strings"

	"nabat/control/internal/apikeys"
)

// caller is who asks, and what is known of the request.
type caller struct {
	name string       // for the log: a key's id, "nats", "bootstrap" or "open"
	via  string       // nats or http
	id   string       // of the request
	key  *apikeys.Key // nil: may do everything
	seen string       // what an edge has reported so far: bus.HeaderSeen
}

type callerKey struct{}

func withCaller(ctx context.Context, c caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// mayUse reports whether the caller's key is for a verb.
func (c caller) mayUse(v *verb) *Error {
	if c.key == nil || v.scope == scopeOpen || c.key.Allows(v.name, v.scope) {
		return nil
	}
	return refuse(notAllowed, "the API key %s is not for %s: it would need the scope %s, or %s itself", c.key.ID, v.name, v.scope, v.name)
}

// mayTouch reports whether the caller's key is for the rooms that a request
// names. A key that is limited to rooms is for no request without any.
func (c caller) mayTouch(request any) error {
	if c.key == nil || len(c.key.Rooms) == 0 {
		return nil
	}
	q, ok := request.(roomed)
	var rooms []string
	if ok {
		rooms = q.rooms()
	}
	if len(rooms) == 0 {
		return refuse(notAllowed, "the API key %s is for some rooms only, and this request names none", c.key.ID)
	}
	for _, room := range rooms {
		if !c.key.Covers(room) {
			return refuse(notAllowed, "the API key %s is not for room %s", c.key.ID, room)
		}
	}
	return nil
}

// authenticate finds out whose request it is.
func (a *API) authenticate(r *http.Request, v *verb) (caller, *Error) {
	c := caller{via: "http", id: requestID(r.Header.Get("X-Request-Id")), name: "open"}
	if a.opts.Open || v.scope == scopeOpen {
		return c, nil
	}
	scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if secret = strings.TrimSpace(secret); secret == "" || !strings.EqualFold(scheme, "Bearer") {
		return c, refuse(unauthorized, "show an API key: Authorization: Bearer KEY")
	}
	if a.opts.Bootstrap.Matches(secret) {
		c.name = "bootstrap"
		return c, nil
	}
	key, err := a.opts.Keys.Find(secret)
	if err != nil {
		return c, refuse(unauthorized, "%v", err)
	}
	c.key, c.name = key, key.ID
	return c, nil
}
