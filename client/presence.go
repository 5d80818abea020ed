package client

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"nabat/proto/wire"
)

// Presence asks for the comings and goings of members, too: they are events
// (Event.Presence).
func Presence() SubscribeOption {
	return func(r *wire.RoomRequest) { r.Presence = true }
}

// PresenceOption says which part of who is in a room is wanted.
type PresenceOption func(*wire.PresenceRequest)

// Users bounds one page; 0 asks for counts only. The server gives at most
// wire.MaxPresence, and wire.DefaultPresence where nothing is said.
func Users(limit int) PresenceOption {
	return func(r *wire.PresenceRequest) { r.Limit, r.HasLimit = uint64(max(limit, 0)), true }
}

// AfterUser asks for the users behind one, bytewise.
func AfterUser(user string) PresenceOption {
	return func(r *wire.PresenceRequest) { r.After = user }
}

func presenceRequest(room string, options []PresenceOption) wire.PresenceRequest {
	r := wire.PresenceRequest{Room: room}
	for _, option := range options {
		option(&r)
	}
	return r
}

// Presence reads one page of who is in a room. The client need not be in it.
func (c *Conn) Presence(ctx context.Context, room string, options ...PresenceOption) (wire.PresencePage, error) {
	return c.members(ctx, presenceRequest(room, options))
}

// Members goes through who is in a room, page by page as it is read. An error is
// the last that it yields.
func (c *Conn) Members(ctx context.Context, room string, options ...PresenceOption) iter.Seq2[wire.Member, error] {
	return allMembers(ctx, c.members, presenceRequest(room, options))
}

// Presence is Conn.Presence.
func (k *Keeper) Presence(ctx context.Context, room string, options ...PresenceOption) (wire.PresencePage, error) {
	return k.members(ctx, presenceRequest(room, options))
}

// Members is Conn.Members, over the ends of connections.
func (k *Keeper) Members(ctx context.Context, room string, options ...PresenceOption) iter.Seq2[wire.Member, error] {
	return allMembers(ctx, k.members, presenceRequest(room, options))
}

func (k *Keeper) members(ctx context.Context, r wire.PresenceRequest) (wire.PresencePage, error) {
	return onConn(ctx, k, func(c *Conn) (wire.PresencePage, error) { return c.members(ctx, r) })
}

func (c *Conn) members(ctx context.Context, r wire.PresenceRequest) (wire.PresencePage, error) {
	reply, err := c.do(ctx, wire.Command{Verb: wire.Presence, Presence: r})
	if err != nil {
		return wire.PresencePage{}, err
	}
	if reply.Presence == nil {
		return wire.PresencePage{}, reply.unexpected(wire.Presence)
	}
	return reply.Presence.page, nil
}

func allMembers(ctx context.Context, read func(context.Context, wire.PresenceRequest) (wire.PresencePage, error), r wire.PresenceRequest) iter.Seq2[wire.Member, error] {
	return func(yield func(wire.Member, error) bool) {
		for r := r; ; {
			page, err := read(ctx, r)
			if err == nil && page.Next != "" && page.Next <= r.After {
				err = fmt.Errorf("presence of %s: the server goes back to %q", r.Room, page.Next)
			}
			if err != nil {
				yield(wire.Member{}, err)
				return
			}
			for _, m := range page.Members {
				if !yield(m, nil) {
					return
				}
			}
			if r.After = page.Next; page.Next == "" {
				return
			}
		}
	}
}

// noteWatches remembers which rooms were joined with Presence.
func (c *Conn) noteWatches(rooms []wire.RoomRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range rooms {
		if r.Presence {
			c.watched[r.Room] = true
		}
	}
}

// again is Presence for the rooms that had it.
func (c *Conn) again() SubscribeOption {
	c.mu.Lock()
	defer c.mu.Unlock()
	watched := maps.Clone(c.watched)
	return func(r *wire.RoomRequest) { r.Presence = watched[r.Room] }
}

// tellLost says of every watched room that changes may have been missed, which they
// were while there was no connection.
func (k *Keeper) tellLost(ctx context.Context, c *Conn) bool {
	c.mu.Lock()
	rooms := slices.Sorted(maps.Keys(c.watched))
	c.mu.Unlock()
	for _, room := range rooms {
		if !k.tell(ctx, Event{Presence: &wire.PresenceChange{Room: room, Lost: true}}) {
			return false
		}
	}
	return true
}
