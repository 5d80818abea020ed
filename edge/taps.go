package edge

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"nabat/edge/internal/frame"
	"nabat/edge/internal/loop"
	"nabat/edge/internal/session"
	"nabat/edge/internal/transport"
	"nabat/internal/bus"
	"nabat/proto/order"
	"nabat/proto/wire"
)

const (
	maxTaps     = 16
	tapQueue    = 1024    // events that wait for NATS
	tapFrame    = 8 << 10 // bytes of a frame that is shown
	tapInterval = time.Second
)

// taps are those that listen in on this node.
type taps struct {
	orders *orders
	count  atomic.Int32

	mu   sync.Mutex // guards ends
	ends map[*tap]context.CancelFunc
}

// tap copies what one room, user or session gets to a subject, for a while.
type tap struct {
	request order.TapRequest
	node    string
	events  chan order.TapEvent
	skipped atomic.Int64
}

// ears are the taps of one loop. Owned by the loop.
type ears struct {
	w    *worker
	list []*loopTap // nil: nobody listens in
}

// loopTap is a tap on one loop. Owned by the loop.
type loopTap struct {
	*tap
	clients map[uint32]loop.Ref // of taps of users and sessions, by slot
	members int                 // of a room's tap, when it was last counted
}

// start begins a tap, which ends by its time or with ctx.
func (t *taps) start(ctx context.Context, r *order.TapRequest) order.Answer {
	if r.Stop {
		return order.Answer{Affected: t.stop(r.Reply)}
	}
	d := time.Duration(r.ForMS) * time.Millisecond
	if d <= 0 || d > order.MaxTap || !strings.HasPrefix(r.Reply, bus.TapPrefix) || (r.Room == "" && r.User == "" && r.Session == "") {
		return failed(wire.BadRequest, "a tap needs a target, a reply subject below "+bus.TapPrefix+" and a time up to "+order.MaxTap.String())
	}
	if t.count.Add(1) > maxTaps {
		t.count.Add(-1)
		return failed(wire.Overloaded, fmt.Sprintf("%d taps are on already", maxTaps))
	}
	one := &tap{request: *r, node: t.orders.edge.cfg.Node, events: make(chan order.TapEvent, tapQueue)}
	n := 0
	for _, w := range t.orders.edge.workers {
		// An error of Do means that the loop has stopped.
		_ = w.loop.Do(func() { w.ears.list = append(w.ears.list, &loopTap{tap: one}) })
		n += w.ears.refresh(one)
	}
	ctx, end := context.WithTimeout(ctx, d)
	t.mu.Lock()
	if t.ends == nil {
		t.ends = make(map[*tap]context.CancelFunc)
	}
	t.ends[one] = end
	t.mu.Unlock()
	t.orders.running.Go(func() {
		defer t.count.Add(-1)
		t.run(ctx, one)
		end()
		t.mu.Lock()
		delete(t.ends, one)
		t.mu.Unlock()
	})
	return order.Answer{Affected: n}
}

// stop ends the taps that send to a subject, before their time, and says how
// many those are.
func (t *taps) stop(reply string) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for one, end := range t.ends {
		if one.request.Reply == reply {
			end()
			n++
		}
	}
	return n
}

// run publishes events until ctx ends.
func (t *taps) run(ctx context.Context, one *tap) {
	var wg sync.WaitGroup
	wg.Go(func() { // clients come and go meanwhile
		tick := time.NewTicker(tapInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				for _, w := range t.orders.edge.workers {
					w.ears.refresh(one)
				}
			}
		}
	})
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case e := <-one.events:
			if n := one.skipped.Swap(0); n > 0 {
				t.publish(one, order.TapEvent{Kind: order.TapSkipped, Count: int(n), At: e.At})
			}
			t.publish(one, e)
		}
	}
	wg.Wait()
	for _, w := range t.orders.edge.workers {
		_ = w.loop.Do(func() { w.ears.drop(one) })
	}
	t.publish(one, order.TapEvent{Kind: order.TapEnd, At: time.Now().UnixMilli()})
}

func (t *taps) publish(one *tap, e order.TapEvent) {
	e.Node = one.node
	data, err := json.Marshal(e)
	if err == nil {
		err = t.orders.edge.control.Publish(one.request.Reply, data)
	}
	if err != nil {
		one.skipped.Add(1)
	}
}

// tell hands an event to the tap, or counts it.
func (t *tap) tell(e order.TapEvent) {
	select {
	case t.events <- e:
	default:
		t.skipped.Add(1)
	}
}

