// Package swarm opens many cheap client connections in processes of their own
// and checks what arrives on each: every message once, in order, how late.
package swarm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"nabat/loadtest/account"
)

// Options say what a swarm is to be.
type Options struct {
	// Spawn returns a command that runs Work on its standard input and output.
	// It is not started yet and its pipes are not set.
	Spawn func() *exec.Cmd
	// Target is a URL; see Resolve. Its path must be complete, and may be a
	// template; see Dialect.
	Target string
	Dialect
	// Spread says which rooms the clients are in.
	Spread Spread
	// Tokens are for the clients, one for each; empty: none.
	Tokens []string
	// Resume lets clients remember their positions for Redial. The dialect's
	// first opening message must be a connect command.
	Resume bool
	// SlowEvery makes one of so many clients able to stall. 0: none.
	SlowEvery int
	// SourceBlock chooses 127.0.SourceBlock.x for source addresses, so that
	// swarms do not compete for ports.
	SourceBlock int
	// Clients is the number of connections. At least 1.
	Clients int
	// Workers is the number of processes. 0: as few as descriptors allow.
	Workers int
	// Loops is the number of threads that serve connections in each worker. 0: 1.
	Loops int
	// Sources is the number of local addresses. 0: enough for Clients. Used
	// only towards loopback: 127.0.0.1 and the following ones.
	Sources int
	// Rate bounds the connections started per second. 0: no bound.
	Rate float64
	// InFlight bounds unfinished handshakes. 0: 256.
	InFlight int
	// Timeout is for one handshake. 0: 10 s.
	Timeout time.Duration
	// Nice lets the workers give way to others, as setpriority(2) has it: 0 to 19.
	Nice int
	// DescriptorLimit is what one process may open. 0: ask the system.
	DescriptorLimit int
}

const (
	ownDescriptors  = 64     // of a worker, beside its clients
	perSource       = 14_000 // clients per source address: half of the usual port range
	maxSources      = 250
	defaultInFlight = 256
	defaultTimeout  = 10 * time.Second
	stopTimeout     = 10 * time.Second
)

// Swarm is a set of worker processes. Methods are for one goroutine, but for
// Progress, which is safe from any.
type Swarm struct {
	workers []*process
	changed chan struct{} // capacity 1; never closed
	dials   int           // begun
}

// process is the parent's side of one worker.
type process struct {
	plan    *Plan
	command *exec.Cmd
	stdin   io.WriteCloser
	encoder *json.Encoder
	answers chan answer // begun and totals; never closed
	done    chan struct{}

	// mu guards progress, complete and err.
	mu       sync.Mutex
	progress Progress
	complete uint64
	err      error
}

// plan divides the clients among workers.
func plan(o *Options) ([]*Plan, error) {
	if o.Clients < 1 {
		return nil, fmt.Errorf("%d clients: at least 1", o.Clients)
	}
	if n := len(o.Tokens); n != 0 && n != o.Clients {
		return nil, fmt.Errorf("%d tokens for %d clients", n, o.Clients)
	}
	address, err := Resolve(o.Target)
	if err != nil {
		return nil, err
	}
	limit := o.DescriptorLimit
	if limit == 0 {
		if limit, err = account.DescriptorLimit(); err != nil {
			return nil, err
		}
	}
	room := limit - ownDescriptors
	if room < 1 {
		return nil, fmt.Errorf("a process may open only %d descriptors: at least %d are needed; raise the limit (ulimit -n)", limit, ownDescriptors+1)
	}
	workers := o.Workers
	if workers == 0 {
		workers = (o.Clients + room - 1) / room
	}
	workers = min(workers, o.Clients)
	if (o.Clients+workers-1)/workers > room {
		return nil, fmt.Errorf("%d clients in %d processes of at most %d descriptors: use at least %d workers", o.Clients, workers, limit, (o.Clients+room-1)/room)
	}
	sources, err := sourceAddresses(address.IP, o)
	if err != nil {
		return nil, err
	}
	plans := make([]*Plan, workers)
	for i := range plans {
		first := o.Clients * i / workers
		plans[i] = &Plan{
			Host: address.Host, IP: address.IP, Port: address.Port, Path: address.Path, TLS: address.TLS, Dialect: o.Dialect,
			Spread: o.Spread.complete(), Resume: o.Resume, SlowEvery: o.SlowEvery, First: first,
			Clients: share(o.Clients, workers, i), Loops: o.Loops, Sources: sources,
			Rate: o.Rate / float64(workers), InFlight: max(orDefault(o.InFlight, defaultInFlight)/workers, 1),
			Timeout: orDefault(o.Timeout, defaultTimeout), Nice: o.Nice,
		}
		if len(o.Tokens) > 0 {
			plans[i].Tokens = o.Tokens[first : first+plans[i].Clients]
		}
	}
	return plans, nil
}

