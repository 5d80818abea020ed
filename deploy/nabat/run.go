package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"nabat/edge"
	"nabat/internal/ops"
)

// program is an edge or a control.
type program interface {
	Run(ctx context.Context) error // until ctx ends, then gracefully to the end
	Ready() error
	Addr() string
}

// unit is a program that runs. Its methods are for one goroutine.
type unit struct {
	program
	name string
	stop context.CancelFunc
	done chan struct{} // closed when Run has returned, after err is set
	err  error
}

// launch runs p. When it ends without having been stopped, failed gets why.
func launch(name string, p program, failed chan<- error) *unit {
	ctx, cancel := context.WithCancel(context.Background())
	u := &unit{program: p, name: name, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(u.done)
		u.err = p.Run(ctx)
		if ctx.Err() != nil {
			return
		}
		if u.err == nil {
			u.err = errors.New("ended by itself")
		}
		select {
		case failed <- fmt.Errorf("%s: %w", name, u.err):
		default: // one reason is enough
		}
	}()
	return u
}

// stopAll stops units together and waits for them; hurry makes them skip what
// they do for their clients' comfort.
func stopAll(units []*unit, hurry <-chan struct{}) error {
	for _, u := range units {
		u.stop()
	}
	var errs []error
	for _, u := range units {
		select {
		case <-u.done:
		case <-hurry:
			if h, ok := u.program.(interface{ Hurry() }); ok {
				h.Hurry()
			}
			<-u.done
		}
		if u.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", u.name, u.err))
		}
	}
	return errors.Join(errs...)
}

// signals turns SIGINT and SIGTERM into words: the first closes stop, as the
// end of ctx does, the second hurry; a third ends the process on the spot.
func signals(ctx context.Context) (stop, hurry <-chan struct{}, release func()) {
	first, second := make(chan struct{}), make(chan struct{})
	caught := make(chan os.Signal, 2)
	signal.Notify(caught, os.Interrupt, syscall.SIGTERM)
	quit := make(chan struct{})
	go func() {
		select {
		case <-caught:
		case <-ctx.Done():
		case <-quit:
			return
		}
		close(first)
		select {
		case <-caught:
			close(second)
			signal.Stop(caught)
		case <-quit:
		}
	}()
	var once sync.Once
	return first, second, func() { once.Do(func() { signal.Stop(caught); close(quit) }) }
}

// host is what a command gives its programs: a log, a registry, and an
// operations port when there is an address for it.
type host struct {
	log      *slog.Logger
	registry *prometheus.Registry
	ops      *ops.Server
	failed   chan error // why a unit ended that was not stopped
	units    atomic.Pointer[[]*unit]

	stopOps context.CancelFunc
	opsDone chan error
}

func (a *app) newHost(level, format, listen string) (*host, error) {
	log, err := ops.NewLogger(a.stderr, level, format)
	if err != nil {
		return nil, err
	}
	h := &host{log: log, registry: ops.NewRegistry(), failed: make(chan error, 1)}
	if listen == "" {
		return h, nil
	}
	h.ops, err = ops.New(ops.Options{Listen: listen, Registry: h.registry, Ready: h.ready, Degraded: h.degraded, Log: log})
	if err != nil {
		return nil, takenPort(err, "ops-listen", listen)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.stopOps, h.opsDone = cancel, make(chan error, 1)
	go func() { h.opsDone <- h.ops.Run(ctx) }()
	return h, nil
}

// ready joins what the units say. Safe from any goroutine.
func (h *host) ready() error {
	units := h.units.Load()
	if units == nil {
		return errors.New("starting")
	}
	var errs []error
	for _, u := range *units {
		errs = append(errs, u.Ready())
	}
	return errors.Join(errs...)
}

// degraded joins what the units say that can be degraded. Safe from any
// goroutine.
func (h *host) degraded() error {
	units := h.units.Load()
	if units == nil {
		return nil
	}
	var errs []error
	for _, u := range *units {
		if d, ok := u.program.(interface{ Degraded() error }); ok {
			errs = append(errs, d.Degraded())
		}
	}
	return errors.Join(errs...)
}

// close ends the operations port, which lives longest.
func (h *host) close() error {
	if h.ops == nil {
		return nil
	}
	h.stopOps()
	return <-h.opsDone
}

// takenPort explains a taken port by the flag that chose it.
func takenPort(err error, flag, listen string) error {
	if e, ok := errors.AsType[*edge.ListenError](err); ok && e.Setting != "listen" {
		flag, listen = strings.ReplaceAll(e.Setting, "_", "-"), e.Address
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("--%s %s: the port is taken: stop what listens there, or give another address (port 0 picks a free one)", flag, listen)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("--%s %s: this user may not listen there: give a port above 1023", flag, listen)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("--%s %s: this machine has no such address", flag, listen)
	}
	return err
}

// runOne is the life of a process with one program: nabat edge, nabat control.
func (a *app) runOne(cmd *cobra.Command, s *settings, level, format, opsListen, listen string,
	build func(*slog.Logger, *prometheus.Registry) (program, error)) error {
	stop, hurry, release := signals(cmd.Context())
	defer release()
	h, err := a.newHost(level, format, opsListen)
	if err != nil {
		return err
	}
	s.logTo(h.log)
	p, err := untilStopped(stop, func() (program, error) { return build(h.log, h.registry) })
	if p == nil || err != nil {
		return errors.Join(takenPort(err, "listen", listen), h.close())
	}
	units := []*unit{launch(cmd.Name(), p, h.failed)}
	h.units.Store(&units)
	select {
	case err = <-h.failed:
		return errors.Join(err, h.close())
	case <-stop:
	}
	return errors.Join(stopAll(units, hurry), h.close())
}

// untilStopped waits for build, which waits for NATS, or for stop: then it
// returns nil and no error, and the process ends before build does.
func untilStopped(stop <-chan struct{}, build func() (program, error)) (program, error) {
	type result struct {
		program
		err error
	}
	built := make(chan result, 1)
	go func() {
		p, err := build()
		built <- result{p, err}
	}()
	select {
	case r := <-built:
		return r.program, r.err
	case <-stop:
		return nil, nil
	}
}
