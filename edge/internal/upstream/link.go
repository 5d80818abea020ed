package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/edge/internal/frame"
	"nabat/proto/wire"
)

const (
	// batchMessages is how many messages a dispatcher takes at once: they reach
	// a loop in one turn, and each connection in one write.
	batchMessages = 512
	// tick is how often a dispatcher looks for what is due.
	tick = 100 * time.Millisecond
)

// link is one NATS connection that carries a share of the rooms, the channel
// that its subscriptions share, and two goroutines: the dispatcher, which owns
// the rooms, and one that waits for NATS to confirm subscriptions.
type link struct {
	// Set at creation, never changed.
	u      *Upstream
	nc     *nats.Conn
	queue  chan *nats.Msg
	wake   chan struct{} // 1 buffered: something was posted
	asks   chan struct{} // 1 buffered: something is to be confirmed
	denied *denials

	// Owned by the dispatcher.
	byName    map[string]*room
	bySubject map[string]*room
	list      []*frame.Message
	loops     []uint64
	counted   []string // rooms that had messages since Upstream.Counted
	whole     continuity
	nextSweep time.Time
	losses    losses
	ears      ears

	// mu guards the fields below.
	mu          sync.Mutex
	posted      []func()
	asked       []ask
	untold      []*room // heard on their own subjects, and to be told so
	reconnected bool
	closed      bool
}

// ask is one subscription to be made and confirmed.
type ask struct {
	room    *room
	subject string
	sub     *nats.Subscription
	err     error
}

func newLink(u *Upstream) *link {
	l := &link{u: u, queue: make(chan *nats.Msg, u.opts.Queue), wake: make(chan struct{}, 1), asks: make(chan struct{}, 1),
		denied: newDenials(),
		byName: make(map[string]*room), bySubject: make(map[string]*room)}
	l.whole, l.ears = continuity{u: u, link: l}, ears{l}
	l.losses = losses{link: l, told: make(map[*nats.Subscription]int)}
	return l
}

func (l *link) connect(connect Connect, name string) (err error) {
	log := l.u.opts.Log.With("connection", name)
	l.nc, err = connect(name,
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil: we closed it ourselves
				log.Warn("NATS connection lost", "error", err)
				l.post(l.interrupted)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("NATS connection is back", "server", nc.ConnectedUrlRedacted())
			l.u.reconnects.Add(1)
			l.mu.Lock()
			l.reconnected = true
			l.mu.Unlock()
			signal(l.asks)
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrSlowConsumer) && sub != nil {
				l.post(func() { l.losses.begin(sub) })
				return
			}
			log.Warn("NATS reported an error", "error", err)
			if errors.Is(err, nats.ErrPermissionViolation) {
				l.denied.add(err)
				signal(l.asks) // nobody waits for it after a reconnect
			}
		}))
	return err
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// post runs fn on the dispatcher. It reports false once that has ended. Safe
// from any goroutine; never blocks. What is posted is bounded by what loops and
// store have under way.
func (l *link) post(fn func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.posted = append(l.posted, fn)
	signal(l.wake)
	return true
}

// dispatch decodes messages once and hands them to the loops, in batches of
// what has arrived meanwhile.
func (l *link) dispatch(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		// A message was lost only if the queue was full, and only this goroutine
		// empties it: looking before each receive misses nothing.
		l.losses.look(l.queue)
		select {
		case <-ctx.Done():
			l.close()
			return
		case m := <-l.queue:
			l.take(m)
			l.takeMore()
		case <-l.wake:
			l.runPosted()
		case now := <-ticker.C:
			l.due(now)
		}
		l.handOut()
		if len(l.queue) == 0 {
			l.losses.tell()
		}
	}
}

// close answers those who wait, and everybody who comes later.
func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.runPosted()
	for _, r := range l.byName {
		l.refused(r, ErrUnavailable)
	}
	l.handOut()
}

func (l *link) takeMore() {
	for range batchMessages - 1 {
		l.losses.look(l.queue)
		select {
		case m := <-l.queue:
			l.take(m)
		default:
			return
		}
	}
}

func (l *link) runPosted() {
	l.mu.Lock()
	posted := l.posted
	l.posted = nil
	l.mu.Unlock()
	for _, fn := range posted {
		fn()
	}
}

func (l *link) handOut() {
	l.whole.askBases()
	if len(l.list) == 0 {
		return
	}
	l.u.deliver(l.list, l.loops)
	clear(l.list)
	l.list, l.loops = l.list[:0], l.loops[:0]
}

// put hands m to the loops at the end of the batch. Owner: the dispatcher.
func (l *link) put(m *frame.Message, loops uint64) {
	if loops != 0 {
		l.list, l.loops = append(l.list, m), append(l.loops, loops)
	}
}

func (l *link) gap(r *room, g wire.Gap) {
	if r.source.watched != "" {
		l.put(missed(r), r.loops)
		return
	}
	g.Room = r.name
	l.put(frame.Notice(r.name, g), r.loops)
}

