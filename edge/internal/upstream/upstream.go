// Package upstream is the edge's NATS side: one subscription for each room
// whatever the number of members, messages to the loops that want them, the
// continuity of rooms with history, and what clients publish.
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
	"nabat/internal/history"
	"nabat/proto/policy"
	"nabat/proto/subject"
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

// Store reads stored messages. Calls never block; done is called once, from
// another goroutine.
type Store interface {
	Read(q history.Read, done func(history.Batch, error))
	Newest(stream string, subjects []string, done func(list []history.Stored, upTo uint64, err error))
	Head(stream string, done func(last uint64, err error))
	Ends(stream string, done func(first, last uint64, err error))
	Before(stream, subject string, before uint64, limit int, done func(history.Batch, error))
}

var _ Store = (*history.Reader)(nil)

// Options of the NATS side.
type Options struct {
	Prefix      string        // of room subjects
	LivePrefix  string        // of republished messages
	Live        int           // connections that rooms are spread over
	Queue       int           // messages waiting between a connection and its dispatcher
	PublishWait int           // client publishes waiting for NATS
	Linger      time.Duration // how long a room without members keeps its subscription
	Confirm     time.Duration // wait for NATS to confirm a subscription or a publish
	Verify      time.Duration // after joining a room with history, look again whether something was missed
	Patience    time.Duration // for a history that can not be read, or lags behind
	Audit       time.Duration // how often rooms with history are looked at for a loss with nothing behind it
	RingCount   int           // recent messages kept of a room with history
	RingBytes   int           // and their bytes
	Log         *slog.Logger
	// Policy is the policy of a room, nil when none matches. Safe from any
	// goroutine.
	Policy func(room string) *policy.Policy
	Store  Store
	// Deflater compresses the messages of rooms whose policy asks for it; may be nil.
	Deflater *frame.Deflater
	// Trace begins to follow a message whose publisher sent traceparent; it may
	// return nil. May be nil. Safe from any goroutine.
	Trace func(traceparent, room string) frame.Trace
}

// Upstream is the NATS side of one edge.
type Upstream struct {
	// Set at creation, never changed.
	opts    Options
	inboxes []Inbox
	live    []*link
	publish *publisher
	recents recents
	replays replays
	pulses  pulses

	// mu guards lost.
	mu   sync.Mutex
	lost map[string]uint64

	// Atomic.
	messages, bytes, reconnects atomic.Uint64
	rooms                       atomic.Int64
	recoveries, cuts, sweeps    atomic.Uint64
	unstored                    atomic.Uint64
	blind                       atomic.Pointer[blindness] // why history can not be read; nil when it can
}

// New connects to NATS. inboxes are the loops', in order.
func New(opts Options, connect Connect, inboxes []Inbox) (*Upstream, error) {
	if len(inboxes) > MaxLoops {
		return nil, fmt.Errorf("%d loops: at most %d", len(inboxes), MaxLoops)
	}
	u := &Upstream{opts: opts, inboxes: inboxes, lost: make(map[string]uint64)}
	u.replays.u, u.pulses.u = u, u
	for i := range opts.Live {
		l := newLink(u)
		if err := l.connect(connect, fmt.Sprintf("live-%d", i)); err != nil {
			u.closeLinks()
			return nil, err
		}
		u.live = append(u.live, l)
	}
	if err := u.pulses.listen(u.live[0]); err != nil {
		u.closeLinks()
		return nil, fmt.Errorf("subscribe to what streams answer: %w", err)
	}
	nc, err := connect("publish")
	if err != nil {
		u.closeLinks()
		return nil, err
	}
	if u.publish, err = newPublisher(nc, opts); err != nil {
		nc.Close()
		u.closeLinks()
		return nil, err
	}
	return u, nil
}

func (u *Upstream) closeLinks() {
	for _, l := range u.live {
		l.nc.Close()
	}
}

// Run serves until ctx ends, then closes the NATS connections.
func (u *Upstream) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, l := range u.live {
		wg.Go(func() { l.dispatch(ctx) })
		wg.Go(func() { l.confirm(ctx) })
	}
	wg.Go(func() { u.publish.run(ctx) })
	wg.Wait()
	u.publish.close()
	u.closeLinks()
	u.publish.nc.Close()
}

