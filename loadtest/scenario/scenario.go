// Package scenario measures targets: each scenario connects a swarm, does one
// thing to the server, and reports what that cost beside the floor.
package scenario

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"nabat/loadtest/account"
	"nabat/loadtest/report"
	"nabat/loadtest/swarm"
	"nabat/loadtest/target"
)

// Starter makes one target when its turn comes.
type Starter struct {
	Name  string
	Start func(context.Context) (*target.Target, error)
	// Own says that loadtest starts the process, on this machine.
	Own bool
}

// Setting is what all scenarios share.
type Setting struct {
	Targets  []Starter
	Floor    func(ctx context.Context, frameBytes int) (*target.Target, error) // nil: no floor
	FloorTLS func(context.Context) (*target.Target, error)                     // for handshakes; nil: none
	Nabat    func(context.Context, target.Shape) (*target.Target, error)       // starts a system for scenarios that need a certain one
	Spawn    func() *exec.Cmd                                                  // a swarm worker
	Progress *report.Progress

	Clients  int           // connections
	Workers  int           // swarm processes; 0: as few as descriptors allow
	Loops    int           // threads in each
	Sources  int           // local addresses; 0: enough
	DialRate float64       // connections per second; 0: no bound
	Timeout  time.Duration // for one handshake
	Limit    int           // descriptors of one process; 0: ask the system
}

// serverDescriptors is what a server needs beside its clients.
const serverDescriptors = 300

// check refuses what cannot work before anything is started.
func (s *Setting) check() error {
	if s.Clients < 1 {
		return fmt.Errorf("%d connections: at least 1", s.Clients)
	}
	limit := s.Limit
	if limit == 0 {
		var err error
		if limit, err = account.DescriptorLimit(); err != nil {
			return err
		}
	}
	for _, starter := range s.Targets {
		if starter.Own && s.Clients > limit-serverDescriptors {
			return fmt.Errorf("%s connections: a server started here may open %s descriptors, which is room for %s: ask for fewer, raise the limit (ulimit -n), or measure a server of your own with --target",
				report.Thousands(float64(s.Clients)), report.Thousands(float64(limit)), report.Thousands(float64(max(limit-serverDescriptors, 0))))
		}
	}
	return nil
}

// newReport makes the frame of a report.
func (s *Setting) newReport(scenario, summary string, options map[string]any) *report.Report {
	r := &report.Report{Scenario: scenario, Summary: summary, Started: time.Now(), Machine: thisMachine(), Options: options}
	for _, starter := range s.Targets {
		r.Columns = append(r.Columns, starter.Name)
	}
	if s.Floor != nil {
		r.Columns = append(r.Columns, target.NameFloor)
	}
	return r
}

func thisMachine() report.Machine {
	m := report.Machine{CPUs: runtime.NumCPU(), Arch: runtime.GOARCH, Go: runtime.Version()}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	m.Load, _ = account.Load() // for the reader; nothing depends on it
	return m
}

// each runs measure on all targets, one after the other: the floor at the
// end, because it must send frames like those of the targets.
func (s *Setting) each(ctx context.Context, frameBytes func() int, measure func(context.Context, *target.Target) error) error {
	starters := s.Targets
	if s.Floor != nil {
		starters = append(slices.Clip(starters), Starter{Name: target.NameFloor, Start: func(ctx context.Context) (*target.Target, error) {
			return s.Floor(ctx, frameBytes())
		}})
	}
	for _, starter := range starters {
		t, err := starter.Start(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", starter.Name, err)
		}
		watched, cancel := t.Watch(ctx)
		err = measure(watched, t)
		cancel()
		s.Progress.End()
		if err = errors.Join(err, t.Close()); err != nil {
			return fmt.Errorf("%s: %w", starter.Name, err)
		}
	}
	return nil
}

// maxFailed is the share of connections that may fail in a measurement.
const maxFailed = 0.01

// hopeless is how many failures in a row at the start end the dialing.
const hopeless = 10

// options are those of a swarm of all clients towards t.
func (s *Setting) options(t *target.Target, spread swarm.Spread) swarm.Options {
	return swarm.Options{
		Spawn: s.Spawn, Target: t.ClientURL(), Dialect: t.Dialect, Spread: spread, Clients: s.Clients, Workers: s.Workers,
		Loops: s.Loops, Sources: s.Sources, Rate: s.DialRate, Timeout: s.Timeout, DescriptorLimit: s.Limit,
	}
}

