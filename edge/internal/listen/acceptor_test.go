package listen

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nabat/edge/internal/loop"
	"nabat/edge/internal/metrics"
	"nabat/proto/wire"
)

const patience = 60 * time.Second

// server is an acceptor on a loop of its own, on a real socket.
type server struct {
	t      *testing.T
	loop   *loop.Loop
	counts *metrics.Loop
	addr   string
	served chan string // what the router saw: method, path, and what followed
	hold   chan func() // answers a held request; run it on the loop
	raw    chan *rawReader
	door   *Acceptor
}

func serve(t *testing.T, limits Limits) *server {
	t.Helper()
	s := prepare(t, limits)
	s.start()
	return s
}

func (s *server) start() {
	s.t.Helper()
	if err := s.door.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// prepare is serve for those who do something before the first connection.
func prepare(t *testing.T, limits Limits) *server {
	t.Helper()
	s := &server{t: t, counts: new(metrics.Loop), served: make(chan string, 64), hold: make(chan func(), 8), raw: make(chan *rawReader, 8)}
	var err error
	if s.loop, err = loop.New(loop.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.loop.Close() })
	fds, bound, err := Sockets("127.0.0.1:0", 1, SocketOptions{Backlog: 64})
	if err != nil {
		t.Fatal(err)
	}
	s.addr = bound.String()
	if limits.MaxHead == 0 {
		limits.MaxHead = 8 << 10
	}
	if limits.HeadTimeout == 0 {
		limits.HeadTimeout = time.Hour
	}
	limits.MaxHandshakes, limits.RetryAfterSecond = 64, 2
	if limits.Bodies == nil {
		limits.Bodies = NewBodies(1 << 20)
	}
	s.door = NewAcceptor(s.loop, fds[0], s, limits, s.counts)
	return s
}

// Serve answers with what it got; paths choose how.
func (s *server) Serve(h *Handshake, head *Head, rest []byte) {
	seen := string(head.Method) + " " + string(head.Path) + " +" + string(rest)
	if room, ok := head.Segment(PublishPath); ok {
		s.collect(h, head, rest, room)
		return
	}
	switch string(head.Path) {
	case "/who":
		h.Respond(200, "text/plain", []byte(h.Client().String()+" +"+string(rest)))
		return
	case "/raw":
		s.upgrade(h)
		s.served <- seen
		return
	case "/hold":
		heldHead, heldRest := h.Hold(head, rest)
		s.served <- seen
		s.hold <- func() {
			if h.Open() {
				h.Respond(200, "text/plain", []byte(string(heldHead.Path)+" +"+string(heldRest)))
			}
		}
		return
	case "/holdraw":
		h.Hold(head, rest)
		s.hold <- func() {
			s.upgrade(h)
		}
		s.served <- seen
		return
	}
	h.Respond(200, "text/plain", []byte(seen))
	s.served <- seen
}

func (s *server) upgrade(h *Handshake) {
	r := &rawReader{loop: s.loop, ref: h.Ref(), end: make(chan int, 1)}
	r.fd = h.Upgrade(r).FD
	s.raw <- r
}

// rawReader counts what arrives after an upgrade. Owner: the loop.
type rawReader struct {
	loop *loop.Loop
	ref  loop.Ref
	fd   int
	n    int
	end  chan int // gets the count when the client has ended
}

func (s *server) dial() *net.TCPConn {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

type answer struct {
	status int
	header http.Header
	body   string
	rest   string // bytes behind the response: none, ever
}

func (a answer) refusal(t *testing.T) (code, reason string) {
	t.Helper()
	var e struct{ Error struct{ Code, Reason string } }
	if err := json.Unmarshal([]byte(a.body), &e); err != nil || a.header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Fatalf("not a refusal: %d %v %q (%v)", a.status, a.header, a.body, err)
	}
	return e.Error.Code, e.Error.Reason
}

func read(t *testing.T, conn net.Conn, method string) answer {
	t.Helper()
	br := bufio.NewReader(conn)
	r, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(br)
	if err != nil {
		t.Fatal(err)
	}
	if r.Header.Get("Date") == "" || !r.Close {
		t.Errorf("every response has a Date (RFC 9110 §6.6.1) and ends the connection (RFC 9112 §9.6): %v", r.Header)
	}
	return answer{r.StatusCode, r.Header, string(body), string(rest)}
}

func (s *server) ask(raw string) answer {
	s.t.Helper()
	conn := s.dial()
	if _, err := io.WriteString(conn, raw); err != nil {
		s.t.Fatal(err)
	}
	method, _, _ := strings.Cut(raw, " ")
	return read(s.t, conn, method)
}

func (s *server) refused(code wire.Code) (n uint64) {
	s.counts.Refusals.Each(func(c string, k uint64) {
		if c == string(code) {
			n += k
		}
	})
	return n
}

// until polls a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in %s: %s", patience, what)
		}
	}
}

func await[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("nothing came in %s", patience)
		panic("unreachable")
	}
}

// Ready reads until the kernel has no more, and asks for no event of its own.
func (r *rawReader) Ready(loop.Events) {
	for {
		n, err := unix.Read(r.fd, r.loop.Buffer())
		switch {
		case n > 0:
			r.n += n
			continue
		case n == 0 && err == nil:
			r.loop.Remove(r.ref)
			r.end <- r.n
		}
		return
	}
}

func (r *rawReader) Wake() {}
