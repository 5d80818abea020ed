package sse

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"nabat/edge/internal/listen"
	"nabat/edge/internal/loop"
	"nabat/edge/internal/metrics"
	"nabat/edge/internal/outq"
	"nabat/edge/internal/transport"
	"nabat/proto/wire"
)

const patience = 60 * time.Second

// server serves an event stream, without a session, to whoever asks.
type server struct {
	t     *testing.T
	addr  string
	loop  *loop.Loop
	env   *transport.Env
	conns chan *Conn
	left  chan loop.Ref
}

type turn struct{ w *transport.Writer }

func (t turn) EndTurn() { t.w.Flush() }

type noRooms struct{}

func (noRooms) Rule(uint32) outq.Rule { return outq.Disconnect }

func (s *server) Serve(h *listen.Handshake, _ *listen.Head, _ []byte) {
	c := new(Conn)
	c.Start(s.env, h.Ref(), h.Upgrade(c), Head(s.loop.Now(), "Access-Control-Allow-Origin: https://app.example.com", "Vary: Origin"))
	s.conns <- c
}

func start(t *testing.T) *server {
	t.Helper()
	l, err := loop.New(loop.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s := &server{t: t, loop: l, conns: make(chan *Conn, 8), left: make(chan loop.Ref, 8)}
	counts := new(metrics.Loop)
	w := transport.NewWriter(l, noRooms{}, counts, transport.Bounds{Queue: 64 << 10, Lag: 64 << 10})
	s.env = &transport.Env{Loop: l, Writer: w, Counts: counts, Leave: func(ref loop.Ref, _ string) { s.left <- ref }, Drained: func(loop.Ref) {},
		Limits: &transport.Limits{PingInterval: time.Hour, CloseTimeout: patience}}
	fds, bound, err := listen.Sockets("127.0.0.1:0", 1, listen.SocketOptions{Backlog: 8, SendBuffer: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	s.addr = bound.String()
	a := listen.NewAcceptor(l, fds[0], s, listen.Limits{MaxHead: 8 << 10, HeadTimeout: patience, MaxHandshakes: 8}, counts)
	if err := l.Do(func() { l.SetTurn(turn{w}) }); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	return s
}

// open asks for a stream.
func (s *server) open() (*Conn, net.Conn, *http.Response) {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "GET /sse HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n"); err != nil {
		s.t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return await(s.t, s.conns), conn, r
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

// source is an EventSource's reading of a stream (WHATWG HTML §9.2.6).
type source struct {
	r     *bufio.Reader
	id    string // last event id
	retry string
}

// event returns the next event as "name data"; "end" at the end.
func (s *source) event(t *testing.T) string {
	t.Helper()
	name, data, some := "message", "", false
	for {
		line, err := s.r.ReadString('\n')
		if err == io.EOF && line == "" {
			if some || name != "message" {
				t.Error("the stream ends inside an event")
			}
			return "end"
		}
		if err != nil {
			t.Fatal(err)
		}
		line = strings.TrimSuffix(line, "\n")
		if strings.ContainsAny(line, "\r\x00") {
			t.Errorf("line %q", line)
		}
		if line == "" {
			if some {
				return name + " " + data
			}
			name = "message"
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "": // a comment
		case "event":
			name = value
		case "data":
			if some {
				data += "\n"
			}
			data, some = data+value, true
		case "id":
			s.id = value
		case "retry":
			s.retry = value
		default:
			t.Errorf("unknown field in %q", line)
		}
	}
}

func TestTheHeadOfAStream(t *testing.T) {
	s := start(t)
	c, _, r := s.open()
	for name, want := range map[string]string{
		"Content-Type":                "text/event-stream; charset=utf-8",
		"Cache-Control":               "no-store", // no cache keeps or replays it
		"X-Accel-Buffering":           "no",       // nginx passes each event on at once
		"Access-Control-Allow-Origin": "https://app.example.com",
		"Vary":                        "Origin",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if r.StatusCode != 200 || r.ContentLength != -1 || len(r.TransferEncoding) != 0 || !r.Close {
		t.Errorf("RFC 9112 §6.3: the stream ends with the connection: %d %d %v %v", r.StatusCode, r.ContentLength, r.TransferEncoding, r.Close)
	}
	if _, err := http.ParseTime(r.Header.Get("Date")); err != nil {
		t.Errorf("RFC 9110 §6.6.1: %v", err)
	}
	es := &source{r: bufio.NewReader(r.Body)}
	_ = s.loop.Do(func() { c.Say(wire.Object{Value: wire.Subscribed{}}) })
	if got := es.event(t); got != `subscribed {"subscribed":{"rooms":[]}}` {
		t.Error(got)
	}
	if es.retry != "2000" || es.id != "" {
		t.Errorf("retry %q, id %q", es.retry, es.id)
	}
}

func TestTheEndOfAStream(t *testing.T) {
	for _, c := range []struct {
		rule       string
		close      wire.Close
		event      string
		retry, id  string
		comesAgain bool
	}{
		{"drain: at once", wire.CloseDrain, `close {"code":"drain","retry_ms":200}`, "1000", "", true},
		{"slow: after its time", wire.CloseSlow, `close {"code":"slow","retry_ms":2000}`, "2000", "", true},
		{"expired: with a fresh token", wire.CloseExpired, `close {"code":"token_expired","retry_ms":0}`, "1000", "", true},
		{"not allowed: never", wire.Close{Status: 4002, Code: wire.NotAllowed}, `close {"code":"not_allowed","retry_ms":0}`, "1000", wire.ClosedID, false},
		{"protocol broken: never", wire.CloseProtocol, `close {"code":"protocol","retry_ms":0}`, "1000", wire.ClosedID, false},
	} {
		t.Run(c.rule, func(t *testing.T) {
			s := start(t)
			conn, client, r := s.open()
			_ = s.loop.Do(func() {
				conn.Say(wire.Object{Value: wire.Gap{Room: "a"}})
				conn.Close(c.close)
				conn.Say(wire.Object{Value: wire.Ponged{}})
				conn.Close(wire.CloseDrain) // a second close is none
			})
			es := &source{r: bufio.NewReader(r.Body)}
			if all := fmt.Sprint(es.event(t), ", ", es.event(t), ", ", es.event(t)); all != `gap {"gap":{"room":"a"}}, `+c.event+", end" {
				t.Error(all)
			}
			if es.retry != c.retry || es.id != c.id || c.close.Returns() != c.comesAgain {
				t.Errorf("retry %q, id %q", es.retry, es.id)
			}
			await(t, s.left)
			_ = client.Close()
			until(t, "the connection is gone", func() bool { return s.loop.Connections() == 0 && s.env.Counts.EventStreams.Load() == 0 })
			if len(s.left) != 0 {
				t.Error("left twice")
			}
		})
	}
}

func TestAClientThatLeavesIsForgotten(t *testing.T) {
	s := start(t)
	_, client, _ := s.open()
	if s.env.Counts.EventStreams.Load() != 1 {
		t.Error("not counted")
	}
	_ = client.Close()
	await(t, s.left)
	until(t, "the connection is gone", func() bool { return s.loop.Connections() == 0 && s.env.Counts.EventStreams.Load() == 0 })
}

func TestWhatAClientSendsOnAStreamIsDropped(t *testing.T) {
	s := start(t)
	c, client, r := s.open()
	const junk = 1 << 20
	if _, err := client.Write(make([]byte, junk)); err != nil {
		t.Fatal(err)
	}
	until(t, "all of it was read", func() bool { return s.env.Counts.BytesIn.Load() >= junk })
	_ = s.loop.Do(func() { c.Say(wire.Object{Value: wire.Ponged{}}) })
	if got := (&source{r: bufio.NewReader(r.Body)}).event(t); got != `pong {"pong":{}}` {
		t.Error(got)
	}
}

// A stalled reader is told why it is closed: what waits is given up, but for
// the event that is under way.
func TestAStalledReaderGetsAWholeEventAndTheReason(t *testing.T) {
	s := start(t)
	c, client, r := s.open()
	_ = client.(*net.TCPConn).SetReadBuffer(4096)
	object := wire.Object{Value: wire.Gap{Room: strings.Repeat("x", 32<<10)}}
	closed := false
	for i := 0; !closed; i++ {
		if i > 10000 {
			t.Fatal("never slow")
		}
		_ = s.loop.Do(func() {
			if !c.Leaving() {
				c.Say(object)
			}
			closed = c.Leaving()
		})
	}
	es := &source{r: bufio.NewReader(r.Body)}
	last := ""
	for got := es.event(t); got != "end"; got = es.event(t) {
		last = got
		if strings.HasPrefix(got, "gap ") && got != "gap "+string(object.AppendJSON(nil)) {
			t.Fatalf("a torn event of %d bytes", len(got))
		}
	}
	if last != `close {"code":"slow","retry_ms":2000}` {
		t.Errorf("%.80q", last)
	}
}

func TestAQuietStreamIsKeptOpenWithComments(t *testing.T) {
	s := start(t)
	_ = s.loop.Do(func() { s.env.Limits.PingInterval = time.Second })
	_, _, r := s.open()
	br := bufio.NewReader(r.Body)
	for _, want := range []string{"retry: 2000\n", ":\n", "\n"} {
		if got, err := br.ReadString('\n'); got != want || err != nil {
			t.Fatalf("%q %v", got, err)
		}
	}
}
