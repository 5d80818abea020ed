package upstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/edge/internal/frame"
	"nabat/internal/bus"
	"nabat/proto/wire"
)

// Reasons of gap notices, as PROTOCOL.md names them.
const (
	reasonReconnected = "bus_reconnected"
	reasonOverload    = "edge_overload"
)

// batchMessages is how many messages a dispatcher takes at once: they reach a
// loop in one turn, and each connection in one write.
const batchMessages = 512

// link is one NATS connection that carries a share of the rooms, the channel
// that its subscriptions share, and the goroutine that empties it. A room is
// always on the same link, so its messages keep their order.
type link struct {
	// Set at creation, never changed.
	u        *Upstream
	nc       *nats.Conn
	queue    chan *nats.Msg
	asks     chan struct{} // 1 buffered: confirmAll has something to do
	reported chan struct{} // 1 buffered: deniedLast has changed

	// Guarded by Upstream.mu.
	asked       []*room              // to be subscribed and confirmed
	ended       []*nats.Subscription // to be unsubscribed
	denied      map[string]bool      // subjects that NATS refused
	deniedLast  error                // the newest refusal, as nats.go keeps it
	reconnected bool
	losses      map[*nats.Subscription]int // those that lost messages, and how many are told
}

func newLink(u *Upstream) *link {
	return &link{u: u, queue: make(chan *nats.Msg, u.opts.Queue), asks: make(chan struct{}, 1), reported: make(chan struct{}, 1),
		denied: make(map[string]bool), losses: make(map[*nats.Subscription]int)}
}

func (l *link) connect(connect Connect, name string) (err error) {
	log := l.u.opts.Log.With("connection", name)
	l.nc, err = connect(name,
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("NATS connection is back", "server", nc.ConnectedUrlRedacted())
			l.u.reconnects.Add(1)
			l.u.mu.Lock()
			l.reconnected = true
			l.u.mu.Unlock()
			l.wake()
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrSlowConsumer) && sub != nil {
				l.lose(sub)
				return
			}
			log.Warn("NATS reported an error", "error", err)
			if errors.Is(err, nats.ErrPermissionViolation) {
				l.deny(err)
			}
		}))
	return err
}

// ask puts r on the list of rooms to be confirmed. Upstream.mu is held.
func (l *link) ask(r *room) {
	l.asked = append(l.asked, r)
	l.wake()
}

func (l *link) wake() {
	select {
	case l.asks <- struct{}{}:
	default:
	}
}

// confirmAll subscribes what was asked for and waits for NATS to confirm it:
// many rooms, one round trip. After a reconnect it announces the gap once the
// subscriptions are known to be in place again, so that a client that fetches
// what it missed misses nothing in between.
//
// It also ends what nobody wants any more, for a room that is wanted again just
// then must not have two subscriptions at once: its messages would come twice.
func (l *link) confirmAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.asks:
		}
		l.u.mu.Lock()
		asked, ended, reconnected := l.asked, l.ended, l.reconnected
		l.asked, l.ended, l.reconnected = nil, nil, false
		l.u.mu.Unlock()
		for _, sub := range ended {
			// An error means that the connection is closed: nothing to undo.
			_ = sub.Unsubscribe()
		}
		failed := l.subscribe(asked)
		err := l.flush(ctx)
		if reconnected && err == nil {
			l.u.announce(l, reasonReconnected)
		} else if reconnected {
			l.u.mu.Lock()
			l.reconnected = true // said after the next flush
			l.u.mu.Unlock()
			if l.nc.IsConnected() {
				l.wake() // only slow: there is no other reconnect to wait for
			}
		}
		l.refuse(ctx, failed)
		l.settle(asked, failed, err)
	}
}

// subscribe returns why rooms could not be subscribed.
func (l *link) subscribe(asked []*room) map[*room]error {
	failed := make(map[*room]error)
	for _, r := range asked {
		if r.sub != nil {
			continue // subscribed before, only not confirmed
		}
		sub, err := l.nc.ChanSubscribe(r.subject, l.queue)
		if err != nil {
			failed[r] = err
			continue
		}
		l.u.mu.Lock()
		r.sub = sub
		l.u.mu.Unlock()
	}
	return failed
}

// deny notes that NATS refused a subscription. nats.go calls it after the fact
// and from a goroutine of its own.
func (l *link) deny(err error) {
	l.u.mu.Lock()
	if _, rest, ok := strings.Cut(err.Error(), `Subscription to "`); ok {
		subj, _, _ := strings.Cut(rest, `"`)
		l.denied[subj] = true
	}
	l.deniedLast = err
	l.u.mu.Unlock()
	select {
	case l.reported <- struct{}{}:
	default:
	}
	l.wake() // nobody waits for it after a reconnect
}

// awaitDenied waits until deny has heard of every refusal before a flush. NATS
// refuses before it answers the flush, but nats.go calls deny later; its last
// error, which is set in order, tells whether there is something to wait for.
func (l *link) awaitDenied(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, l.u.opts.Confirm)
	defer cancel()
	for {
		last := l.nc.LastError()
		l.u.mu.RLock()
		seen := last == l.deniedLast
		l.u.mu.RUnlock()
		if seen || !errors.Is(last, nats.ErrPermissionViolation) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-l.reported:
		}
	}
}

