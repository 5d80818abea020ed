// Package resume is the continuity of a room as pure code: Chain puts live and
// stored messages into one unbroken line, Ring keeps the newest of them, and
// Cursor brings one subscription from where it was to where its loop is.
//
// All of it rests on two facts about a room's history. The server writes into
// each live message the offset of the message that was stored before it (prev).
// And limits, age and purges take the oldest first: as long as a message is
// still stored, nothing behind it has been taken. Deleting a single message, or
// giving single messages a time to live, breaks the second; a message that so
// disappears before anybody could read it leaves no trace here.
package resume

// Entry is one stored message of a room. Messages that nobody is shown are
// entries too: they count.
type Entry[T any] struct {
	// Offset is its position, above 0.
	Offset uint64
	// Prev is the position of the message stored before it in this room, as the
	// server wrote it; 0 when none was kept. Not used in a replay.
	Prev uint64
	Item T
}

// Cut says that the messages after From and before To cannot be had. They may
// have existed. It is told before the entries that come with it, of which none
// lies inside it.
type Cut struct {
	From uint64
	To   uint64 // 0 when it is not known: up to whatever comes next
}

// Ask is what a chain needs from the store.
type Ask uint8

const (
	// Nothing: the chain is whole as far as it can tell.
	Nothing Ask = iota
	// Base: the newest stored offset of the room, 0 when nothing is stored.
	Base
	// Read: stored messages from Chain.Last() inclusive, or from 1 when that is
	// 0, in order.
	Read
)
