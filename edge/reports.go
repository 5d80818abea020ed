package edge

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"nabat/edge/internal/metrics"
	"nabat/edge/internal/report"
	"nabat/internal/bus"
	"nabat/proto/buspb"
)

// reports is what a node tells control, and what it asks control: reports of its
// loops, a lease, snapshots, and who is in a room.
type reports struct {
	// Set at creation, never changed.
	edge     *Edge
	reporter *report.Reporter
	jobs     chan question
	began    time.Time

	// Owned by the reporter's goroutine.
	pending map[string]struct{} // rooms whose counts are to be told

	// Owned by the lease's goroutine.
	revision uint64 // of the lease as this node wrote it last; 0 for not yet
	warned   bool
}

var _ report.Source = (*reports)(nil)

func newReports(e *Edge) (*reports, error) {
	r := &reports{edge: e, jobs: make(chan question, maxQuestions), began: time.Now(), pending: make(map[string]struct{})}
	r.reporter = report.New(report.Options{NATS: e.control, Node: e.cfg.Node, Epoch: e.instance, Loops: len(e.workers),
		Interval: e.cfg.ReportInterval, Heartbeat: e.cfg.ReportHeartbeat, Source: r, Log: e.log})
	for i, w := range e.workers {
		if err := w.loop.Do(func() { w.presence.log = r.reporter.Loop(i) }); err != nil {
			return nil, fmt.Errorf("loop %d: %w", i, err)
		}
	}
	return r, nil
}

// start begins to report, and returns what ends it: the last events are told, then
// that the node leaves, then its lease is given back.
func (r *reports) start(js jetstream.JetStream) (stop func(), err error) {
	var subs []*nats.Subscription
	for _, to := range []string{"all", "node." + bus.NodeToken(r.edge.cfg.Node)} {
		sub, err := r.edge.control.Subscribe(bus.OrderPrefix+to+".snapshot", r.snapshot)
		if err != nil {
			return nil, fmt.Errorf("subscribe to orders: %w", err)
		}
		subs = append(subs, sub)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.reporter.Run(ctx) })
	wg.Go(func() { r.lease(ctx, js) })
	for range askers {
		wg.Go(func() { r.answer(ctx) })
	}
	return func() {
		cancel()
		wg.Wait()
		for _, sub := range subs {
			_ = sub.Unsubscribe() // an error means that NATS is gone
		}
		end, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if err := r.reporter.Leave(end); err != nil {
			r.edge.log.Warn("control was not told that this node leaves: its lease will run out", "error", err)
			return
		}
		r.giveBack(end, js)
	}, nil
}

// Stats implements report.Source.
func (r *reports) Stats() *buspb.NodeStats {
	e := r.edge
	b, lags := e.Bus(), e.lags.take(e, &e.lags.report)
	s := &buspb.NodeStats{Connections: uint32(e.connections()), Rooms: uint32(e.Rooms()), MessagesIn: b.Messages,
		LoopLagUs: uint32(lags.Turn.Microseconds()), LatencyUs: uint32(lags.Latency.Microseconds()), State: e.state()}
	for _, w := range e.workers {
		c := w.counts
		s.Deliveries += c.Deliveries.Load()
		s.BytesOut += c.BytesOut.Load()
		s.Published += c.Published.Load()
		s.Dropped += total(&c.Drops)
		s.Refused += total(&c.Refusals)
	}
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) == nil {
		s.CpuSeconds = time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
	}
	s.MemoryBytes = residentBytes()
	return s
}

func total(r *metrics.Reasons) (n uint64) {
	r.Each(func(_ string, k uint64) { n += k })
	return n
}

// residentBytes is the process's memory, 0 where the system does not say.
func residentBytes() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseUint(fields[1], 10, 64) // 0 where it is no number
	return pages * uint64(os.Getpagesize())
}

// Counts implements report.Source: members out of the loops, messages out of the
// NATS side, both as they are now.
func (r *reports) Counts(limit int) []*buspb.RoomCount {
	for _, w := range r.edge.workers {
		// An error means that the loop has stopped: its rooms are gone.
		_ = w.loop.Do(func() {
			for room := range w.presence.changed {
				r.pending[room] = struct{}{}
			}
			clear(w.presence.changed)
		})
	}
	r.edge.upstream.Counted(func(room string) { r.pending[room] = struct{}{} })
	var list []*buspb.RoomCount
	var names []string
	for room := range r.pending {
		if len(names) == limit {
			break
		}
		names = append(names, room)
		list = append(list, &buspb.RoomCount{Room: room})
		delete(r.pending, room)
	}
	if len(names) == 0 {
		return nil
	}
	for _, w := range r.edge.workers {
		_ = w.loop.Do(func() {
			for i, name := range names {
				if number, ok := w.hub.Number(name); ok {
					list[i].Members += uint32(w.hub.Members(number))
				}
			}
		})
	}
	for i, n := range r.edge.upstream.Messages(names) {
		list[i].Messages = n
	}
	return list
}