// refuse adds the rooms that NATS refused to failed, and takes back their
// subscriptions, so that the next one who wants the room asks again.
func (l *link) refuse(ctx context.Context, failed map[*room]error) {
	l.awaitDenied(ctx)
	var ended []*nats.Subscription
	l.u.mu.Lock()
	for subj := range l.denied {
		r := l.u.rooms[subj]
		if r == nil {
			continue
		}
		if r.sub != nil {
			ended = append(ended, r.sub)
		}
		r.sub, r.ready = nil, false
		failed[r] = fmt.Errorf("%w: the edge's account may not subscribe to %s", ErrUnavailable, subj)
	}
	clear(l.denied)
	l.u.mu.Unlock()
	for _, sub := range ended {
		_ = sub.Unsubscribe() // as above
	}
}

// flush waits for NATS to have seen all that was sent. While the connection is
// down it waits for it to come back, within the same time.
func (l *link) flush(ctx context.Context) error { return flush(ctx, l.nc, l.u.opts.Confirm) }

func flush(ctx context.Context, nc *nats.Conn, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return nc.FlushWithContext(ctx)
}

// settle answers those who waited for the rooms.
func (l *link) settle(asked []*room, failed map[*room]error, err error) {
	if err != nil && len(asked) > 0 {
		l.u.opts.Log.Warn("NATS did not confirm subscriptions", "rooms", len(asked), "error", err)
		err = ErrUnavailable
	}
	for _, r := range asked {
		result := err
		if failed[r] != nil {
			result = failed[r]
		}
		l.u.mu.Lock()
		waiting := r.waiting
		r.waiting, r.asked = nil, false
		r.ready = result == nil
		l.u.mu.Unlock()
		for _, done := range waiting {
			done(result)
		}
	}
}

// dispatch decodes messages once and hands them to the loops, in batches of
// what has arrived meanwhile.
func (l *link) dispatch(ctx context.Context) {
	list := make([]*frame.Message, 0, batchMessages)
	loops := make([]uint64, 0, batchMessages)
	// A message was lost only if the queue was full, and only this goroutine
	// empties it: looking before each receive misses nothing.
	full := false
	for {
		full = full || len(l.queue) == cap(l.queue)
		select {
		case <-ctx.Done():
			return
		case m := <-l.queue:
			list, loops = l.take(m, list[:0], loops[:0])
		}
	more:
		for len(list) < batchMessages {
			full = full || len(l.queue) == cap(l.queue)
			select {
			case m := <-l.queue:
				list, loops = l.take(m, list, loops)
			default:
				break more
			}
		}
		l.u.deliver(list, loops)
		clear(list)
		if full && len(l.queue) == 0 {
			full = false
			l.recount()
		}
	}
}

// lose tells a room that it lost messages. nats.go reports the first of a row
// of losses, from a goroutine of its own; recount sees to the rest.
func (l *link) lose(sub *nats.Subscription) {
	l.u.mu.Lock()
	list, loops := l.count(sub, nil, nil)
	l.u.mu.Unlock()
	l.u.deliver(list, loops)
}

// recount tells the rooms that have lost more messages since they were told.
func (l *link) recount() {
	var list []*frame.Message
	var loops []uint64
	l.u.mu.Lock()
	for sub := range l.losses {
		list, loops = l.count(sub, list, loops)
	}
	l.u.mu.Unlock()
	l.u.deliver(list, loops)
}

// count adds what sub lost since the last count, and a notice if that is
// anything and the room has members. Upstream.mu is held.
func (l *link) count(sub *nats.Subscription, list []*frame.Message, loops []uint64) ([]*frame.Message, []uint64) {
	n, err := sub.Dropped()
	if err != nil {
		delete(l.losses, sub) // unsubscribed meanwhile
		return list, loops
	}
	told := l.losses[sub]
	l.losses[sub] = n
	l.u.lost[reasonOverload] += uint64(n - told)
	if r := l.u.rooms[sub.Subject]; r != nil && r.loops != 0 && n > told {
		return append(list, gap(r.name, reasonOverload)), append(loops, r.loops)
	}
	return list, loops
}

func (l *link) take(m *nats.Msg, list []*frame.Message, loops []uint64) ([]*frame.Message, []uint64) {
	l.u.messages.Add(1)
	l.u.bytes.Add(uint64(len(m.Data)))
	l.u.mu.RLock()
	r := l.u.rooms[m.Subject]
	var bits uint64
	if r != nil {
		bits = r.loops
	}
	l.u.mu.RUnlock()
	if bits == 0 {
		return list, loops
	}
	return append(list, decode(r.name, m)), append(loops, bits)
}

// decode makes the message that clients get out of what a publisher sent.
func decode(name string, m *nats.Msg) *frame.Message {
	w := wire.Message{Room: name}
	var hint, exclude string
	if len(m.Header) > 0 {
		hint = last(m.Header, bus.HeaderBody)
		exclude = last(m.Header, bus.HeaderExclude)
		w.Event = last(m.Header, bus.HeaderEvent)
		w.User = last(m.Header, bus.HeaderUser)
	}
	w.Kind, w.Body = wire.Classify(m.Data, hint)
	return frame.New(w, exclude)
}

// last is the last value of a header: servers on the way append theirs to what
// a publisher wrote.
func last(h nats.Header, key string) string {
	if v := h[key]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}
