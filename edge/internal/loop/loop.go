// Package loop runs connections on one goroutine: their events, tasks posted by
// others, their deadlines, and one flush at the end of each turn.
//
// easygo's netpoll.Epoll owns the goroutine: it waits, and calls every callback
// on it. It knows only four descriptors: an eventfd (posts), a timerfd (the
// wheel), the listening socket, and a second epoll descriptor that holds the
// connections. Nesting keeps connections out of easygo's callback map, which
// costs about 100 B for each and a lock for each event; the inner events carry
// (slot, generation), so an event that was already under way when its
// connection closed finds another generation and is ignored.
package loop

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mailru/easygo/netpoll"
	"golang.org/x/sys/unix"
)

// ErrClosed is returned by Post and Add once the loop has stopped.
var ErrClosed = errors.New("loop: closed")

const (
	// ReadBufferBytes is the size of the one read buffer of a loop.
	ReadBufferBytes = 64 << 10

	maxEventsPerTurn = 512
	// Not EPOLLOUT: a new socket is writable, and would wake the loop to say so.
	connectionEvents = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET
)

// Events says what the kernel reported of a descriptor. They are hints: after
// one the handler reads or writes until the kernel says EAGAIN.
type Events uint32

// Readable reports input, end of input or an error to be read.
func (e Events) Readable() bool {
	return e&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
}

// Writable reports room in the send buffer, or an error to be seen by a write.
func (e Events) Writable() bool { return e&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 }

// Gone reports that the connection is dead in both directions.
func (e Events) Gone() bool { return e&(unix.EPOLLHUP|unix.EPOLLERR) != 0 }

// input is what Again hands to a handler: go on reading, up to EAGAIN, because
// the edge that reported the end of input may be spent.
const input Events = unix.EPOLLIN | unix.EPOLLRDHUP

// Ref names a connection on its loop. A slot is used again by later
// connections; the generation tells them apart.
type Ref struct{ Slot, Generation uint32 }

// Handler is what the loop calls for one connection, always on the loop.
type Handler interface {
	// Ready reports events.
	Ready(ev Events)
	// Wake reports that the time asked for with WakeIn has come.
	Wake()
}

// Turn is called once at the end of each turn, after events and posted tasks:
// the moment to write what the turn collected.
type Turn interface{ EndTurn() }

// Options of a loop.
type Options struct {
	// OnError hears of an error that stopped the loop. What was posted and has
	// not run by then does not run. Called on the loop; Close is still needed.
	OnError func(error)
}

// Loop is one event loop. Methods must be called on the loop unless they say
// otherwise.
type Loop struct {
	// Set at creation, never changed.
	epoll *netpoll.Epoll
	inner int // epoll descriptor that holds the connections
	event int // eventfd
	timer int // timerfd

	failed chan struct{} // closed when an error has stopped the loop

	// Owned by loop.
	turn    Turn
	removed func(Ref)
	later   []appointment
	table   table
	wheel   wheel
	events  []unix.EpollEvent
	buffer  []byte
	again   []Ref
	now     time.Time
	working []func()

	// Atomic.
	armed atomic.Bool  // an eventfd write is under way and not yet served
	lag   atomic.Int64 // ns of the longest turn since TakeLag
	conns atomic.Int64

	// mu guards the fields below.
	mu      sync.Mutex
	tasks   []func()
	stopped bool // takes no tasks
	closed  bool // Close was called
}

// New starts a loop. Stop it with Close.
func New(opts Options) (*Loop, error) {
	l := &Loop{buffer: make([]byte, ReadBufferBytes), failed: make(chan struct{}),
		events: make([]unix.EpollEvent, maxEventsPerTurn), now: time.Now()}
	l.wheel.start(l.now)
	onError := opts.OnError
	if onError == nil {
		onError = func(error) {}
	}
	fail := func(err error) {
		if l.fail() {
			onError(err)
		}
	}
	if err := l.open(fail); err != nil {
		closeAll(l.inner, l.event, l.timer)
		return nil, err
	}
	return l, nil
}

// fail stops the loop for good, once. It reports false if it had stopped.
func (l *Loop) fail() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return false
	}
	l.stopped, l.tasks = true, nil
	close(l.failed)
	return true
}

