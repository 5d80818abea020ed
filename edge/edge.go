// Package edge is the program that clients connect to: event loops that carry
// WebSocket connections and event streams, rooms mapped to NATS subjects, and
// nothing on disk.
//
// New wires everything; read it first. A worker is one loop with its sockets,
// sessions and memberships; upstream is the NATS side that all loops share.
package edge

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"nabat/edge/internal/ask"
	"nabat/edge/internal/blocks"
	"nabat/edge/internal/frame"
	"nabat/edge/internal/hook"
	"nabat/edge/internal/metrics"
	"nabat/edge/internal/quota"
	"nabat/edge/internal/seats"
	"nabat/edge/internal/tlsconn"
	"nabat/edge/internal/tracing"
	"nabat/edge/internal/upstream"
	"nabat/internal/auth"
	"nabat/internal/bus"
	"nabat/internal/history"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

// Edge is one node.
type Edge struct {
	// Set at creation, never changed.
	cfg        Config
	log        *slog.Logger
	instance   uint64 // this run of the node, random
	origins    *origins
	verifier   *auth.Verifier
	verifiers  *verifiers
	tracer     *tracing.Tracer // nil: nothing is traced
	blocks     *blocks.List
	deflater   *frame.Deflater // nil: nobody may negotiate compression
	control    *nats.Conn
	recovery   *nats.Conn // history is read on a connection of its own
	history    *history.Reader
	upstream   *upstream.Upstream
	calls      *ask.Asker // what clients call
	asker      *ask.Asker // what hooks ask
	hooks      *hook.Gate
	workers    []*worker
	reports    *reports
	lags       lags
	addresses  *seats.Table      // connections of each client address; nil: not counted
	users      *seats.Table      // of each user; nil: not counted
	address    netip.AddrPort    // of the plain port; invalid without one
	secure     netip.AddrPort    // of the port with TLS; invalid without one
	tls        *tlsconn.Server   // nil without one
	quotas     *quota.Table      // rates that connections share
	namespaces *quota.Namespaces // nil: not counted
	began      time.Time

	// Atomic.
	policies  atomic.Pointer[policy.Set]
	purges    atomic.Pointer[policy.Purges]
	keyed     atomic.Bool // keys have arrived
	draining  atomic.Bool
	started   atomic.Bool
	badAnswer atomic.Int64 // since began, nanoseconds: when a hook's answer was last logged

	failed chan error
	hurry  chan struct{}
	once   sync.Once
}

var _ metrics.Source = (*Edge)(nil)

