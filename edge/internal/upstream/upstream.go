// Package upstream is the edge's NATS side: one subscription for each room
// whatever the number of members, messages to the loops that want them, and
// what clients publish.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/edge/internal/frame"
	"nabat/edge/internal/metrics"
	"nabat/proto/subject"
	"nabat/proto/wire"
)

// MaxLoops is the number of loops that one edge may have: a room keeps a bit
// for each.
const MaxLoops = 64

// Inbox takes messages for one loop and never blocks.
type Inbox interface {
	Put(list []*frame.Message)
}

// Connect opens one NATS connection with these options beside the caller's own.
type Connect func(name string, options ...nats.Option) (*nats.Conn, error)

// Options of the NATS side.
type Options struct {
	Prefix      string        // of room subjects
	Live        int           // connections that rooms are spread over
	Queue       int           // messages waiting between a connection and its dispatcher
	PublishWait int           // client publishes waiting for NATS
	Linger      time.Duration // how long a room without members keeps its subscription
	Confirm     time.Duration // wait for NATS to confirm a subscription or a publish
	Log         *slog.Logger
}

// Upstream is the NATS side of one edge.
type Upstream struct {
	// Set at creation, never changed.
	opts    Options
	inboxes []Inbox
	live    []*link
	publish *publisher

	// mu guards the fields below.
	mu     sync.RWMutex
	rooms  map[string]*room // by subject
	lost   map[string]uint64
	closed bool

	// Atomic.
	messages, bytes, reconnects atomic.Uint64
}

// room is one room that some loop wants. Guarded by Upstream.mu.
type room struct {
	name    string
	subject string
	link    *link
	sub     *nats.Subscription
	loops   uint64 // bit i: loop i has members
	ready   bool   // NATS confirmed the subscription
	asked   bool   // on the link's list of rooms to be confirmed
	idle    time.Time
	waiting []func(error)
}

// New connects to NATS. inboxes are the loops', in order.
func New(ctx context.Context, opts Options, connect Connect, inboxes []Inbox) (*Upstream, error) {
	if len(inboxes) > MaxLoops {
		return nil, fmt.Errorf("%d loops: at most %d", len(inboxes), MaxLoops)
	}
	u := &Upstream{opts: opts, inboxes: inboxes, rooms: make(map[string]*room), lost: make(map[string]uint64)}
	for i := range opts.Live {
		l := newLink(u)
		if err := l.connect(connect, fmt.Sprintf("live-%d", i)); err != nil {
			u.closeLinks()
			return nil, err
		}
		u.live = append(u.live, l)
	}
	nc, err := connect("publish")
	if err != nil {
		u.closeLinks()
		return nil, err
	}
	u.publish = newPublisher(nc, opts)
	return u, nil
}

func (u *Upstream) closeLinks() {
	for _, l := range u.live {
		l.nc.Close()
	}
}

// Run serves until ctx ends, then closes the NATS connections and answers those
// who still wait with ErrUnavailable.
func (u *Upstream) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, l := range u.live {
		wg.Go(func() { l.dispatch(ctx) })
		wg.Go(func() { l.confirmAll(ctx) })
	}
	wg.Go(func() { u.publish.run(ctx) })
	wg.Go(func() { u.sweep(ctx) })
	wg.Wait()
	var waiting []func(error)
	u.mu.Lock()
	u.closed = true
	for _, r := range u.rooms {
		waiting = append(waiting, r.waiting...)
		r.waiting = nil
	}
	u.mu.Unlock()
	for _, done := range waiting {
		done(ErrUnavailable)
	}
	u.publish.refuseAll()
	u.closeLinks()
	u.publish.nc.Close()
}

// ErrUnavailable is given to those who wait for NATS in vain.
var ErrUnavailable = errors.New("NATS is not reachable")

