package scenario

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"nabat/loadtest/account"
	"nabat/loadtest/report"
	"nabat/loadtest/swarm"
	"nabat/loadtest/target"
)

// Storm is the death of an edge: all of its clients come back to another one at
// once, each to its rooms and positions, while that one's own clients go on.
type Storm struct {
	Setting                    // Clients come back
	Survivors    int           // clients of the other edge
	Rooms        int           // of those that come back, each in two
	Rate         float64       // messages a second to the survivors' room
	ReturnRate   float64       // messages a second to all rooms of those that come back
	Payload      int           // bytes of a message
	Pace         int           // connections that the edge takes in a second; 0 for its default
	Nice         int           // of the processes of those that come back
	Quiet        time.Duration // before the storm, to compare with
	Rounds       int           // each with a system of its own
	TLS, NoPlain bool          // with TLS, too; not without
	WarmUp       time.Duration
}

// roomsEach is how many rooms each client that comes back is in.
const roomsEach = 2

func (s *Storm) check() error {
	if s.Nabat == nil {
		return errors.New("a storm kills the edge that it measures: it needs one that is started here")
	}
	if s.Rooms < roomsEach || s.Survivors < 1 || s.Rounds < 1 {
		return fmt.Errorf("%d rooms, %d survivors, %d rounds: at least %d, 1 and 1", s.Rooms, s.Survivors, s.Rounds, roomsEach)
	}
	if s.Rate <= 0 || s.ReturnRate <= 0 {
		return fmt.Errorf("%g and %g messages a second: must be more than none", s.Rate, s.ReturnRate)
	}
	if s.Pace < 0 {
		return fmt.Errorf("accept-rate %d: must not be negative", s.Pace)
	}
	if s.Nice < 0 || s.Nice > 19 {
		return fmt.Errorf("nice %d: 0 to 19", s.Nice)
	}
	if s.NoPlain && !s.TLS {
		return errors.New("neither with nor without TLS: nothing to measure")
	}
	if err := (&Publishing{Payload: s.Payload, Rounds: 1, Round: s.Quiet}).check(); err != nil {
		return err
	}
	s.Targets = []Starter{{Name: target.NameNabat, Own: true}}
	all := s.Setting
	all.Clients = s.Clients + s.Survivors // end up on one edge
	return all.check()
}

// Run measures.
func (s *Storm) Run(ctx context.Context) (*report.Report, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	r := s.newReport("storm", fmt.Sprintf("an edge dies, %s clients in %d rooms each come back to another one with %s clients, %d times",
		report.Thousands(float64(s.Clients)), roomsEach, report.Thousands(float64(s.Survivors)), s.Rounds),
		map[string]any{"clients": s.Clients, "survivors": s.Survivors, "rooms": s.Rooms, "rate": s.Rate, "return_rate": s.ReturnRate, "payload_bytes": s.Payload, "accept_rate": s.Pace, "nice": s.Nice, "rounds": s.Rounds})
	for _, secure := range []bool{false, true} {
		if secure && !s.TLS || !secure && s.NoPlain {
			continue
		}
		if err := s.kind(ctx, r, secure); err != nil {
			return nil, err
		}
	}
	r.Notes = append(r.Notes,
		"The storm begins when all clients know that their edge is dead, and ends when the last one is back in its rooms.",
		"The floor answers as many connections, with one read and one write each; with TLS it has crypto/tls.",
		"The best round counts in ratios to the floor, the median round in ratios to quiet times.")
	return r, nil
}

// storms is what all rounds of one kind gave.
type storms struct {
	took, handshake   []float64 // nanoseconds
	p99Ratio          []float64
	quiet, during     swarm.Totals
	requests, replays []float64
	recovered, lost   int
	missing, doubled  uint64
	failures          []string
	survivorsMiss     uint64
}

func (s *Storm) kind(ctx context.Context, r *report.Report, secure bool) error {
	sum := new(storms)
	title := "without TLS"
	if secure {
		title = "with TLS 1.3"
	}
	for round := range s.Rounds {
		phase := fmt.Sprintf("%s (%d of %d)", title, round+1, s.Rounds)
		t, err := s.Nabat(ctx, target.Shape{Edges: 2, TLS: secure, Long: true, Pace: s.Pace})
		if err != nil {
			return fmt.Errorf("%s: %w", target.NameNabat, err)
		}
		watched, cancel := t.Watch(ctx)
		err = s.storm(watched, t, phase, secure, sum)
		cancel()
		s.Progress.End()
		if err = errors.Join(err, t.Close()); err != nil {
			return fmt.Errorf("%s: %w", target.NameNabat, err)
		}
	}
	floor, err := s.floor(ctx, secure)
	if err != nil {
		return fmt.Errorf("%s: %w", target.NameFloor, err)
	}
	return s.show(r, title, sum, floor)
}

