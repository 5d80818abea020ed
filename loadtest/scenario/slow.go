package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"nabat/loadtest/account"
	"nabat/loadtest/report"
	"nabat/loadtest/swarm"
	"nabat/loadtest/target"
)

// Slow is one room in which some members stop reading: what the others notice
// of it, and what the stalled cost.
type Slow struct {
	Setting
	Publishing         // Rounds pairs of rounds: all read, then some do not
	Rate       float64 // messages per second
	Every      int     // one of so many members stalls
	CatchUp    time.Duration
}

func (s *Slow) check() error {
	if err := s.Publishing.check(); err != nil {
		return err
	}
	if s.Rate <= 0 {
		return fmt.Errorf("%g messages a second: must be more than none", s.Rate)
	}
	if s.Every < 2 || s.Every > s.Clients {
		return fmt.Errorf("one of %d members stalls: must be one of 2 to %d", s.Every, s.Clients)
	}
	return s.Setting.check()
}

// Run measures all targets; the floor has no slow readers.
func (s *Slow) Run(ctx context.Context) (*report.Report, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	stalled := s.Clients / s.Every
	r := s.newReport("slow", fmt.Sprintf("%s members of 1 room, %s of which stop reading; %g messages of %d bytes a second, %d × %s each way",
		report.Thousands(float64(s.Clients)), report.Thousands(float64(stalled)), s.Rate, s.Payload, s.Rounds, s.Round),
		map[string]any{"members": s.Clients, "stalled": stalled, "payload_bytes": s.Payload, "rate": s.Rate, "rounds": s.Rounds, "round_seconds": s.Round.Seconds()})
	frameBytes := s.Payload + frameHead
	err := s.each(ctx, func() int { return frameBytes }, func(ctx context.Context, t *target.Target) error {
		return s.target(ctx, t, r)
	})
	r.Notes = append(r.Notes,
		"Latency is of the members that read, from the time at which a message was due.",
		"A ratio is of one round with stalled readers to the round without that came just before it; the median of these counts.")
	return r, err
}

const (
	sectionQuiet   = "all read"
	sectionStalled = "some have stopped reading"
	sectionCost    = "a stalled reader"
	rowP99Ratio    = "  in p99 when all read, median"
)

func (s *Slow) target(ctx context.Context, t *target.Target, r *report.Report) (err error) {
	o := s.options(t, swarm.Spread{})
	o.SlowEvery = s.Every
	clients, p, err := s.connect(ctx, t, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clients.Close()) }()
	m := &meter{how: s.Publishing, progress: s.Progress, target: t, publisher: t.Publisher, clients: clients}
	if t.Publisher == nil {
		return target.ErrUnpublished
	}
	if err := m.warmUp(ctx); err != nil {
		return err
	}
	var quiet, stalled swarm.Totals
	var ratios []float64
	var cost stallCost
	for round := range s.Rounds {
		p99, err := s.round(ctx, m, fmt.Sprintf("%s: all read (%d of %d)", t.Name, round+1, s.Rounds), &quiet)
		if err != nil {
			return err
		}
		if t.Name == target.NameFloor {
			continue
		}
		worse, err := s.stall(ctx, m, round, &stalled, &cost)
		if err != nil {
			return err
		}
		ratios = append(ratios, worse/p99)
	}
	if err := showTotals(r, sectionQuiet, t.Name, &quiet); err != nil {
		return err
	}
	if t.Name == target.NameFloor {
		return nil
	}
	if err := showTotals(r, sectionStalled, t.Name, &stalled); err != nil {
		return err
	}
	section := r.Section(sectionStalled)
	section.Set(t.Name, rowP99Ratio, report.Ratio, median(ratios))
	section.Sort("latency p50", "latency p99", rowP99Ratio, "latency max")
	cost.show(r, t, float64(s.Clients/s.Every))
	now, err := clients.Progress()
	if err != nil {
		return err
	}
	if now.Closed > p.Closed {
		r.Notes = append(r.Notes, fmt.Sprintf("%s closed connections: %s", t.Name, failures(now)))
	}
	if missing := quiet.Missing + stalled.Missing; missing > 0 {
		r.Faults = append(r.Faults, fmt.Sprintf("%s: members that read miss %d deliveries", t.Name, missing))
	}
	return nil
}

// round is one run at the fixed rate. It returns the p99 in nanoseconds.
func (s *Slow) round(ctx context.Context, m *meter, phase string, sum *swarm.Totals) (float64, error) {
	if err := m.begin(ctx); err != nil {
		return 0, err
	}
	began := time.Now()
	stop := live(m.clients, func(p swarm.Progress) {
		s.Progress.Show(report.State{Phase: phase, Done: min(time.Since(began).Seconds(), s.Round.Seconds()), Total: s.Round.Seconds(), Of: "seconds",
			Detail: report.Format(float64(p.Received)/time.Since(began).Seconds(), report.PerSecond) + " deliveries", Errors: p.Closed})
	})
	sent, err := m.schedule(ctx, s.Rate)
	m.sent = sent
	if err == nil {
		err = m.wait(ctx, sent, stalled)
	}
	stop()
	if err != nil && !errors.Is(err, errLost) {
		return 0, err
	}
	totals, err := m.clients.Finish(ctx, sent)
	if err != nil {
		return 0, err
	}
	h, err := totals.Histogram()
	if err != nil {
		return 0, err
	}
	return p99(h), sum.Add(totals)
}

