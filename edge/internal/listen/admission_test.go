package listen

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nabat/edge/internal/loop"
	"nabat/edge/internal/rate"
	"nabat/edge/internal/seats"
	"nabat/proto/wire"
)

func networks(t *testing.T, list ...string) (nets []netip.Prefix) {
	t.Helper()
	for _, s := range list {
		p, err := ParsePrefix(s)
		if err != nil {
			t.Fatal(err)
		}
		nets = append(nets, p)
	}
	return nets
}

const who = "GET /who HTTP/1.1\r\nHost: a\r\n"

func TestWhoseAConnectionIs(t *testing.T) {
	here, elsewhere := []string{"127.0.0.0/8", "10.0.0.0/8"}, []string{"10.0.0.0/8"}
	v1 := "PROXY TCP4 192.0.2.7 192.0.2.8 4660 80\r\n"
	for _, c := range []struct {
		rule    string
		mode    ProxyProtocol
		trusted []string
		sent    string
		want    string // the client, or a code
	}{
		{"a peer that is no proxy is the client", ProxyOff, elsewhere, who + "X-Forwarded-For: 192.0.2.7\r\n\r\n", "127.0.0.1"},
		{"a proxy names it in a header", ProxyOff, here, who + "X-Forwarded-For: 192.0.2.7\r\n\r\n", "192.0.2.7"},
		{"a proxy may send version 1", ProxyOptional, here, v1 + who + "\r\n", "192.0.2.7"},
		{"a proxy may send version 2", ProxyOptional, here, v2(1, 0x21, inet6+tlv) + who + "\r\n", "2001:db8::7"},
		{"a proxy may send none", ProxyOptional, here, who + "\r\n", "127.0.0.1"},
		{"a proxy must send one", ProxyRequired, here, v1 + who + "\r\n", "192.0.2.7"},
		{"LOCAL is the proxy", ProxyRequired, here, v2(0, 0, "") + who + "\r\n", "127.0.0.1"},
		{"UNKNOWN is the proxy", ProxyRequired, here, "PROXY UNKNOWN\r\n" + who + "\r\n", "127.0.0.1"},
		{"UNIX is the proxy", ProxyRequired, here, v2(1, 0x31, strings.Repeat("/", 216)) + who + "\r\n", "127.0.0.1"},
		{"the client's own header is not read", ProxyRequired, here, v1 + who + "X-Forwarded-For: 1.1.1.1\r\n\r\n", "192.0.2.7"},
		{"a proxy before a proxy", ProxyRequired, here, "PROXY TCP4 10.1.1.1 10.2.2.2 1 2\r\n" + who + "X-Forwarded-For: 1.1.1.1, 192.0.2.9\r\n\r\n", "192.0.2.9"},
		{"a header larger than a head may be", ProxyRequired, here, v2(1, 0x11, inet4+strings.Repeat("\x04", 3000)) + who + "\r\n", "192.0.2.7"},
		{"a head is bounded behind it too", ProxyRequired, here, v1 + who + "X: " + strings.Repeat("x", 600) + "\r\n\r\n", "head_too_large"},
		{"none where one must be", ProxyRequired, here, who + "\r\n", "bad_proxy_header"},
		{"a bad one", ProxyOptional, here, "PROXY TCP4 nonsense\r\n" + who + "\r\n", "bad_proxy_header"},
		{"a second one", ProxyRequired, here, v1 + v1 + who + "\r\n", "proxy_not_trusted"},
		{"one that nobody may send", ProxyOff, here, v1 + who + "\r\n", "proxy_not_trusted"},
		{"one from elsewhere", ProxyOptional, elsewhere, v1 + who + "\r\n", "proxy_not_trusted"},
		// Refused before it says anything: what it sent would reset the answer.
		{"only proxies may connect", ProxyRequired, elsewhere, "", "proxy_not_trusted"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			s := serve(t, Limits{MaxHead: 512, Proxies: Proxies{Protocol: c.mode, Trusted: networks(t, c.trusted...), Header: "X-Forwarded-For"}})
			for _, chop := range []int{len(c.sent), 7, 1} {
				conn := s.dial()
				for rest := c.sent; rest != ""; rest = rest[min(chop, len(rest)):] {
					if _, err := io.WriteString(conn, rest[:min(chop, len(rest))]); err != nil {
						break // refused already
					}
				}
				a := read(t, conn, "GET")
				if a.status != 200 {
					if code, _ := a.refusal(t); code != c.want {
						t.Fatalf("in pieces of %d: %d %s", chop, a.status, a.body)
					}
				} else if a.body != c.want+" +" {
					t.Fatalf("in pieces of %d: %q, want %s", chop, a.body, c.want)
				}
			}
			if strings.Contains(c.want, "_") && s.refused(wire.Code(c.want)) != 3 {
				t.Error("not counted")
			}
		})
	}
}

