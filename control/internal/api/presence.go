package api

import (
	"context"
	"errors"

	"nabat/control/internal/nodes"
	"nabat/control/internal/presence"
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

// whereabouts is the verbs about who is where.
type whereabouts struct{ *Options }

func (w whereabouts) verbs() []verb {
	return []verb{
		{"presence", scopeRead, "GET", "/v1/rooms/{room}/presence", typed(w.members)},
		{"rooms", scopeRead, "GET", "/v1/rooms", typed(w.rooms)},
		{"nodes", scopeRead, "GET", "/v1/nodes", typed(w.nodes)},
		{"user.presence", scopeRead, "GET", "/v1/users/{user}/presence", typed(w.user)},
	}
}

type membersRequest struct {
	Room  string `json:"room"`
	Limit *int   `json:"limit"`
	After string `json:"after"`
}

func (q *membersRequest) rooms() []string { return []string{q.Room} }

func (w whereabouts) members(ctx context.Context, q *membersRequest) (any, error) {
	if err := checkRoom(q.Room); err != nil {
		return nil, err
	}
	limit, err := page(q.Limit)
	if err != nil {
		return nil, err
	}
	return answered(w.Picture.Members(ctx, q.Room, limit, q.After, callerOf(ctx).seen))
}

type roomsRequest struct {
	Prefix string `json:"prefix"`
	Search string `json:"search"`
	Sort   string `json:"sort"`
	Limit  *int   `json:"limit"`
	After  string `json:"after"`
}

var sorts = map[string]presence.Sort{"": presence.ByName, "name": presence.ByName, "members": presence.ByMembers, "rate": presence.ByRate}

func (w whereabouts) rooms(_ context.Context, q *roomsRequest) (any, error) {
	limit, err := page(q.Limit)
	if err != nil {
		return nil, err
	}
	by, ok := sorts[q.Sort]
	if !ok {
		return nil, badRequest("sort is %q: must be name, members or rate", q.Sort)
	}
	for _, f := range []struct{ name, value string }{{"prefix", q.Prefix}, {"search", q.Search}, {"after", q.After}} {
		if len(f.value) > maxText {
			return nil, badRequest("%s has %d bytes: at most %d", f.name, len(f.value), maxText)
		}
	}
	return answered(w.Picture.Rooms(presence.RoomQuery{Prefix: q.Prefix, Search: q.Search, Sort: by, Limit: limit, After: q.After}))
}

type userRequest struct {
	User string `json:"user"`
}

func (w whereabouts) user(_ context.Context, q *userRequest) (any, error) {
	if q.User == "" || len(q.User) > maxText {
		return nil, badRequest("user must have 1 to %d bytes", maxText)
	}
	return answered(w.Picture.User(q.User))
}

func (w whereabouts) nodes(context.Context, *struct{}) (any, error) { return w.Picture.Nodes(), nil }

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
		return nil, refuse(unavailable, "%v: try again in a moment", err)
	}
	return reply, err
}