// refresh finds the clients that a tap is about, and says how many there are;
// of a room's tap those are its members on this loop.
func (t *ears) refresh(one *tap) (n int) {
	if one.request.Room != "" {
		_ = t.w.loop.Do(func() {
			if number, ok := t.w.hub.Number(one.request.Room); ok {
				n = t.w.hub.Members(number)
			}
			for _, l := range t.list {
				if l.tap == one {
					l.members = n
				}
			}
		})
		return n
	}
	clients := make(map[uint32]loop.Ref)
	target := order.Target{User: one.request.User, Session: one.request.Session}
	walk(t.w, func(ref loop.Ref, c transport.Client) bool {
		who := c.Speaker().Identity()
		if (target.User != "" && who != nil && who.User == target.User) || (target.Session != "" && formatSession(t.w.edge.instance, t.w.index, ref) == target.Session) {
			clients[ref.Slot] = ref
		}
		return true
	})
	_ = t.w.loop.Do(func() {
		for _, l := range t.list {
			if l.tap == one {
				l.clients = clients
			}
		}
	})
	return len(clients)
}

// drop ends a tap on this loop.
func (t *ears) drop(one *tap) {
	var rest []*loopTap
	for _, l := range t.list {
		if l.tap != one {
			rest = append(rest, l)
		}
	}
	t.list = rest
}

// turn shows taps what this turn handed out.
func (t *ears) turn(list []*frame.Message) {
	for _, l := range t.list {
		for _, m := range list {
			if m.Mark != nil || m.IsNotice() || m.Hidden {
				continue
			}
			if l.request.Room != "" {
				if l.request.Room == m.Room {
					l.tell(t.message(m, order.TapEvent{Members: l.members}))
				}
				continue
			}
			number, ok := t.w.hub.Number(m.Room)
			for slot, ref := range l.clients {
				if t.w.loop.Handler(ref) == nil {
					delete(l.clients, slot) // somebody else may have the slot
					continue
				}
				if ok && m.Exclude != formatSession(t.w.edge.instance, t.w.index, ref) && t.in(slot, number) && t.w.behind.list[key{slot, number}] == nil {
					l.tell(t.message(m, t.client(ref)))
				}
			}
		}
	}
}

// in reports whether a member is in a room.
func (t *ears) in(slot, number uint32) (is bool) {
	t.w.hub.Each(slot, func(room uint32) { is = is || room == number })
	return is
}

// chunk shows taps what a client that was behind gets.
func (t *ears) chunk(ref loop.Ref, list []*frame.Message) {
	t.each(ref, func(l *loopTap) {
		for _, m := range list {
			l.tell(t.message(m, t.client(ref)))
		}
	})
}

// notice shows taps an answer or a notice.
func (t *ears) notice(ref loop.Ref, object wire.Object) {
	t.each(ref, func(l *loopTap) {
		e := t.client(ref)
		e.Kind, e.At = order.TapNotice, t.w.loop.Now().UnixMilli()
		show(&e, object.AppendJSON(nil))
		l.tell(e)
	})
}

// trouble shows taps that a client loses messages or is behind in a room.
func (t *ears) trouble(ref loop.Ref, kind, room string) {
	t.each(ref, func(l *loopTap) {
		e := t.client(ref)
		e.Kind, e.Room, e.At = kind, room, t.w.loop.Now().UnixMilli()
		l.tell(e)
	})
}

func (t *ears) each(ref loop.Ref, fn func(*loopTap)) {
	for _, l := range t.list {
		if l.clients[ref.Slot] == ref && ref.Generation != 0 {
			fn(l)
		}
	}
}

// message is a message as taps are told of it.
func (t *ears) message(m *frame.Message, e order.TapEvent) order.TapEvent {
	e.Kind, e.Room, e.Offset, e.At = order.TapMessage, m.Room, m.Offset, t.w.loop.Now().UnixMilli()
	show(&e, wire.AppendMessage(nil, &m.Message))
	return e
}

func (t *ears) client(ref loop.Ref) order.TapEvent {
	e := order.TapEvent{Session: formatSession(t.w.edge.instance, t.w.index, ref)}
	if out := t.w.writer.Out(ref.Slot); out != nil {
		e.Queued = out.Pending()
	}
	if c := t.w.client(session.Ref(ref)); c != nil {
		if who := c.Speaker().Identity(); who != nil {
			e.User = who.User
		}
	}
	return e
}

// show puts what the client got into e.
func show(e *order.TapEvent, json []byte) {
	if e.Bytes = len(json); len(json) <= tapFrame {
		e.Frame = json
	}
}