func TestPrefixes(t *testing.T) {
	for text, want := range map[string]string{"10.0.0.0/8": "10.0.0.0/8", "192.0.2.7": "192.0.2.7/32", "2001:db8::/32": "2001:db8::/32", "::1": "::1/128", "::ffff:192.0.2.7": "192.0.2.7/32",
		"10.0.0.1/8": "write 10.0.0.0/8", "10.0.0.0/33": "not a network", "proxy": "not an address", "::ffff:10.0.0.0/104": "not a network", "": "not an address", "fe80::1%eth0": "not an address"} {
		p, err := ParsePrefix(text)
		if got := fmt.Sprint(p, err); !strings.Contains(got, want) {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// seated gives s a bound for each address, and gives seats back as an edge does.
func seated(t *testing.T, max int, proxies Proxies) *server {
	t.Helper()
	held := seats.NewHeld(seats.NewTable(max), nil)
	s := serve(t, Limits{Proxies: proxies, Seats: held})
	if err := s.loop.Do(func() { s.loop.OnRemove(func(ref loop.Ref) { held.Leave(ref.Slot) }) }); err != nil {
		t.Fatal(err)
	}
	return s
}

// stay opens a connection that stays; lines are further header lines.
func (s *server) stay(lines string) *net.TCPConn {
	s.t.Helper()
	conn := s.dial()
	if _, err := io.WriteString(conn, "GET /raw HTTP/1.1\r\nHost: a\r\n"+lines+"\r\n"); err != nil {
		s.t.Fatal(err)
	}
	await(s.t, s.served)
	return conn
}

func (s *server) full(a answer) {
	s.t.Helper()
	code, reason := a.refusal(s.t)
	after, err := strconv.Atoi(a.header.Get("Retry-After"))
	if a.status != 429 || code != "too_many_connections" || err != nil || after < 10 || after > 20 || !strings.Contains(reason, "as many connections") {
		s.t.Fatalf("%d %s, Retry-After %d %v", a.status, a.body, after, err)
	}
}

func TestAnAddressHasABoundedNumberOfConnections(t *testing.T) {
	s := seated(t, 2, Proxies{})
	first := s.stay("")
	s.stay("")
	for range 5 {
		s.full(s.ask("")) // it is refused unheard; a request behind the answer could reset it
	}
	if n := s.refused(wire.TooManyConnections); n != 5 {
		t.Errorf("%d refusals counted", n)
	}
	_ = first.Close()
	until(t, "the seat is free", func() bool { return s.loop.Connections() == 1 })
	if a := s.ask(who + "\r\n"); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
}

func TestClientsOfAProxyAreCountedApart(t *testing.T) {
	s := seated(t, 1, Proxies{Protocol: ProxyOptional, Trusted: networks(t, "127.0.0.1"), Header: "X-Forwarded-For"})
	alice, bob := "X-Forwarded-For: 2001:db8::1\r\n", "X-Forwarded-For: 192.0.2.7\r\n"
	conn := s.stay(alice)
	s.stay(bob)
	s.full(s.ask(who + "X-Forwarded-For: 2001:db8::2\r\n\r\n")) // the same /64
	s.full(s.ask("PROXY TCP4 192.0.2.7 1.1.1.1 1 2\r\n" + who + "\r\n"))
	if a := s.ask("HEAD /who HTTP/1.1\r\nHost: a\r\n" + bob + "\r\n"); a.status != 429 || a.body != "" {
		t.Fatalf("%d %q: a HEAD is refused without a body", a.status, a.body)
	}
	_ = conn.Close()
	until(t, "alice's seat is free", func() bool { return s.ask(who+alice+"\r\n").status == 200 })
	// A proxy that names nobody has a seat as everybody has, and is told why.
	s.stay("")
	a := s.ask(who + "\r\n")
	if s.full(a); !strings.Contains(a.body, "a trusted proxy that named no client") {
		t.Fatal(a.body)
	}
}

// paced serves at a rate, on a clock that the test moves.
func paced(t *testing.T, l rate.Limit, waiting int) (*server, *atomic.Int64) {
	t.Helper()
	s := prepare(t, Limits{Rate: l, MaxWaiting: waiting})
	clock := new(atomic.Int64)
	s.door.clock = clock.Load
	s.start()
	return s, clock
}

// waiting is how many connections the kernel holds, when the acceptor rests.
func (s *server) waiting() (n int) {
	s.t.Helper()
	if err := s.loop.Do(func() {
		if n = -1; s.door.pace.resting {
			info, err := unix.GetsockoptTCPInfo(s.door.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			if err != nil {
				s.t.Error(err)
				return
			}
			n = int(info.Unacked)
		}
	}); err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *server) crowd(n int) (conns []*net.TCPConn) {
	s.t.Helper()
	for range n {
		conn := s.dial()
		if _, err := io.WriteString(conn, who+"\r\n"); err != nil {
			s.t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	return conns
}

func TestConnectionsAreTakenAtARateAndTheRestWaits(t *testing.T) {
	s, clock := paced(t, rate.Limit{PerSecond: 1, Burst: 5}, 100)
	conns := s.crowd(20)
	taken := func(n int) {
		t.Helper()
		until(t, fmt.Sprint(20-n, " wait"), func() bool { return s.waiting() == 20-n })
		if got := s.counts.Accepted.Load(); int(got) != n {
			t.Fatalf("%d were taken, want %d", got, n)
		}
	}
	taken(5)
	clock.Add(int64(3 * time.Second))
	taken(8)
	clock.Add(int64(time.Hour)) // no more than a burst at once
	taken(13)
	clock.Add(int64(time.Hour))
	taken(18)
	clock.Add(int64(time.Hour))
	for _, conn := range conns {
		if a := read(t, conn, "GET"); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
}

func TestWhoWouldWaitTooLongIsToldToComeBackByChance(t *testing.T) {
	s, clock := paced(t, rate.Limit{PerSecond: 1, Burst: 5}, 4)
	conns := s.crowd(50)
	until(t, "four wait", func() bool { return s.waiting() == 4 && s.counts.Accepted.Load() == 46 })
	if n := s.refused("accept_rate"); n != 41 {
		t.Fatalf("%d refusals counted, want 41", n)
	}
	clock.Add(int64(4 * time.Second))
	served, delays := 0, make(map[int]bool)
	for _, conn := range conns {
		a := read(t, conn, "GET")
		if a.status == 200 {
			served++
			continue
		}
		var e struct {
			Error struct {
				Code    string
				RetryMS int `json:"retry_ms"`
			}
		}
		if err := json.Unmarshal([]byte(a.body), &e); err != nil || a.status != 503 || e.Error.Code != "overloaded" || e.Error.RetryMS < 2000 || e.Error.RetryMS > 4000 {
			t.Fatalf("%d %s %v", a.status, a.body, err)
		}
		if a.header.Get("Retry-After") != strconv.Itoa((e.Error.RetryMS+999)/1000) {
			t.Fatalf("Retry-After %s for %d ms", a.header.Get("Retry-After"), e.Error.RetryMS)
		}
		delays[e.Error.RetryMS] = true
	}
	if served != 9 {
		t.Errorf("%d were served, want 9", served)
	}
	if len(delays) < 10 {
		t.Errorf("41 refusals have %d different delays", len(delays))
	}
}

// turns counts what was accepted in each turn.
type turns struct {
	s          *server
	last, most uint64
}

func (c *turns) EndTurn() {
	n := c.s.counts.Accepted.Load()
	c.most, c.last = max(c.most, n-c.last), n
}

func TestAStormIsTakenInSmallTurns(t *testing.T) {
	for _, c := range []struct {
		rule   string
		limits Limits
	}{{"as served", Limits{}}, {"as refused", Limits{Rate: rate.Limit{PerSecond: 1, Burst: 1}}}} {
		t.Run(c.rule, func(t *testing.T) {
			s := prepare(t, c.limits)
			count := &turns{s: s}
			if err := s.loop.Do(func() { s.loop.SetTurn(count) }); err != nil {
				t.Fatal(err)
			}
			s.crowd(60) // they wait in the kernel
			s.start()
			until(t, "all were taken", func() bool { return s.counts.Accepted.Load() == 60 })
			if err := s.loop.Do(func() {
				if count.most == 0 || count.most > acceptsPerTurn {
					t.Errorf("%d connections in one turn, at most %d", count.most, acceptsPerTurn)
				}
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestAnAcceptorThatRestsCanBeStopped(t *testing.T) {
	s, clock := paced(t, rate.Limit{PerSecond: 1, Burst: 1}, 100)
	s.crowd(3)
	until(t, "two wait", func() bool { return s.waiting() == 2 })
	if err := s.loop.Do(s.door.Stop); err != nil {
		t.Fatal(err)
	}
	clock.Add(int64(time.Hour))
	done := make(chan struct{})
	if err := s.loop.Do(func() { s.loop.After(2*loop.Tick, func() { close(done) }) }); err != nil {
		t.Fatal(err)
	}
	await(t, done)
	if n := s.counts.Accepted.Load(); n != 1 {
		t.Fatalf("%d were taken", n)
	}
}

func TestAcceptedSocketsHaveTheOptionsOfTheListener(t *testing.T) {
	accepted := func(o SocketOptions) func(level, name int) int {
		o.Backlog = 4
		fds, bound, err := Sockets("127.0.0.1:0", 1, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fds[0]) })
		conn, err := net.Dial("tcp", bound.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		var fd int
		until(t, "it is accepted", func() bool {
			fd, _, err = unix.Accept4(fds[0], unix.SOCK_CLOEXEC)
			return err == nil
		})
		t.Cleanup(func() { _ = unix.Close(fd) })
		return func(level, name int) int {
			n, err := unix.GetsockoptInt(fd, level, name)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	set := accepted(SocketOptions{SendBuffer: 24 << 10, NotSentLowat: 12345, UserTimeout: 34567 * time.Millisecond, KeepAlive: 48 * time.Second})
	kernel := accepted(SocketOptions{})
	for _, o := range []struct {
		name         string
		level, which int
		want         int
		given        bool // differs from the kernel's own
	}{
		{"SO_SNDBUF, which the kernel doubles", unix.SOL_SOCKET, unix.SO_SNDBUF, 48 << 10, true},
		{"TCP_NOTSENT_LOWAT", unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 12345, true},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 34567, true},
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1, true},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 48, true},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 12, true},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4, true},
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1, false},
	} {
		if got := set(o.level, o.which); got != o.want {
			t.Errorf("%s is %d, want %d", o.name, got, o.want)
		}
		if own := kernel(o.level, o.which); (own != o.want) != o.given {
			t.Errorf("%s is %d where nothing was set", o.name, own)
		}
	}
}

func TestARefusalAtAcceptIsNotResetUnderItsAnswer(t *testing.T) {
	// A refusal at accept reads what the client has sent, so that the close does
	// not reset the connection under the answer.
	s := prepare(t, Limits{Proxies: Proxies{Protocol: ProxyRequired, Trusted: networks(t, "10.0.0.0/8")}})
	conns := s.crowd(8)
	s.start()
	for _, conn := range conns {
		b, err := io.ReadAll(conn)
		if err != nil || !bytes.Contains(b, []byte("proxy_not_trusted")) {
			t.Fatalf("%q %v", b, err)
		}
	}
}