// ErrUnavailable is given to those who wait for NATS in vain.
var ErrUnavailable = errors.New("NATS is not reachable")

// Acquire makes messages of name go to loop. A mark in the loop's inbox says
// when that has begun, or why it can not: every Acquire is answered by one mark
// at least, and paired with a Release, also when it failed. Safe from any
// goroutine; never blocks.
func (u *Upstream) Acquire(name string, loop int) {
	l := u.link(name)
	if !l.post(func() { l.acquire(name, loop) }) {
		u.inboxes[loop].Put([]*frame.Message{frame.NewMark(name, frame.Mark{Err: ErrUnavailable})})
	}
}

// Release stops messages of name to loop. The subscription lingers, so that a
// client that comes back soon costs NATS nothing. Safe from any goroutine.
func (u *Upstream) Release(name string, loop int) {
	l := u.link(name)
	l.post(func() { l.release(name, loop) })
}

// PoliciesChanged makes every room look at its policy again: its history may
// have begun, ended, or begun anew. Safe from any goroutine.
func (u *Upstream) PoliciesChanged() {
	for _, l := range u.live {
		l.post(l.reconsider)
	}
}

// Verify compares a room with its history soon: a client claims to be ahead of
// it. Safe from any goroutine.
func (u *Upstream) Verify(name string) {
	l := u.link(name)
	l.post(func() {
		if r := l.byName[name]; r != nil && r.chain != nil && r.ready && !r.verifyAt.IsZero() {
			l.whole.verifyAt(r, time.Now())
		}
	})
}

// Purged forgets what it knows of a room's messages up to an offset: they were
// removed from its history. Safe from any goroutine.
func (u *Upstream) Purged(room, epoch string, upTo uint64) {
	if r := u.recents.get(room, epoch); r != nil {
		r.forget(upTo)
	}
	u.replays.forget(room)
}

// link is the NATS connection of a room: always the same one, so that its
// messages keep their order.
func (u *Upstream) link(name string) *link {
	return u.live[int(subject.Shard(name))%len(u.live)]
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

func (u *Upstream) countLost(reason string, n uint64) {
	u.mu.Lock()
	u.lost[reason] += n
	u.mu.Unlock()
}

// blindness is that history can not be read.
type blindness struct {
	err   error
	since time.Time
}

// sighted notes whether history could be read.
func (u *Upstream) sighted(err error) {
	if err == nil {
		u.blind.Store(nil)
		return
	}
	b := &blindness{err, time.Now()}
	if old := u.blind.Load(); old != nil {
		b.since = old.since
	}
	u.blind.Store(b)
}

// blindFor is for how long history could not be read, 0 when it can.
func (u *Upstream) blindFor() time.Duration {
	if b := u.blind.Load(); b != nil {
		return time.Since(b.since)
	}
	return 0
}

// Rooms is the number of rooms subscribed at NATS. Safe from any goroutine.
func (u *Upstream) Rooms() int { return int(u.rooms.Load()) }

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

// Degraded says why messages are not stored or history can not be read though
// live messages flow; nil when all is well. Safe from any goroutine.
func (u *Upstream) Degraded() error {
	if stream := u.pulses.silent(); stream != "" {
		return fmt.Errorf("messages are not stored: the stream %s has no leader", stream)
	}
	if b := u.blind.Load(); b != nil {
		return fmt.Errorf("history can not be read: %w", b.err)
	}
	return nil
}

// State is for metrics. Safe from any goroutine.
func (u *Upstream) State() metrics.Bus {
	b := metrics.Bus{Connected: u.Ready() == nil, Messages: u.messages.Load(), Bytes: u.bytes.Load(),
		Reconnects: u.reconnects.Load(), Lost: make(map[string]uint64),
		Degraded: u.Degraded() != nil, Unstored: u.unstored.Load(), Recoveries: u.recoveries.Load(), Cuts: u.cuts.Load(), Sweeps: u.sweeps.Load(), Replays: u.replays.count.Load()}
	u.mu.Lock()
	defer u.mu.Unlock()
	for reason, n := range u.lost {
		b.Lost[reason] = n
	}
	return b
}
