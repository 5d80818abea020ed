package swarm

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

const childVariable = "NABAT_SWARM_TEST_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		if err := Work(context.Background(), os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func spawnTest() *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

func itoa(n int) string { return strconv.Itoa(n) }

// server is a WebSocket server in the test: a goroutine for each connection.
type server struct {
	listener net.Listener
	conns    chan net.Conn
}

// serve answers each connection with handle, which may keep it.
func serve(t *testing.T, handle func(net.Conn) error) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	s := &server{listener: listener, conns: make(chan net.Conn, 1000)}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				if err := handle(conn); err != nil {
					_ = conn.Close()
					return
				}
				s.conns <- conn
			}()
		}
	}()
	return s
}

func upgrade(conn net.Conn) error {
	_, err := ws.Upgrade(conn)
	return err
}

func (s *server) url() string { return "ws://" + s.listener.Addr().String() + "/ws?room=a" }

// accepted waits for n upgraded connections.
func (s *server) accepted(t *testing.T, n int) []net.Conn {
	t.Helper()
	list := make([]net.Conn, n)
	for i := range list {
		select {
		case list[i] = <-s.conns:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
	t.Cleanup(func() {
		for _, c := range list {
			_ = c.Close()
		}
	})
	return list
}

func start(t *testing.T, o Options) *Swarm {
	t.Helper()
	o.Spawn = spawnTest
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func dial(t *testing.T, s *Swarm) Progress {
	t.Helper()
	p, err := s.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func write(t *testing.T, conn net.Conn, data []byte) {
	t.Helper()
	if _, err := conn.Write(data); err != nil {
		t.Error(err)
	}
}

func message(run uint32, n uint64) []byte {
	return compile(ws.NewTextFrame(AppendPayload(nil, Stamp{run, n, Now(), 0}, 128)))
}

func TestEveryClientGetsEveryMessageOnce(t *testing.T) {
	for _, workers := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			const clients, messages = 40, 25
			target := serve(t, upgrade)
			s := start(t, Options{Target: target.url(), Clients: clients, Workers: workers, Loops: 2, Sources: 3})
			if p := dial(t, s); p.Connected != clients || p.Failed != 0 || p.Dialing <= 0 {
				t.Fatalf("%+v", p)
			}
			conns := target.accepted(t, clients)
			for run := uint32(1); run <= 2; run++ {
				if n, err := s.Begin(t.Context(), run); err != nil || n != clients {
					t.Fatalf("Begin: %d, %v", n, err)
				}
				for n := uint64(1); n <= messages; n++ {
					for _, c := range conns {
						write(t, c, message(run, n))
					}
					if err := s.Wait(t.Context(), n); err != nil {
						t.Fatal(err)
					}
				}
				totals, err := s.Finish(t.Context(), messages)
				if err != nil {
					t.Fatal(err)
				}
				h, err := totals.Histogram()
				if err != nil {
					t.Fatal(err)
				}
				if totals.Received != clients*messages || !totals.Correct() || totals.Strays != 0 || totals.Clients != clients {
					t.Errorf("run %d: %+v", run, totals)
				}
				if h.TotalCount() != clients*messages {
					t.Errorf("run %d: %d latencies", run, h.TotalCount())
				}
				if want := uint64(clients * messages * len(message(1, 1))); totals.Bytes != want || totals.Frames != clients*messages {
					t.Errorf("run %d: %d bytes in %d frames, want %d", run, totals.Bytes, totals.Frames, want)
				}
			}
		})
	}
}

// remotes tells the source addresses apart.
func TestSeveralSourceAddressesAreUsed(t *testing.T) {
	target := serve(t, upgrade)
	s := start(t, Options{Target: target.url(), Clients: 9, Sources: 3})
	dial(t, s)
	count := make(map[string]int)
	for _, c := range target.accepted(t, 9) {
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		count[host]++
	}
	if len(count) != 3 || count["127.0.0.2"] != 3 {
		t.Errorf("%v", count)
	}
}

func TestLossesDuplicatesAndSwapsAreCounted(t *testing.T) {
	target := serve(t, upgrade)
	s := start(t, Options{Target: target.url(), Clients: 4})
	dial(t, s)
	conns := target.accepted(t, 4)
	if _, err := s.Begin(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	for i, order := range [][]uint64{{1, 2, 3, 4}, {1, 2, 2, 3, 4}, {1, 2, 4}, {1, 3, 2, 4}} {
		for _, n := range order {
			write(t, conns[i], message(7, n))
		}
		write(t, conns[i], message(6, 1)) // of another run
	}
	waitFor(t, s, func(p Progress) bool { return p.Received == 15 })
	totals, err := s.Finish(t.Context(), 4)
	if err != nil {
		t.Fatal(err)
	}
	if totals.Duplicates != 1 || totals.Missing != 1 || totals.Late != 1 || totals.Received != 15 || totals.Correct() {
		t.Errorf("%+v", totals)
	}
	if totals.Strays > 4 || totals.Strays < 3 { // the last may be on its way
		t.Errorf("%d strays", totals.Strays)
	}
}

func waitFor(t *testing.T, s *Swarm, ready func(Progress) bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		p, err := s.Progress()
		if err != nil {
			t.Fatal(err)
		}
		if ready(p) {
			return
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatalf("never: %+v", p)
		}
	}
}

func TestFramesInPiecesPingsAndClose(t *testing.T) {
	target := serve(t, upgrade)
	s := start(t, Options{Target: target.url(), Clients: 1})
	dial(t, s)
	conn := target.accepted(t, 1)[0]
	if _, err := s.Begin(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	stream := append(message(1, 1), compile(ws.NewPingFrame([]byte("p1")))...)
	stream = append(stream, message(1, 2)...)
	for _, b := range stream {
		write(t, conn, []byte{b})
	}
	if err := s.Wait(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if got := readPong(t, conn); got != "p1" {
		t.Errorf("%q", got)
	}
	write(t, conn, compile(ws.NewCloseFrame(ws.NewCloseFrameBody(4200, "drain"))))
	waitFor(t, s, func(p Progress) bool { return p.Closed == 1 })
	p, _ := s.Progress()
	if p.Reasons["closed by the server: 4200 drain"] != 1 || p.Connected != 0 {
		t.Errorf("%+v", p)
	}
	totals, err := s.Finish(t.Context(), 3)
	if err != nil || totals.Missing != 1 {
		t.Errorf("a client that was closed misses what came later: %+v, %v", totals, err)
	}
}

func TestGreetingIsAwaited(t *testing.T) {
	target := serve(t, func(c net.Conn) error {
		if err := upgrade(c); err != nil {
			return err
		}
		_, err := c.Write(compile(ws.NewTextFrame([]byte(`{"connected":{}}`))))
		return err
	})
	s := start(t, Options{Target: target.url(), Clients: 5, Dialect: Dialect{Greeting: `"connected"`}})
	if p := dial(t, s); p.Connected != 5 {
		t.Errorf("%+v", p)
	}
}

func answerWith(text string) func(net.Conn) error {
	return func(c net.Conn) error {
		buffer := make([]byte, 4096)
		if _, err := c.Read(buffer); err != nil {
			return err
		}
		_, err := c.Write([]byte(text))
		return err
	}
}

func TestTargetsThatAreNoWebSocketServer(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
	tests := []struct {
		name   string
		handle func(net.Conn) error // nil: nothing listens
		greet  string
		want   string
	}{
		{"a dead port", nil, "", "connection refused"},
		{"a web server", answerWith("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), "", `HTTP 200 OK, not 101 Switching Protocols: "hello"`},
		{"an edge that is full", answerWith("HTTP/1.1 503 Service Unavailable\r\n\r\n"), "", "HTTP 503 Service Unavailable"},
		{"a mail server", answerWith("220 mail.example ESMTP\r\n"), "", `not HTTP: it begins "220 mail.example`},
		{"101 from something else", answerWith(switching + "AAAA\r\n\r\n"), "", "Sec-WebSocket-Accept is not the one"},
		{"garbage after the 101", answerWith(switching + accept + "\r\n\r\nhello, world"), "x", "not a WebSocket"},
		{"a head without end", answerWith("HTTP/1.1 101 " + strings.Repeat("x", maxHead+1)), "", "head has more than"},
		{"closes at once", func(net.Conn) error { return net.ErrClosed }, "", "closed the connection without an answer"},
		{"closes inside its answer", func(c net.Conn) error { _ = answerWith("HTTP/1.1 1")(c); return net.ErrClosed }, "", "inside its answer"},
		{"never answers", func(net.Conn) error { return nil }, "", "more than 50ms to answer the upgrade"},
		{"never greets", upgrade, "hello", "more than 50ms to send \"hello\""},
		{"greets with an error", func(c net.Conn) error {
			_ = upgrade(c)
			_, err := c.Write(compile(ws.NewTextFrame([]byte(`{"error":{"code":"bad_room"}}`))))
			return err
		}, "connected", `not "connected" but "{\"error\"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			url := "ws://" + closed.Addr().String()
			timeout := 20 * time.Second
			if test.handle != nil {
				url = serve(t, test.handle).url()
			}
			if strings.HasPrefix(test.name, "never") {
				timeout = 50 * time.Millisecond
			}
			s := start(t, Options{Target: url, Clients: 3, Dialect: Dialect{Greeting: test.greet}, Timeout: timeout})
			p := dial(t, s)
			if p.Connected != 0 || p.Failed != 3 {
				t.Errorf("%+v", p)
			}
			for reason := range p.Reasons {
				if !strings.Contains(reason, test.want) {
					t.Errorf("reason %q, want %q", reason, test.want)
				}
			}
		})
	}
}

func TestOptionsThatCannotWork(t *testing.T) {
	good := Options{Target: "ws://127.0.0.1:9/", Clients: 10}
	tests := []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"no clients", func(o *Options) { o.Clients = 0 }, "at least 1"},
		{"no target", func(o *Options) { o.Target = "" }, "names no host"},
		{"too few descriptors for one client", func(o *Options) { o.DescriptorLimit = ownDescriptors }, "raise the limit"},
		{"too few workers", func(o *Options) { o.Clients, o.Workers, o.DescriptorLimit = 1000, 2, 300 }, "at least 5 workers"},
		{"sources towards another machine", func(o *Options) { o.Target, o.Sources = "ws://192.0.2.9:80/", 2 }, "only towards 127.0.0.0/8"},
		{"too many sources", func(o *Options) { o.Sources = 1000 }, "at most 250"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := good
			test.change(&o)
			if _, err := Start(o); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestClientsAreSharedOutByDescriptors(t *testing.T) {
	plans, err := plan(&Options{Target: "ws://127.0.0.1:9/", Clients: 50_000, DescriptorLimit: 20_000, Rate: 3000})
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, p := range plans {
		if sum += p.Clients; p.Clients+ownDescriptors > 20_000 || p.Rate != 1000 || len(p.Sources) != 4 {
			t.Errorf("%+v", p)
		}
	}
	if len(plans) != 3 || sum != 50_000 {
		t.Errorf("%d plans for %d clients", len(plans), sum)
	}
}

func TestWorkerThatDiesIsAnError(t *testing.T) {
	target := serve(t, upgrade)
	s, err := Start(Options{Spawn: spawnTest, Target: target.url(), Clients: 2})
	if err != nil {
		t.Fatal(err)
	}
	dial(t, s)
	if err := s.workers[0].command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "it ended") {
		t.Errorf("Wait: %v", err)
	}
	if _, err := s.Finish(t.Context(), 1); err == nil {
		t.Error("Finish: no error")
	}
	_ = s.Close()
	if _, err := Start(Options{Spawn: func() *exec.Cmd { return exec.Command("/nonexistent/worker") }, Target: target.url(), Clients: 1}); err == nil {
		t.Error("a worker that cannot be started: no error")
	}
}

func TestWorkerRefusesGarbage(t *testing.T) {
	var out strings.Builder
	if err := Work(t.Context(), strings.NewReader("hello\n"), &out); err == nil || !strings.Contains(out.String(), "error") {
		t.Errorf("%v, %q", err, out.String())
	}
}

func TestPace(t *testing.T) {
	p := pace{interval: int64(time.Second) / 100, start: 1000}
	for _, test := range []struct {
		after time.Duration
		want  int
	}{{0, 1}, {9 * time.Millisecond, 1}, {10 * time.Millisecond, 2}, {time.Second, 101}} {
		if got := p.allowed(1000 + int64(test.after)); got != test.want {
			t.Errorf("after %s: %d, want %d", test.after, got, test.want)
		}
	}
}

// Latency is from the stamp, whatever the swarm does in between: a message
// that was due a second ago is at least a second late.
func TestLatencyCountsFromTheStamp(t *testing.T) {
	target := serve(t, upgrade)
	s := start(t, Options{Target: target.url(), Clients: 1})
	dial(t, s)
	conn := target.accepted(t, 1)[0]
	if _, err := s.Begin(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	at := Now() - int64(time.Second)
	write(t, conn, compile(ws.NewTextFrame(AppendPayload(nil, Stamp{1, 1, at, 0}, 0))))
	write(t, conn, compile(ws.NewTextFrame(AppendPayload(nil, Stamp{1, 2, Now() + int64(time.Hour), 0}, 0))))
	write(t, conn, compile(ws.NewTextFrame(AppendPayload(nil, Stamp{1, 3, 0, 0}, 0))))
	if err := s.Wait(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	totals, err := s.Finish(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	h, err := totals.Histogram()
	if err != nil {
		t.Fatal(err)
	}
	if h.Min() != 1 { // from the future: clamped
		t.Errorf("minimum %d µs", h.Min())
	}
	if got := h.ValueAtQuantile(50); got < 999_000 {
		t.Errorf("median %d µs, want at least a second", got)
	}
	if got := h.Max(); got < latencyHighest*999/1000 { // beyond the range: clamped
		t.Errorf("maximum %d µs", got)
	}
}

func TestTotalsAdd(t *testing.T) {
	var sum Totals
	for _, values := range [][]int64{{1_000_000, 2_000_000}, {3_000_000}, {}} {
		part := Totals{Clients: 1, Received: uint64(len(values)), Missing: 1, histogram: newHistogram()}
		for _, v := range values {
			record(part.histogram, v)
		}
		if err := part.seal(); err != nil {
			t.Fatal(err)
		}
		part.histogram = nil // as it arrives from a worker
		if err := sum.Add(&part); err != nil {
			t.Fatal(err)
		}
	}
	h, _ := sum.Histogram()
	if sum.Clients != 3 || sum.Received != 3 || sum.Missing != 3 || h.TotalCount() != 3 || h.ValueAtQuantile(50) != 2000 || h.Max() < 3000 {
		t.Errorf("%+v, count %d, median %d, max %d", sum, h.TotalCount(), h.ValueAtQuantile(50), h.Max())
	}
	if err := sum.Add(&Totals{Latency: []byte("garbage!")}); err == nil {
		t.Error("garbage for a histogram was taken")
	}
}
