package edge

import (
	"nabat/edge/internal/frame"
	"nabat/edge/internal/loop"
	"nabat/edge/internal/resume"
	"nabat/edge/internal/session"
	"nabat/edge/internal/upstream"
	"nabat/proto/wire"
)

// join makes a connection a subscriber of a room with history, from where it
// wants on, and says where that is. Nothing is sent before Start.
func (b *catchups) join(ref loop.Ref, number uint32, want session.Want, done func(wire.Position)) {
	place := b.w.hub.Place(number)
	at := wire.Position{Room: want.Room, Epoch: place.Epoch, Offset: place.Offset}
	if want.Epoch != "" {
		c := b.behind(ref, number, resume.Resume[*frame.Message](want.Epoch, want.Offset))
		c.paused, c.awayMS, c.answer, c.resumed, c.previous = true, want.AwayMS, done, want.Offset, want.Previous
		b.decideResume(c, want.Epoch != place.Epoch)
		return
	}
	c := b.behind(ref, number, resume.Lag[*frame.Message](place.Epoch, place.Offset))
	c.paused = true
	switch {
	case want.Since != 0:
		b.joinSince(c, want.Since, at, done)
		return
	case want.Latest || b.givesLatest(want.Room):
		if m := b.w.edge.upstream.Newest(want.Room, place.Epoch); m != nil {
			// It may be newer than the loop's place: then the place will follow.
			c.cursor, c.stash = resume.Lag[*frame.Message](place.Epoch, m.Offset), []*frame.Message{m}
		}
	}
	done(at)
}

// decideResume begins the catch-up of a client that came back.
func (b *catchups) decideResume(c *catchup, otherEpoch bool) {
	if otherEpoch {
		b.apply(c, b.look(c, func(v resume.View[*frame.Message]) resume.Step[*frame.Message] {
			return c.cursor.Next(v, false)
		}), wire.EpochChanged)
		return
	}
	b.decide(c)
}

func (b *catchups) givesLatest(room string) bool {
	p := b.w.host().Policy(room)
	return p != nil && p.Latest
}

// joinSince begins with everything that was stored since a time.
func (b *catchups) joinSince(c *catchup, ms int64, at wire.Position, done func(wire.Position)) {
	b.replay(upstream.From{Room: c.room, Epoch: at.Epoch, SinceMS: ms}, func(p upstream.Replay) {
		if !b.alive(c) {
			return
		}
		if p.Err != nil {
			done(at.WithRecovery(wire.HistoryUnavailable))
			return
		}
		place := b.w.hub.Place(c.number)
		at.Offset = place.Offset
		for _, e := range p.Entries {
			if e.Offset <= place.Offset {
				c.stash = append(c.stash, e.Item)
				at.Offset = e.Offset
			}
		}
		c.cursor = resume.Lag[*frame.Message](place.Epoch, at.Offset)
		if len(c.stash) > 0 {
			at.Offset = c.stash[0].Offset - 1
		}
		done(at)
	})
}
