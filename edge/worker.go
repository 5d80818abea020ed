package edge

import (
	"errors"
	"time"

	"nabat/edge/internal/frame"
	"nabat/edge/internal/hub"
	"nabat/edge/internal/listen"
	"nabat/edge/internal/loop"
	"nabat/edge/internal/metrics"
	"nabat/edge/internal/session"
	"nabat/edge/internal/transport"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

// worker is one loop with all that belongs to it. It is the Host of its
// loop's sessions. Everything runs on the loop unless a comment says otherwise.
type worker struct {
	// Set at creation, never changed.
	edge     *Edge
	index    int
	loop     *loop.Loop
	hub      *hub.Hub
	inbox    *hub.Inbox
	writer   *transport.Writer
	env      *transport.Env
	counts   *metrics.Loop
	acceptor *listen.Acceptor
	limits   session.Limits
	bounds   transport.Limits

	// Owned by loop.
	joining map[string][]func(error) // rooms that NATS has not confirmed, and who waits
	taken   []*frame.Message
}

var (
	_ session.Host    = (*worker)(nil)
	_ loop.Turn       = (*worker)(nil)
	_ transport.Rooms = (*worker)(nil)
)

func newWorker(e *Edge, index, fd int) (*worker, error) {
	w := &worker{edge: e, index: index, hub: hub.New(), counts: new(metrics.Loop), joining: make(map[string][]func(error))}
	l, err := loop.New(loop.Options{OnError: func(err error) { e.fail(err) }})
	if err != nil {
		return nil, err
	}
	c := &e.cfg
	w.loop = l
	w.inbox = hub.NewInbox(int(c.MaxInboxBytes), l.Kick)
	w.writer = transport.NewWriter(l, w, w.counts, int(c.MaxQueueBytes))
	w.limits = session.Limits{MaxRooms: c.MaxRooms, MaxBadCommands: c.MaxBadCommands, MaxInFlight: c.MaxInFlight,
		MaxPublishBytes: int(c.MaxMessageBytes), ConnectTimeout: seconds(c.ConnectTimeout), ExpiryWarning: seconds(c.ExpiryWarning)}
	w.bounds = transport.Limits{MaxMessageBytes: int(c.MaxMessageBytes), PingInterval: c.PingInterval,
		PongTimeout: c.PongTimeout, CloseTimeout: c.CloseTimeout}
	w.env = &transport.Env{Loop: l, Writer: w.writer, Counts: w.counts, Host: w, Session: &w.limits,
		Limits: &w.bounds, Leave: w.leaveAll, Gap: w.gap}
	w.acceptor = listen.NewAcceptor(l, fd, (*router)(w), listen.Limits{MaxHead: int(c.MaxHeadBytes),
		HeadTimeout: c.HandshakeTimeout, MaxHandshakes: max(c.MaxHandshakes/c.Loops, 1),
		MaxConnections: max(c.MaxConnections/c.Loops, 1), RetryAfterSecond: 2}, w.counts)
	return w, l.Do(func() { l.SetTurn(w) })
}

func seconds(d time.Duration) int64 { return max(int64((d+time.Second-1)/time.Second), 1) }

// EndTurn hands out what NATS brought and writes what the turn collected.
func (w *worker) EndTurn() {
	var lost map[string]int
	w.taken, lost = w.inbox.Take(w.taken)
	for _, m := range w.taken {
		w.hub.Push(m)
	}
	for room, n := range lost {
		w.counts.Drops.Add("edge_overload", uint64(n))
		w.hub.Push(frame.Notice(room, wire.AppendGap(nil, wire.Gap{Room: room, Reason: "edge_overload"})))
	}
	w.counts.BusMessages.Add(uint64(len(w.taken)))
	w.hub.Flush(w.writer, w.member)
	w.writer.Flush()
}

// member resolves a connection id that a publisher excluded.
func (w *worker) member(id string) (uint32, bool) {
	node, index, ref, ok := parseSession(id)
	if !ok || node != w.edge.instance || index != w.index || w.loop.Handler(ref) == nil {
		return 0, false
	}
	return ref.Slot, true
}

// MayDrop implements transport.Rooms.
func (w *worker) MayDrop(room uint32) bool {
	p := w.Policy(w.hub.Name(room))
	return p == nil || p.Slow != policy.Disconnect
}

func (w *worker) client(ref session.Ref) transport.Client {
	c, _ := w.loop.Handler(loop.Ref(ref)).(transport.Client)
	return c
}

// Now implements session.Host.
func (w *worker) Now() int64 { return w.loop.Now().Unix() }

// Policy implements session.Host. Safe from any goroutine.
func (w *worker) Policy(room string) *policy.Policy {
	if set := w.edge.policies.Load(); set != nil {
		return set.For(room)
	}
	return nil
}

// Join implements session.Host. The client becomes a member once NATS has
// confirmed the room's subscription, so that whoever was told "subscribed" gets
// what is published from then on.
func (w *worker) Join(ref session.Ref, room string, done func(bool, *wire.Error)) {
	finish := func(err error) {
		c := w.client(ref)
		if c == nil || c.Leaving() {
			return
		}
		if err != nil {
			done(false, &wire.Error{Code: wire.Unavailable, Reason: "room " + room + " can not be joined now: " + err.Error(), RetryMS: 1000})
			return
		}
		_, joined := w.hub.Join(ref.Slot, c.Encoding(), room)
		if joined {
			w.counts.Joins.Add(1)
		}
		done(joined, nil)
	}
	if w.hub.Has(room) {
		finish(nil)
		return
	}
	waiting, asked := w.joining[room]
	w.joining[room] = append(waiting, finish)
	if asked {
		return
	}
	w.edge.upstream.Acquire(room, w.index, func(err error) {
		// An error of Post means that the loop has stopped: nobody waits.
		_ = w.loop.Post(func() { w.joined(room, err) })
	})
}

func (w *worker) joined(room string, err error) {
	// The room stays listed meanwhile: whoever leaves it again at once must not
	// release it for those behind, and may ask for it anew.
	for len(w.joining[room]) > 0 {
		waiting := w.joining[room]
		w.joining[room] = nil
		for _, finish := range waiting {
			finish(err)
		}
	}
	delete(w.joining, room)
	if !w.hub.Has(room) {
		w.release(room)
	}
}

// release tells the NATS side that this loop does not want the room any more.
func (w *worker) release(room string) {
	if _, asked := w.joining[room]; !asked {
		w.edge.upstream.Release(room, w.index)
	}
}

// Leave implements session.Host.
func (w *worker) Leave(ref session.Ref, room string) bool {
	number, ok := w.hub.Number(room)
	if !ok {
		return false
	}
	left, last := w.hub.Leave(ref.Slot, room)
	if !left {
		return false
	}
	w.counts.Leaves.Add(1)
	if o := w.writer.Out(ref.Slot); o != nil {
		w.writer.ForgetRoom(o, number)
	}
	if last {
		w.release(room)
	}
	return true
}

// leaveAll is called once for each connection, before it closes.
func (w *worker) leaveAll(ref loop.Ref) {
	w.counts.Leaves.Add(uint64(w.hub.Count(ref.Slot)))
	w.hub.LeaveAll(ref.Slot, w.release)
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
			c.SendObject(wire.AppendGap(nil, wire.Gap{Room: name, Reason: "slow"}))
		}
	}
}

