package edge

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/edge/internal/loop"
	"nabat/edge/internal/session"
	"nabat/edge/internal/transport"
	"nabat/internal/bus"
	"nabat/proto/order"
	"nabat/proto/wire"
)

const (
	// walkSlots is how many of a loop's connections an order looks at in one turn.
	walkSlots = 1000
	// maxOrders bounds the orders that are carried out at once.
	maxOrders = 32
	// maxStatus bounds the connections of one answer to status, and statusRooms
	// the rooms of each.
	maxStatus   = 500
	statusRooms = 100
)

// orders obeys control. Safe from any goroutine.
type orders struct {
	edge    *Edge
	taps    taps
	places  chan struct{}
	running sync.WaitGroup
	drained atomic.Bool // by an order
}

// takeOrders obeys control until ctx ends.
func (e *Edge) takeOrders(ctx context.Context) {
	o := &orders{edge: e, places: make(chan struct{}, maxOrders)}
	defer o.running.Wait()
	o.taps.orders = o
	come := make(chan *nats.Msg, 256)
	for verb := range o.handlers(ctx) {
		for _, subj := range []string{bus.OrderPrefix + "all." + verb, bus.OrderPrefix + "node." + bus.NodeToken(e.cfg.Node) + "." + verb} {
			sub, err := e.control.ChanSubscribe(subj, come)
			if err != nil {
				e.log.Error("orders of control do not reach this node", "subject", subj, "error", err)
				return
			}
			defer func() { _ = sub.Unsubscribe() }() // an error means that NATS is gone
		}
	}
	handlers := o.handlers(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-come:
			verb := m.Subject[len(m.Subject)-len(lastToken(m.Subject)):]
			o.take(m, handlers[verb])
		}
	}
}

func lastToken(subject string) string {
	for i := len(subject) - 1; i >= 0; i-- {
		if subject[i] == '.' {
			return subject[i+1:]
		}
	}
	return subject
}

type orderHandler func(body []byte) order.Answer

func (o *orders) handlers(ctx context.Context) map[string]orderHandler {
	return map[string]orderHandler{
		order.Disconnect: ordered(o.disconnect), order.Subscribe: ordered(o.subscribe), order.Unsubscribe: ordered(o.unsubscribe),
		order.Status: ordered(o.status), order.Drain: ordered(o.drain), order.Move: ordered(o.move),
		order.Tap: ordered(func(r *order.TapRequest) order.Answer { return o.taps.start(ctx, r) }),
	}
}

func ordered[Q any](fn func(*Q) order.Answer) orderHandler {
	return func(body []byte) order.Answer {
		q := new(Q)
		if err := json.Unmarshal(body, q); err != nil {
			return failed(wire.BadRequest, "the order can not be read: "+err.Error())
		}
		return fn(q)
	}
}

func failed(code wire.Code, reason string) order.Answer {
	return order.Answer{Error: &order.Error{Code: string(code), Reason: reason}}
}

// take carries out one order on a goroutine of its own: it waits for loops.
func (o *orders) take(m *nats.Msg, fn orderHandler) {
	respond := func(a order.Answer) {
		a.Node = o.edge.cfg.Node
		data, err := json.Marshal(a)
		if err == nil && int64(len(data)) > o.edge.control.MaxPayload() {
			a.Connections = nil
			a.Error = &order.Error{Code: string(wire.TooLarge), Reason: "the answer is larger than NATS takes"}
			data, err = json.Marshal(a)
		}
		if err == nil && m.Reply != "" {
			_ = m.Respond(data) // NATS is gone: control counts this node as one that did not answer
		}
	}
	select {
	case o.places <- struct{}{}:
	default:
		respond(failed(wire.Overloaded, "too many orders are being carried out"))
		return
	}
	o.running.Go(func() {
		defer func() { <-o.places }()
		respond(fn(m.Data))
	})
}

// walk calls fn on the loop for every client, in slices of a turn each, until it
// reports false. It waits for the loop.
func walk(w *worker, fn func(ref loop.Ref, c transport.Client) bool) {
	walkFrom(w, 0, fn)
}

func walkFrom(w *worker, from uint32, fn func(ref loop.Ref, c transport.Client) bool) {
	for more := true; more; {
		err := w.loop.Do(func() {
			from = w.loop.Each(from, walkSlots, func(ref loop.Ref, h loop.Handler) {
				if c, ok := h.(transport.Client); ok && more && !c.Leaving() {
					more = fn(ref, c)
				}
			})
		})
		more = more && err == nil && from != 0 // an error means that the loop has stopped: it has no clients
	}
}

// each calls fn on its loop for every connection of a target.
func (o *orders) each(t order.Target, fn func(w *worker, ref loop.Ref, c transport.Client)) {
	if t.Session != "" {
		instance, index, ref, ok := parseSession(t.Session)
		if !ok || instance != o.edge.instance || index >= len(o.edge.workers) {
			return
		}
		w := o.edge.workers[index]
		_ = w.loop.Do(func() { // an error means that the loop has stopped
			if c := w.client(session.Ref(ref)); c != nil && !c.Leaving() {
				fn(w, ref, c)
			}
		})
		return
	}
	if t.User == "" {
		return
	}
	var wg sync.WaitGroup
	for _, w := range o.edge.workers {
		wg.Go(func() {
			walk(w, func(ref loop.Ref, c transport.Client) bool {
				if who := c.Speaker().Identity(); who != nil && who.User == t.User {
					fn(w, ref, c)
				}
				return true
			})
		})
	}
	wg.Wait()
}

