// Package balance evens out the connections of edges: a bounded share of them
// moves in each second, until the nodes differ by little.
package balance

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/control/internal/orders"
	"nabat/internal/bus"
	"nabat/proto/order"
)

// States of a rebalance.
const (
	Running = "running"
	Done    = "done"    // the nodes differ by no more than was asked for
	Stopped = "stopped" // somebody stopped it
	Failed  = "failed"  // it could not go on; Reason says why
)

// Progress is how far a rebalance is: one value in NATS, which all replicas read
// and the one that works writes, by compare-and-set.
type Progress struct {
	ID        string         `json:"id,omitempty"`
	State     string         `json:"state"`
	Reason    string         `json:"reason,omitempty"`
	Started   time.Time      `json:"started,omitzero"`
	Updated   time.Time      `json:"updated,omitzero"`
	Rate      int            `json:"rate,omitempty"`      // connections that move in a second, at most
	Tolerance int            `json:"tolerance,omitempty"` // percent of the mean
	Moved     int            `json:"moved"`
	Left      int            `json:"left"`            // connections that are above their node's share
	Nodes     map[string]int `json:"nodes,omitempty"` // connections

	revision uint64
}

// Errors of Start and Stop.
var (
	ErrRunning = errors.New("a rebalance is running already: stop it first")
	ErrIdle    = errors.New("no rebalance is running")
)

const (
	tick = time.Second
	// abandoned is how old the progress of a replica is that has died.
	abandoned = 15 * time.Second
	// maxSeconds bounds a rebalance: clients that come back to where they were
	// could keep it going for ever.
	maxSeconds = 3600
	// settle is how many ticks without a better spread end it: the balancer in
	// front of the edges does not do its part.
	settle = 60
)

// Balancer starts and stops rebalances. Safe from any goroutine.
type Balancer struct {
	orders *orders.Sender
	js     jetstream.JetStream
	log    *slog.Logger
	tick   time.Duration // variable for tests

	start chan Progress // to Run
}

// New returns a balancer. Call Run.
func New(o *orders.Sender, js jetstream.JetStream, log *slog.Logger) *Balancer {
	return &Balancer{orders: o, js: js, log: log, tick: tick, start: make(chan Progress, 1)}
}

// Run works on rebalances that this replica started, until ctx ends.
func (b *Balancer) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-b.start:
			b.work(ctx, p)
		}
	}
}

func (b *Balancer) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	kv, err := b.js.KeyValue(ctx, bus.BucketConfig)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", bus.BucketConfig, err)
	}
	return kv, nil
}

func read(ctx context.Context, kv jetstream.KeyValue) (Progress, error) {
	e, err := kv.Get(ctx, bus.KeyRebalance)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Progress{State: Done}, nil
	}
	if err != nil {
		return Progress{}, fmt.Errorf("read the rebalance: %w", err)
	}
	var p Progress
	if err := json.Unmarshal(e.Value(), &p); err != nil {
		return Progress{}, fmt.Errorf("the rebalance (%s in %s) cannot be read: %w", bus.KeyRebalance, bus.BucketConfig, err)
	}
	p.revision = e.Revision()
	return p.judged(), nil
}

// judged is p, which says failed when nobody works on it any more.
func (p Progress) judged() Progress {
	if p.State == Running && time.Since(p.Updated) > abandoned {
		p.State, p.Reason = Failed, "the replica that worked on it has stopped"
	}
	return p
}

func (p *Progress) write(ctx context.Context, kv jetstream.KeyValue) (err error) {
	p.Updated = time.Now().UTC()
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if p.revision == 0 {
		p.revision, err = kv.Create(ctx, bus.KeyRebalance, data)
	} else {
		p.revision, err = kv.Update(ctx, bus.KeyRebalance, data, p.revision)
	}
	return err
}

// Start begins a rebalance, on this replica. rate 0 means one percent of all
// connections in a second, and at least ten; tolerance 0 means five percent.
func (b *Balancer) Start(ctx context.Context, rate, tolerance int) (Progress, error) {
	kv, err := b.bucket(ctx)
	if err != nil {
		return Progress{}, err
	}
	old, err := read(ctx, kv)
	if err != nil {
		return Progress{}, err
	}
	if old.State == Running {
		return old, ErrRunning
	}
	if tolerance == 0 {
		tolerance = 5
	}
	p := Progress{ID: rand.Text(), State: Running, Started: time.Now().UTC(), Rate: rate, Tolerance: tolerance, revision: old.revision}
	spread, _, err := b.look(ctx)
	if err != nil {
		return Progress{}, err
	}
	p.note(spread)
	if err := p.write(ctx, kv); bus.Raced(err) {
		return Progress{}, ErrRunning
	} else if err != nil {
		return Progress{}, fmt.Errorf("write the rebalance: %w", err)
	}
	select {
	case b.start <- p:
	default: // one waits already: it has been stopped or overtaken and ends at its first step
		return p, ErrRunning
	}
	return p, nil
}