func orDefault[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// sourceAddresses gets round the number of ports: a port may be used once
// with each local address.
func sourceAddresses(target net.IP, o *Options) ([]net.IP, error) {
	four := target.To4()
	if four == nil || !four.IsLoopback() {
		if o.Sources > 1 {
			return nil, fmt.Errorf("%d source addresses: only towards 127.0.0.0/8, and the target is %s", o.Sources, target)
		}
		return nil, nil
	}
	n := orDefault(o.Sources, (o.Clients+perSource-1)/perSource)
	if n > maxSources {
		return nil, fmt.Errorf("%d source addresses: at most %d", n, maxSources)
	}
	list := make([]net.IP, n)
	for i := range list {
		list[i] = net.IPv4(127, 0, byte(o.SourceBlock), byte(1+i))
	}
	return list, nil
}

// Start checks the options and starts the worker processes. The caller must
// Close the swarm. The processes end with this one at the latest.
func Start(o Options) (*Swarm, error) {
	plans, err := plan(&o)
	if err != nil {
		return nil, err
	}
	s := &Swarm{changed: make(chan struct{}, 1)}
	for _, plan := range plans {
		p, err := s.spawn(o.Spawn(), plan)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.workers = append(s.workers, p)
	}
	return s, nil
}

func (s *Swarm) spawn(cmd *exec.Cmd, plan *Plan) (*process, error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start a swarm worker: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start a swarm worker: %w", err)
	}
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a swarm worker: %w", err)
	}
	p := &process{plan: plan, command: cmd, stdin: stdin, encoder: json.NewEncoder(stdin), answers: make(chan answer, 4), done: make(chan struct{})}
	go s.read(p, stdout)
	return p, nil
}

// read is the goroutine that takes the answers of p; it ends with the process.
func (s *Swarm) read(p *process, stdout io.Reader) {
	defer close(p.done)
	scan := bufio.NewScanner(stdout)
	scan.Buffer(nil, 16<<20)
	for scan.Scan() {
		var a answer
		if err := json.Unmarshal(scan.Bytes(), &a); err != nil {
			a = answer{Error: fmt.Sprintf("answer %q: %v", clip(scan.Text(), 60), err)}
		}
		p.mu.Lock()
		switch {
		case a.Begun != nil:
			p.complete = 0 // what came before was of the run before
		case a.Progress != nil:
			p.progress = *a.Progress
		case a.Complete != nil:
			p.complete = max(p.complete, *a.Complete)
		case a.Error != "" && p.err == nil:
			p.err = errors.New("swarm worker: " + a.Error)
		}
		p.mu.Unlock()
		if a.Begun != nil || a.Totals != nil {
			p.answers <- a // at most one is outstanding
		}
		s.signal()
	}
	err := p.command.Wait()
	p.mu.Lock()
	if p.err == nil {
		p.err = fmt.Errorf("swarm worker: it ended (%w)", errors.Join(err, io.ErrUnexpectedEOF))
	}
	p.mu.Unlock()
	s.signal()
}

func (s *Swarm) signal() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Progress adds up how the workers stand, at most a tenth of a second old.
func (s *Swarm) Progress() (Progress, error) {
	var sum Progress
	for _, p := range s.workers {
		p.mu.Lock()
		sum.add(p.progress)
		err := p.err
		p.mu.Unlock()
		if err != nil {
			return sum, err
		}
	}
	return sum, nil
}

// PIDs are the worker processes.
func (s *Swarm) PIDs() []int {
	list := make([]int, len(s.workers))
	for i, p := range s.workers {
		list[i] = p.command.Process.Pid
	}
	return list
}

