package session

import (
	"bytes"

	"nabat/proto/subject"
	"nabat/proto/wire"
)

// Who watches who is in a room is a member of a second room, subject.Watch of the
// first, which is joined and left with it. Clients never see its name.

// maySeePresence: a client with a token needs the grant, one without what the
// policy opens to everybody.
func maySeePresence(h Host, id *Identity, room string) *wire.Error {
	p := h.Policy(room)
	switch {
	case p == nil:
		return notAllowed("no policy matches room %s", room)
	case p.Presence == nil:
		return notAllowed("the policy of %s has no presence", room)
	case id != nil && !id.Grant.MaySeePresence(room):
		return notAllowed("presence of %s is not granted by the token", room)
	case id == nil && !p.Presence.Anonymous:
		return notAllowed("presence of %s is not open to clients without a token", room)
	}
	return nil
}

// mayJoin is maySubscribe for names that may be watches.
func mayJoin(h Host, id *Identity, name string) *wire.Error {
	if room, ok := subject.Watched(name); ok {
		return maySeePresence(h, id, room)
	}
	return maySubscribe(h, id, name)
}

// withWatches is rooms and the watches that they ask for.
func withWatches(rooms []Want) []Want {
	for _, w := range rooms[:len(rooms):len(rooms)] {
		if w.Presence {
			rooms = append(rooms, Want{Room: subject.Watch(w.Room)})
		}
	}
	return rooms
}

func isWatch(name string) bool { _, ok := subject.Watched(name); return ok }

// watching is a call to which presence matters.
type watching struct{ call }

// leave ends the membership in a room and the watch of it.
func (c watching) leave(room string) {
	for _, name := range [...]string{room, subject.Watch(room)} {
		c.host.Leave(c.ref, name)
		if e := c.joining(name); e != nil {
			e.cut(nil)
		}
	}
}

// ask asks who is in a room, where the client need not be itself.
func (c watching) ask(cmd *wire.Command) {
	q := cmd.Presence
	if err := subject.CheckRoom(q.Room); err != nil {
		c.refuse(cmd, &wire.Error{Code: wire.BadRoom, Reason: err.Error()})
		return
	}
	if err := maySeePresence(c.host, c.identity, q.Room); err != nil {
		c.refuse(cmd, err)
		return
	}
	number := id(cmd)
	c.inFlight++
	c.host.Presence(c.ref, q, func(page *wire.PresencePage, err *wire.Error) {
		if c.state == closed {
			return
		}
		c.inFlight--
		if err != nil {
			c.fail(number, err)
			return
		}
		c.say(number, page)
	})
}

// shownAs reports whether others see the same of two identities.
func shownAs(a, b *Identity) bool {
	return a == b || a != nil && b != nil && a.User == b.User && bytes.Equal(a.info(), b.info())
}

func (i *Identity) info() []byte {
	if i == nil || i.Grant == nil {
		return nil
	}
	return i.Grant.Info
}
