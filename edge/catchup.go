package edge

import (
	"time"

	"nabat/edge/internal/frame"
	"nabat/edge/internal/hub"
	"nabat/edge/internal/loop"
	"nabat/edge/internal/resume"
	"nabat/edge/internal/session"
	"nabat/edge/internal/transport"
	"nabat/edge/internal/upstream"
	"nabat/proto/order"
	"nabat/proto/wire"
)

const (
	// chunkBytes is how much a client that is behind gets in one turn.
	chunkBytes = 32 << 10
	// stepMessages is how many messages one step takes from memory.
	stepMessages = 256
)

// catchup is one subscription that is behind its room's place on this loop. The
// hub holds it. Rooms with history only. Owned by the loop.
type catchup struct {
	ref      loop.Ref
	room     string
	number   uint32 // the hub's
	cursor   resume.Cursor[*frame.Message]
	stash    []*frame.Message // decided by the cursor and not written yet
	turn     []*frame.Message // written in this turn: they come back if they do not fit
	began    time.Time
	awayMS   uint64    // what a client that came back said; 0 when it did not
	resumed  uint64    // the offset that it came back with
	previous string    // its connection before
	stuck    time.Time // since when it has to wait; zero when it goes on
	origin   bool      // the stream itself is read: its mirror is behind

	overtaking         bool   // the room conflates: only the newest of each key is wanted
	since, sinceBefore uint64 // places in the room's table; before this turn's chunk

	lagging bool                // the client was live here and could not keep up
	notice  bool                // that has to be said first
	answer  func(wire.Position) // of a client that came back, until it is known
	paused  bool                // until the client was told where it stands
	waiting bool                // for the socket, a read or a time
	due     bool                // on the list of those that go on
}

// key names a subscription on this loop.
type key struct{ slot, room uint32 }

// catchups are the subscriptions of one loop that are behind. All methods must
// be called on the loop.
type catchups struct {
	// Set at creation, never changed.
	w *worker

	// Owned by loop.
	list  map[key]*catchup
	slab  slab[catchup]
	steps []*catchup // those that go on at the end of this turn
}

// behind makes a member one that has to catch up.
func (b *catchups) behind(ref loop.Ref, number uint32, cursor resume.Cursor[*frame.Message]) *catchup {
	k := key{ref.Slot, number}
	if c := b.list[k]; c != nil {
		return c
	}
	b.w.hub.Hold(ref.Slot, number)
	c := b.slab.take()
	c.ref, c.room, c.number, c.cursor, c.began = ref, b.w.hub.Name(number), number, cursor, b.w.loop.Now()
	b.list[k] = c
	b.w.counts.Lagging.Add(1)
	return c
}

// forget ends a catch-up with its subscription.
func (b *catchups) forget(slot, number uint32) {
	if k := (key{slot, number}); b.list[k] != nil {
		delete(b.list, k)
		b.w.counts.Lagging.Add(-1)
	}
}

func (b *catchups) alive(c *catchup) bool { return b.list[key{c.ref.Slot, c.number}] == c }

// step makes c go on at the end of this turn: once, for a second chunk in a turn
// would take the place of the first in what comes back when it does not fit.
func (b *catchups) step(c *catchup) {
	if c.waiting = false; !c.due {
		c.due = true
		b.steps = append(b.steps, c)
	}
}

// start lets a connection's messages of these rooms come, now that it knows where
// it stands in them.
func (b *catchups) start(ref loop.Ref, rooms []wire.Position) {
	if len(b.list) == 0 {
		return
	}
	for i := range rooms {
		number, ok := b.w.hub.Number(rooms[i].Room)
		if c := b.list[key{ref.Slot, number}]; ok && c != nil && c.paused {
			c.paused = false
			b.step(c)
		}
	}
}

// drained goes on with what a connection is behind in.
func (b *catchups) drained(ref loop.Ref) {
	if len(b.list) == 0 {
		return
	}
	b.w.hub.Each(ref.Slot, func(room uint32) {
		if c := b.list[key{ref.Slot, room}]; c != nil && c.waiting {
			b.step(c)
		}
	})
	b.w.loop.Kick()
}

