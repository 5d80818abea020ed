package hub

import (
	"sync"

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
	lost  map[string]int // rooms that lost messages since Take, and how many
}

// NewInbox returns an inbox of at most maxBytes of bodies; kick wakes the loop.
func NewInbox(maxBytes int, kick func()) *Inbox { return &Inbox{kick: kick, maxBytes: maxBytes} }

// messageOverhead is what a waiting message weighs beside its body.
const messageOverhead = 256

// Put leaves messages for the loop. What does not fit is counted as lost for
// its room; the loop announces it.
func (in *Inbox) Put(list []*frame.Message) {
	if len(list) == 0 {
		return
	}
	in.mu.Lock()
	for _, m := range list {
		n := len(m.Body) + messageOverhead
		if in.bytes+n > in.maxBytes && !m.IsNotice() {
			if in.lost == nil {
				in.lost = make(map[string]int)
			}
			in.lost[m.Room]++
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
func (in *Inbox) Take(spare []*frame.Message) (list []*frame.Message, lost map[string]int) {
	clear(spare)
	if cap(spare) > 1<<14 {
		spare = nil // keep the memory of an ordinary turn, not of a burst
	}
	in.mu.Lock()
	list, lost = in.list, in.lost
	in.list, in.lost, in.bytes = spare[:0], nil, 0
	in.mu.Unlock()
	return list, lost
}
