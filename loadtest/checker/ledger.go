package checker

import (
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
)

// ledger is what was stored, as the acknowledgements say. Safe from any
// goroutine.
type ledger struct {
	// mu guards the fields below.
	mu     sync.Mutex
	rooms  map[string]*story
	total  int
	grown  chan struct{} // closed and replaced when total grows
	failed int           // publishes that had to be tried again
}

// story is what was stored of one room.
type story struct {
	epochs map[string][]stored
	purged map[string]uint64 // by epoch: everything up to there may be gone
	count  int
}

// stored is one message: the number in its body is its place among the room's.
type stored struct {
	offset uint64
	number int
	index  int // messages of the room acknowledged before it
}

func newLedger(rooms []string) *ledger {
	l := &ledger{rooms: make(map[string]*story, len(rooms)), grown: make(chan struct{})}
	for _, room := range rooms {
		l.rooms[room] = &story{epochs: make(map[string][]stored), purged: make(map[string]uint64)}
	}
	return l
}

// epochOf is the last part of a stream's name.
func epochOf(stream string) string { return stream[strings.LastIndexByte(stream, '_')+1:] }

func (l *ledger) add(room string, number int, ack *jetstream.PubAck) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.rooms[room]
	epoch := epochOf(ack.Stream)
	s.epochs[epoch] = append(s.epochs[epoch], stored{ack.Sequence, number, s.count})
	s.count++
	l.total++
	close(l.grown)
	l.grown = make(chan struct{})
}

func (l *ledger) retried() {
	l.mu.Lock()
	l.failed++
	l.mu.Unlock()
}

// purge notes that what was stored of a room up to offset may be gone.
func (l *ledger) purge(room, stream string, offset uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.rooms[room]
	epoch := epochOf(stream)
	s.purged[epoch] = max(s.purged[epoch], offset)
}

// size is the number of messages, and a channel that closes when there are more.
func (l *ledger) size() (int, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total, l.grown
}

// count is the number of messages of one room.
func (l *ledger) count(room string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rooms[room].count
}

// reached reports whether at is the newest message of a room, or behind it.
func (l *ledger) reached(room string, at place) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.rooms[room].epochs[at.epoch]
	newest := -1 // the room's newest message is in one epoch only
	for _, other := range l.rooms[room].epochs {
		if n := len(other); n > 0 {
			newest = max(newest, other[n-1].index)
		}
	}
	if newest < 0 {
		return true
	}
	n := len(list)
	return n > 0 && list[n-1].index == newest && at.offset >= list[n-1].offset
}

// between are the messages of an epoch behind after and before before; before
// 0 is no bound.
func (s *story) between(epoch string, after, before uint64) []stored {
	list := s.epochs[epoch]
	i, _ := slices.BinarySearchFunc(list, after+1, byOffset)
	j := len(list)
	if before != 0 {
		j, _ = slices.BinarySearchFunc(list, before, byOffset)
	}
	if i >= j {
		return nil
	}
	return list[i:j]
}

func (s *story) at(epoch string, offset uint64) (stored, bool) {
	list := s.epochs[epoch]
	i, ok := slices.BinarySearchFunc(list, offset, byOffset)
	if !ok {
		return stored{}, false
	}
	return list[i], true
}

func byOffset(s stored, offset uint64) int {
	switch {
	case s.offset < offset:
		return -1
	case s.offset > offset:
		return 1
	}
	return 0
}