// url of an edge.
func (s *Storm) url(e *target.Edge, secure bool) string {
	if secure {
		return e.Secure
	}
	return e.URL
}

// storm is one round.
func (s *Storm) storm(ctx context.Context, t *target.Target, phase string, secure bool, sum *storms) (err error) {
	victims, calm, err := s.gather(ctx, t, secure)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, victims.clients.Close(), calm.clients.Close()) }()
	traffic := s.publish(ctx, victims, s.ReturnRate)
	defer traffic.stop()
	quiet, err := s.listen(ctx, calm, t, phase+": quiet", func(ctx context.Context) error { return wait(ctx, s.Quiet) })
	if err != nil {
		return err
	}
	before, err := account.Samples(ctx, t.Edges[1].Ops)
	if err != nil {
		return err
	}
	var p swarm.Progress
	during, err := s.listen(ctx, calm, t, phase+": the storm", func(ctx context.Context) error {
		p, err = s.comeBack(ctx, t, victims, secure, sum)
		return err
	})
	if err != nil {
		return err
	}
	after, err := account.Samples(ctx, t.Edges[1].Ops)
	if err != nil {
		return err
	}
	if err := traffic.stop(); err != nil {
		return err
	}
	sum.requests = append(sum.requests, after["nabat_edge_history_requests_total"]-before["nabat_edge_history_requests_total"])
	sum.replays = append(sum.replays, after["nabat_edge_history_replays_total"]-before["nabat_edge_history_replays_total"])
	if err := s.settle(ctx, t.Name+": "+phase, victims, traffic.sent.Load(), sum); err != nil {
		return err
	}
	sum.recovered += p.Recovered
	sum.lost += p.Unrecovered
	if p.Failed+p.Closed > 0 {
		sum.failures = append(sum.failures, failures(p))
	}
	sum.survivorsMiss += quiet.Missing + during.Missing
	a, err := quiet.Histogram()
	if err != nil {
		return err
	}
	b, err := during.Histogram()
	if err != nil {
		return err
	}
	sum.p99Ratio = append(sum.p99Ratio, p99(b)/p99(a))
	return errors.Join(sum.quiet.Add(quiet), sum.during.Add(during))
}

// gather connects those that will come back to the first edge, the others to
// the second.
func (s *Storm) gather(ctx context.Context, t *target.Target, secure bool) (victims, calm *meter, err error) {
	spread := swarm.Spread{Rooms: s.Rooms, Each: roomsEach}
	o := s.options(t, spread)
	o.Target, o.Resume, o.Nice = s.url(t.Edges[0], secure), true, s.Nice
	o.Open = []string{`{"id":1,"connect":{"rooms":[<<{"room":"{room}"}|,>>]}}`}
	v, _, err := s.connect(ctx, t, o)
	if err != nil {
		return nil, nil, err
	}
	others := swarm.Spread{First: s.Rooms}
	o = s.options(t, others)
	o.Target, o.Clients, o.Workers = t.At(s.url(t.Edges[1], secure)), s.Survivors, 0
	c, _, err := s.connect(ctx, t, o)
	if err != nil {
		return nil, nil, errors.Join(err, v.Close())
	}
	how := Publishing{Payload: s.Payload, Round: s.Quiet, WarmUp: s.WarmUp}
	victims = &meter{how: how, progress: s.Progress, target: t, publisher: t.Publisher, clients: v, spread: spread}
	calm = &meter{how: how, progress: s.Progress, target: t, clients: c, spread: others}
	calm.publisher, err = t.NewPublisher()
	for _, m := range []*meter{victims, calm} {
		if err == nil {
			err = m.warmUp(ctx)
		}
	}
	if err == nil {
		err = victims.begin(ctx)
	}
	if err != nil {
		return nil, nil, errors.Join(err, v.Close(), c.Close())
	}
	return victims, calm, nil
}