// connect opens a swarm of clients. The caller must Close it.
func (s *Setting) connect(ctx context.Context, t *target.Target, o swarm.Options) (*swarm.Swarm, swarm.Progress, error) {
	clients, err := swarm.Start(o)
	if err != nil {
		return nil, swarm.Progress{}, err
	}
	p, err := s.dial(ctx, t.Name+": connecting", clients, o.Clients, clients.Dial)
	if err == nil && float64(p.Failed+p.Closed) > maxFailed*float64(o.Clients) {
		err = errors.New(failures(p))
	}
	if err != nil {
		return nil, p, errors.Join(err, clients.Close())
	}
	return clients, p, nil
}

// dial shows how it goes and gives up early on a target that takes nobody.
func (s *Setting) dial(ctx context.Context, phase string, clients *swarm.Swarm, total int, dial func(context.Context) (swarm.Progress, error)) (swarm.Progress, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	began := time.Now()
	show := func(p swarm.Progress) {
		s.Progress.Show(report.State{
			Phase: phase, Done: float64(p.Connected), Total: float64(total), Of: "connected",
			Rate: float64(p.Connected) / time.Since(began).Seconds(), Errors: p.Failed + p.Closed,
		})
		if p.Connected == 0 && p.Failed >= hopeless {
			cancel(errors.New(failures(p)))
		}
	}
	stop := live(clients, show)
	p, err := dial(ctx)
	stop()
	if err == nil {
		show(p)
	}
	return p, err
}

// live calls show ten times a second, on a goroutine of its own, until the
// function that it returns is called. That one waits for the goroutine.
func live(clients *swarm.Swarm, show func(swarm.Progress)) (stop func()) {
	ended, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
			}
			p, err := clients.Progress()
			if err != nil {
				return // who uses the swarm learns it, too
			}
			show(p)
		}
	}()
	return func() { close(ended); <-stopped }
}

// failures says why connections failed, the most frequent reason first.
func failures(p swarm.Progress) string {
	reasons := slices.SortedFunc(maps.Keys(p.Reasons), func(a, b string) int {
		if p.Reasons[a] != p.Reasons[b] {
			return p.Reasons[b] - p.Reasons[a]
		}
		return strings.Compare(a, b)
	})
	text := fmt.Sprintf("%d of %d connections failed", p.Failed+p.Closed, p.Started)
	for _, reason := range reasons {
		text += fmt.Sprintf("\n  %d × %s", p.Reasons[reason], reason)
	}
	return text
}

// cpu is the processor time of pid; 0 when pid is.
func cpu(pids ...int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		if pid == 0 {
			continue
		}
		used, err := account.CPU(pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// inFloors adds to section the row name, the ratio of the row of to the
// floor's value.
func inFloors(section *report.Section, name, of string, floor float64) {
	row := section.Row(of)
	if row == nil || floor <= 0 {
		return
	}
	for column, value := range row.Values {
		section.Set(column, name, report.Ratio, value/floor)
	}
}

// The part of a report about opening connections.
const (
	sectionOpening = "opening a connection"
	rowOpening     = "server CPU"
	rowOpeningF    = "  in floors"
)

// showOpening adds what it took to open the connections of p, and why some
// failed. before is the server's processor time at the start.
func showOpening(r *report.Report, t *target.Target, before time.Duration, p swarm.Progress) error {
	if p.Failed+p.Closed > 0 {
		r.Notes = append(r.Notes, t.Name+": "+failures(p))
	}
	section := r.Section(sectionOpening)
	section.Set(t.Name, "rate", report.PerSecond, float64(p.Connected)/p.Dialing.Seconds())
	if t.PID == 0 {
		return nil
	}
	after, err := cpu(t.PID)
	if err != nil {
		return err
	}
	section.Set(t.Name, rowOpening, report.Nanoseconds, float64(after-before)/float64(p.Connected))
	return nil
}

// openingRatios adds the ratio to the floor, which comes last.
func openingRatios(r *report.Report, floor float64) {
	section := r.Section(sectionOpening)
	inFloors(section, rowOpeningF, rowOpening, floor)
	section.Sort(rowOpening, rowOpeningF)
}
