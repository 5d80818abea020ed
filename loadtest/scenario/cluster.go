package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"nabat/loadtest/account"
	"nabat/loadtest/report"
	"nabat/loadtest/swarm"
	"nabat/loadtest/target"
)

// Cluster is many edges on this machine with as many clients as it holds, all
// in one room: what they need, and when the last one has a message.
type Cluster struct {
	Setting                // Clients of each edge
	Edges    int           // processes
	Messages int           // one after the other, each to all
	Payload  int           // bytes of a message
	Patience time.Duration // for a message to reach all, and for each edge's clients to connect
	Force    bool          // go on although a limit is too low
}

func (c *Cluster) check() error {
	if c.Nabat == nil {
		return errors.New("a cluster is started here")
	}
	if c.Edges < 1 || c.Edges > 250 || c.Messages < 1 || c.Patience <= 0 {
		return fmt.Errorf("%d edges, %d messages, patience of %s: 1 to 250, at least 1, more than none", c.Edges, c.Messages, c.Patience)
	}
	if err := (&Publishing{Payload: c.Payload, Rounds: 1, Round: 1}).check(); err != nil {
		return err
	}
	c.Targets = []Starter{{Name: target.NameNabat, Own: true}}
	if err := c.Setting.check(); err != nil {
		return err
	}
	all := c.Edges * c.Clients
	sources := max(c.Sources, 1)
	lines := account.Shortages(account.Need{Connections: all, PerSource: c.Clients / sources, Processes: 2*c.Edges + 3})
	if free, err := account.Available(); err == nil && free < uint64(all)*memoryEach+uint64(c.Edges)*memoryEdge {
		lines = append(lines, fmt.Sprintf("%s of memory are free, and about %s are needed", report.Format(float64(free), report.Bytes),
			report.Format(float64(uint64(all)*memoryEach+uint64(c.Edges)*memoryEdge), report.Bytes)))
	}
	if len(lines) > 0 && !c.Force {
		return fmt.Errorf("%s connections do not fit into this machine as it is set up (--force tries all the same):\n  %s",
			report.Thousands(float64(all)), strings.Join(lines, "\n  "))
	}
	return nil
}

// What a connection needs with both of its ends, and an edge with its swarm
// process, in bytes; with room to spare.
const (
	memoryEach = 10_000
	memoryEdge = 90 << 20
)

// Run starts everything and measures.
func (c *Cluster) Run(ctx context.Context) (*report.Report, error) {
	c.Floor = nil // a floor of a single process says nothing of fifty
	if err := c.check(); err != nil {
		return nil, err
	}
	all := c.Edges * c.Clients
	r := c.newReport("cluster", fmt.Sprintf("%s clients of %d edges, all in one room", report.Thousands(float64(all)), c.Edges),
		map[string]any{"edges": c.Edges, "clients_each": c.Clients, "messages": c.Messages, "payload_bytes": c.Payload})
	bare, err := takeAll(nil)
	if err != nil {
		return nil, err
	}
	c.Progress.Show(report.State{Phase: fmt.Sprintf("starting %d edges", c.Edges)})
	t, err := c.Nabat(ctx, target.Shape{Edges: c.Edges, Procs: 1, Quick: true, Still: true})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", target.NameNabat, err)
	}
	watched, cancel := t.Watch(ctx)
	err = c.measure(watched, t, r, bare)
	cancel()
	c.Progress.End()
	return r, errors.Join(err, t.Close())
}

// everything is what all edges and the kernel have.
type everything struct {
	user   float64 // anonymous memory of the edges, bytes
	kernel account.Kernel
	cpu    time.Duration
}

func takeAll(edges []*target.Edge) (e everything, err error) {
	for _, edge := range edges {
		m, err := account.MemoryOf(edge.PID)
		if err != nil {
			return e, err
		}
		used, err := account.CPU(edge.PID)
		if err != nil {
			return e, err
		}
		e.user += float64(m.Anonymous)
		e.cpu += used
	}
	e.kernel, err = account.KernelMemory()
	return e, err
}

func (c *Cluster) measure(ctx context.Context, t *target.Target, r *report.Report, bare everything) (err error) {
	empty, err := takeAll(t.Edges)
	if err != nil {
		return err
	}
	fleet, began := make([]*meter, 0, c.Edges), time.Now()
	defer func() {
		for _, m := range fleet {
			err = errors.Join(err, m.clients.Close())
		}
	}()
	connected := 0
	for i, edge := range t.Edges {
		m, n, err := c.crowd(ctx, t, edge, i, connected)
		if err != nil {
			return err
		}
		fleet = append(fleet, m)
		connected += n
	}
	took := time.Since(began)
	full, err := takeAll(t.Edges)
	if err != nil {
		return err
	}
	n := float64(connected)
	section := r.Section("connections")
	section.Set(t.Name, "connected", report.Count, n)
	section.Set(t.Name, "  failed or lost", report.Count, float64(c.Edges*c.Clients-connected))
	section.Set(t.Name, "time to connect all", report.Nanoseconds, float64(took))
	section.Set(t.Name, "  connections per second", report.PerSecond, n/took.Seconds())
	section.Set(t.Name, "  server CPU for each", report.Nanoseconds, float64(full.cpu-empty.cpu)/n)
	const ends = 2
	memory := r.Section("memory")
	memory.Set(t.Name, "user memory per connection", report.Bytes, (full.user-empty.user)/n)
	memory.Set(t.Name, "kernel memory per connection", report.Bytes, (float64(full.kernel.Slab)-float64(empty.kernel.Slab))/ends/n)
	memory.Set(t.Name, "user memory of all edges", report.Bytes, full.user)
	memory.Set(t.Name, "kernel memory of the edges' sockets", report.Bytes, (float64(full.kernel.Slab)-float64(bare.kernel.Slab))/ends)
	if err := c.messages(ctx, t, r, fleet); err != nil {
		return err
	}
	r.Notes = append(r.Notes,
		"Edges have one processor each at most (GOMAXPROCS=1): there are more of them than processors.",
		"Clients, edges and NATS share the machine; latency runs from the send to the client's read.",
		"Kernel memory is half of what grew, because both ends of a connection are here.")
	return nil
}