func p99(h *hdrhistogram.Histogram) float64 { return float64(h.ValueAtQuantile(99)) * 1000 }

// stallCost is what stalled readers cost, at its highest over the rounds.
type stallCost struct {
	kernel, user float64 // bytes that grew, in all
	queued       float64 // bytes, by the edge's own account
	lags         float64 // subscriptions that began to lag
	missing      uint64  // messages that stalled readers did not get afterwards
	caughtUp     time.Duration
}

// stall is a round in which some do not read, and their catching up. It returns
// the p99 of the others.
func (s *Slow) stall(ctx context.Context, m *meter, round int, sum *swarm.Totals, cost *stallCost) (float64, error) {
	before, err := s.look(ctx, m.target)
	if err != nil {
		return 0, err
	}
	if err := m.clients.Stall(true); err != nil {
		return 0, err
	}
	p, err := s.round(ctx, m, fmt.Sprintf("%s: some stalled (%d of %d)", m.target.Name, round+1, s.Rounds), sum)
	if err != nil {
		return 0, err
	}
	after, err := s.look(ctx, m.target)
	if err != nil {
		return 0, err
	}
	cost.kernel = max(cost.kernel, after.kernel-before.kernel)
	cost.user = max(cost.user, after.user-before.user)
	cost.queued = max(cost.queued, after.queued-before.queued)
	cost.lags += after.lags - before.lags
	if err := m.clients.Stall(false); err != nil {
		return 0, err
	}
	return p, s.catchUp(ctx, m, cost)
}

// look reads what stalled readers may change.
func (s *Slow) look(ctx context.Context, t *target.Target) (c stallCost, err error) {
	kernel, err := account.KernelMemory()
	if err != nil {
		return c, err
	}
	c.kernel = float64(kernel.SocketBuffers)
	if t.PID != 0 {
		memory, err := account.MemoryOf(t.PID)
		if err != nil {
			return c, err
		}
		c.user = float64(memory.Anonymous)
	}
	if t.Nabat() {
		samples, err := account.Samples(ctx, t.Ops)
		if err != nil {
			return c, err
		}
		c.queued, c.lags = samples["nabat_edge_queued_bytes"], samples["nabat_edge_lags_total"]
	}
	return c, nil
}

// catchUp waits until the stalled have all messages, or have got no more of
// them for a while.
func (s *Slow) catchUp(ctx context.Context, m *meter, cost *stallCost) error {
	began, changed, last := time.Now(), time.Now(), uint64(0)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		totals, err := m.clients.Finish(ctx, m.sent)
		if err != nil {
			return err
		}
		if totals.SlowMissing != last {
			last, changed = totals.SlowMissing, time.Now()
		}
		if totals.SlowMissing == 0 || time.Since(began) > s.CatchUp || time.Since(changed) > stalled {
			cost.missing += totals.SlowMissing
			cost.caughtUp = max(cost.caughtUp, changed.Sub(began))
			return nil
		}
		s.Progress.Show(report.State{Phase: m.target.Name + ": catching up", Detail: report.Thousands(float64(totals.SlowMissing)) + " to come"})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *stallCost) show(r *report.Report, t *target.Target, readers float64) {
	section := r.Section(sectionCost)
	section.Set(t.Name, "kernel buffers, both ends", report.Bytes, c.kernel/readers)
	if t.PID != 0 {
		section.Set(t.Name, "user memory that grew", report.Bytes, c.user/readers)
	}
	if t.Nabat() {
		section.Set(t.Name, "queued by the edge", report.Bytes, c.queued/readers)
		section.Set(t.Name, "times lagging", report.Decimal, c.lags/readers)
	}
	section.Set(t.Name, "messages lost to it", report.Decimal, float64(c.missing)/readers)
	section.Set(t.Name, "longest catching up of all", report.Nanoseconds, float64(c.caughtUp))
}

// showTotals adds what the members of several runs found.
func showTotals(r *report.Report, title, column string, t *swarm.Totals) error {
	h, err := t.Histogram()
	if err != nil {
		return err
	}
	section := r.Section(title)
	showLatency(section, column, h)
	plotLatency(r, title, column, h)
	section.Set(column, "deliveries", report.Count, float64(t.Received))
	section.Set(column, "  missing", report.Count, float64(t.Missing))
	return nil
}
