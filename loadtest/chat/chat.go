// Package chat has clients that behave like people in a chat: they publish,
// leave rooms and join them again, and page back.
package chat

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Plan says what clients do.
type Plan struct {
	URL       string // of a WebSocket endpoint of Nabat, without rooms
	Clients   int
	Rooms     int
	RoomsEach int
	Rate      float64       // acts per second, of all clients together
	Leave     int           // one act of so many is to leave a room and join it again; 0: none
	Page      int           // one act of so many is to page back; 0: none
	Payload   int           // bytes of padding in a message
	For       time.Duration // how long they act
	Patience  time.Duration // for connecting, and for what is still on its way at the end
	Now       func() int64  // nanoseconds
}

// Totals is what all clients found. A histogram is in microseconds.
type Totals struct {
	Acked, Delivered          uint64 // messages that were stored, and that came to clients
	Left, Joined, Paged       uint64
	Disorder                  uint64 // messages that came twice or out of order
	Lost                      uint64 // messages that were acknowledged and never came back to their sender
	Closed                    int    // connections that were lost
	Errors                    map[string]int
	Delivery, Ack, Join, Page *hdrhistogram.Histogram
}

// Chat is a plan under way.
type Chat struct {
	// Set by Start, never changed.
	plan    Plan
	clients []*client
	readers sync.WaitGroup
	actors  sync.WaitGroup
	cancel  context.CancelFunc

	// mu guards totals.
	mu     sync.Mutex
	totals Totals
}

const dialing = 32 // clients that connect at a time

// Start connects all clients; they are in their rooms when it returns. The
// caller must call Finish, or Close.
func Start(ctx context.Context, p Plan) (*Chat, error) {
	c := &Chat{plan: p, totals: Totals{Errors: make(map[string]int)}}
	for _, h := range []**hdrhistogram.Histogram{&c.totals.Delivery, &c.totals.Ack, &c.totals.Join, &c.totals.Page} {
		*h = hdrhistogram.New(1, 60_000_000, 3)
	}
	bounded, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	var opening sync.WaitGroup
	slots, errs := make(chan struct{}, dialing), make([]error, p.Clients)
	c.clients = make([]*client, p.Clients)
	for i := range p.Clients {
		slots <- struct{}{}
		opening.Go(func() {
			defer func() { <-slots }()
			c.clients[i], errs[i] = c.open(bounded, i)
		})
	}
	opening.Wait()
	if err := errors.Join(errs...); err != nil {
		c.Close()
		first, _, _ := strings.Cut(err.Error(), "\n") // the others are like it
		return nil, errors.New(first)
	}
	ctx, c.cancel = context.WithCancel(ctx)
	start := p.Now()
	for _, one := range c.clients {
		c.actors.Go(func() { one.act(ctx, start) })
	}
	return c, nil
}

// Snapshot is how the chat stands.
func (c *Chat) Snapshot() (published, delivered uint64, failed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.totals.Errors {
		failed += n
	}
	return c.totals.Acked, c.totals.Delivered, failed + c.totals.Closed
}

// Finish waits until the clients have acted for their time and what they sent
// has come back, and returns what they found.
func (c *Chat) Finish(ctx context.Context) (*Totals, error) {
	c.actors.Wait()
	deadline := time.Now().Add(c.plan.Patience)
	for c.outstanding() > 0 && time.Now().Before(deadline) && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	lost := c.outstanding()
	c.Close()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.totals.Lost = uint64(lost)
	return &c.totals, nil
}

func (c *Chat) outstanding() (n int) {
	for _, one := range c.clients {
		n += one.outstanding()
	}
	return n
}

// Close ends all connections.
func (c *Chat) Close() {
	if c.cancel != nil {
		c.cancel()
	}
	c.actors.Wait()
	for _, one := range c.clients {
		if one != nil {
			one.close()
		}
	}
	c.readers.Wait()
}

// note changes the totals.
func (c *Chat) note(fn func(*Totals)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn(&c.totals)
}

// record adds a latency in nanoseconds.
func record(h *hdrhistogram.Histogram, nanos int64) {
	_ = h.RecordValue(min(max(nanos/1000, 1), 60_000_000)) // fails only outside of the range
}

// rooms of client i: spread evenly.
func (p *Plan) rooms(i int) (list []string) {
	stride := max(p.Rooms/p.RoomsEach, 1)
	for k := range p.RoomsEach {
		list = append(list, fmt.Sprintf("loadtest.chat.%d", (i+k*stride)%p.Rooms))
	}
	return slices.Compact(list)
}

// Failures are the errors by code, as text.
func (t *Totals) Failures() (list []string) {
	for _, code := range slices.Sorted(maps.Keys(t.Errors)) {
		list = append(list, fmt.Sprintf("%d × %s", t.Errors[code], code))
	}
	return list
}

func newRandom(i int) *rand.Rand { return rand.New(rand.NewPCG(1, uint64(i))) }