// Status is how far the newest rebalance is.
func (b *Balancer) Status(ctx context.Context) (Progress, error) {
	kv, err := b.bucket(ctx)
	if err != nil {
		return Progress{}, err
	}
	return read(ctx, kv)
}

// Stop ends the rebalance that runs, on whichever replica.
func (b *Balancer) Stop(ctx context.Context) (Progress, error) {
	kv, err := b.bucket(ctx)
	if err != nil {
		return Progress{}, err
	}
	for {
		p, err := read(ctx, kv)
		if err != nil {
			return Progress{}, err
		}
		if p.State != Running {
			return p, ErrIdle
		}
		p.State = Stopped
		if err := p.write(ctx, kv); err == nil || !bus.Raced(err) {
			return p, err
		}
	}
}

// look asks the nodes that take clients how many they have.
func (b *Balancer) look(ctx context.Context) (spread map[string]int, missing []string, err error) {
	r, err := b.orders.All(ctx, order.Status, order.StatusRequest{})
	if err != nil {
		return nil, nil, err
	}
	spread = make(map[string]int)
	for _, a := range r.Answers {
		if s := a.Status; s != nil && (s.State == "ready" || s.State == "degraded") {
			spread[a.Node] = s.Connections
		}
	}
	return spread, r.Missing, nil
}

// note puts what look saw into p.
func (p *Progress) note(spread map[string]int) {
	p.Nodes, p.Left = spread, 0
	for _, n := range surplus(spread, p.Tolerance) {
		p.Left += n
	}
}

// surplus is how many connections each node has above the mean, where that is
// more than the tolerance, in percent of the mean, allows.
func surplus(spread map[string]int, tolerance int) map[string]int {
	total := 0
	for _, n := range spread {
		total += n
	}
	over := make(map[string]int)
	if len(spread) < 2 {
		return over
	}
	mean := (total + len(spread) - 1) / len(spread)
	for node, n := range spread {
		if n-mean > max(1, mean*tolerance/100) {
			over[node] = n - mean
		}
	}
	return over
}

// work makes steps until the nodes are even or somebody stops it.
func (b *Balancer) work(ctx context.Context, p Progress) {
	b.log.Info("rebalance begins", "id", p.ID, "nodes", p.Nodes)
	best, since := p.Left, 0
	for step := 0; p.State == Running; step++ {
		if !b.step(ctx, &p) {
			return // another one goes on with the key, or it was stopped, or we end
		}
		if since++; p.Left < best {
			best, since = p.Left, 0
		}
		switch {
		case p.State != Running:
		case step >= maxSeconds:
			p.State, p.Reason = Failed, "it went on for too long"
		case since >= settle:
			p.State, p.Reason = Failed, "the spread does not get better: do clients come back to the node they were moved from?"
		}
		kv, err := b.bucket(ctx)
		if err == nil {
			err = p.write(ctx, kv)
		}
		if bus.Raced(err) || ctx.Err() != nil {
			return
		}
		if err != nil {
			b.log.Warn("the progress of a rebalance was not written", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(b.tick):
		}
	}
	b.log.Info("rebalance ends", "id", p.ID, "state", p.State, "reason", p.Reason, "moved", p.Moved)
}

// step moves what may move in one tick. It reports false when p is no longer
// this replica's.
func (b *Balancer) step(ctx context.Context, p *Progress) bool {
	if kv, err := b.bucket(ctx); err == nil {
		if now, err := read(ctx, kv); err == nil && (now.ID != p.ID || now.State != Running) {
			return false
		}
	}
	spread, _, err := b.look(ctx)
	if err != nil {
		b.log.Warn("a rebalance waits: the nodes do not answer", "error", err)
		return ctx.Err() == nil
	}
	p.note(spread)
	if p.Left == 0 {
		p.State = Done
		return true
	}
	budget := p.Rate
	if budget == 0 {
		total := 0
		for _, n := range spread {
			total += n
		}
		budget = max(10, total/100)
	}
	for node, over := range surplus(spread, p.Tolerance) {
		n := min(over, max(1, budget*over/p.Left))
		a, err := b.orders.Node(ctx, node, order.Move, order.MoveRequest{Connections: n, OverMS: b.tick.Milliseconds()})
		if err != nil {
			b.log.Warn("a node did not take the order to move clients", "edge", node, "error", err)
			continue
		}
		p.Moved += a.Affected
	}
	return true
}
