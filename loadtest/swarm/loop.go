package swarm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// state is how far one client is.
type state uint8

const (
	idle       state = iota
	connecting       // connect(2) is under way
	upgrading        // the request is sent
	greeting         // 101 has come, the first frame has not
	open
	ended
)

// client is one connection.
type client struct {
	fd     int
	state  state
	member bool   // was open when the run began
	since  int64  // Now() at the start, for the handshake's deadline
	rest   []byte // an unfinished head or frame; nil in the steady state
	order  Order
}

// wakeIndex stands in an event's data where others have a client's index.
const wakeIndex = -1

// tally counts the receptions of all loops of one process, to notice when
// every client has everything that was sent so far.
type tally struct {
	members  atomic.Int64
	received atomic.Uint64
	complete func(messages uint64) // called by the loop that made it so
}

// add counts n receptions of the current run.
func (t *tally) add(n uint64) {
	members := uint64(t.members.Load())
	if now := t.received.Add(n); members > 0 && now/members != (now-n)/members {
		t.complete(now / members)
	}
}

// loop is one epoll instance with its share of the clients.
// All methods must be called on its goroutine, run, unless they say otherwise.
type loop struct {
	// Set at creation, never changed.
	plan    *Plan
	request []byte
	sources []unix.Sockaddr
	target  unix.Sockaddr
	epoll   int
	wake    int // eventfd
	tally   *tally

	// Owned by run.
	pace    pace
	clients []client
	next    int // clients before it were started
	oldest  int // clients before it have left the handshake
	pending int // handshakes under way
	buffer  []byte
	stand   Progress
	number  uint32 // the run whose messages count; 0: none
	totals  Totals
	fresh   uint64 // receptions since the tally was told
	ended   bool

	// mu guards tasks.
	mu    sync.Mutex
	tasks []func()
}

// readBuffer is what one read may bring, in bytes.
const readBuffer = 64 << 10

func newLoop(plan *Plan, clients int, p pace, t *tally) (*loop, error) {
	l := &loop{
		plan: plan, pace: p, request: request(plan.Host, plan.Path), target: sockaddr(plan.IP, plan.Port), tally: t,
		clients: make([]client, clients), buffer: make([]byte, readBuffer), stand: Progress{Reasons: make(map[string]int)},
	}
	for _, source := range plan.Sources {
		l.sources = append(l.sources, sockaddr(source, 0))
	}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		_ = unix.Close(l.epoll)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: wakeIndex}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, l.wake, &event); err != nil {
		_, _ = unix.Close(l.epoll), unix.Close(l.wake)
		return nil, fmt.Errorf("epoll_ctl: %w", err)
	}
	return l, nil
}

// post runs fn on the loop. Safe from any goroutine.
func (l *loop) post(fn func()) {
	l.mu.Lock()
	l.tasks = append(l.tasks, fn)
	l.mu.Unlock()
	one := []byte{1, 0, 0, 0, 0, 0, 0, 0}
	_, _ = unix.Write(l.wake, one) // EAGAIN: it is awake already
}

// run is the loop's goroutine. It ends with ctx, after closing everything.
func (l *loop) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { l.post(func() { l.ended = true }) })
	defer stop()
	defer l.close()
	events := make([]unix.EpollEvent, 1024)
	for !l.ended {
		n, err := unix.EpollWait(l.epoll, events, l.dial())
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll_wait: %w", err)
		}
		for _, event := range events[:max(n, 0)] {
			if event.Fd == wakeIndex {
				l.runTasks()
				continue
			}
			l.handle(&l.clients[event.Fd], event.Events)
		}
		if l.fresh > 0 {
			l.tally.add(l.fresh)
			l.fresh = 0
		}
	}
	return nil
}

func (l *loop) runTasks() {
	var eight [8]byte
	_, _ = unix.Read(l.wake, eight[:])
	l.mu.Lock()
	tasks := l.tasks
	l.tasks = nil
	l.mu.Unlock()
	for _, task := range tasks {
		task()
	}
}

func (l *loop) close() {
	for i := range l.clients {
		if c := &l.clients[i]; c.state != idle && c.state != ended {
			_ = unix.Close(c.fd) // with SO_LINGER 0: a reset, no TIME_WAIT
			c.state = ended
		}
	}
	l.stand.Connected = 0
	_, _ = unix.Close(l.epoll), unix.Close(l.wake)
}

