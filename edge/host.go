package edge

import (
	"fmt"
	"slices"

	"nabat/edge/internal/hub"
	"nabat/edge/internal/listen"
	"nabat/edge/internal/loop"
	"nabat/edge/internal/session"
	"nabat/edge/internal/upstream"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

// host is a worker as its loop's sessions see it: what a session decides, it
// carries out. Everything runs on the loop unless a comment says otherwise.
type host struct{ *worker }

var _ session.Host = host{}

func (w *worker) host() host { return host{w} }

// Now implements session.Host.
func (h host) Now() int64 { return h.loop.Now().Unix() }

// Policy implements session.Host. Safe from any goroutine.
func (h host) Policy(room string) *policy.Policy { return h.edge.policy(room) }

// Join implements session.Host. The client becomes a member once NATS has
// confirmed the room's subscription, so that whoever was told "subscribed" gets
// what is published from then on.
func (h host) Join(ref session.Ref, want session.Want, done func(wire.Position, bool, *wire.Error)) {
	if !h.Policy(want.Room).AsksSubscribe() || h.hub.Member(ref.Slot, want.Room) {
		h.join(ref, want, done)
		return
	}
	mayJoin(h, ref, want.Room, func(err *wire.Error) {
		if err != nil {
			done(wire.Position{}, false, err)
			return
		}
		h.join(ref, want, done)
	})
}

func (h host) join(ref session.Ref, want session.Want, done func(wire.Position, bool, *wire.Error)) {
	if number, ok := h.hub.Number(want.Room); ok {
		if c := h.client(ref); c != nil && !c.Leaving() {
			h.enter(ref, c, want, h.hub.Place(number), done)
		}
		return
	}
	await(h, ref, want, done)
}

// await joins a room once NATS has confirmed its subscription.
func await(h host, ref session.Ref, want session.Want, done func(wire.Position, bool, *wire.Error)) {
	waiting, asked := h.joining[want.Room]
	if !asked && !h.edge.namespaces.Open(want.Room) {
		done(wire.Position{}, false, namespaceFull(h.edge, want.Room))
		return
	}
	h.joining[want.Room] = append(waiting, func(place hub.Place, err error) {
		c := h.client(ref)
		if c == nil || c.Leaving() {
			return
		}
		if err != nil {
			done(wire.Position{}, false, &wire.Error{Code: wire.Unavailable, RetryMS: 1000,
				Reason: "room " + want.Room + " can not be joined now: " + err.Error()})
			return
		}
		h.enter(ref, c, want, place, done)
	})
	if !asked {
		h.edge.upstream.Acquire(want.Room, h.index)
	}
}

// Leave implements session.Host.
func (h host) Leave(ref session.Ref, room string) bool {
	number, ok := h.hub.Number(room)
	if !ok {
		return false
	}
	left, last := h.hub.Leave(ref.Slot, room)
	if !left {
		return false
	}
	h.presence.left(loop.Ref(ref), number, room)
	h.edge.namespaces.Leave(room)
	h.behind.forget(ref.Slot, number)
	h.counts.Leaves.Add(1)
	if o := h.writer.Out(ref.Slot); o != nil {
		h.writer.ForgetRoom(o, number)
	}
	if last {
		delete(h.conflating, number)
		h.release(room)
	}
	return true
}

// Rooms implements session.Host.
func (h host) Rooms(ref session.Ref) []string {
	return slices.DeleteFunc(h.hub.RoomsOf(ref.Slot), isWatch)
}

// RoomCount implements session.Host.
func (h host) RoomCount(ref session.Ref) (n int) {
	h.hub.Each(ref.Slot, func(room uint32) {
		if !isWatch(h.hub.Name(room)) {
			n++
		}
	})
	return n
}

// Name implements session.Host.
func (h host) Name(ref session.Ref) (string, string) {
	return formatSession(h.edge.instance, h.index, loop.Ref(ref)), h.edge.cfg.Node
}

// Send implements session.Host.
func (h host) Send(ref session.Ref, object wire.Object) {
	if h.ears.list != nil {
		h.ears.notice(loop.Ref(ref), object)
	}
	if c := h.client(ref); c != nil {
		c.Say(object)
	}
}

// WakeAt implements session.Host.
func (h host) WakeAt(ref session.Ref, unix int64) {
	if c := h.client(ref); c != nil {
		c.WakeAt(unix)
	}
}

// Close implements session.Host.
func (h host) Close(ref session.Ref, c wire.Close) {
	if client := h.client(ref); client != nil {
		client.Close(c)
	}
}

// Verify implements session.Host.
func (h host) Verify(ref session.Ref, token string, done func(*session.Identity, *wire.Error)) {
	h.identify(ref, h.came[ref.Slot], token, func(id *session.Identity, err *wire.Error) {
		if c := h.client(ref); c != nil && !c.Leaving() {
			done(id, err)
		}
	})
}

// Seat implements session.Host.
func (h host) Seat(ref session.Ref, user string) *wire.Error {
	if h.seats.TakeUser(ref.Slot, user) {
		return nil
	}
	return &wire.Error{Code: wire.TooManyConnections, RetryMS: listen.Spread(listen.TooManyRetry),
		Reason: fmt.Sprintf("user %s has %d connections, as many as one may have", clip(user), h.edge.cfg.MaxConnectionsPerUser)}
}

// Elapsed implements session.Host.
func (h host) Elapsed() int64 { return max(int64(h.loop.Now().Sub(h.began)), 0) }

// Refused implements session.Host.
func (h host) Refused(code wire.Code) { h.counts.Refusals.Add(string(code), 1) }

// Publish implements session.Host: what a client publishes becomes an ordinary
// NATS message, with the sender in headers that clients cannot set.
func (h host) Publish(ref session.Ref, id *session.Identity, p *wire.Publication, done func(wire.Position, *wire.Error)) {
	pol := h.Policy(p.Room)
	if err := h.mayPublishNow(ref, id, pol, p); err != nil {
		done(wire.Position{}, err)
		return
	}
	m, err := h.message(ref, id, p)
	if err != nil {
		done(wire.Position{}, err)
		return
	}
	at := wire.Position{Room: p.Room}
	one := upstream.Publication{Message: m}
	if pol != nil && pol.Stream != nil {
		one.Stream, at.Epoch = pol.Stream.Name, pol.Stream.Epoch
	}
	one.Done = func(offset uint64, err error) {
		at.Offset = offset
		// An error of Post means that the loop has stopped: nobody waits.
		_ = h.loop.Post(func() { h.published(ref, at, err, done) })
	}
	if asks := pol.AsksPublish(); asks || h.outboxes[ref] != nil {
		h.line(ref, id, p, &outgoing{publication: one, at: at, done: done, decided: !asks})
		return
	}
	h.send(one, at, done)
}

// Start implements session.Host.
func (h host) Start(ref session.Ref, rooms []wire.Position) { h.behind.start(loop.Ref(ref), rooms) }

// History implements session.Host.
func (h host) History(ref session.Ref, q wire.HistoryRequest, done func(*wire.Page, *wire.Error)) {
	if p := h.Policy(q.Room); p == nil || p.Stream == nil {
		done(nil, &wire.Error{Code: wire.NoHistoryKept, Reason: "the policy of " + q.Room + " keeps no history"})
		return
	}
	h.edge.upstream.Page(q, func(page *wire.Page, err error) {
		_ = h.loop.Post(func() {
			if c := h.client(ref); c == nil || c.Leaving() {
				return
			}
			if err != nil {
				done(nil, &wire.Error{Code: wire.Unavailable, Reason: "history can not be read now: " + err.Error(), RetryMS: 1000})
				return
			}
			done(page, nil)
		})
	})
}
