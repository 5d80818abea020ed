// Package conflate keeps the newest message of each key of a room: what a
// reader needs who may skip what was overtaken.
package conflate

import (
	"cmp"
	"slices"

	"nabat/edge/internal/frame"
)

// MaxKeys bounds the keys of one room. Beyond it the key that was silent for
// longest is forgotten: who lags then misses its last message, and is told.
const MaxKeys = 4096

// Table is the newest message of each key of one room on one loop. The zero
// value is empty. Owner: the loop.
type Table struct {
	newest map[string]entry
	at     uint64 // grows with every message
	forgot uint64 // at of the last message that was forgotten for want of room
}

type entry struct {
	message *frame.Message
	at      uint64
}

// Put takes a message in the order of its room.
func (t *Table) Put(m *frame.Message) {
	if t.newest == nil {
		t.newest = make(map[string]entry)
	}
	t.at++
	t.newest[m.Key] = entry{m, t.at}
	if len(t.newest) > MaxKeys {
		t.forget()
	}
}

func (t *Table) forget() {
	oldest, key := t.at, ""
	for k, e := range t.newest {
		if e.at < oldest {
			oldest, key = e.at, k
		}
	}
	delete(t.newest, key)
	t.forgot = oldest
}

// At is the place behind the last message.
func (t *Table) At() uint64 { return t.at }

// Since lists the newest messages behind a place, in the order of the room, each
// key once. whole is false when one of them was forgotten.
func (t *Table) Since(at uint64) (list []*frame.Message, whole bool) {
	var found []entry
	for _, e := range t.newest {
		if e.at > at {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b entry) int { return cmp.Compare(a.at, b.at) })
	list = make([]*frame.Message, len(found))
	for i := range found {
		list[i] = found[i].message
	}
	return list, t.forgot <= at
}