func (l *Loop) open(onError func(error)) (err error) {
	l.inner, l.event, l.timer = -1, -1, -1
	if l.inner, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	if l.event, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	if l.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return fmt.Errorf("timerfd_create: %w", err)
	}
	spec := unix.NsecToTimespec(int64(Tick))
	if err = unix.TimerfdSettime(l.timer, 0, &unix.ItimerSpec{Interval: spec, Value: spec}, nil); err != nil {
		return fmt.Errorf("timerfd_settime: %w", err)
	}
	if l.epoll, err = netpoll.EpollCreate(&netpoll.EpollConfig{OnWaitError: onError}); err != nil {
		return fmt.Errorf("easygo epoll: %w", err)
	}
	// The eventfd is edge-triggered and never read: every write is an edge.
	if err = l.Watch(l.inner, l.serveConnections); err == nil {
		if err = l.epoll.Add(l.event, netpoll.EPOLLIN|netpoll.EPOLLET, l.guard(func() { l.armed.Store(false) })); err == nil {
			err = l.Watch(l.timer, l.serveTimer)
		}
	}
	if err != nil {
		_ = l.epoll.Close()
	}
	return err
}

// SetTurn makes t hear of the end of each turn.
func (l *Loop) SetTurn(t Turn) { l.turn = t }

// OnRemove makes fn hear of every connection that Remove has closed.
func (l *Loop) OnRemove(fn func(Ref)) { l.removed = fn }

// appointment is one call of After.
type appointment struct {
	at time.Time
	fn func()
}

// After calls fn on the loop in the first tick that is at least d away. It is
// for the few things that the loop itself waits for: connections have WakeIn.
func (l *Loop) After(d time.Duration, fn func()) {
	l.later = append(l.later, appointment{l.now.Add(d), fn})
}

// Watch calls fn on the loop whenever fd is readable (level-triggered). It is
// for the few long-lived descriptors such as listening sockets. Safe from any
// goroutine.
func (l *Loop) Watch(fd int, fn func()) error { return l.epoll.Add(fd, netpoll.EPOLLIN, l.guard(fn)) }

// Unwatch undoes Watch. Call it before closing fd. Safe from any goroutine.
func (l *Loop) Unwatch(fd int) error { return l.epoll.Del(fd) }

// guard makes a turn of a callback: clock, work, posted tasks, flush.
func (l *Loop) guard(fn func()) func(netpoll.EpollEvent) {
	const closed = 0x20 // easygo calls back with it when the epoll is closed
	return func(ev netpoll.EpollEvent) {
		if ev&closed != 0 {
			return
		}
		l.now = time.Now()
		fn()
		l.endTurn()
	}
}

func (l *Loop) endTurn() {
	l.runAgain()
	l.runTasks()
	if l.turn != nil {
		l.turn.EndTurn()
	}
	if spent := int64(time.Since(l.now)); spent > l.lag.Load() {
		l.lag.Store(spent)
	}
}

func (l *Loop) runTasks() {
	l.mu.Lock()
	l.working, l.tasks = l.tasks, l.working[:0]
	l.mu.Unlock()
	for i, fn := range l.working {
		fn()
		l.working[i] = nil
	}
}

func (l *Loop) runAgain() {
	if len(l.again) == 0 {
		return
	}
	list := l.again
	l.again = nil
	for _, ref := range list {
		if e := l.table.entry(ref); e != nil {
			e.again = false
			e.handler.Ready(input)
		}
	}
}

// serveConnections hands out one batch of connection events.
func (l *Loop) serveConnections() {
	n, errno := ready(l.inner, l.events)
	if errno != 0 {
		return // EINTR: the outer epoll reports the inner one again
	}
	for i := range l.events[:n] {
		ev := &l.events[i]
		if h := l.table.get(Ref{uint32(ev.Fd), uint32(ev.Pad)}); h != nil {
			h.Ready(Events(ev.Events))
		}
		if i%64 == 63 {
			runtime.Gosched() // keep a turn short between scheduler points
		}
	}
}

func (l *Loop) serveTimer() {
	var count [8]byte
	_, _ = unix.Read(l.timer, count[:])
	l.wheel.advance(l.now, &l.table)
	if len(l.later) == 0 {
		return
	}
	list := l.later
	l.later = nil
	for _, a := range list {
		if l.now.Before(a.at) {
			l.later = append(l.later, a)
		} else {
			a.fn()
		}
	}
}

// Add puts a connected, non-blocking descriptor on the loop. The loop owns fd
// from here on, also when Add fails.
func (l *Loop) Add(fd int, h Handler) (Ref, error) {
	ref := l.table.add(fd, h)
	ev := unix.EpollEvent{Events: connectionEvents, Fd: int32(ref.Slot), Pad: int32(ref.Generation)}
	if errno := control(l.inner, unix.EPOLL_CTL_ADD, fd, &ev); errno != 0 {
		l.table.remove(ref)
		closeSocket(fd)
		return Ref{}, fmt.Errorf("epoll_ctl add: %w", errno)
	}
	l.conns.Add(1)
	return ref, nil
}