// crowd connects the clients of one edge.
func (c *Cluster) crowd(ctx context.Context, t *target.Target, edge *target.Edge, number, before int) (*meter, int, error) {
	o := c.options(t, swarm.Spread{})
	o.Target, o.SourceBlock = t.At(edge.URL), number+1
	clients, err := swarm.Start(o)
	if err != nil {
		return nil, 0, err
	}
	bounded, cancel := context.WithTimeoutCause(ctx, c.Patience, fmt.Errorf("the clients of edge %d did not connect within %s", number, c.Patience))
	defer cancel()
	total, began := c.Edges*c.Clients, time.Now()
	stop := live(clients, func(p swarm.Progress) {
		c.Progress.Show(report.State{Phase: "connecting", Done: float64(before + p.Connected), Total: float64(total), Of: "connected",
			Rate: float64(p.Connected) / time.Since(began).Seconds(), Errors: p.Failed + p.Closed, Detail: fmt.Sprintf("edge %d of %d", number+1, c.Edges)})
	})
	p, err := clients.Dial(bounded)
	stop()
	if err == nil && float64(p.Failed+p.Closed) > maxFailed*float64(c.Clients) {
		err = fmt.Errorf("edge %d: %s", number, failures(p))
	}
	if err != nil {
		return nil, 0, errors.Join(err, clients.Close())
	}
	return &meter{how: Publishing{Payload: c.Payload}, target: t, publisher: t.Publisher, clients: clients}, p.Connected, nil
}

// messages sends one after the other, each when all have the last. The first
// one warms up and does not count.
func (c *Cluster) messages(ctx context.Context, t *target.Target, r *report.Report, fleet []*meter) error {
	var last []float64
	var sum swarm.Totals
	for n := range c.Messages + 1 {
		c.Progress.Show(report.State{Phase: "a message to all", Done: float64(n), Total: float64(c.Messages + 1), Of: "sent"})
		one, took, err := c.message(ctx, t, fleet, uint32(n+1))
		if err != nil {
			return err
		}
		if n == 0 {
			continue
		}
		last = append(last, took)
		if err := sum.Add(one); err != nil {
			return err
		}
	}
	h, err := sum.Histogram()
	if err != nil {
		return err
	}
	section := r.Section("a message to all")
	section.Set(t.Name, "until the last one has it, best", report.Nanoseconds, slices.Min(last))
	section.Set(t.Name, "  median", report.Nanoseconds, median(last))
	showLatency(section, t.Name, h)
	section.Set(t.Name, "deliveries per second, best", report.PerSecond, float64(sum.Received)/float64(len(last))/(slices.Min(last)/1e9))
	section.Set(t.Name, "deliveries", report.Count, float64(sum.Received))
	section.Set(t.Name, "  missing", report.Count, float64(sum.Missing))
	plotLatency(r, "a message to all", t.Name, h)
	if !sum.Correct() {
		r.Faults = append(r.Faults, fmt.Sprintf("%d deliveries are missing, %d came twice", sum.Missing, sum.Duplicates))
	}
	return nil
}

// message sends one message in a run of its own. It returns the time until the
// last client had it, by its own clock.
func (c *Cluster) message(ctx context.Context, t *target.Target, fleet []*meter, run uint32) (*swarm.Totals, float64, error) {
	for _, m := range fleet {
		m.run = run - 1
		if err := m.begin(ctx); err != nil {
			return nil, 0, err
		}
	}
	bounded, cancel := context.WithTimeout(ctx, c.Patience)
	defer cancel()
	if err := t.Publisher.Publish(ctx, swarm.Stamp{Run: run, Sequence: 1, At: swarm.Now()}, c.Payload); err != nil {
		return nil, 0, err
	}
	var sum swarm.Totals
	for _, m := range fleet {
		if err := m.clients.Wait(bounded, 1); err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
			return nil, 0, errors.Join(err, context.Cause(ctx))
		}
		one, err := m.clients.Finish(ctx, 1)
		if err != nil {
			return nil, 0, err
		}
		if err := sum.Add(one); err != nil {
			return nil, 0, err
		}
	}
	h, err := sum.Histogram()
	if err != nil {
		return nil, 0, err
	}
	return &sum, float64(h.Max()) * 1000, nil
}
