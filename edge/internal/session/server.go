package session

import (
	"slices"

	"nabat/proto/wire"
)

// ErrNothing says that there was nothing to do.
var ErrNothing = &wire.Error{Code: wire.NotSubscribed, Reason: "nothing to do"}

// Enrol makes the connection join rooms because the server wants it, whatever
// the client's token grants; the client hears of it by a subscribed without id.
// It returns at once: ErrNothing when the connection is in all of them, another
// error when it can not join.
func (s *Session) Enrol(h Host, ref Ref, l *Limits, rooms []string) *wire.Error {
	c := call{s, h, ref, l}
	if s.state != connected {
		return ErrNothing
	}
	in := h.Rooms(ref)
	var wants []Want
	for _, room := range union(rooms, nil) {
		if e := c.joining(room); (e != nil && e.live > 0) || slices.Contains(in, room) {
			continue
		}
		if h.Policy(room) == nil {
			return notAllowed("no policy matches room %s", room)
		}
		wants = append(wants, Want{Room: room})
	}
	if len(wants) == 0 {
		return ErrNothing
	}
	if c.others(names(wants))+len(wants) > l.MaxRooms {
		return &wire.Error{Code: wire.TooManyRooms, Reason: "the connection is in as many rooms as it may be"}
	}
	c.join(wants, func(in []wire.Position, err *wire.Error) {
		if c.state == closed || err != nil || len(in) == 0 {
			return // the client has not asked for it and is not told of a failure
		}
		c.say(nil, wire.Subscribed{Rooms: in})
		c.host.Start(c.ref, in)
	})
	return nil
}

// Expel makes the connection leave rooms because the server wants it. The client
// hears of those that it was in by an unsubscribed. ErrNothing when there was
// none.
func (s *Session) Expel(h Host, ref Ref, l *Limits, rooms []string) *wire.Error {
	c := call{s, h, ref, l}
	if s.state == closed {
		return ErrNothing
	}
	var left []string
	for _, room := range union(rooms, nil) {
		was := h.Leave(ref, room)
		if e := c.joining(room); e != nil && e.live > 0 {
			e.cut(&wire.Error{Code: wire.Removed, Reason: "the server took the client out of room " + room})
		}
		if was {
			left = append(left, room)
		}
	}
	if len(left) == 0 {
		return ErrNothing
	}
	if s.state == connected {
		c.say(nil, wire.Unsubscribed{Rooms: left, Reason: wire.Removed})
	}
	return nil
}