// Untold implements report.Source.
func (r *reports) Untold(rooms []*buspb.RoomCount) {
	for _, c := range rooms {
		r.pending[c.Room] = struct{}{}
	}
}

// snapshotOrder asks for the state of some loops, all when it names none. It comes
// to the request's reply subject.
type snapshotOrder struct {
	Loops []uint32 `json:"loops"`
}

// snapshot carries out the order of that name. Each loop is stopped for one turn;
// encoding and sending is not its work.
func (r *reports) snapshot(m *nats.Msg) {
	var order snapshotOrder
	if m.Reply == "" || len(m.Data) > 0 && json.Unmarshal(m.Data, &order) != nil {
		r.edge.log.Warn("an order to send a snapshot is not usable", "order", string(m.Data))
		return
	}
	e := r.edge
	for i, w := range e.workers {
		if len(order.Loops) > 0 && !slices.Contains(order.Loops, uint32(i)) {
			continue
		}
		var state *report.State
		if w.loop.Do(func() { state = w.presence.state() }) != nil {
			return // the node ends
		}
		err := state.Parts(e.cfg.Node, e.instance, len(e.workers), func(part []byte) bool {
			return e.control.Publish(m.Reply, part) == nil // if it fails control asks again
		})
		if err != nil {
			e.log.Error("a snapshot can not be encoded", "loop", i, "error", err)
			return
		}
	}
}

// lease renews the node's lease until ctx ends.
func (r *reports) lease(ctx context.Context, js jetstream.JetStream) {
	tick := time.NewTicker(r.edge.cfg.LeaseInterval)
	defer tick.Stop()
	for {
		err := r.renew(ctx, js)
		switch {
		case err == nil && r.warned:
			r.edge.log.Info("the lease of this node is renewed again")
		case err != nil && !r.warned && ctx.Err() == nil && time.Since(r.began) > 3*r.edge.cfg.LeaseInterval:
			r.edge.log.Warn("the lease of this node can not be renewed: is a control service running?", "error", err)
		}
		r.warned = err != nil && (r.warned || time.Since(r.began) > 3*r.edge.cfg.LeaseInterval)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (r *reports) renew(ctx context.Context, js jetstream.JetStream) error {
	ctx, cancel := context.WithTimeout(ctx, max(r.edge.cfg.LeaseInterval, time.Second))
	defer cancel()
	kv, err := js.KeyValue(ctx, bus.BucketNodes)
	if err != nil {
		return err
	}
	e := r.edge
	l := bus.Lease{Node: e.cfg.Node, Epoch: fmt.Sprintf("%016x", e.instance), Role: "edge", Started: r.began.UnixMilli(), Listen: e.Addr(), State: e.state()}
	if l.Listen == "" {
		l.Listen = e.TLSAddr()
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		l.Version = info.Main.Version
	}
	value, err := json.Marshal(l)
	if err != nil {
		return err
	}
	revision, err := kv.Put(ctx, bus.EdgeLease(e.cfg.Node), value)
	if err == nil {
		r.revision = revision
	}
	return err
}

// giveBack deletes the lease unless another run of the node has written it since.
func (r *reports) giveBack(ctx context.Context, js jetstream.JetStream) {
	if r.revision == 0 {
		return
	}
	kv, err := js.KeyValue(ctx, bus.BucketNodes)
	if err == nil {
		err = kv.Delete(ctx, bus.EdgeLease(r.edge.cfg.Node), jetstream.LastRevision(r.revision))
	}
	if err != nil {
		r.edge.log.Warn("the lease of this node was not given back: it will run out", "error", err)
	}
}

// state is the node's own word for how it is, as leases and reports have it.
func (e *Edge) state() string {
	switch {
	case e.draining.Load():
		return "draining"
	case e.Ready() != nil || e.Degraded() != nil:
		return "degraded"
	}
	return "ready"
}

// lags keeps the longest times for two who ask at different moments.
type lags struct {
	// mu guards the fields below.
	mu             sync.Mutex
	scrape, report metrics.Lags
}

// take returns the longest times since whose were taken last.
func (l *lags) take(e *Edge, whose *metrics.Lags) metrics.Lags {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range e.workers {
		now := metrics.Lags{Turn: w.loop.TakeLag(), Latency: time.Duration(w.latency.Swap(0))}
		for _, to := range []*metrics.Lags{&l.scrape, &l.report} {
			to.Turn, to.Latency = max(to.Turn, now.Turn), max(to.Latency, now.Latency)
		}
	}
	taken := *whose
	*whose = metrics.Lags{}
	return taken
}
