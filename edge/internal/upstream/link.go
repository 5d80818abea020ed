package upstream

import (
	"context"
	"errors"
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
	u     *Upstream
	nc    *nats.Conn
	queue chan *nats.Msg
	asks  chan struct{} // 1 buffered: asked is not empty, or a reconnect happened

	// Guarded by Upstream.mu.
	asked       []*room
	reconnected bool
}

func newLink(u *Upstream) *link {
	return &link{u: u, queue: make(chan *nats.Msg, u.opts.Queue), asks: make(chan struct{}, 1)}
}

func (l *link) connect(connect Connect, name string) (err error) {
	l.nc, err = connect(name,
		nats.ReconnectHandler(func(*nats.Conn) {
			l.u.reconnects.Add(1)
			l.u.mu.Lock()
			l.reconnected = true
			l.u.mu.Unlock()
			l.wake()
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrSlowConsumer) && sub != nil {
				l.u.lose(sub.Subject, reasonOverload)
				return
			}
			l.u.opts.Log.Warn("NATS reported an error", "connection", name, "error", err)
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
func (l *link) confirmAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.asks:
		}
		l.u.mu.Lock()
		asked, reconnected := l.asked, l.reconnected
		l.asked, l.reconnected = nil, false
		l.u.mu.Unlock()
		failed := l.subscribe(asked)
		err := l.flush(ctx)
		if reconnected {
			if err != nil {
				l.u.mu.Lock()
				l.reconnected = true // the next reconnect will say it
				l.u.mu.Unlock()
			} else {
				l.u.announce(l, reasonReconnected)
			}
		}
		l.settle(asked, failed, err)
	}
}

func (l *link) subscribe(asked []*room) map[*room]error {
	var failed map[*room]error
	for _, r := range asked {
		if r.sub != nil {
			continue // subscribed before, only not confirmed
		}
		sub, err := l.nc.ChanSubscribe(r.subject, l.queue)
		if err != nil {
			if failed == nil {
				failed = make(map[*room]error)
			}
			failed[r] = err
			continue
		}
		l.u.mu.Lock()
		r.sub = sub
		l.u.mu.Unlock()
	}
	return failed
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
	for _, r := range asked {
		result := err
		if failed[r] != nil {
			result = failed[r]
		}
		if result != nil {
			l.u.opts.Log.Warn("NATS did not confirm a subscription", "room", r.name, "error", result)
			result = ErrUnavailable
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
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-l.queue:
			list, loops = l.take(m, list[:0], loops[:0])
		}
	more:
		for len(list) < batchMessages {
			select {
			case m := <-l.queue:
				list, loops = l.take(m, list, loops)
			default:
				break more
			}
		}
		l.u.deliver(list, loops)
		clear(list)
	}
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
		hint = m.Header.Get(bus.HeaderBody)
		exclude = m.Header.Get(bus.HeaderExclude)
		w.Event = m.Header.Get(bus.HeaderEvent)
		w.User = m.Header.Get(bus.HeaderUser)
	}
	w.Kind, w.Body = wire.Classify(m.Data, hint)
	return frame.New(w, exclude)
}