// New opens the listening sockets and connects to NATS. A nil registry serves
// no metrics. Call Run to serve.
func New(cfg Config, log *slog.Logger, reg *prometheus.Registry) (*Edge, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	e := &Edge{cfg: cfg, log: log.With("node", cfg.Node), origins: newOrigins(cfg.Origins, cfg.Dev), blocks: blocks.New(),
		verifier: auth.NewVerifier(auth.Options{Issuer: cfg.Issuer, Audience: cfg.Audience, Leeway: cfg.TokenLeeway}),
		failed:   make(chan error, 1), hurry: make(chan struct{})}
	e.quotas, e.began = quota.NewTable(maxOwners), time.Now()
	e.namespaces = quota.NewNamespaces(cfg.NamespaceRooms, cfg.NamespaceMembers, isWatch)
	e.addresses, e.users = seats.NewTable(cfg.addressSeats()), seats.NewTable(cfg.MaxConnectionsPerUser)
	if cfg.Compression == "on" {
		// A loop compresses one message at a time.
		e.deflater = frame.NewDeflater(int(cfg.CompressMinBytes), cfg.Loops)
	}
	e.verifiers = newVerifiers(e.verifier, 4096)
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("random instance id: %w", err)
	}
	e.instance = binary.BigEndian.Uint64(id[:])
	if err := e.startTracing(); err != nil {
		return nil, err
	}
	if err := e.open(reg); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *Edge) open(reg *prometheus.Registry) error {
	sockets, err := e.listen()
	if err != nil {
		return err
	}
	var inboxes []upstream.Inbox
	for i, fds := range sockets {
		w, err := newWorker(e, i, fds)
		if err != nil {
			return fmt.Errorf("loop %d: %w", i, err)
		}
		e.workers = append(e.workers, w)
		inboxes = append(inboxes, w.inbox)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	connect := func(name string, options ...nats.Option) (*nats.Conn, error) {
		return bus.Connect(ctx, bus.Options{URL: e.cfg.NATSURL, Credentials: e.cfg.NATSCredentials, Token: e.cfg.NATSToken,
			NKey: e.cfg.NATSNKey, Inbox: e.cfg.NATSInbox,
			Name: "nabat-edge " + e.cfg.Node + " " + name, Log: e.log}, options...)
	}
	if e.control, err = connect("control"); err != nil {
		return err
	}
	if e.reports, err = newReports(e); err != nil {
		return err
	}
	if e.recovery, err = connect("history"); err != nil {
		return err
	}
	if e.history, err = history.New(e.recovery, history.Options{InFlight: e.cfg.HistoryRequests, Waiting: 1 << 16,
		Timeout: e.cfg.NATSTimeout, Log: e.log}); err != nil {
		return err
	}
	e.upstream, err = upstream.New(upstream.Options{Prefix: e.cfg.SubjectPrefix, LivePrefix: bus.LivePrefix, Live: e.cfg.NATSConnections,
		Queue: e.cfg.NATSQueue, PublishWait: 8192, Linger: e.cfg.RoomLinger, Confirm: e.cfg.NATSTimeout, Log: e.log,
		Verify: e.cfg.HistoryVerify, Audit: e.cfg.HistoryAudit, Patience: e.cfg.HistoryPatience, RingCount: e.cfg.RecentMessages, RingBytes: int(e.cfg.RecentBytes),
		Policy: e.policy, Store: e.history, Deflater: e.deflater, Trace: e.trace()}, connect, inboxes)
	if err != nil {
		return err
	}
	asker := func(name string, max int, timeout time.Duration) (*ask.Asker, error) {
		nc, err := connect(name)
		if err != nil {
			return nil, err
		}
		a, err := ask.New(nc, max, timeout)
		if err != nil {
			nc.Close()
		}
		return a, err
	}
	if e.calls, err = asker("rpc", e.cfg.MaxNodeRPC, e.cfg.RPCTimeout); err != nil {
		return err
	}
	if e.asker, err = asker("hooks", e.cfg.MaxHooks, e.cfg.HookTimeout); err != nil {
		return err
	}
	e.hooks = hook.NewGate(e.asker, e.cfg.HookPrefix, e.cfg.HookCache)
	if reg != nil {
		return metrics.Register(reg, e.cfg.Node, e)
	}
	return nil
}

// Run serves until ctx ends, then stops accepting, closes the clients with 4200
// over Config.Drain (see Hurry), and returns nil. It returns an error when the
// node cannot go on.
func (e *Edge) Run(ctx context.Context) error {
	defer e.close()
	inner, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	js, err := jetstream.New(e.control)
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	wg.Go(func() { e.upstream.Run(inner) })
	wg.Go(func() { e.history.Run(inner) })
	wg.Go(func() { e.calls.Run(inner) })
	wg.Go(func() { e.asker.Run(inner) })
	wg.Go(func() { e.verifiers.run(inner, max(1, e.cfg.Loops)) })
	wg.Go(func() { e.watch(inner, js) })
	leave, err := e.reports.start(js)
	if err != nil {
		return err
	}
	defer leave() // first of all: while there is NATS
	wg.Go(func() { e.takeOrders(inner) })
	for _, w := range e.workers {
		if err := w.accept(); err != nil {
			return fmt.Errorf("accept: %w", err)
		}
	}
	if e.tls != nil {
		wg.Go(func() { e.tls.Follow(inner) })
	}
	e.started.Store(true)
	e.log.Info("edge serves clients", "address", e.Addr(), "tls_address", e.TLSAddr(), "loops", len(e.workers))
	select {
	case err := <-e.failed:
		return err
	case <-ctx.Done():
	}
	e.drain()
	return nil // the last events are told
}

func (e *Edge) setPolicies(value []byte, revision uint64) {
	set, err := policy.Decode(value)
	if err != nil {
		e.log.Error("policies from control are not usable; the old ones stay", "revision", revision, "error", err)
		return
	}
	if old := e.policies.Load(); old != nil && set.Version < old.Version {
		e.log.Warn("an older policy set was ignored", "version", set.Version, "have", old.Version)
		return
	}
	e.policies.Store(set)
	e.upstream.PoliciesChanged()
	for _, w := range e.workers {
		// An error of Post means that the loop has stopped.
		_ = w.loop.Post(func() {
			w.hub.Rooms(w.conflates)
			w.presence.relist()
		})
	}
	e.log.Info("policies in force", "version", set.Version, "policies", len(set.Rooms))
}

// policy is the policy of a room, nil when none matches, as for the watch of a
// room. Safe from any goroutine.
func (e *Edge) policy(room string) *policy.Policy {
	if isWatch(room) {
		return nil
	}
	if set := e.policies.Load(); set != nil {
		return set.For(room)
	}
	return nil
}

// drain moves all clients elsewhere.
func (e *Edge) drain() {
	e.draining.Store(true)
	e.log.Info("edge drains", "over", e.cfg.Drain)
	var wg sync.WaitGroup
	for _, w := range e.workers {
		wg.Go(func() { w.drain(wire.CloseDrain, e.cfg.Drain, e.hurry) })
	}
	wg.Wait()
	// The goodbyes are in the kernel; those who read get a moment to answer.
	deadline := time.NewTimer(min(e.cfg.CloseTimeout, time.Second))
	defer deadline.Stop()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for e.connections() > 0 {
		select {
		case <-poll.C:
		case <-e.hurry:
			return
		case <-deadline.C:
			return
		}
	}
}

// Hurry ends a drain at once. Safe from any goroutine.
func (e *Edge) Hurry() { e.once.Do(func() { close(e.hurry) }) }

func (e *Edge) connections() (n int) {
	for _, w := range e.workers {
		n += w.loop.Connections()
	}
	return n
}

func (e *Edge) fail(err error) {
	select {
	case e.failed <- err:
	default:
	}
}

func (e *Edge) close() {
	for _, w := range e.workers {
		// Stop before Close: a loop that has ended closes nothing.
		_ = w.loop.Do(w.stop)
		if err := w.loop.Close(); err != nil {
			e.log.Warn("loop did not close", "error", err)
		}
		for _, door := range w.doors {
			door.Stop() // of a loop that had failed: its goroutine has ended
		}
		if w.engine != nil {
			w.engine.Wait()
		}
	}
	e.stopTracing()
	for _, nc := range []*nats.Conn{e.control, e.recovery} {
		if nc != nil {
			nc.Close()
		}
	}
}

// Ready says why the node should not get clients, nil when it should. Safe from
// any goroutine.
func (e *Edge) Ready() error {
	switch {
	case e.draining.Load():
		return errors.New("edge: draining")
	case !e.started.Load():
		return errors.New("edge: not started")
	case e.policies.Load() == nil:
		return errors.New("edge: no policies yet: is a control service running?")
	case !e.keyed.Load():
		return errors.New("edge: no keys yet: is a control service running?")
	case !e.blocks.Known():
		return errors.New("edge: no list of blocks yet: is a control service running?")
	case !e.control.IsConnected():
		return errors.New("edge: NATS connection control is not connected")
	}
	if err := e.upstream.Ready(); err != nil {
		return fmt.Errorf("edge: %w", err)
	}
	return nil
}

// Addr is the address that clients connect to, host:port; empty when there is
// none without TLS.
func (e *Edge) Addr() string { return hostPort(e.address) }

// TLSAddr is the address that clients connect to with TLS, empty when there is
// none.
func (e *Edge) TLSAddr() string { return hostPort(e.secure) }

func hostPort(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// Loops implements metrics.Source.
func (e *Edge) Loops() (list []*metrics.Loop) {
	for _, w := range e.workers {
		list = append(list, w.counts)
	}
	return list
}

// Lags implements metrics.Source.
func (e *Edge) Lags() metrics.Lags { return e.lags.take(e, &e.lags.scrape) }

// Rooms implements metrics.Source.
func (e *Edge) Rooms() int { return e.upstream.Rooms() }

// Bus implements metrics.Source.
func (e *Edge) Bus() metrics.Bus {
	b := e.upstream.State()
	b.Requests = e.history.Requests()
	b.Reports, b.Untold = e.reports.reporter.Counts()
	return b
}

// Compression implements metrics.Source.
func (e *Edge) Compression() metrics.Compression {
	return metrics.Compression(e.deflater.Counts())
}

// Degraded says what does not work though clients are served, nil when all does.
// Safe from any goroutine.
func (e *Edge) Degraded() error { return e.upstream.Degraded() }