// lag is called when this turn's messages of a room did not fit into a
// connection's queue.
func (b *catchups) lag(ref loop.Ref, room uint32) {
	if c := b.list[key{ref.Slot, room}]; c != nil && c.overtaking {
		c.since, c.stash, c.waiting = c.sinceBefore, nil, true
		return
	} else if c != nil {
		c.stash, c.turn = append(c.turn[:len(c.turn):len(c.turn)], c.stash...), nil
		c.waiting = true // for the socket
		return
	}
	b.w.counts.Lags.Add(1)
	if b.w.ears.list != nil {
		b.w.ears.trouble(ref, order.TapLag, b.w.hub.Name(room))
	}
	c := b.behind(ref, room, resume.Lag[*frame.Message](b.w.hub.Place(room).Epoch, b.w.hub.Before(room)))
	c.lagging, c.notice, c.waiting = true, true, true
	if newest := b.w.conflating[room]; newest != nil {
		c.overtaking, c.since, c.sinceBefore, c.notice = true, newest.before, newest.before, false
	}
}

// skip moves a room on to an offset though messages before it did not come: its
// members catch up with them.
func (b *catchups) skip(room string, to uint64) {
	number, ok := b.w.hub.Number(room)
	if !ok {
		return
	}
	epoch, before := b.w.hub.Place(number).Epoch, b.w.hub.Before(number)
	b.w.hub.HoldAll(number, func(member uint32) {
		if ref, ok := b.w.loop.RefOf(member); ok {
			c := b.behind(ref, number, resume.Lag[*frame.Message](epoch, before))
			c.lagging = true
			b.step(c)
		}
	})
	b.w.hub.SetPlace(number, hub.Place{Epoch: epoch, Offset: to})
}

// run lets those that are behind go on.
func (b *catchups) run() {
	list := b.steps
	b.steps = nil
	for _, c := range list {
		c.due = false
		if b.alive(c) && !c.paused && !c.waiting {
			b.advance(c)
		}
	}
	if len(b.steps) > 0 {
		b.w.loop.Kick()
	}
}

// advance hands c its next messages, or makes it live when it has all.
func (b *catchups) advance(c *catchup) {
	out, client := b.w.writer.Out(c.ref.Slot), b.w.client(session.Ref(c.ref))
	if out == nil || client == nil {
		return
	}
	if out.Pending() > 0 {
		c.waiting = true // for the socket
		return
	}
	if c.notice {
		c.notice = false
		b.w.counts.Notices.Add(1)
		client.Say(wire.Object{Value: wire.Lagging{Position: b.position(c)}})
	}
	c.turn = nil
	if len(c.stash) == 0 && !(c.overtaking && b.overtake(c)) {
		b.decide(c)
	}
	// What was decided is written in chunks, and the rest in later turns.
	if len(c.stash) > 0 && b.alive(c) && !c.waiting {
		b.hand(c, client)
		b.step(c)
	}
}

// decide lets the cursor make its next step.
func (b *catchups) decide(c *catchup) {
	b.apply(c, b.look(c, func(v resume.View[*frame.Message]) resume.Step[*frame.Message] {
		n := 0
		if v.Ring != nil {
			n = v.Ring.Len()
		}
		return c.cursor.Next(v, b.provable(c, n))
	}), wire.HistoryCut)
}

// look shows c's room to fn.
func (b *catchups) look(c *catchup, fn func(resume.View[*frame.Message]) resume.Step[*frame.Message]) (s resume.Step[*frame.Message]) {
	place := b.w.hub.Place(c.number)
	b.w.edge.upstream.Look(c.room, place.Epoch, func(ring *resume.Ring[*frame.Message]) {
		s = fn(resume.View[*frame.Message]{Epoch: place.Epoch, Position: place.Offset, Ring: ring, Limit: stepMessages})
	})
	return s
}

// apply does what a cursor decided. reason is why there is a cut, if there is.
func (b *catchups) apply(c *catchup, s resume.Step[*frame.Message], reason string) {
	b.tell(c, s.Cut, reason)
	if len(s.Entries) > 0 || s.Do == resume.DoLive {
		c.stuck, c.origin = time.Time{}, false
	}
	for i := range s.Entries {
		c.stash = append(c.stash, s.Entries[i].Item)
	}
	switch s.Do {
	case resume.DoLive:
		if len(c.stash) == 0 && !c.paused {
			b.forget(c.ref.Slot, c.number)
			b.w.hub.Unhold(c.ref.Slot, c.number)
		}
	case resume.DoRead:
		if len(c.stash) == 0 {
			b.read(c, s.From)
		}
	case resume.DoWait:
		if len(c.stash) == 0 {
			b.wait(c)
		}
	}
}

