package swarm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// command is one line from the parent to a worker; one field is set.
type command struct {
	Dial   *Plan   `json:"dial,omitempty"`
	Begin  *uint32 `json:"begin,omitempty"`  // a run by its number; answered by begun
	Finish *uint64 `json:"finish,omitempty"` // messages sent in the run; answered by totals
	Redial *Redial `json:"redial,omitempty"`
	Stall  *bool   `json:"stall,omitempty"`
}

// answer is one line from a worker to its parent; one field is set.
type answer struct {
	Progress *Progress `json:"progress,omitempty"`
	Begun    *int      `json:"begun,omitempty"`    // clients in the run, once for each of their rooms
	Complete *uint64   `json:"complete,omitempty"` // messages of the run that all clients have
	Totals   *Totals   `json:"totals,omitempty"`
	Error    string    `json:"error,omitempty"` // the worker ends
}

// maxCommand bounds a line to a worker, in bytes: a plan may hold a token for
// each client.
const maxCommand = 64 << 20

// progressEvery is how often a worker tells how it stands, if that changed.
const progressEvery = 100 * time.Millisecond

// worker is one process of a swarm.
type worker struct {
	loops []*loop
	tally tally

	// mu guards out.
	mu  sync.Mutex
	out *json.Encoder
}

// Work is a worker process: it obeys the commands that come in on in, one JSON
// object a line, and answers on out. It returns when in ends or ctx is done,
// after closing all its connections.
func Work(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &worker{out: json.NewEncoder(out)}
	w.tally.complete = func(messages uint64) { w.say(answer{Complete: &messages}) }
	var running sync.WaitGroup
	lines := make(chan []byte)
	go func() { // ends with in, which the parent holds open
		scan := bufio.NewScanner(in)
		scan.Buffer(nil, maxCommand)
		for scan.Scan() {
			select {
			case lines <- append([]byte(nil), scan.Bytes()...):
			case <-ctx.Done():
				return
			}
		}
		cancel(nil)
	}()
	err := w.serve(ctx, cancel, lines, &running)
	cancel(err)
	running.Wait()
	if cause := context.Cause(ctx); err == nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	if err != nil {
		w.say(answer{Error: err.Error()})
	}
	return err
}

func (w *worker) serve(ctx context.Context, fail context.CancelCauseFunc, lines <-chan []byte, running *sync.WaitGroup) error {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	var last Progress
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if now := w.progress(ctx); !reflect.DeepEqual(now, last) && ctx.Err() == nil {
				last = now
				w.say(answer{Progress: &now})
			}
		case line := <-lines:
			var c command
			if err := json.Unmarshal(line, &c); err != nil {
				return fmt.Errorf("command %q: %w", clip(string(line), 60), err)
			}
			if err := w.obey(ctx, fail, &c, running); err != nil {
				return err
			}
		}
	}
}

func (w *worker) obey(ctx context.Context, fail context.CancelCauseFunc, c *command, running *sync.WaitGroup) error {
	switch {
	case c.Dial != nil:
		return w.dial(ctx, fail, c.Dial, running)
	case c.Begin != nil:
		clients := 0
		for _, n := range collect(ctx, w.loops, func(l *loop) int { return l.begin(*c.Begin) }) {
			clients += n
		}
		w.tally.received.Store(0)
		w.tally.members.Store(int64(clients))
		w.say(answer{Begun: &clients})
	case c.Redial != nil:
		collect(ctx, w.loops, func(l *loop) bool { l.redial(c.Redial); return true })
	case c.Stall != nil:
		collect(ctx, w.loops, func(l *loop) bool { l.stall(*c.Stall); return true })
	case c.Finish != nil:
		var sum Totals
		for _, part := range collect(ctx, w.loops, func(l *loop) Totals { return l.finish(*c.Finish) }) {
			if err := sum.Add(&part); err != nil {
				return err
			}
		}
		if err := sum.seal(); err != nil {
			return err
		}
		w.say(answer{Totals: &sum})
	}
	return nil
}

// dial starts the loops, each with its share of the clients and of the pace.
func (w *worker) dial(ctx context.Context, fail context.CancelCauseFunc, plan *Plan, running *sync.WaitGroup) error {
	if w.loops != nil {
		return errors.New("a second dial command")
	}
	if err := giveWay(plan.Nice); err != nil {
		return err
	}
	n := min(max(plan.Loops, 1), plan.Clients)
	for i := range n {
		p := pace{inFlight: max(plan.InFlight/n, 1)}
		if plan.Rate > 0 {
			p.interval = int64(float64(time.Second) * float64(n) / plan.Rate)
		}
		l, err := newLoop(plan, plan.First+plan.Clients*i/n, share(plan.Clients, n, i), p, &w.tally)
		if err != nil {
			return err
		}
		w.loops = append(w.loops, l)
		running.Go(func() {
			if err := l.run(ctx); err != nil {
				fail(err)
			}
		})
	}
	return nil
}

// giveWay lowers the priority of this process: of each of its threads, for Linux
// has no other. Threads that begin later have it from those that began them.
func giveWay(nice int) error {
	if nice == 0 {
		return nil
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("priority: %w", err)
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err == nil {
			err = unix.Setpriority(unix.PRIO_PROCESS, id, nice)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("priority %d: %w", nice, err)
		}
	}
	return nil
}

// share is part i of n nearly equal parts of total.
func share(total, n, i int) int { return total*(i+1)/n - total*i/n }

// collect runs fn on every loop, one after the other, and returns what it
// gave; less when ctx ends first.
func collect[T any](ctx context.Context, loops []*loop, fn func(*loop) T) []T {
	var list []T
	for _, l := range loops {
		result := make(chan T, 1)
		l.post(func() { result <- fn(l) })
		select {
		case one := <-result:
			list = append(list, one)
		case <-ctx.Done():
			return list
		}
	}
	return list
}

func (w *worker) progress(ctx context.Context) Progress {
	var sum Progress
	for _, part := range collect(ctx, w.loops, (*loop).progress) {
		sum.add(part)
	}
	sum.Received = w.tally.received.Load()
	return sum
}

// say writes one line. Safe from any goroutine. A parent that is gone is
// noticed at the end of in.
func (w *worker) say(a answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.out.Encode(a)
}