// AwaitRoom makes the kernel report room in the connection's send buffer, from
// now on: for who has met a full one. Room that is there by now is reported, too.
func (l *Loop) AwaitRoom(ref Ref) {
	e := l.table.entry(ref)
	if e == nil || e.writes {
		return
	}
	e.writes = true
	ev := unix.EpollEvent{Events: connectionEvents | unix.EPOLLOUT, Fd: int32(ref.Slot), Pad: int32(ref.Generation)}
	// It fails for want of a descriptor that is there, and of nothing else.
	_ = control(l.inner, unix.EPOLL_CTL_MOD, int(e.fd), &ev)
}

// Swap gives the connection another handler: a handshake becomes a WebSocket.
func (l *Loop) Swap(ref Ref, h Handler) { l.table.swap(ref, h) }

// Handler returns the connection's handler, nil when it has closed.
func (l *Loop) Handler(ref Ref) Handler { return l.table.get(ref) }

// RefOf is the connection that uses a slot now.
func (l *Loop) RefOf(slot uint32) (Ref, bool) { return l.table.ref(slot) }

// Remove closes the connection's descriptor. Its events and deadline are void
// from now on. It reports whether the connection was still there.
func (l *Loop) Remove(ref Ref) bool {
	fd, ok := l.table.remove(ref)
	if !ok {
		return false
	}
	// Closing the only reference takes it out of the inner epoll as well.
	closeSocket(fd)
	l.conns.Add(-1)
	if l.removed != nil {
		l.removed(ref)
	}
	return true
}

// Again calls Ready with input in the next turn: for a reader that stopped
// before EAGAIN to let others have their turn. Asking twice is asking once:
// else who sends without end would take more of each turn than of the last.
func (l *Loop) Again(ref Ref) {
	e := l.table.entry(ref)
	if e == nil || e.again {
		return
	}
	e.again = true
	l.again = append(l.again, ref)
	l.Kick()
}

// WakeIn calls the connection's Wake after d, rounded up to whole ticks. A
// connection has one deadline: the earliest asked for since the last Wake.
func (l *Loop) WakeIn(ref Ref, d time.Duration) { l.wheel.set(ref, d, &l.table) }

// Now is the time at which the turn began.
func (l *Loop) Now() time.Time { return l.now }

// Buffer is the loop's read buffer. It is valid within one Ready.
func (l *Loop) Buffer() []byte { return l.buffer }

// Each calls fn for every connection in the n slots from one on, which lets a
// walk over all of them give others their turns; fn may remove it. It returns
// where to go on, 0 at the end.
func (l *Loop) Each(from uint32, n int, fn func(Ref, Handler)) uint32 {
	return l.table.each(from, n, fn)
}

// Post runs fn on the loop in its next turn. Safe from any goroutine. It
// returns ErrClosed once the loop has stopped; fn is then not run.
func (l *Loop) Post(fn func()) error {
	l.mu.Lock()
	if l.stopped {
		l.mu.Unlock()
		return ErrClosed
	}
	l.tasks = append(l.tasks, fn)
	l.mu.Unlock()
	l.Kick()
	return nil
}

// Kick makes the loop run a turn. Safe from any goroutine; many kicks before
// the loop gets to it cost one system call.
func (l *Loop) Kick() {
	if l.armed.CompareAndSwap(false, true) {
		one := [8]byte{1}
		_, _ = unix.Write(l.event, one[:])
	}
}

// Do runs fn on the loop and waits for it. It returns ErrClosed, as Post does,
// also when the loop fails before it comes to fn. Not for use on the loop.
func (l *Loop) Do(fn func()) error {
	done := make(chan struct{})
	if err := l.Post(func() { defer close(done); fn() }); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-l.failed:
	}
	select {
	case <-done:
		return nil
	default:
		return ErrClosed
	}
}

// Connections is the number of connections on the loop. Safe from any goroutine.
func (l *Loop) Connections() int { return int(l.conns.Load()) }

// TakeLag returns the longest turn since the last call. Safe from any goroutine.
func (l *Loop) TakeLag() time.Duration { return time.Duration(l.lag.Swap(0)) }

// Close stops the loop once it has run what was posted, then closes every
// connection. Not for use on the loop.
func (l *Loop) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.closed = true
	l.mu.Unlock()
	// An error means that the loop has failed: then it has stopped already.
	_ = l.Do(func() {
		l.mu.Lock()
		l.stopped = true
		l.mu.Unlock()
	})
	err := l.epoll.Close()
	// The loop's goroutine has ended. Its last turn may have left tasks that
	// Post took just before.
	l.runTasks()
	l.table.each(0, math.MaxInt32, func(ref Ref, _ Handler) { l.Remove(ref) })
	closeAll(l.inner, l.event, l.timer)
	return err
}

func closeAll(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
