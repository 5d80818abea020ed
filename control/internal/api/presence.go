package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"nabat/control/internal/nodes"
	"nabat/control/internal/presence"
	"nabat/proto/subject"
)

// Picture answers who is where.
type Picture interface {
	Members(ctx context.Context, room string, limit int, after, seen string) (*nodes.Members, error)
	Rooms(presence.RoomQuery) (*presence.RoomPage, error)
	User(name string) (*nodes.User, error)
	Nodes() *nodes.Cluster
}

var _ Picture = (*nodes.Keeper)(nil)

// Pages of members and of rooms.
const (
	defaultPage = 100
	maxPage     = 1000
	maxText     = 256 // bytes of a user, a prefix, a cursor
)

// seenKey is where a context has what the caller has seen: bus.HeaderSeen.
type seenKey struct{}

type membersRequest struct {
	Room  string `json:"room"`
	Limit *int   `json:"limit"`
	After string `json:"after"`
}

func (a *API) members(ctx context.Context, q *membersRequest) (any, error) {
	if err := subject.CheckRoom(q.Room); err != nil {
		return nil, &Error{400, "bad_room", err.Error()}
	}
	limit, err := page(q.Limit)
	if err != nil {
		return nil, err
	}
	seen, _ := ctx.Value(seenKey{}).(string)
	return answered(a.opts.Picture.Members(ctx, q.Room, limit, q.After, seen))
}

type roomsRequest struct {
	Prefix string `json:"prefix"`
	Search string `json:"search"`
	Sort   string `json:"sort"`
	Limit  *int   `json:"limit"`
	After  string `json:"after"`
}

func (a *API) rooms(_ context.Context, q *roomsRequest) (any, error) {
	limit, err := page(q.Limit)
	if err != nil {
		return nil, err
	}
	if q.Sort != "" && q.Sort != "name" && q.Sort != "members" {
		return nil, badRequest("sort is %q: must be name or members", q.Sort)
	}
	for _, f := range []struct{ name, value string }{{"prefix", q.Prefix}, {"search", q.Search}, {"after", q.After}} {
		if len(f.value) > maxText {
			return nil, badRequest("%s has %d bytes: at most %d", f.name, len(f.value), maxText)
		}
	}
	return answered(a.opts.Picture.Rooms(presence.RoomQuery{Prefix: q.Prefix, Search: q.Search, ByMembers: q.Sort == "members", Limit: limit, After: q.After}))
}

type userRequest struct {
	User string `json:"user"`
}

func (a *API) user(_ context.Context, q *userRequest) (any, error) {
	if q.User == "" || len(q.User) > maxText {
		return nil, badRequest("user must have 1 to %d bytes", maxText)
	}
	return answered(a.opts.Picture.User(q.User))
}

func (a *API) nodes(context.Context, *struct{}) (any, error) { return a.opts.Picture.Nodes(), nil }

func page(limit *int) (int, error) {
	switch {
	case limit == nil:
		return defaultPage, nil
	case *limit < 0 || *limit > maxPage:
		return 0, badRequest("limit is %d: must be 0 to %d", *limit, maxPage)
	}
	return *limit, nil
}

// answered turns what the picture refuses into what the caller is told.
func answered[R any](reply R, err error) (any, error) {
	if errors.Is(err, nodes.ErrNotBuilt) {
		return nil, &Error{503, "unavailable", err.Error() + ": try again in a moment"}
	}
	return reply, err
}

// typed makes a handler of a function with a request of its own, which is read
// strictly. Nothing at all is an object without fields.
func typed[Q any](fn func(context.Context, *Q) (any, error)) func(context.Context, []byte) (any, error) {
	return func(ctx context.Context, body []byte) (any, error) {
		q := new(Q)
		if len(body) == 0 {
			body = []byte("{}")
		}
		if err := decode(body, q); err != nil {
			return nil, err
		}
		return fn(ctx, q)
	}
}

// parameters makes the request out of a path and a query: each verb says which
// it takes, numbers with a # in front.
func parameters(r *http.Request, names []string) ([]byte, *Error) {
	object := make(map[string]any)
	query := r.URL.Query()
	for _, name := range names {
		number := name[0] == '#'
		if number {
			name = name[1:]
		}
		value := r.PathValue(name)
		if list := query[name]; value == "" && len(list) > 0 {
			value = list[0]
		}
		delete(query, name)
		switch {
		case value == "":
		case !number:
			object[name] = value
		case !json.Valid([]byte(value)):
			return nil, badRequest("%s is %q: must be a number", name, value)
		default:
			object[name] = json.RawMessage(value)
		}
	}
	for name := range query {
		return nil, badRequest("there is no parameter %q", name)
	}
	return encode(object), nil
}
