package swarm

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// state is how far one client is.
type state uint8

const (
	idle       state = iota
	connecting       // connect(2) is under way
	securing         // so is the TLS handshake
	upgrading        // the request is sent
	greeting         // 101 has come, the first frame has not
	open
	ended
)

// client is one connection.
type client struct {
	fd     int
	state  state
	member bool       // was open when the run began
	steps  uint16     // opening messages that it has sent, and greetings that it has got, when every room has one
	number int32      // in the swarm
	since  int64      // Now() at the start, for the handshake's deadline
	rest   []byte     // an unfinished head or frame; nil in the steady state
	order  Order      // of its first room
	orders []Order    // of the others; nil when it has one room
	tls    *secure    // nil without TLS
	at     []position // by room, when it resumes; nil otherwise
	gone   int64      // Now() at the end of its last connection, when it resumes
}

// in is the order of messages in one of the client's rooms.
func (c *client) in(slot int) *Order {
	if slot == 0 {
		return &c.order
	}
	return &c.orders[slot-1]
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
	sources []unix.Sockaddr
	epoll   int
	wake    int // eventfd
	tally   *tally
	tls     *tls.Config // nil without TLS
	shaking sync.WaitGroup

	// Owned by run; changed by redial.
	target  unix.Sockaddr
	host    string
	request []byte // the same for all clients; nil: each has its own

	// Owned by run.
	pace     pace
	clients  []client
	next     int // clients before it were started
	oldest   int // clients before it have left the handshake
	pending  int // handshakes under way
	buffer   []byte
	stand    Progress
	number   uint32 // the run whose messages count; 0: none
	totals   Totals
	fresh    uint64 // receptions since the tally was told
	stalling bool   // slow clients do not read
	ended    bool

	// mu guards tasks.
	mu    sync.Mutex
	tasks []func()
}

// readBuffer is what one read may bring, in bytes.
const readBuffer = 64 << 10

func newLoop(plan *Plan, first, clients int, p pace, t *tally) (*loop, error) {
	l := &loop{
		plan: plan, pace: p, tally: t,
		clients: make([]client, clients), buffer: make([]byte, readBuffer), stand: Progress{Dials: 1, Reasons: make(map[string]int)},
	}
	l.aim(plan.Host, plan.IP, plan.Port)
	if plan.TLS {
		l.tls = clientConfig()
	}
	for i := range l.clients {
		l.clients[i].number, l.clients[i].fd = int32(first+i), -1
	}
	if more := plan.Spread.Each - 1; more > 0 {
		orders := make([]Order, more*clients)
		for i := range l.clients {
			l.clients[i].orders = orders[i*more : (i+1)*more : (i+1)*more]
		}
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

// aim says where the next connections go.
func (l *loop) aim(host string, ip net.IP, port int) {
	l.host, l.target = host, sockaddr(ip, port)
	if l.plan.Tokens == nil && l.plan.Spread.same() {
		l.request = l.plan.requestOf(l.host, l.plan.First)
	}
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
		if c := &l.clients[i]; c.state == idle || c.state == ended {
			c.fd = -1
		} else if c.state == securing {
			close(c.tls.wire.gone)
		}
	}
	l.shaking.Wait()
	for i := range l.clients {
		if fd := l.clients[i].fd; fd >= 0 {
			_ = unix.Close(fd) // with SO_LINGER 0: a reset, no TIME_WAIT
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
	switch {
	case c.state == idle || c.state == ended:
		return
	case c.state == securing:
		c.tls.wire.event()
		return
	case l.stalling && l.plan.slow(c):
		return
	}
	// Edge-triggered: read until the buffer was not filled.
	for c.state != ended {
		n, err := c.read(l.buffer)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECONNRESET):
			l.end(c, c.eof()+" (reset)")
			return
		case err != nil:
			l.end(c, "broken: "+err.Error())
			return
		case n == 0:
			l.end(c, c.eof())
			return
		}
		l.stand.Bytes += uint64(n)
		l.totals.Reads++
		if err := l.take(c, l.buffer[:n]); err != nil {
			l.end(c, err.Error())
			return
		}
		if n < len(l.buffer) && c.tls == nil && events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
			return
		}
	}
}

// read takes what c's socket holds; unix.EAGAIN when that is nothing.
func (c *client) read(buffer []byte) (int, error) {
	if c.tls == nil {
		return unix.Read(c.fd, buffer)
	}
	n, err := c.tls.conn.Read(buffer)
	switch {
	case n > 0:
		return n, nil
	case errors.Is(err, errNothing):
		return 0, unix.EAGAIN
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return 0, nil
	}
	return 0, err
}

// send writes to c's socket. A socket too full for a few bytes is a broken
// client.
func (c *client) send(data []byte) error {
	var n int
	var err error
	if c.tls != nil {
		n, err = c.tls.conn.Write(data)
	} else {
		n, err = unix.Write(c.fd, data)
	}
	if err != nil || n < len(data) {
		return fmt.Errorf("%d of %d bytes were taken: %w", n, len(data), err)
	}
	return nil
}

func (c *client) eof() string {
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
		rest, complete, err := readHead(in, l.plan.Events)
		if err != nil {
			return err
		}
		if !complete {
			c.keep(in)
			return nil
		}
		in = rest
		if err := l.welcome(c); err != nil {
			return err
		}
	}
	if l.plan.Events {
		return l.events(c, in)
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
	l.stand.count(reason)
	if c.state == securing {
		close(c.tls.wire.gone) // shaken closes the descriptor
	} else {
		_ = unix.Close(c.fd)
	}
	c.state, c.rest, c.tls, c.gone = ended, nil, nil, Now()
}

// maxReasons bounds the table of reasons; the rest is counted together.
const maxReasons = 32

func (p *Progress) count(reason string) {
	if _, known := p.Reasons[reason]; !known && len(p.Reasons) >= maxReasons {
		reason = "other reasons"
	}
	p.Reasons[reason]++
}

// progress returns a copy of how the loop stands.
func (l *loop) progress() Progress {
	p := l.stand
	p.Reasons = maps.Clone(p.Reasons)
	return p
}
