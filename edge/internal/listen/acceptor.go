package listen

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"nabat/edge/internal/loop"
	"nabat/edge/internal/metrics"
	"nabat/edge/internal/rate"
	"nabat/edge/internal/seats"
	"nabat/edge/internal/tlsconn"
	"nabat/proto/wire"
)

const (
	// acceptsPerTurn keeps a turn in a storm below a millisecond, at some 20 µs
	// from accept to answer: those who are connected wait no longer than that.
	acceptsPerTurn = 32
	lingerTime     = 2 * time.Second
)

// Limits bound what strangers may cost before they are known.
type Limits struct {
	MaxHead          int           // bytes of a request head
	HeadTimeout      time.Duration // from accept until the handshake is answered, or its body is there
	MaxHandshakes    int           // in flight on one loop and port; above it the oldest is sent away
	MaxConnections   int           // on one loop
	RetryAfterSecond int           // told to those who are sent away
	Proxies          Proxies       // whom to believe about a client's address
	Seats            *seats.Held   // connections of an address; nil: not counted
	Rate             rate.Limit    // connections a second on one loop
	MaxWaiting       int           // connections that may wait in the kernel for that rate; above it they are refused
	Bodies           *Bodies       // of requests that have one, on one loop
}

// Router answers complete request heads. Called on the loop.
type Router interface {
	// Serve must end in Upgrade, Refuse, Respond, Hold or Collect. rest is what came
	// behind the head; both alias the loop's buffer.
	Serve(c *Handshake, head *Head, rest []byte)
}

// Acceptor takes connections from one listening socket to one loop.
// Owner: the loop.
type Acceptor struct {
	// Set at creation, never changed.
	loop   *loop.Loop
	router Router
	limits Limits
	counts *metrics.Loop
	engine *tlsconn.Engine // nil on a plain port
	clock  func() int64    // ns, never goes back

	// Owned by loop.
	fd      int        // -1 once closed
	spare   int        // a descriptor to give up when there are none left
	head    Head       // of the request that is being read
	queue   []loop.Ref // handshakes by age; finished ones are skipped
	first   int
	pending int // handshakes in flight
	open    bool
	pace    pace
}

// NewAcceptor returns an acceptor for a listening, non-blocking socket that it
// owns from now on. Call Start on the loop.
func NewAcceptor(l *loop.Loop, fd int, router Router, limits Limits, counts *metrics.Loop) *Acceptor {
	began := time.Now()
	return &Acceptor{loop: l, router: router, limits: limits, counts: counts, fd: fd, spare: openSpare(),
		clock: func() int64 { return int64(l.Now().Sub(began)) }}
}

