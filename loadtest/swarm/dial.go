package swarm

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Plan is what one worker process dials.
type Plan struct {
	Host string `json:"host"` // for the Host header
	IP   net.IP `json:"ip"`
	Port int    `json:"port"`
	Path string `json:"path"` // a template
	TLS  bool   `json:"tls,omitempty"`
	Dialect
	Spread    Spread        `json:"spread"`
	Tokens    []string      `json:"tokens,omitempty"`     // one for each client, as bearer
	Resume    bool          `json:"resume,omitempty"`     // clients remember where they stand; Nabat only
	First     int           `json:"first"`                // number of the first client
	SlowEvery int           `json:"slow_every,omitempty"` // one of so many clients can stall; 0: none
	Clients   int           `json:"clients"`
	Loops     int           `json:"loops"`
	Sources   []net.IP      `json:"sources"`   // local addresses, used in turn; empty: the kernel chooses
	Rate      float64       `json:"rate"`      // connections started per second; 0: no bound
	InFlight  int           `json:"in_flight"` // handshakes under way
	Timeout   time.Duration `json:"timeout"`   // for one handshake
	Nice      int           `json:"nice,omitempty"`
}

func sockaddr(ip net.IP, port int) unix.Sockaddr {
	if four := ip.To4(); four != nil {
		return &unix.SockaddrInet4{Port: port, Addr: [4]byte(four)}
	}
	return &unix.SockaddrInet6{Port: port, Addr: [16]byte(ip.To16())}
}

// slowBuffer is the receive buffer of clients that can stall, in bytes.
const slowBuffer = 4 << 10

// Redial is where clients go when their server is gone.
type Redial struct {
	Host string `json:"host"`
	IP   net.IP `json:"ip"`
	Port int    `json:"port"`
}

// pace says when the next connection may start.
type pace struct {
	interval int64 // nanoseconds between starts; 0: no bound
	inFlight int
	start    int64 // Now() at the first start; 0 before
}

// allowed is how many connections may have been started by now.
func (p *pace) allowed(now int64) int {
	if p.interval == 0 {
		return int(^uint(0) >> 1)
	}
	return int((now-p.start)/p.interval) + 1
}

// turn is the longest wait for events, so that deadlines are looked after.
const turn = 250 * time.Millisecond

// dial starts the connections that the pace allows and returns the longest
// wait, in milliseconds, for epoll_wait.
func (l *loop) dial() int {
	if l.next == len(l.clients) && l.pending == 0 {
		return -1
	}
	now := Now()
	if l.pace.start == 0 {
		l.pace.start = now
	}
	allowed := l.pace.allowed(now)
	for l.next < len(l.clients) && l.next < allowed && l.pending < l.pace.inFlight {
		if l.clients[l.next].state == idle {
			l.start(l.next, now)
		}
		l.next++
	}
	l.expire(now)
	if l.next < len(l.clients) && l.pending < l.pace.inFlight {
		due := l.pace.start + int64(l.next)*l.pace.interval
		return int(min(max((due-now)/int64(time.Millisecond), 1), turn.Milliseconds()))
	}
	return int(turn.Milliseconds())
}

// expire ends the handshakes that took too long. Clients start in the order
// of their index, so it stops at the first that is young enough.
func (l *loop) expire(now int64) {
	for l.oldest < l.next {
		c := &l.clients[l.oldest]
		if c.state != open && c.state != ended {
			if now-c.since < int64(l.plan.Timeout) {
				return
			}
			doing := map[state]string{connecting: "to accept the connection", securing: "for the TLS handshake", upgrading: "to answer the upgrade", greeting: fmt.Sprintf("to send %q", l.plan.wanted(c))}
			l.end(c, fmt.Sprintf("the target took more than %s %s", l.plan.Timeout, doing[c.state]))
		}
		l.oldest++
	}
}

// start begins the connection of client i.
func (l *loop) start(i int, now int64) {
	c := &l.clients[i]
	c.since = now
	l.stand.Started++
	l.pending++
	fd, err := l.socket(i)
	if err != nil {
		c.fd = -1
		l.end(c, err.Error())
		return
	}
	c.fd, c.state = fd, connecting
	if err := unix.Connect(fd, l.target); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		l.end(c, connectError(l.host, err))
		return
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff, Fd: int32(i)}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		l.end(c, fmt.Sprintf("epoll_ctl: %v", err))
	}
}

// socket makes a socket for client i, bound to its source address.
func (l *loop) socket(i int) (int, error) {
	family := unix.AF_INET
	if _, six := l.target.(*unix.SockaddrInet6); six {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EMFILE) {
		return -1, errors.New("too few descriptors for another connection: raise the limit (ulimit -n)")
	}
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	// A load generator that leaves ten thousand ports in TIME_WAIT spoils its
	// own next run: closing resets.
	linger := unix.Linger{Onoff: 1}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &linger); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("SO_LINGER: %w", err)
	}
	if c := &l.clients[i]; l.plan.slow(c) {
		// So that the server notices soon that nobody reads.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, slowBuffer); err != nil {
			_ = unix.Close(fd)
			return -1, fmt.Errorf("SO_RCVBUF: %w", err)
		}
	}
	if len(l.sources) == 0 {
		return fd, nil
	}
	// The port is chosen at connect, by all four parts of the address.
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("IP_BIND_ADDRESS_NO_PORT: %w", err)
	}
	if err := unix.Bind(fd, l.sources[i%len(l.sources)]); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("bind to source address %s: %w", l.plan.Sources[i%len(l.sources)], err)
	}
	return fd, nil
}

// connect is called when connect(2) has ended.
func (l *loop) connect(c *client) {
	code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	if err != nil {
		l.end(c, connectError(l.host, err))
		return
	}
	if l.tls != nil {
		l.shake(c)
		return
	}
	l.upgrade(c)
}

// upgrade sends the request.
func (l *loop) upgrade(c *client) {
	c.state = upgrading
	request := l.request
	if request == nil {
		request = l.plan.requestOf(l.host, int(c.number))
	}
	if err := c.send(request); err != nil {
		l.end(c, fmt.Sprintf("the request was not taken: %v", err))
	}
}

func connectError(target string, err error) string {
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return "nothing listens at " + target + " (connection refused)"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return "no local port is free towards " + target + ": give more source addresses (--sources)"
	}
	return fmt.Sprintf("connect to %s: %v", target, err)
}
