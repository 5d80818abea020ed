package hub

import (
	"sync"
	"time"

	"nabat/edge/internal/frame"
)

// Inbox is where the NATS side leaves messages for one loop. It is bounded: a
// loop that cannot keep up loses messages by name, never memory. Safe from any
// goroutine.
type Inbox struct {
	kick     func()
	maxBytes int

	// mu guards the fields below.
	mu    sync.Mutex
	list  []*frame.Message
	bytes int
	lost  map[string]Loss // by room, since Take
	since time.Time       // when the first of list came

	taken time.Time // what since was at Take; the loop's own
}

// Loss is what a room lost in an inbox.
type Loss struct {
	Messages int
	Offset   uint64 // of the last one; 0 without history
}

// NewInbox returns an inbox of at most maxBytes of bodies; kick wakes the loop.
func NewInbox(maxBytes int, kick func()) *Inbox { return &Inbox{kick: kick, maxBytes: maxBytes} }

// Put leaves messages for the loop. What does not fit is counted as lost for
// its room; the loop announces it.
func (in *Inbox) Put(list []*frame.Message) {
	if len(list) == 0 {
		return
	}
	in.mu.Lock()
	if len(in.list) == 0 {
		in.since = time.Now()
	}
	for _, m := range list {
		n := m.Size()
		if in.bytes+n > in.maxBytes && !m.MustArrive() {
			if in.lost == nil {
				in.lost = make(map[string]Loss)
			}
			in.lost[m.Room] = Loss{in.lost[m.Room].Messages + 1, m.Offset}
			continue
		}
		in.bytes += n
		in.list = append(in.list, m)
	}
	in.mu.Unlock()
	in.kick()
}

// Take returns what waits and what was lost, leaving the inbox empty. spare is
// the previous result, to be used again.
func (in *Inbox) Take(spare []*frame.Message) (list []*frame.Message, lost map[string]Loss) {
	clear(spare)
	if cap(spare) > 1<<14 {
		spare = nil // keep the memory of an ordinary turn, not of a burst
	}
	in.mu.Lock()
	list, lost = in.list, in.lost
	in.taken = in.since
	in.list, in.lost, in.bytes = spare[:0], nil, 0
	in.mu.Unlock()
	return list, lost
}

// Since is when the first message came that Take returned last. For the goroutine
// that takes.
func (in *Inbox) Since() time.Time { return in.taken }