// Rooms implements session.Host.
func (w *worker) Rooms(ref session.Ref) []string { return w.hub.RoomsOf(ref.Slot) }

// RoomCount implements session.Host.
func (w *worker) RoomCount(ref session.Ref) int { return w.hub.Count(ref.Slot) }

// Name implements session.Host.
func (w *worker) Name(ref session.Ref) (string, string) {
	return formatSession(w.edge.instance, w.index, loop.Ref(ref)), w.edge.cfg.Node
}

// Send implements session.Host.
func (w *worker) Send(ref session.Ref, object []byte) {
	if c := w.client(ref); c != nil {
		c.SendObject(object)
	}
}

// WakeAt implements session.Host.
func (w *worker) WakeAt(ref session.Ref, unix int64) {
	if c := w.client(ref); c != nil {
		c.WakeAt(unix)
	}
}

// Close implements session.Host.
func (w *worker) Close(ref session.Ref, c wire.Close) {
	if client := w.client(ref); client != nil {
		client.Close(c)
	}
}

// Verify implements session.Host.
func (w *worker) Verify(ref session.Ref, token string, done func(*session.Identity, *wire.Error)) {
	w.verify(token, func(id *session.Identity, err *wire.Error) {
		if c := w.client(ref); c != nil && !c.Leaving() {
			done(id, err)
		}
	})
}

var errBusy = errors.New("too many publishes are waiting for NATS")

// drain closes all connections with code c, a share of them in each tick, so
// that they do not come back elsewhere all at once.
func (w *worker) drain(c wire.Close, over time.Duration, hurry <-chan struct{}) {
	var refs []session.Ref
	if w.loop.Do(func() {
		w.acceptor.Stop()
		w.loop.Each(func(ref loop.Ref, h loop.Handler) {
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
				w.Close(ref, c)
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