// Acquire makes messages of name go to loop, and calls done once NATS confirmed
// it; done may be called before Acquire returns, and otherwise from another
// goroutine. Every Acquire is paired with a Release, also when it failed.
// Safe from any goroutine; never blocks.
func (u *Upstream) Acquire(name string, loop int, done func(error)) {
	subj, err := subject.Encode(u.opts.Prefix, name)
	if err != nil {
		done(err)
		return
	}
	u.mu.Lock()
	if u.closed {
		u.mu.Unlock()
		done(ErrUnavailable)
		return
	}
	r := u.rooms[subj]
	if r == nil {
		r = &room{name: name, subject: subj, link: u.live[int(subject.Shard(subj))%len(u.live)]}
		u.rooms[subj] = r
	}
	r.loops |= 1 << loop
	if r.ready {
		u.mu.Unlock()
		done(nil)
		return
	}
	r.waiting = append(r.waiting, done)
	if !r.asked {
		r.asked = true
		r.link.ask(r)
	}
	u.mu.Unlock()
}

// Release stops messages of name to loop. The subscription lingers, so that a
// client that comes back soon costs NATS nothing. Safe from any goroutine.
func (u *Upstream) Release(name string, loop int) {
	subj, err := subject.Encode(u.opts.Prefix, name)
	if err != nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if r := u.rooms[subj]; r != nil {
		r.loops &^= 1 << loop
		if r.loops == 0 {
			r.idle = time.Now()
		}
	}
}

// sweep ends subscriptions that nobody wanted for the linger time.
func (u *Upstream) sweep(ctx context.Context) {
	tick := time.NewTicker(max(u.opts.Linger/8, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			u.expire(now)
		}
	}
}

func (u *Upstream) expire(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for subj, r := range u.rooms {
		if r.loops != 0 || r.asked || now.Sub(r.idle) < u.opts.Linger {
			continue
		}
		delete(u.rooms, subj)
		if r.sub != nil {
			r.link.ended = append(r.link.ended, r.sub)
			r.link.wake()
		}
	}
}

// gap is the notice that a room without history may have lost something.
func gap(room, reason string) *frame.Message {
	return frame.Notice(room, wire.AppendGap(nil, wire.Gap{Room: room, Reason: reason}))
}

// announce puts a gap notice into every room of l that has members, and into
// none else.
func (u *Upstream) announce(l *link, reason string) {
	var list []*frame.Message
	var loops []uint64
	u.mu.RLock()
	for _, r := range u.rooms {
		if r.link == l && r.loops != 0 {
			list = append(list, gap(r.name, reason))
			loops = append(loops, r.loops)
		}
	}
	u.mu.RUnlock()
	u.deliver(list, loops)
}

// deliver hands messages to the loops whose bits are set.
func (u *Upstream) deliver(list []*frame.Message, loops []uint64) {
	if len(u.inboxes) == 1 {
		u.inboxes[0].Put(list)
		return
	}
	part := make([]*frame.Message, 0, len(list))
	for i, in := range u.inboxes {
		part = part[:0]
		for j, m := range list {
			if loops[j]&(1<<i) != 0 {
				part = append(part, m)
			}
		}
		in.Put(part)
	}
}

// Rooms is the number of rooms subscribed at NATS. Safe from any goroutine.
func (u *Upstream) Rooms() int {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return len(u.rooms)
}

// Ready says what is wrong with NATS, nil when nothing is. Safe from any
// goroutine.
func (u *Upstream) Ready() error {
	for i, l := range u.live {
		if s := l.nc.Status(); s != nats.CONNECTED {
			return fmt.Errorf("NATS connection live-%d is %s", i, s)
		}
	}
	if s := u.publish.nc.Status(); s != nats.CONNECTED {
		return fmt.Errorf("NATS connection publish is %s", s)
	}
	return nil
}

// State is for metrics. Safe from any goroutine.
func (u *Upstream) State() metrics.Bus {
	b := metrics.Bus{Connected: u.Ready() == nil, Messages: u.messages.Load(), Bytes: u.bytes.Load(),
		Reconnects: u.reconnects.Load(), Lost: make(map[string]uint64)}
	u.mu.RLock()
	defer u.mu.RUnlock()
	for reason, n := range u.lost {
		b.Lost[reason] = n
	}
	return b
}
