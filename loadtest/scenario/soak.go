package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"nabat/loadtest/report"
	"nabat/loadtest/swarm"
	"nabat/loadtest/target"
)

// Soak is one room at a fixed rate for a long time: what grows, and whether
// latency stays.
type Soak struct {
	Setting
	Publishing               // Round is the time between two samples
	Rate       float64       // messages per second
	For        time.Duration // in all
}

func (s *Soak) check() error {
	s.Rounds = int(s.For / max(s.Round, 1))
	if err := s.Publishing.check(); err != nil || s.Rounds < 3 {
		return errors.Join(err, fmt.Errorf("%s in samples of %s: at least three are needed", s.For, s.Round))
	}
	if s.Rate <= 0 {
		return fmt.Errorf("%g messages a second: must be more than none", s.Rate)
	}
	return s.Setting.check()
}

// Run measures all targets.
func (s *Soak) Run(ctx context.Context) (*report.Report, error) {
	s.Floor = nil // nothing in it could grow
	if err := s.check(); err != nil {
		return nil, err
	}
	r := s.newReport("soak", fmt.Sprintf("%s members of 1 room, %g messages of %d bytes a second for %s", report.Thousands(float64(s.Clients)), s.Rate, s.Payload, s.For),
		map[string]any{"members": s.Clients, "rate": s.Rate, "payload_bytes": s.Payload, "for_seconds": s.For.Seconds(), "sample_seconds": s.Round.Seconds()})
	err := s.each(ctx, nil, func(ctx context.Context, t *target.Target) error { return s.target(ctx, t, r) })
	r.Notes = append(r.Notes, "What grew is the median of the last third of the samples less that of the first third.")
	return r, err
}

// course is how the samples of one target went.
type course struct {
	p99, user, heap, goroutines, descriptors, buffers report.Line
}

func (s *Soak) target(ctx context.Context, t *target.Target, r *report.Report) (err error) {
	if t.Publisher == nil {
		return target.ErrUnpublished
	}
	clients, p, err := s.connect(ctx, t, s.options(t, swarm.Spread{}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clients.Close()) }()
	m := &meter{how: s.Publishing, progress: s.Progress, target: t, publisher: t.Publisher, clients: clients}
	if err := m.warmUp(ctx); err != nil {
		return err
	}
	var sum swarm.Totals
	c, began := new(course), time.Now()
	for n := range s.Rounds {
		s.Progress.Show(report.State{Phase: t.Name + ": soaking", Done: float64(n), Total: float64(s.Rounds), Of: "samples"})
		one := new(result)
		if err := m.round(ctx, mode{rate: s.Rate}, one); err != nil {
			return err
		}
		h, err := one.totals.Histogram()
		if err != nil {
			return err
		}
		if err := c.sample(ctx, t, time.Since(began).Seconds(), p99(h)); err != nil {
			return err
		}
		if err := sum.Add(&one.totals); err != nil {
			return err
		}
	}
	if err := showTotals(r, "messages", t.Name, &sum); err != nil {
		return err
	}
	c.show(r, t.Name)
	now, err := clients.Progress()
	if err != nil {
		return err
	}
	if !sum.Correct() || now.Closed > p.Closed {
		r.Faults = append(r.Faults, fmt.Sprintf("%s: %d deliveries are missing, %d came twice, %d out of order; %s", t.Name, sum.Missing, sum.Duplicates, sum.Late, failures(now)))
	}
	return nil
}

// sample reads what may grow.
func (c *course) sample(ctx context.Context, t *target.Target, at, p99 float64) error {
	now, err := take(ctx, t)
	if err != nil {
		return err
	}
	add := func(line *report.Line, value float64) {
		line.Name, line.X, line.Y = t.Name, append(line.X, at), append(line.Y, value)
	}
	add(&c.p99, p99)
	add(&c.buffers, float64(now.kernel.SocketBuffers))
	if t.PID != 0 {
		add(&c.user, float64(now.memory.Anonymous))
		add(&c.descriptors, float64(now.descriptors))
	}
	if now.hasRuntime {
		add(&c.heap, float64(now.runtime.Heap+now.runtime.Stacks))
		add(&c.goroutines, float64(now.runtime.Goroutines))
	}
	return nil
}

func (c *course) show(r *report.Report, column string) {
	for _, one := range []struct {
		name string
		unit report.Unit
		line report.Line
	}{
		{"latency p99", report.Nanoseconds, c.p99}, {"user memory", report.Bytes, c.user}, {"heap and stacks in use", report.Bytes, c.heap},
		{"goroutines", report.Count, c.goroutines}, {"descriptors", report.Count, c.descriptors}, {"kernel's TCP buffers", report.Bytes, c.buffers},
	} {
		n := len(one.line.Y)
		if n < 3 {
			continue
		}
		first, last := median(one.line.Y[:n/3]), median(one.line.Y[n-n/3:])
		section := r.Section(one.name)
		section.Set(column, "first third", one.unit, first)
		section.Set(column, "last third", one.unit, last)
		section.Set(column, "  grew", one.unit, last-first)
		r.Plot(one.name, "time", report.Nanoseconds, one.unit).Add(one.line, 1e9)
	}
}
