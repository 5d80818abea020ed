// Package outq is a bounded queue of shared frames for one connection that
// could not be written at once, with a slow-consumer rule.
package outq

// Item is one or more whole frames in one buffer. The buffer is shared with
// other connections and never written to.
type Item struct {
	Bytes []byte
	Room  uint32 // the hub's number of the room; NoRoom for what must not be dropped
	Count uint32 // messages in Bytes
}

// NoRoom marks items that belong to no room: replies, notices, closes.
const NoRoom = ^uint32(0)

// Verdict says what became of a pushed item.
type Verdict uint8

const (
	// Queued: the item waits in the queue.
	Queued Verdict = iota
	// Dropped: a message did not fit and is lost to this connection. Its room
	// is noted; the reader must be told once there is room again (TakeGaps).
	Dropped
	// Overflow: what must not be dropped did not fit, or the room's policy
	// forbids drops: disconnect.
	Overflow
	// Lagging: a message did not fit and can be had again from history. Nothing
	// was queued, and no more of its room may be pushed until the reader has
	// caught up.
	Lagging
)

// Rule says what becomes of a room's messages that do not fit.
type Rule uint8

// The rules, as policies name them.
const (
	Drop Rule = iota
	Disconnect
	Lag
)

// replyReserve is how far items of no room may exceed the bound: enough for
// the answers a client may have in flight, and for its gap notices.
const replyReserve = 64 << 10

// Queue is a first-in first-out queue of items, bounded in bytes. It exists
// only while its connection has something unwritten. Owner only.
type Queue struct {
	items []Item
	head  int
	bytes int
	gaps  []uint32 // rooms that lost messages since TakeGaps; empty when not gapped
}

// Len is the number of items waiting.
func (q *Queue) Len() int { return len(q.items) - q.head }

// Bytes is the number of bytes waiting.
func (q *Queue) Bytes() int { return q.bytes }

// Push appends it if it fits into bound bytes and reports what became of it. It
// never blocks and never copies. A queue that has dropped goes on dropping
// messages until it is half empty: one gap is better than many. A frame larger
// than the whole bound is still taken by an empty queue, for else it could
// never be delivered. The rule does not matter for items of no room.
func (q *Queue) Push(it Item, bound int, rule Rule) Verdict {
	full := q.Len() > 0 && q.bytes+len(it.Bytes) > bound
	switch {
	case it.Room == NoRoom:
		if q.Len() > 0 && q.bytes+len(it.Bytes) > bound+replyReserve {
			return Overflow
		}
	case rule == Lag && full:
		return Lagging
	case rule == Disconnect && (full || len(q.gaps) > 0):
		return Overflow
	case rule == Drop && (full || len(q.gaps) > 0):
		q.noteGap(it.Room)
		return Dropped
	}
	q.Force(it)
	return Queued
}

// Force appends it whatever the bound: for the rest of a frame whose first
// bytes have been written, and for transports that bound themselves.
func (q *Queue) Force(it Item) {
	if q.head > 0 && q.head*2 >= len(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, it)
	q.bytes += len(it.Bytes)
}

func (q *Queue) noteGap(room uint32) {
	for _, r := range q.gaps {
		if r == room {
			return
		}
	}
	q.gaps = append(q.gaps, room)
}

// TakeGaps returns the rooms that lost messages, once the queue has fallen to
// half of bound; nil otherwise. The queue then accepts messages again.
func (q *Queue) TakeGaps(bound int) []uint32 {
	if len(q.gaps) == 0 || q.bytes > bound/2 {
		return nil
	}
	gaps := q.gaps
	q.gaps = nil
	return gaps
}

// ForgetRoom drops a pending gap notice of a room that the connection left.
func (q *Queue) ForgetRoom(room uint32) {
	for i, r := range q.gaps {
		if r == room {
			q.gaps = append(q.gaps[:i], q.gaps[i+1:]...)
			return
		}
	}
}

// Gather copies waiting bytes into dst[:0] up to its capacity and returns them.
// A first item that alone fills dst is returned itself, uncopied.
func (q *Queue) Gather(dst []byte) []byte {
	if q.Len() == 0 {
		return nil
	}
	if first := q.items[q.head].Bytes; q.Len() == 1 || len(first) >= cap(dst) {
		return first
	}
	dst = dst[:0]
	for _, it := range q.items[q.head:] {
		n := min(len(it.Bytes), cap(dst)-len(dst))
		dst = append(dst, it.Bytes[:n]...)
		if n < len(it.Bytes) {
			break
		}
	}
	return dst
}

// Advance takes n written bytes off the front.
func (q *Queue) Advance(n int) {
	q.bytes -= n
	for n > 0 {
		it := &q.items[q.head]
		if n < len(it.Bytes) {
			it.Bytes = it.Bytes[n:]
			return
		}
		n -= len(it.Bytes)
		*it = Item{}
		q.head++
	}
}

// Truncate drops all but the first item, which may be partly written, and
// forgets the gaps. It returns the bytes dropped.
func (q *Queue) Truncate() (dropped int) {
	q.gaps = nil
	if q.Len() < 2 {
		return 0
	}
	dropped = q.bytes - len(q.items[q.head].Bytes)
	clear(q.items[q.head+1:])
	q.items = q.items[:q.head+1]
	q.bytes -= dropped
	return dropped
}

// Gapped reports whether messages were dropped and not yet announced.
func (q *Queue) Gapped() bool { return len(q.gaps) > 0 }