func (o *orders) disconnect(r *order.DisconnectRequest) order.Answer {
	var n atomic.Int64
	o.each(r.Target, func(_ *worker, _ loop.Ref, c transport.Client) {
		cl := wire.CloseKicked
		if r.Returns {
			cl = wire.CloseMoved(spread(returnOver))
		}
		cl.Text = r.Reason
		c.Close(cl)
		n.Add(1)
	})
	return order.Answer{Affected: int(n.Load())}
}

func (o *orders) subscribe(r *order.RoomsRequest) order.Answer {
	return o.enrol(r.Target, func(w *worker, ref loop.Ref, c transport.Client) *wire.Error {
		return c.Speaker().Enrol(w.host(), session.Ref(ref), &w.limits, r.Rooms)
	})
}

func (o *orders) unsubscribe(r *order.RoomsRequest) order.Answer {
	return o.enrol(r.Target, func(w *worker, ref loop.Ref, c transport.Client) *wire.Error {
		return c.Speaker().Expel(w.host(), session.Ref(ref), &w.limits, r.Rooms)
	})
}

// enrol counts the connections of a target for which fn did something, and tells
// the first refusal.
func (o *orders) enrol(t order.Target, fn func(*worker, loop.Ref, transport.Client) *wire.Error) order.Answer {
	var n atomic.Int64
	var refused atomic.Pointer[wire.Error]
	o.each(t, func(w *worker, ref loop.Ref, c transport.Client) {
		switch err := fn(w, ref, c); {
		case err == nil:
			n.Add(1)
		case err != session.ErrNothing:
			refused.CompareAndSwap(nil, err)
		}
	})
	a := order.Answer{Affected: int(n.Load())}
	if err := refused.Load(); err != nil {
		a.Error = &order.Error{Code: string(err.Code), Reason: err.Reason}
	}
	return a
}

func (o *orders) status(r *order.StatusRequest) order.Answer {
	if r.User == "" && r.Session == "" {
		return order.Answer{Status: &order.Figures{Connections: o.edge.connections(), Rooms: o.edge.Rooms(), State: o.edge.state(), Address: o.edge.Addr()}}
	}
	var mu sync.Mutex // guards list
	var list []order.Connection
	o.each(r.Target, func(w *worker, ref loop.Ref, c transport.Client) {
		one := describe(w, ref, c, r.Grants)
		mu.Lock()
		defer mu.Unlock()
		if len(list) < maxStatus {
			list = append(list, one)
		}
	})
	return order.Answer{Affected: len(list), Connections: list}
}

// describe says what an operator wants to know of one connection. On the loop.
func describe(w *worker, ref loop.Ref, c transport.Client, grants bool) order.Connection {
	one := order.Connection{Session: formatSession(w.edge.instance, w.index, ref), Transport: c.Transport(), Rooms: w.hub.RoomsOf(ref.Slot)}
	slices.Sort(one.Rooms)
	one.Rooms = append([]string{}, one.Rooms[:min(len(one.Rooms), statusRooms)]...)
	if out := w.writer.Out(ref.Slot); out != nil {
		one.Queued = out.Pending()
	}
	if who := c.Speaker().Identity(); who != nil {
		one.User, one.TokenID, one.Expires = who.User, who.TokenID, int64(who.Expires)
		if grants {
			one.Grant = who.Grant
		}
	}
	return one
}

// drain takes the node out of service: it accepts nobody, is not ready, and
// hands its clients to others. The process goes on until somebody ends it.
func (o *orders) drain(r *order.DrainRequest) order.Answer {
	over := time.Duration(r.OverMS) * time.Millisecond
	if over <= 0 {
		over = o.edge.cfg.Drain
	}
	n := o.edge.connections()
	if o.drained.CompareAndSwap(false, true) {
		o.edge.draining.Store(true)
		o.edge.log.Info("edge drains, by an order", "over", over)
		for _, w := range o.edge.workers {
			o.running.Go(func() { w.drain(wire.CloseDrain, over, o.edge.hurry) })
		}
	}
	return order.Answer{Affected: n}
}

// returnOver is the time over which clients come back that were told to.
const returnOver = time.Second

// move sends some clients elsewhere, each loop its share, from a place of its own
// choice on, so that not always the same ones go.
func (o *orders) move(r *order.MoveRequest) order.Answer {
	total := o.edge.connections()
	if r.Connections <= 0 || total == 0 {
		return order.Answer{}
	}
	over := min(max(time.Duration(r.OverMS)*time.Millisecond, returnOver), time.Minute)
	left := atomic.Int64{}
	left.Store(int64(r.Connections))
	var wg sync.WaitGroup
	for _, w := range o.edge.workers {
		share := int64(r.Connections*w.loop.Connections()/total + 1)
		wg.Go(func() {
			n := int64(0)
			take := func(_ loop.Ref, c transport.Client) bool {
				if n >= share || left.Add(-1) < 0 {
					return false
				}
				n++
				c.Close(wire.CloseMoved(spread(over)))
				return true
			}
			walkFrom(w, anySlot(w), take)
			walk(w, take)
		})
	}
	wg.Wait()
	return order.Answer{Affected: r.Connections - int(max(left.Load(), 0))}
}