// handle is called for each event of c.
func (l *loop) handle(c *client, events uint32) {
	if c.state == connecting && events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		l.connect(c)
		return
	}
	if c.state == idle || c.state == ended {
		return
	}
	// Edge-triggered: read until the buffer was not filled.
	for c.state != ended {
		n, err := unix.Read(c.fd, l.buffer)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECONNRESET):
			l.end(c, l.eof(c)+" (reset)")
			return
		case err != nil:
			l.end(c, "broken: "+err.Error())
			return
		case n == 0:
			l.end(c, l.eof(c))
			return
		}
		l.stand.Bytes += uint64(n)
		l.totals.Reads++
		if err := l.take(c, l.buffer[:n]); err != nil {
			l.end(c, err.Error())
			return
		}
		if n < len(l.buffer) && events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
			return
		}
	}
}

func (l *loop) eof(c *client) string {
	switch {
	case c.state == upgrading && len(c.rest) == 0:
		return "the target closed the connection without an answer"
	case c.state == upgrading:
		return fmt.Sprintf("the target closed the connection inside its answer: %q", clip(string(c.rest), 60))
	case c.state == greeting:
		return "the target closed the connection after 101, before its first message"
	}
	return "closed by the server without a close frame"
}

// take consumes what one read brought.
func (l *loop) take(c *client, in []byte) error {
	if len(c.rest) > 0 {
		c.rest = append(c.rest, in...)
		in = c.rest
	}
	if c.state == upgrading {
		rest, complete, err := readHead(in)
		if err != nil {
			return err
		}
		if !complete {
			c.keep(in)
			return nil
		}
		in = rest
		if c.state = greeting; l.plan.Greeting == "" {
			l.opened(c)
		}
	}
	var arrival int64
	for len(in) > 0 {
		f, rest, complete, err := nextFrame(in)
		if err != nil {
			return err
		}
		if !complete {
			break
		}
		if arrival == 0 {
			arrival = Now()
		}
		if err := l.frame(c, f, len(in)-len(rest), arrival); err != nil {
			return err
		}
		in = rest
	}
	c.keep(in)
	return nil
}

// keep stores what is not complete yet; in may be part of c.rest.
func (c *client) keep(in []byte) {
	if len(in) == 0 {
		c.rest = nil
		return
	}
	c.rest = append(c.rest[:0:0], in...)
}

// end closes c and counts why.
func (l *loop) end(c *client, reason string) {
	if c.state == open {
		l.stand.Connected--
		l.stand.Closed++
	} else {
		l.pending--
		l.stand.Failed++
	}
	l.count(reason)
	_ = unix.Close(c.fd)
	c.state, c.rest = ended, nil
}

// maxReasons bounds the table of reasons; the rest is counted together.
const maxReasons = 32

func (l *loop) count(reason string) {
	if _, known := l.stand.Reasons[reason]; !known && len(l.stand.Reasons) >= maxReasons {
		reason = "other reasons"
	}
	l.stand.Reasons[reason]++
}

// progress returns a copy of how the loop stands.
func (l *loop) progress() Progress {
	p := l.stand
	p.Reasons = maps.Clone(p.Reasons)
	return p
}

// begin starts run number n: messages of other runs are strays from now on.
// It returns how many clients take part.
func (l *loop) begin(n uint32) int {
	histogram := l.totals.histogram
	if histogram == nil {
		histogram = newHistogram()
	}
	histogram.Reset()
	l.number, l.fresh = n, 0
	l.totals = Totals{histogram: histogram}
	for i := range l.clients {
		c := &l.clients[i]
		if c.order, c.member = (Order{}), c.state == open; c.member {
			l.totals.Clients++
		}
	}
	return l.totals.Clients
}

// finish completes the counts of a run in which total messages were sent.
// The result is the caller's; its histogram is a copy.
func (l *loop) finish(total uint64) Totals {
	result := l.totals
	for i := range l.clients {
		if c := &l.clients[i]; c.member {
			result.Missing += c.order.Missing(total)
		}
	}
	result.histogram = newHistogram()
	if l.totals.histogram != nil {
		result.histogram.Merge(l.totals.histogram)
	}
	return result
}