func openSpare() int {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

// Start begins to accept.
func (a *Acceptor) Start() error {
	a.open = true
	return a.loop.Watch(a.fd, a.accept)
}

// Stop closes the listening socket, also one that was never started.
// Connections go on.
func (a *Acceptor) Stop() {
	if a.fd < 0 {
		return
	}
	if a.open {
		a.open = false
		_ = a.loop.Unwatch(a.fd)
	}
	_ = unix.Close(a.fd)
	a.fd = -1
	if a.spare >= 0 {
		_ = unix.Close(a.spare)
	}
}

func (a *Acceptor) accept() {
	for range acceptsPerTurn {
		if !a.open || a.pace.resting || !a.keepsPace() {
			return
		}
		fd, client, errno := accept4(a.fd)
		switch errno {
		case 0:
			a.pace.spend(a.limits.Rate)
			a.take(fd, client)
		case unix.EMFILE, unix.ENFILE:
			a.shed()
			return
		case unix.ECONNABORTED, unix.EINTR:
			continue
		default:
			return // EAGAIN, or the kernel is short of memory: epoll asks again
		}
	}
}

// shed takes one connection with the spare descriptor, only to refuse it: else
// it would wait in the backlog and epoll would report it for ever.
func (a *Acceptor) shed() {
	if a.spare < 0 {
		return
	}
	_ = unix.Close(a.spare)
	if fd, _, errno := accept4(a.fd); errno == 0 {
		a.refuseNow(fd, "no_descriptors", a.full())
	}
	a.spare = openSpare()
}

// refuseNow answers a connection that the loop never had, and closes it.
func (a *Acceptor) refuseNow(fd int, label string, e *wire.Error) {
	a.answer(fd, label, e)
	_ = unix.Close(fd)
}

// answer refuses a connection whose request nobody has read; close it then.
func (a *Acceptor) answer(fd int, label string, e *wire.Error) {
	a.counts.Refusals.Add(label, 1)
	if a.engine != nil {
		return // a client that waits for TLS would not understand it
	}
	_, _ = unix.SendmsgN(fd, refusal(e), nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	// What the client has sent already would turn the close into a reset, and
	// that could overtake the answer.
	_, _ = unix.Read(fd, a.loop.Buffer())
}

func (a *Acceptor) full() *wire.Error {
	return &wire.Error{Code: wire.Overloaded, RetryMS: a.limits.RetryAfterSecond * 1000, Reason: "this node has no room for another connection"}
}

func (a *Acceptor) take(fd int, client netip.Addr) {
	a.counts.Accepted.Add(1)
	if a.limits.MaxConnections > 0 && a.loop.Connections() >= a.limits.MaxConnections {
		a.refuseNow(fd, "max_connections", a.full())
		return
	}
	proxies := &a.limits.Proxies
	behind := proxies.trusts(client)
	if proxies.Protocol == ProxyRequired && !behind {
		a.refuseNow(fd, string(wire.ProxyNotTrusted), &wire.Error{Code: wire.ProxyNotTrusted,
			Reason: "only proxies may connect here: is this one missing in trusted_proxies?"})
		return
	}
	h := &Handshake{acceptor: a, fd: fd, client: client, prelude: behind && proxies.Protocol != ProxyOff}
	ref, err := a.loop.Add(fd, h)
	if err != nil {
		a.counts.Refusals.Add("no_descriptors", 1)
		return
	}
	h.ref = ref
	if h.seated = !behind; h.seated && !a.seat(h) {
		a.answer(fd, string(wire.TooManyConnections), a.tooMany(client))
		h.state = done
		a.loop.Remove(ref)
		return
	}
	if a.pending >= a.limits.MaxHandshakes {
		a.evict()
	}
	if a.engine != nil {
		h.secure()
	}
	a.counts.Pending.Add(1)
	a.pending++
	a.enqueue(ref)
	a.loop.WakeIn(ref, a.limits.HeadTimeout)
}

// seat counts h for its client's address, and reports false when that has as
// many connections as it may have.
func (a *Acceptor) seat(h *Handshake) bool {
	return a.limits.Seats == nil || a.limits.Seats.TakeAddress(h.ref.Slot, h.client)
}

func (a *Acceptor) enqueue(ref loop.Ref) {
	if a.first > 1024 && a.first*2 > len(a.queue) {
		a.queue = append(a.queue[:0], a.queue[a.first:]...)
		a.first = 0
	}
	a.queue = append(a.queue, ref)
}

// evict sends the oldest unfinished handshake away. Those who finish do so
// within milliseconds, so the oldest of many is one that never will.
func (a *Acceptor) evict() {
	for a.first < len(a.queue) {
		ref := a.queue[a.first]
		a.first++
		if h, ok := a.loop.Handler(ref).(*Handshake); ok && h.state == waiting {
			h.sendAway()
			return
		}
	}
}

// trim forgets finished handshakes at the front of the queue.
func (a *Acceptor) trim() {
	for a.first < len(a.queue) {
		if h, ok := a.loop.Handler(a.queue[a.first]).(*Handshake); ok && h.state == waiting {
			break
		}
		a.first++
	}
	if a.first == len(a.queue) {
		a.queue, a.first = a.queue[:0], 0
	}
}