// comeBack kills the first edge and waits until its clients are with the other.
func (s *Storm) comeBack(ctx context.Context, t *target.Target, victims *meter, secure bool, sum *storms) (swarm.Progress, error) {
	if err := t.Kill(t.Edges[0]); err != nil {
		return swarm.Progress{}, err
	}
	for {
		p, err := victims.clients.Progress()
		if err != nil {
			return p, err
		}
		if p.Connected == 0 {
			break
		}
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			return p, err
		}
	}
	before, err := cpu(t.Edges[1].PID)
	if err != nil {
		return swarm.Progress{}, err
	}
	p, err := s.dial(ctx, t.Name+": coming back", victims.clients, s.Clients, func(ctx context.Context) (swarm.Progress, error) {
		return victims.clients.Redial(ctx, s.url(t.Edges[1], secure))
	})
	if err != nil {
		return p, err
	}
	after, err := cpu(t.Edges[1].PID)
	sum.took = append(sum.took, float64(p.Dialing))
	sum.handshake = append(sum.handshake, float64(after-before)/float64(max(p.Connected, 1)))
	return p, err
}

// listen publishes to the survivors while fn runs, and returns what they found.
func (s *Storm) listen(ctx context.Context, calm *meter, t *target.Target, phase string, fn func(context.Context) error) (*swarm.Totals, error) {
	if err := calm.begin(ctx); err != nil {
		return nil, err
	}
	s.Progress.Show(report.State{Phase: t.Name + ": " + phase})
	traffic := s.publish(ctx, calm, s.Rate)
	err := errors.Join(fn(ctx), traffic.stop())
	if err != nil {
		return nil, err
	}
	sent := traffic.sent.Load()
	if err := calm.wait(ctx, sent, stalled); err != nil && !errors.Is(err, errLost) {
		return nil, err
	}
	return calm.clients.Finish(ctx, sent)
}

// traffic is a goroutine that publishes until it is stopped.
type traffic struct {
	cancel context.CancelFunc
	ended  atomic.Bool
	sent   atomic.Uint64 // to each room
	err    error
	done   sync.WaitGroup
}

func (s *Storm) publish(ctx context.Context, m *meter, rate float64) *traffic {
	t := new(traffic)
	ctx, t.cancel = context.WithCancel(ctx)
	t.done.Go(func() {
		sent, err := m.until(ctx, rate, func(time.Duration) bool { return t.ended.Load() })
		t.sent.Store(sent)
		t.err = err
	})
	return t
}

// stop ends it after a whole round of the rooms. It can be called again.
func (t *traffic) stop() error {
	t.ended.Store(true)
	t.done.Wait()
	t.cancel()
	return t.err
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// settle waits until those that came back have all messages.
func (s *Storm) settle(ctx context.Context, phase string, victims *meter, sent uint64, sum *storms) error {
	last, changed := uint64(0), time.Now()
	for {
		totals, err := victims.clients.Finish(ctx, sent)
		if err != nil {
			return err
		}
		if totals.Missing != last {
			last, changed = totals.Missing, time.Now()
		}
		if totals.Missing == 0 || time.Since(changed) > stalled {
			sum.missing += totals.Missing
			sum.doubled += totals.Duplicates + totals.Late
			return nil
		}
		s.Progress.Show(report.State{Phase: phase + ": settling", Detail: report.Thousands(float64(totals.Missing)) + " to come"})
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// floor is how long the clients need to connect to a server that does nothing.
func (s *Storm) floor(ctx context.Context, secure bool) (*storms, error) {
	start := func(ctx context.Context) (*target.Target, error) { return s.Floor(ctx, s.Payload) }
	if secure {
		start = s.FloorTLS
	}
	if s.Floor == nil || start == nil {
		return nil, nil
	}
	sum := new(storms)
	for range s.Rounds {
		t, err := start(ctx)
		if err != nil {
			return nil, err
		}
		before, err := cpu(t.PID)
		if err != nil {
			return nil, errors.Join(err, t.Close())
		}
		o := s.options(t, swarm.Spread{})
		o.Nice = s.Nice
		clients, p, err := s.connect(ctx, t, o)
		if err != nil {
			return nil, errors.Join(err, t.Close())
		}
		after, err := cpu(t.PID)
		if err = errors.Join(err, clients.Close(), t.Close()); err != nil {
			return nil, err
		}
		sum.took = append(sum.took, float64(p.Dialing))
		sum.handshake = append(sum.handshake, float64(after-before)/float64(p.Connected))
	}
	return sum, nil
}
