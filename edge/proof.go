package edge

import (
	"time"

	"nabat/edge/internal/upstream"
	"nabat/proto/wire"
)

// What can be proved to a client whose last message is kept nowhere any more.

const (
	// aheadPart is the part of the patience with a history that is spent on a
	// client which claims to be ahead of it.
	aheadPart = 6
	// mirrorLag is for how long a mirror that has not yet what its stream has is
	// waited for before anybody asks whether there is anything to wait for.
	mirrorLag = 500 * time.Millisecond
	// purgeSkew is by how much the clocks of nodes and control may differ.
	purgeSkew = 5 * time.Second
)

// prospect is what a subscription that has to wait can hope for: for how long it
// waits, why no longer, and whether a client that is above its room's place here
// has everything all the same. Such a client was served by an edge that is ahead
// of this one, or its message and all behind it had left the store when this edge
// opened the room, or the stream never came so far. What the stream and the room
// have as their newest tells these apart.
func (b *catchups) prospect(c *catchup) (limit time.Duration, reason string, proven bool) {
	u, position, place := b.w.edge.upstream, c.cursor.Position(), b.w.hub.Place(c.number)
	limit, reason = b.w.edge.cfg.HistoryPatience, wire.HistoryUnavailable
	at, known := u.Standing(c.room, place.Epoch, c.stuck)
	ahead := position > place.Offset
	if known && at.Head >= max(position, place.Offset) && (at.Newest < position || at.Newest == position && !ahead) {
		// Nothing behind the position is kept, and what is stored from now on comes
		// live. The newest message of a stream has nothing behind it.
		return -1, wire.HistoryCut, ahead && (at.Head == position || b.expired(c, at) && b.keepsAll(c, 0))
	}
	if ahead || time.Since(c.stuck) > mirrorLag {
		u.Verify(c.room)
	}
	if known && at.Head < position {
		// The stream would come so far, too, if NATS is whole and it has been able to
		// store meanwhile.
		reason = wire.AheadOfHistory
		pol := b.w.edge.policy(c.room)
		if u.Ready() == nil && u.Degraded() == nil && pol != nil && pol.Stream != nil && u.Stores(pol.Stream.Name, c.stuck) {
			limit /= aheadPart
		}
	}
	return limit, reason, false
}

// expired reports whether it was time that took the message at c's position, as far
// as can be seen: all that the room had is gone, and all that the stream had before.
func (b *catchups) expired(c *catchup, at upstream.Standing) bool {
	p := b.w.host().Policy(c.room)
	return p != nil && p.History != nil && p.History.Age > 0 && at.Newest == 0 && at.First > c.cursor.Position()
}

// provable reports whether a client that has seen nothing of a room gets all of
// it.
func (b *catchups) provable(c *catchup, messages int) bool {
	return c.cursor.Position() == 0 && b.keepsAll(c, messages)
}

// keepsAll reports whether what came to a room while a client was away is still
// kept as a whole: the time was so short, and the messages so few, that the policy
// keeps them all. What was on its way to the client when it heard from an edge for
// the last time is older than that: half of the age is left for it.
func (b *catchups) keepsAll(c *catchup, messages int) bool {
	p := b.w.host().Policy(c.room)
	if p == nil || p.History == nil {
		return false
	}
	away := time.Duration(c.awayMS)*time.Millisecond + b.w.loop.Now().Sub(c.began)
	if c.awayMS == 0 && !c.lagging || b.w.edge.purges.Load().Since(c.room, b.w.loop.Now().Add(-away-purgeSkew)) {
		return false
	}
	kept := p.History
	if !c.lagging {
		away *= 2
	}
	return kept.Bytes == 0 && (kept.Messages == 0 || messages < kept.Messages) && (kept.Age == 0 || away < kept.Age)
}
