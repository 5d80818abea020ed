package client

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"nabat/proto/wire"
)

// SubscribeOption says where subscriptions begin. Without one they begin now.
type SubscribeOption func(*wire.RoomRequest)

// From begins behind positions, each for its own room: everything after it
// follows, or the answer says that it does not (Position.Recovered). Positions
// come from answers, from Conn.Positions, and from the room, epoch and offset of
// a message.
func From(positions ...wire.Position) SubscribeOption {
	at := make(map[string]wire.Position, len(positions))
	for _, p := range positions {
		at[p.Room] = p
	}
	return func(r *wire.RoomRequest) {
		if p, ok := at[r.Room]; ok && p.Epoch != "" {
			r.Epoch, r.Offset = p.Epoch, p.Offset
		}
	}
}

// Since begins with what was published in the last so much time.
func Since(ago time.Duration) SubscribeOption {
	return func(r *wire.RoomRequest) { r.Since = ago.String() }
}

// SinceTime begins with what was published at a time or later.
func SinceTime(at time.Time) SubscribeOption {
	return func(r *wire.RoomRequest) { r.Since = at.UTC().Format(time.RFC3339Nano) }
}

// Latest begins with the newest message.
func Latest() SubscribeOption {
	return func(r *wire.RoomRequest) { r.Latest = true }
}

// requests lists each room once.
func requests(rooms []string, options []SubscribeOption) []wire.RoomRequest {
	list := make([]wire.RoomRequest, 0, len(rooms))
	seen := make(map[string]bool, len(rooms))
	for _, room := range rooms {
		if seen[room] {
			continue
		}
		seen[room] = true
		r := wire.RoomRequest{Room: room}
		for _, option := range options {
			option(&r)
		}
		list = append(list, r)
	}
	return list
}

// places are the rooms of a connection, each with the position of what was read
// last. They change in the order of what the server says.
type places map[string]wire.Position

func (p places) take(in *inbound) {
	switch {
	case in.Message != nil:
		if at, ok := p[in.Message.Room]; ok && in.Message.Offset != 0 {
			at.Offset = in.Message.Offset
			p[in.Message.Room] = at
		}
	case in.Connected != nil:
		p.join(in.Connected.Rooms)
	case in.Subscribed != nil && in.ID != nil:
		p.join(in.Subscribed.Rooms) // without an id the server joins: it does so for this connection only
	case in.Reset != nil:
		if _, ok := p[in.Reset.Room]; ok {
			p[in.Reset.Room] = *in.Reset
		}
	case in.Unsubscribed != nil:
		for _, room := range in.Unsubscribed.Rooms {
			delete(p, room)
		}
	}
}

func (p places) join(rooms []wire.Position) {
	for _, at := range rooms {
		// A room that is joined again goes on where it was: the answer may be
		// ahead of messages that are on their way.
		if had, ok := p[at.Room]; !ok || had.Epoch != at.Epoch {
			p[at.Room] = wire.Position{Room: at.Room, Epoch: at.Epoch, Offset: at.Offset}
		}
	}
}

func (p places) list() []wire.Position {
	return slices.SortedFunc(maps.Values(p), func(a, b wire.Position) int { return cmp.Compare(a.Room, b.Room) })
}
