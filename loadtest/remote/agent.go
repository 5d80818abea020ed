package remote

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"sync"

	"github.com/nats-io/nats.go"
)

// Options of an agent.
type Options struct {
	Name string
	// Spawn is a command that works on its standard input and output with a clock
	// that shows adjust nanoseconds more than the machine's.
	Spawn func(adjust int64) *exec.Cmd
	// Now is the clock of the machine, in nanoseconds.
	Now func() int64
	// Say tells a person what happens; nil: nobody.
	Say func(format string, args ...any)
}

// Serve starts workers when a relay asks for them, until ctx ends; then it ends
// those that run. Ready is called when others can find it.
func Serve(ctx context.Context, nc *nats.Conn, o Options, ready func(id string)) error {
	if o.Say == nil {
		o.Say = func(string, ...any) {}
	}
	a := &agent{Options: o, nc: nc, id: rand.Text()}
	tell := func(m *nats.Msg) {
		body, err := json.Marshal(Agent{ID: a.id, Name: a.Name, Now: a.Now()})
		if err == nil {
			err = m.Respond(body)
		}
		if err != nil {
			a.Say("an answer was not sent: %v", err)
		}
	}
	for subject, fn := range map[string]nats.MsgHandler{call: tell, start + a.id + ".clock": tell, start + a.id: func(m *nats.Msg) { a.start(ctx, m) }} {
		sub, err := nc.Subscribe(subject, fn)
		if err != nil {
			return fmt.Errorf("agent: %w", err)
		}
		defer func() { _ = sub.Unsubscribe() }()
	}
	if err := nc.Flush(); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	ready(a.id)
	<-ctx.Done()
	a.running.Wait()
	return nil
}

type agent struct {
	Options
	nc      *nats.Conn
	id      string
	running sync.WaitGroup
}

// start runs one worker. The answer is empty, or why there is none.
func (a *agent) start(ctx context.Context, m *nats.Msg) {
	w, err := a.open(m.Data)
	reason := []byte(nil)
	if err != nil {
		reason = []byte(err.Error())
		a.Say("no worker: %v", err)
	}
	if err := m.Respond(reason); err != nil {
		a.Say("an answer was not sent: %v", err)
	}
	if w != nil {
		a.running.Go(func() { a.run(ctx, w) })
	}
}

// worker is a process, and the pipes to it.
type worker struct {
	order
	cmd *exec.Cmd
	sub *nats.Subscription
	in  io.WriteCloser
	out io.Reader
}

func (a *agent) open(request []byte) (*worker, error) {
	w := new(worker)
	if err := json.Unmarshal(request, &w.order); err != nil || w.In == "" || w.Out == "" {
		return nil, fmt.Errorf("%.100q is no order (%w)", request, err)
	}
	w.cmd = a.Spawn(w.Adjust)
	var err error
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if w.out, err = w.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if w.sub, err = subscribe(a.nc, w.In); err != nil {
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		_ = w.sub.Unsubscribe()
		return nil, err
	}
	return w, nil
}

func (a *agent) run(ctx context.Context, w *worker) {
	a.Say("worker %d begins", w.cmd.Process.Pid)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go beat(ctx, a.nc, w.Out)
	go func() {
		// The end of its input ends the worker, and so does a parent that is gone.
		if err := receive(ctx, w.sub, w.in); err != nil && ctx.Err() == nil {
			a.Say("worker %d is left alone: %v", w.cmd.Process.Pid, err)
		}
		_ = w.in.Close()
	}()
	err := send(a.nc, w.Out, w.out)
	if wait := w.cmd.Wait(); err == nil {
		err = wait
	}
	_ = w.sub.Unsubscribe()
	a.Say("worker %d has ended (%v)", w.cmd.Process.Pid, err)
}
