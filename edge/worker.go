package edge

import (
	"errors"
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	"nabat/edge/internal/frame"
	"nabat/edge/internal/hub"
	"nabat/edge/internal/listen"
	"nabat/edge/internal/loop"
	"nabat/edge/internal/metrics"
	"nabat/edge/internal/outq"
	"nabat/edge/internal/resume"
	"nabat/edge/internal/seats"
	"nabat/edge/internal/session"
	"nabat/edge/internal/tlsconn"
	"nabat/edge/internal/transport"
	"nabat/proto/order"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

// worker is one loop with all that belongs to it. Everything runs on the loop
// unless a comment says otherwise.
type worker struct {
	// Set at creation, never changed.
	edge  *Edge
	index int
	loop  *loop.Loop
	hub   *hub.Hub
	inbox *hub.Inbox
	// latency is the longest time since it was asked for from a message's arrival
	// to its writes, nanoseconds. Written by the loop alone.
	latency atomic.Int64
	writer  *transport.Writer
	env     *transport.Env
	counts  *metrics.Loop
	doors   []*listen.Acceptor // the plain port, the one with TLS, or both
	engine  *tlsconn.Engine    // nil without TLS
	limits  session.Limits
	bounds  transport.Limits
	seats   *seats.Held
	began   time.Time

	// Owned by loop.
	came     map[uint32]netip.Addr // by slot, where clients come from; nil unless a hook wants to know
	outboxes map[session.Ref]*outbox
	joining  map[string][]func(hub.Place, error) // rooms that are not open yet, and who waits
	taken    []*frame.Message
	behind   catchups

	presence presence
	// Rooms whose messages may overtake each other, by the hub's number.
	conflating map[uint32]*conflated
	turn       uint64
	blocked    blockSweep
	ears       ears
}

var (
	_ loop.Turn       = (*worker)(nil)
	_ transport.Rooms = (*worker)(nil)
)

func newWorker(e *Edge, index int, sockets sockets) (*worker, error) {
	w := &worker{edge: e, index: index, hub: hub.New(), counts: new(metrics.Loop),
		joining: make(map[string][]func(hub.Place, error)), seats: seats.NewHeld(e.addresses, e.users), began: time.Now(), outboxes: make(map[session.Ref]*outbox)}
	w.presence = presence{w: w, changed: make(map[string]struct{})}
	if e.cfg.HookConnect {
		w.came = make(map[uint32]netip.Addr)
	}
	w.conflating = make(map[uint32]*conflated)
	w.blocked = blockSweep{w: w}
	w.ears = ears{w: w}
	w.behind = catchups{w: w, list: make(map[key]*catchup)}
	l, err := loop.New(loop.Options{OnError: func(err error) { e.fail(err) }})
	if err != nil {
		return nil, err
	}
	c := &e.cfg
	w.loop = l
	w.inbox = hub.NewInbox(int(c.MaxInboxBytes), l.Kick)
	w.writer = transport.NewWriter(l, w, w.counts, transport.Bounds{Queue: int(c.MaxQueueBytes), Lag: int(c.LagQueueBytes)})
	w.limits = session.Limits{MaxRooms: c.MaxRooms, MaxBadCommands: c.MaxBadCommands, MaxInFlight: c.MaxInFlight,
		MaxPublishBytes: int(c.MaxMessageBytes), ConnectTimeout: seconds(c.ConnectTimeout), ExpiryWarning: seconds(c.ExpiryWarning), MaxHistory: c.MaxHistory,
		MaxCalls: c.MaxRPC, AnonymousRPC: c.AnonymousRPC, AsksConnect: c.HookConnect, Rates: c.sessionRates()}
	w.bounds = transport.Limits{MaxMessageBytes: int(c.MaxMessageBytes), PingInterval: c.PingInterval,
		PongTimeout: c.PongTimeout, CloseTimeout: c.CloseTimeout}
	w.env = &transport.Env{Loop: l, Writer: w.writer, Counts: w.counts, Host: w.host(), Session: &w.limits,
		Limits: &w.bounds, Deflater: e.deflater, Leave: w.leaveAll, Gap: w.gap, Lag: w.behind.lag, Drained: w.behind.drained}
	proxies, err := c.proxies()
	if err != nil {
		return nil, err
	}
	pace, waiting := c.acceptRate()
	w.open(sockets, listen.Limits{MaxHead: int(c.MaxHeadBytes),
		HeadTimeout: c.HandshakeTimeout, MaxHandshakes: max(c.MaxHandshakes/c.Loops, 1),
		MaxConnections: max(c.MaxConnections/c.Loops, 1), RetryAfterSecond: 2,
		Proxies: proxies, Seats: w.seats, Rate: pace, MaxWaiting: waiting, Bodies: listen.NewBodies(c.bodyBytes())})
	return w, l.Do(func() {
		l.SetTurn(w)
		l.OnRemove(func(ref loop.Ref) {
			w.seats.Leave(ref.Slot)
			delete(w.came, ref.Slot)
			delete(w.outboxes, session.Ref(ref)) // of one that published without a session
		})
	})
}

func seconds(d time.Duration) int64 { return max(int64((d+time.Second-1)/time.Second), 1) }

// EndTurn hands out what NATS brought and writes what the turn collected.
func (w *worker) EndTurn() {
	var lost map[string]hub.Loss
	w.turn++
	w.taken, lost = w.inbox.Take(w.taken)
	for _, m := range w.taken {
		switch {
		case m.Mark != nil:
			w.marked(m.Room, m.Mark)
		case w.newest(m):
		case w.hub.Push(m):
			w.behind.skip(m.Room, m.Prev)
			w.hub.Push(m)
		}
	}
	for room, loss := range lost {
		w.lose(room, loss)
	}
	w.counts.BusMessages.Add(uint64(len(w.taken)))
	w.hub.Flush(sink{w.writer, w}, w.member)
	if w.ears.list != nil {
		w.ears.turn(w.taken)
	}
	w.behind.run()
	w.writer.Flush()
	if len(w.taken) > 0 {
		if d := int64(time.Since(w.inbox.Since())); d > w.latency.Load() {
			w.latency.Store(d)
		}
	}
	w.hub.EndTurn()
	if w.edge.tracer != nil {
		w.traced()
	}
}

// traced tells of messages that were handed out and written in this turn.
func (w *worker) traced() {
	for _, m := range w.taken {
		if m.Trace == nil {
			continue
		}
		if number, ok := w.hub.Number(m.Room); ok {
			m.Trace.Delivered(w.index, w.hub.Members(number), m.Offset)
		}
	}
}

// lose is called for messages that this loop had no room for.
func (w *worker) lose(room string, loss hub.Loss) {
	if number, ok := w.hub.Number(room); ok && w.hub.Place(number).Epoch != "" {
		if loss.Offset > w.hub.Place(number).Offset {
			w.behind.skip(room, loss.Offset)
		}
		return
	}
	w.counts.Drops.Add("edge_overload", uint64(loss.Messages))
	w.hub.Push(frame.Notice(room, lossNotice(room, wire.GapOverload)))
}

// sink is the writer as the hub sees it.
type sink struct {
	*transport.Writer
	w *worker
}

// Events implements hub.Sink.
func (s sink) Events(member, room uint32, list []*frame.Message) {
	if ref, ok := s.w.loop.RefOf(member); ok {
		if client := s.w.client(session.Ref(ref)); client != nil {
			s.w.queue(member, room, client, list)
		}
	}
}

// queue hands messages to one member.
func (w *worker) queue(slot, room uint32, client transport.Client, list []*frame.Message) {
	var bytes []byte
	if p, ok := client.(transport.Positioned); ok && w.hub.Place(room).Epoch != "" {
		bytes = p.Events(w.hub.Place(room).Epoch, list)
	} else {
		bytes = frame.Join(list, client.Encoding())
	}
	w.writer.Queue(slot, room, bytes, len(list))
}

// member resolves a connection id that a publisher excluded.
func (w *worker) member(id string) (uint32, bool) {
	node, index, ref, ok := parseSession(id)
	if !ok || node != w.edge.instance || index != w.index || w.loop.Handler(ref) == nil {
		return 0, false
	}
	return ref.Slot, true
}

// Rule implements transport.Rooms.
func (w *worker) Rule(room uint32) outq.Rule {
	p := w.host().Policy(w.hub.Name(room))
	switch {
	case p == nil:
		return outq.Drop
	case w.hub.Place(room).Epoch != "" && p.SlowRule() == policy.Lag, w.conflating[room] != nil:
		return outq.Lag
	case p.SlowRule() == policy.Disconnect:
		return outq.Disconnect
	}
	return outq.Drop
}

func (w *worker) client(ref session.Ref) transport.Client {
	c, _ := w.loop.Handler(loop.Ref(ref)).(transport.Client)
	return c
}

// enter makes a client a member of an open room.
func (w *worker) enter(ref session.Ref, client transport.Client, want session.Want, place hub.Place, done func(wire.Position, bool, *wire.Error)) {
	if !w.hub.Member(ref.Slot, want.Room) && !w.edge.namespaces.Enter(want.Room) {
		done(wire.Position{}, false, namespaceFull(w.edge, want.Room))
		return
	}
	first, joined := w.hub.Join(ref.Slot, client.Encoding(), want.Room)
	number, _ := w.hub.Number(want.Room)
	if first {
		w.hub.SetPlace(number, place)
		w.conflates(number)
		w.presence.list(number, w.presence.wantsList(number))
	}
	if joined {
		w.presence.joined(loop.Ref(ref), number)
	}
	place = w.hub.Place(number)
	at := wire.Position{Room: want.Room, Epoch: place.Epoch, Offset: place.Offset}
	switch {
	case !joined:
		if c := w.behind.list[key{ref.Slot, number}]; c != nil {
			at.Offset = c.cursor.Position()
		}
		done(at, false, nil)
		return
	case place.Epoch != "":
		w.counts.Joins.Add(1)
		w.behind.join(loop.Ref(ref), number, want, func(at wire.Position) {
			if p, ok := client.(transport.Positioned); ok {
				p.Place(at)
			}
			done(at, true, nil)
		})
		return
	case want.Epoch != "" && w.edge.upstream.Degraded() != nil:
		at = at.WithRecovery(wire.HistoryUnavailable)
	case want.Epoch != "":
		at = at.WithRecovery(wire.NoHistory)
	}
	w.counts.Joins.Add(1)
	done(at, true, nil)
}

// marked is called at the place in the order of a room's messages where NATS has
// confirmed it, or where its history began anew.
func (w *worker) marked(room string, m *frame.Mark) {
	place := hub.Place{Epoch: m.Epoch, Offset: m.Offset}
	if number, ok := w.hub.Number(room); ok && m.Err == nil && w.hub.Place(number).Epoch != m.Epoch {
		w.reset(room, number, place)
	}
	// The room stays listed meanwhile: whoever leaves it again at once must not
	// release it for those behind, and may ask for it anew.
	_, asked := w.joining[room]
	for len(w.joining[room]) > 0 {
		waiting := w.joining[room]
		w.joining[room] = nil
		for _, finish := range waiting {
			finish(place, m.Err)
		}
	}
	delete(w.joining, room)
	if asked {
		w.edge.namespaces.Close(room)
	}
	if !w.hub.Has(room) {
		w.release(room)
	}
}

// reset tells a room's members that their positions are void.
func (w *worker) reset(room string, number uint32, place hub.Place) {
	w.hub.SetPlace(number, place)
	at := wire.Position{Room: room, Epoch: place.Epoch, Offset: place.Offset}
	notice := wire.Object{Value: wire.Reset{Position: at}}
	w.hub.EachMember(number, func(member uint32) {
		ref, ok := w.loop.RefOf(member)
		client := w.client(session.Ref(ref))
		if !ok || client == nil {
			return
		}
		if p, ok := client.(transport.Positioned); ok {
			p.Place(at)
		}
		w.counts.Notices.Add(1)
		client.Say(notice)
	})
	// Those that are behind find out by their cursors, which tell no gap then.
	for k, c := range w.behind.list {
		if k.room == number {
			c.stash = nil
			if c.answer == nil {
				c.cursor = resume.Lag[*frame.Message](place.Epoch, place.Offset)
			}
		}
	}
}

// release tells the NATS side that this loop does not want the room any more.
func (w *worker) release(room string) {
	if _, asked := w.joining[room]; !asked {
		w.edge.upstream.Release(room, w.index)
	}
}

// leaveAll is called once for each connection, before it closes. label is why.
func (w *worker) leaveAll(ref loop.Ref, label string) {
	w.presence.gone(ref, label)
	w.counts.Leaves.Add(uint64(w.hub.Count(ref.Slot)))
	delete(w.outboxes, session.Ref(ref))
	if w.edge.namespaces != nil {
		w.hub.Each(ref.Slot, func(room uint32) { w.edge.namespaces.Leave(w.hub.Name(room)) })
	}
	if len(w.behind.list) > 0 {
		w.hub.Each(ref.Slot, func(room uint32) { w.behind.forget(ref.Slot, room) })
	}
	w.hub.LeaveAll(ref.Slot, func(room string, number uint32) {
		delete(w.conflating, number)
		w.release(room)
	})
}

// gap tells one connection which rooms lost messages in its own queue.
func (w *worker) gap(ref loop.Ref, rooms []uint32) {
	c := w.client(session.Ref(ref))
	if c == nil || c.Leaving() {
		return
	}
	for _, room := range rooms {
		if name := w.hub.Name(room); name != "" {
			w.counts.Notices.Add(1)
			if w.ears.list != nil {
				w.ears.trouble(ref, order.TapDrop, name)
			}
			c.Say(wire.Object{Value: lossNotice(name, wire.GapSlow)})
		}
	}
}

var errBusy = errors.New("too many publishes are waiting for NATS")

// drain closes all connections with code c, a share of them in each tick, so
// that they do not come back elsewhere all at once.
func (w *worker) drain(c wire.Close, over time.Duration, hurry <-chan struct{}) {
	var refs []session.Ref
	if w.loop.Do(func() {
		w.shut()
		w.loop.Each(0, math.MaxInt32, func(ref loop.Ref, h loop.Handler) {
			if _, ok := h.(transport.Client); ok {
				refs = append(refs, session.Ref(ref))
			}
		})
	}) != nil {
		return
	}
	const tick = 50 * time.Millisecond
	steps := max(int(over/tick), 1)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for step := 0; len(refs) > 0; step++ {
		n := min(len(refs)/max(steps-step, 1)+1, len(refs))
		batch := refs[:n]
		refs = refs[n:]
		if w.loop.Do(func() {
			for _, ref := range batch {
				w.host().Close(ref, c)
			}
		}) != nil || len(refs) == 0 {
			return
		}
		select {
		case <-ticker.C:
		case <-hurry:
			steps = 0
		}
	}
}