// wait returns when ready says so; it is asked after every change.
func (s *Swarm) wait(ctx context.Context, ready func(p *process) bool) error {
	for {
		all := true
		for _, p := range s.workers {
			p.mu.Lock()
			err := p.err
			all = all && ready(p)
			p.mu.Unlock()
			if err != nil {
				return err
			}
		}
		if all {
			return nil
		}
		select {
		case <-s.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Dial opens all connections and returns when each is open or has failed.
// Failures are in the progress, not in the error.
func (s *Swarm) Dial(ctx context.Context) (Progress, error) {
	for _, p := range s.workers {
		if err := p.encoder.Encode(command{Dial: p.plan}); err != nil {
			return Progress{}, fmt.Errorf("swarm worker: %w", err)
		}
	}
	return s.dialed(ctx, 1)
}

// dialed waits for the end of the dial of that number.
func (s *Swarm) dialed(ctx context.Context, number int) (Progress, error) {
	s.dials = number
	err := s.wait(ctx, func(p *process) bool {
		return p.progress.Dials == number && p.progress.Connected+p.progress.Failed+p.progress.Closed == p.plan.Clients
	})
	progress, failed := s.Progress()
	return progress, errors.Join(err, failed)
}

// Redial connects the clients whose connection has ended to another server,
// all at once, and returns when each is open or has failed. The progress counts
// from here on.
func (s *Swarm) Redial(ctx context.Context, target string) (Progress, error) {
	address, err := Resolve(target)
	if err != nil {
		return Progress{}, err
	}
	if err := s.tell(command{Redial: &Redial{Host: address.Host, IP: address.IP, Port: address.Port}}); err != nil {
		return Progress{}, err
	}
	return s.dialed(ctx, s.dials+1)
}

// Stall lets the slow clients read no more, or go on.
func (s *Swarm) Stall(yes bool) error { return s.tell(command{Stall: &yes}) }

// tell sends one command that has no answer to every worker.
func (s *Swarm) tell(c command) error {
	for _, p := range s.workers {
		if err := p.encoder.Encode(c); err != nil {
			return fmt.Errorf("swarm worker: %w", err)
		}
	}
	return nil
}

// ask sends one command to every worker and collects the answers.
func (s *Swarm) ask(ctx context.Context, c command) ([]answer, error) {
	if err := s.tell(c); err != nil {
		return nil, err
	}
	list := make([]answer, len(s.workers))
	for i, p := range s.workers {
		select {
		case list[i] = <-p.answers:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-p.done:
			_, err := s.Progress()
			return nil, err
		}
	}
	return list, nil
}

// Begin starts run number n, not 0: only its messages count from now on. It
// returns how many clients take part, counted once for each of their rooms.
func (s *Swarm) Begin(ctx context.Context, n uint32) (int, error) {
	answers, err := s.ask(ctx, command{Begin: &n})
	if err != nil {
		return 0, fmt.Errorf("begin a run: %w", err)
	}
	clients := 0
	for _, a := range answers {
		if a.Begun == nil {
			return 0, errors.New("swarm worker: it answered a begin with something else")
		}
		clients += *a.Begun
	}
	return clients, nil
}

// Wait returns when all clients together have received as much as the first
// messages of each room come to, which without loss means: each has them.
func (s *Swarm) Wait(ctx context.Context, messages uint64) error {
	return s.wait(ctx, func(p *process) bool { return p.complete >= messages })
}

// Finish counts a run in which total messages were sent to each room. It can
// be called again.
func (s *Swarm) Finish(ctx context.Context, total uint64) (*Totals, error) {
	answers, err := s.ask(ctx, command{Finish: &total})
	if err != nil {
		return nil, fmt.Errorf("finish a run: %w", err)
	}
	var sum Totals
	for _, a := range answers {
		if a.Totals == nil {
			return nil, errors.New("swarm worker: it answered a finish with something else")
		}
		if err := sum.Add(a.Totals); err != nil {
			return nil, err
		}
	}
	return &sum, nil
}

// Close resets all connections and waits for the workers to end.
func (s *Swarm) Close() error {
	var err error
	for _, p := range s.workers {
		_ = p.stdin.Close()
	}
	deadline := time.After(stopTimeout)
	for _, p := range s.workers {
		select {
		case <-p.done:
		case <-deadline:
			err = errors.Join(err, fmt.Errorf("swarm worker %d did not end within %s", p.command.Process.Pid, stopTimeout), p.command.Process.Kill())
			<-p.done
		}
	}
	return err
}
