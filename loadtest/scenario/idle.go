package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"nabat/loadtest/account"
	"nabat/loadtest/report"
	"nabat/loadtest/swarm"
	"nabat/loadtest/target"
)

// Idle is many connections that do nothing: what each costs in memory, and
// what it took to open it.
type Idle struct {
	Setting
	Rooms  int           // that each connection joins
	Settle time.Duration // the longest wait for memory to come to rest
}

// maxRooms is the edge's default bound on the rooms of one connection.
const maxRooms = 128

func (i *Idle) check() error {
	if i.Rooms < 1 || i.Rooms > maxRooms {
		return fmt.Errorf("%d rooms: must be 1 to %d", i.Rooms, maxRooms)
	}
	return i.Setting.check()
}

// Run measures all targets and the floor.
func (i *Idle) Run(ctx context.Context) (*report.Report, error) {
	if err := i.check(); err != nil {
		return nil, err
	}
	r := i.newReport("idle", fmt.Sprintf("%s connections, each in %d rooms, doing nothing", report.Thousands(float64(i.Clients)), i.Rooms),
		map[string]any{"connections": i.Clients, "rooms": i.Rooms})
	floor := 0.0
	err := i.each(ctx, func() int { return swarm.MinPayload }, func(ctx context.Context, t *target.Target) error {
		err := i.target(ctx, t, r)
		if row := r.Section(sectionOpening).Row(rowOpening); err == nil && t.Name == target.NameFloor {
			floor = row.Values[t.Name]
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	openingRatios(r, floor)
	r.Notes = append(r.Notes,
		"User memory is anonymous memory of the server process, which includes garbage that Go has not collected yet;",
		"heap and stacks are what was in use after a collection.",
		"Kernel memory is socket, file and epoll objects; both ends of a connection are on this machine, so the growth is halved.")
	return r, nil
}

// snapshot is everything that is measured before and after.
type snapshot struct {
	memory      account.Memory
	runtime     account.Runtime
	hasRuntime  bool
	kernel      account.Kernel
	descriptors int
	cpu         time.Duration
}

// take reads what is known about t.
func take(ctx context.Context, t *target.Target) (s snapshot, err error) {
	if t.Ops != "" {
		if s.runtime, err = account.Scrape(ctx, t.Ops); err != nil {
			return s, err
		}
		s.hasRuntime = true
	}
	if s.kernel, err = account.KernelMemory(); err != nil {
		return s, err
	}
	if t.PID == 0 {
		return s, nil
	}
	if s.memory, err = account.MemoryOf(t.PID); err != nil {
		return s, err
	}
	if s.descriptors, err = account.Descriptors(t.PID); err != nil {
		return s, err
	}
	s.cpu, err = cpu(t.PID)
	return s, err
}

// target measures one target.
func (i *Idle) target(ctx context.Context, t *target.Target, r *report.Report) (err error) {
	before, err := take(ctx, t)
	if err != nil {
		return err
	}
	clients, p, err := i.connect(ctx, t, i.options(t, swarm.Spread{Rooms: i.Rooms, Each: i.Rooms}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clients.Close()) }()
	if err := showOpening(r, t, before.cpu, p); err != nil {
		return err
	}
	if err := i.settle(ctx, t, clients); err != nil {
		return err
	}
	after, err := take(ctx, t)
	if err != nil {
		return err
	}
	if p, err = clients.Progress(); err != nil {
		return err
	}
	if p.Connected == 0 {
		return errors.New("no connection stayed open: " + failures(p))
	}
	i.show(r, t, &before, &after, p)
	return nil
}

// settle waits until the server's memory does not change for a second.
func (i *Idle) settle(ctx context.Context, t *target.Target, clients *swarm.Swarm) error {
	began, rest := time.Now(), 0
	var last account.Memory
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for rest < 4 && time.Since(began) < i.Settle {
		p, err := clients.Progress()
		if err != nil {
			return err
		}
		i.Progress.Show(report.State{
			Phase: t.Name + ": settling", Done: time.Since(began).Seconds(), Total: i.Settle.Seconds(), Of: "seconds at most",
			Detail: fmt.Sprintf("%s connected", report.Thousands(float64(p.Connected))), Errors: p.Closed,
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if t.PID == 0 {
			continue
		}
		now, err := account.MemoryOf(t.PID)
		if err != nil {
			return err
		}
		if rest++; now != last {
			last, rest = now, 0
		}
	}
	return nil
}

// show adds what grew to the report, divided by the connections.
func (i *Idle) show(r *report.Report, t *target.Target, before, after *snapshot, p swarm.Progress) {
	n := float64(p.Connected)
	grown := func(a, b uint64) float64 { return (float64(b) - float64(a)) / n }
	memory := r.Section("memory, for each connection")
	if t.PID != 0 {
		memory.Set(t.Name, "user memory", report.Bytes, grown(before.memory.Anonymous, after.memory.Anonymous))
	}
	if before.hasRuntime {
		memory.Set(t.Name, "  heap and stacks in use", report.Bytes,
			grown(before.runtime.Heap+before.runtime.Stacks, after.runtime.Heap+after.runtime.Stacks))
	}
	const ends = 2 // of a connection, both here
	memory.Set(t.Name, "kernel memory, sockets", report.Bytes, grown(before.kernel.Slab, after.kernel.Slab)/ends)
	memory.Set(t.Name, "kernel memory, buffers", report.Bytes, grown(before.kernel.SocketBuffers, after.kernel.SocketBuffers)/ends)
	objects := r.Section("objects, for each connection")
	if before.hasRuntime {
		objects.Set(t.Name, "goroutines", report.Decimal, float64(after.runtime.Goroutines-before.runtime.Goroutines)/n)
		objects.Set(t.Name, "heap objects", report.Decimal, grown(before.runtime.Objects, after.runtime.Objects))
	}
	if t.PID != 0 {
		objects.Set(t.Name, "descriptors", report.Decimal, float64(after.descriptors-before.descriptors)/n)
	}
	total := r.Section("in all")
	total.Set(t.Name, "connections", report.Count, n)
	total.Set(t.Name, "  failed or lost", report.Count, float64(p.Failed+p.Closed))
	if t.PID != 0 {
		total.Set(t.Name, "resident memory", report.Bytes, float64(after.memory.Resident))
	}
	if before.hasRuntime {
		total.Set(t.Name, "goroutines", report.Count, float64(after.runtime.Goroutines))
	}
}