func (l *link) take(m *nats.Msg) {
	l.u.messages.Add(1)
	l.u.bytes.Add(uint64(len(m.Data)))
	switch r := l.bySubject[m.Subject]; {
	case r == nil:
		l.u.pulses.answered(m)
	case r.chain != nil && m.Subject == r.source.stored:
		l.ears.take(r, m)
	case r.chain != nil:
		l.takeStored(r, m)
	case r.source.watched != "":
		r.takeChange(l, m)
	case r.loops != 0:
		shown, _ := decode(r.name, m.Header, m.Data)
		shown.Deflater = r.source.deflate
		l.u.trace(shown, m.Header)
		r.count(l)
		l.put(shown, r.loops)
	}
}

// subscribe asks NATS for a room's messages; confirmed tells the dispatcher.
func (l *link) subscribe(r *room) {
	r.asked = true
	l.mu.Lock()
	l.asked = append(l.asked, ask{room: r, subject: r.source.subject, sub: r.sub})
	l.mu.Unlock()
	signal(l.asks)
}

// confirm subscribes what was asked for and waits for NATS to confirm it: many
// rooms, one round trip. After a reconnect it says so once the subscriptions are
// known to be in place again, so that who then reads what was missed misses
// nothing in between.
func (l *link) confirm(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.asks:
		}
		l.mu.Lock()
		asked, untold, reconnected := l.asked, l.untold, l.reconnected
		l.asked, l.untold, l.reconnected = nil, nil, false
		l.mu.Unlock()
		for i := range asked {
			if a := &asked[i]; a.sub == nil {
				a.sub, a.err = l.nc.ChanSubscribe(a.subject, l.queue)
			}
		}
		err := flush(ctx, l.nc, l.u.opts.Confirm)
		if err != nil && reconnected {
			l.mu.Lock()
			l.reconnected = true // said after the next flush
			l.mu.Unlock()
			if l.nc.IsConnected() {
				signal(l.asks) // only slow: there is no other reconnect to wait for
			}
		}
		denied := l.denied.take(ctx, l.nc, l.u.opts.Confirm)
		l.post(func() {
			if reconnected && err == nil {
				l.resumed()
			}
			for _, a := range asked {
				if denied[a.subject] {
					continue
				}
				l.confirmed(a, err)
			}
			for _, a := range asked {
				if denied[a.subject] {
					a.room.asked, a.room.sub = false, a.sub
				}
			}
			for subj := range denied {
				l.forbidden(subj)
			}
			for _, r := range untold {
				l.ears.tell(r)
			}
		})
	}
}

// forbidden takes back a subscription that NATS refused, so that the next one
// who wants the room asks again.
func (l *link) forbidden(subj string) {
	r := l.bySubject[subj]
	if r == nil || subj != r.source.subject { // rooms are heard as far as permissions go
		return
	}
	if r.sub != nil {
		_ = r.sub.Unsubscribe() // an error means that the connection is closed
	}
	r.sub, r.ready = nil, false
	l.refused(r, fmt.Errorf("%w: the edge's account may not subscribe to %s", ErrUnavailable, subj))
}

// refused answers those who wait for a room.
func (l *link) refused(r *room, err error) {
	l.put(frame.NewMark(r.name, frame.Mark{Err: err}), r.wait)
	r.wait = 0
}

// flush waits for NATS to have seen all that was sent. While the connection is
// down it waits for it to come back, within the same time.
func flush(ctx context.Context, nc *nats.Conn, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return nc.FlushWithContext(ctx)
}

// interrupted is called when the connection was lost: what it brought before is
// in the queue, and what comes later may have a hole before it.
func (l *link) interrupted() {
	for n := len(l.queue); n > 0; n-- {
		l.take(<-l.queue)
	}
	for _, r := range l.byName {
		if r.chain != nil {
			r.chain.Broken()
		}
	}
}

// resumed is called once the subscriptions are in place again after a
// reconnect. Rooms without history can only be told that something may be lost.
func (l *link) resumed() {
	for _, r := range l.byName {
		switch {
		case r.chain == nil:
			l.gap(r, wire.Gap{Reason: wire.GapReconnected})
			continue
		case r.ear != nil && r.ear.sub != nil:
			r.ear.told = false
			l.ears.tell(r)
		}
		l.whole.broken(r)
	}
}

// due does what has a time: ends idle rooms, verifies and retries.
func (l *link) due(now time.Time) {
	l.losses.tell()
	l.whole.dueTimers(now)
	if l == l.u.live[0] {
		l.u.pulses.look(l, now)
	}
	if now.Before(l.nextSweep) {
		return
	}
	l.nextSweep = now.Add(l.u.opts.Linger / 8)
	for _, r := range l.byName {
		if r.ear != nil && r.ear.sub == nil && now.After(r.ear.until) {
			r.ear = nil
		}
		if r.loops == 0 && !r.asked && now.Sub(r.idle) >= l.u.opts.Linger {
			l.forget(r)
		}
	}
}