// tell answers a client that came back, as soon as it is known whether it gets
// everything; one that is live hears of a cut by a gap.
func (b *catchups) tell(c *catchup, cut *resume.Cut, reason string) {
	recovered, known := c.cursor.Recovered()
	if c.answer == nil {
		if cut != nil {
			b.w.counts.Notices.Add(1)
			b.w.host().Send(session.Ref(c.ref), wire.Object{Value: wire.Gap{Room: c.room, From: cut.From, To: cut.To, Reason: reason}})
		}
		return
	}
	if !known {
		return
	}
	answer, at := c.answer, b.position(c)
	c.answer = nil
	if recovered {
		b.w.counts.Resumes.Add("recovered", 1)
		at.Offset = c.resumed
		answer(at.WithRecovery(""))
		return
	}
	b.w.counts.Resumes.Add(reason, 1)
	if cut != nil && cut.To > 0 {
		at.Offset = cut.To - 1
	}
	answer(at.WithRecovery(reason))
}

// position is where c stands once its stash is written.
func (b *catchups) position(c *catchup) wire.Position {
	return wire.Position{Room: c.room, Epoch: b.w.hub.Place(c.number).Epoch, Offset: c.cursor.Position()}
}

// hand writes one chunk of c's stash as one item, so that it fits as a whole or
// not at all.
func (b *catchups) hand(c *catchup, client transport.Client) {
	var list []*frame.Message
	n, size := 0, 0
	for ; n < len(c.stash) && size < chunkBytes; n++ {
		m := c.stash[n]
		if m.Hidden || (m.Exclude != "" && b.excludes(m.Exclude, c)) {
			continue
		}
		size += m.Size()
		list = append(list, m)
	}
	c.turn, c.stash = c.stash[:n], c.stash[n:]
	if len(list) > 0 {
		if b.w.ears.list != nil {
			b.w.ears.chunk(c.ref, list)
		}
		b.w.queue(c.ref.Slot, c.number, client, list)
	}
}

// excludes reports whether id is c's connection, or the one before it.
func (b *catchups) excludes(id string, c *catchup) bool {
	slot, ok := b.w.member(id)
	return id == c.previous || (ok && slot == c.ref.Slot)
}

// wait makes c go on after a while, or gives up what is missing.
func (b *catchups) wait(c *catchup) {
	now := time.Now()
	if c.stuck.IsZero() {
		c.stuck = now
	}
	waited := now.Sub(c.stuck)
	limit, reason, proven := b.prospect(c)
	if waited > limit {
		c.stuck, c.origin = time.Time{}, false
		b.apply(c, b.look(c, func(v resume.View[*frame.Message]) resume.Step[*frame.Message] {
			return c.cursor.GiveUp(v, proven)
		}), reason)
		if b.alive(c) {
			b.step(c)
		}
		return
	}
	c.origin = !c.origin
	c.waiting = true
	time.AfterFunc(upstream.Pause(waited), func() {
		// An error of Post means that the loop has stopped: nobody waits.
		_ = b.w.loop.Post(func() {
			switch {
			case !b.alive(c):
			case c.answer != nil: // it is paused until it knows
				c.waiting = false
				b.decide(c)
			default:
				b.step(c)
			}
		})
	})
}

// read fetches from the store what the edge no longer has.
func (b *catchups) read(c *catchup, from uint64) {
	c.waiting = true
	epoch := b.w.hub.Place(c.number).Epoch
	b.replay(upstream.From{Room: c.room, Epoch: epoch, Offset: from, Origin: c.origin}, func(p upstream.Replay) {
		if !b.alive(c) {
			return
		}
		c.waiting = false
		if p.Err != nil {
			b.wait(c)
			return
		}
		b.apply(c, b.look(c, func(v resume.View[*frame.Message]) resume.Step[*frame.Message] {
			return c.cursor.Replay(v, p.Entries, p.More, b.provable(c, len(p.Entries)))
		}), wire.HistoryCut)
		if b.alive(c) && !c.waiting {
			b.step(c)
		}
	})
}

// replay is upstream.Replay with the answer on the loop.
func (b *catchups) replay(from upstream.From, done func(upstream.Replay)) {
	b.w.edge.upstream.Replay(from, func(p upstream.Replay) {
		_ = b.w.loop.Post(func() { done(p) })
	})
}
