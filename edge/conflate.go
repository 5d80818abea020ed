package edge

import (
	"time"

	"nabat/edge/internal/conflate"
	"nabat/edge/internal/frame"
	"nabat/edge/internal/session"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

// conflated is a room of one loop whose messages overtake others of their key:
// for those who read too slowly and, where the policy says so, for everybody
// for a while. Owned by the loop.
type conflated struct {
	table   conflate.Table
	every   time.Duration // 0: only for those who read too slowly
	handed  uint64        // the table's place up to which members have everything
	before  uint64        // handed as it was before this turn's messages
	turn    uint64        // the turn that before is of
	last    time.Time     // when that was
	waiting bool          // for the time to hand out what came meanwhile
}

// conflates makes rooms of this loop conflate, or end that, as their policies
// say now.
func (w *worker) conflates(number uint32) {
	name := w.hub.Name(number)
	p := w.edge.policy(name)
	if name == "" || p == nil || p.SlowRule() != policy.Conflate {
		delete(w.conflating, number)
		return
	}
	c := w.conflating[number]
	if c == nil {
		c = new(conflated)
		w.conflating[number] = c
	}
	if c.every = 0; p.Conflation != nil {
		c.every = p.Conflation.Every
	}
}

// newest takes a message of a room that conflates. It reports false when the
// message is handed out as in other rooms.
func (w *worker) newest(m *frame.Message) bool {
	if len(w.conflating) == 0 || m.IsNotice() {
		return false
	}
	number, ok := w.hub.Number(m.Room)
	if !ok {
		return false
	}
	c := w.conflating[number]
	if c == nil {
		return false
	}
	if !m.Hidden {
		c.table.Put(m)
	}
	if c.every == 0 {
		c.begin(w.turn)
		c.handed = c.table.At()
		w.hub.PushNewest(m)
		return true
	}
	if c.waiting {
		return true
	}
	if rest := c.every - w.loop.Now().Sub(c.last); rest > 0 {
		c.waiting = true
		time.AfterFunc(rest, func() {
			// An error of Post means that the loop has stopped: nobody waits.
			_ = w.loop.Post(func() { w.handNewest(number, c) })
		})
		return true
	}
	w.handNewest(number, c)
	return true
}

// begin notes where members stood before the turn.
func (c *conflated) begin(turn uint64) {
	if c.turn != turn {
		c.turn, c.before = turn, c.handed
	}
}

// handNewest hands out the newest message of each key that came since.
func (w *worker) handNewest(number uint32, c *conflated) {
	c.waiting = false
	if w.conflating[number] != c {
		return
	}
	c.begin(w.turn)
	list, _ := c.table.Since(c.handed) // of keys that were forgotten nobody knows any more
	w.counts.Conflated.Add(c.table.At() - c.handed - uint64(len(list)))
	c.handed, c.last = c.table.At(), w.loop.Now()
	for _, m := range list {
		w.hub.PushNewest(m)
	}
}

// overtake gives a reader that was too slow the newest of each key instead of
// what it missed. It reports false when the room does not conflate any more.
func (b *catchups) overtake(c *catchup) bool {
	room := b.w.conflating[c.number]
	if room == nil {
		return false
	}
	list, whole := room.table.Since(c.since)
	c.sinceBefore, c.since = c.since, room.table.At()
	b.w.counts.Conflated.Add(c.since - c.sinceBefore - uint64(len(list)))
	if !whole {
		b.w.counts.Notices.Add(1)
		b.w.host().Send(session.Ref(c.ref), wire.Object{Value: wire.Gap{Room: c.room, Reason: wire.GapSlow}})
	}
	if c.stash = list; len(list) == 0 {
		b.forget(c.ref.Slot, c.number)
		b.w.hub.Unhold(c.ref.Slot, c.number)
	}
	return true
}
