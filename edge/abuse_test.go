package edge

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"nabat/proto/policy"
)

// Each of these clients misbehaves in one way. In each test the edge must bound
// what that costs, name it in its metrics, and go on serving a bystander.

type bystander struct {
	c *cluster
	a *client
	n int
}

func newBystander(c *cluster, e *Edge) *bystander {
	a := dial(c.t, e, "/ws?room=bystander")
	a.connected("bystander")
	return &bystander{c: c, a: a}
}

// served proves that the bystander still gets messages.
func (b *bystander) served() {
	b.c.t.Helper()
	b.n++
	b.c.publish("bystander", fmt.Sprint(b.n), nil)
	b.a.want(fmt.Sprintf(`{"room":"bystander","data":%d}`, b.n))
}

func raw(t *testing.T, e *Edge, text string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", e.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	return conn
}

func TestAHalfSentHeadIsEndedByItsDeadline(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.HandshakeTimeout = 300 * time.Millisecond })
	b := newBystander(c, e)
	conn := raw(t, e, "GET /ws?room=a HTTP/1.1\r\nHost: x\r\nUpgr")
	b.served()
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 408 ") || !strings.Contains(string(answer), "head_timeout") {
		t.Fatalf("%q, %v", answer, err)
	}
	if e.refusals("head_timeout") != 1 {
		t.Error("not counted")
	}
	b.served()
}

func TestAHeadByteByByteIsServed(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	head := "GET /ws?room=a HTTP/1.1\r\nHost: x\r\n" + strings.Join(upgradeHeaders(), "\r\n") + "\r\n\r\n"
	conn := raw(t, e, "")
	for i := range head {
		if _, err := io.WriteString(conn, head[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	answer := make([]byte, 12)
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "HTTP/1.1 101" {
		t.Fatalf("%q, %v", answer, err)
	}
}

func TestAFloodOfGarbageIsRefusedAtOnce(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	b := newBystander(c, e)
	for _, flood := range []string{strings.Repeat("\x00\xff\x13garbage", 10000), strings.Repeat("A", 100<<10), "GET / HTTP/1.1\r\n" + strings.Repeat("X: y\r\n", 10000)} {
		conn, err := net.Dial("tcp", e.Addr())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, flood) // the edge may hang up in the middle
		answer, _ := io.ReadAll(conn)
		_ = conn.Close()
		if len(answer) > 0 && !strings.HasPrefix(string(answer), "HTTP/1.1 4") {
			t.Errorf("answer %q", answer)
		}
		b.served()
	}
	if n := e.refusals("bad_request") + e.refusals("head_too_large"); n != 3 {
		t.Errorf("%d refusals counted", n)
	}
}

func TestFloodsOfGarbageFrames(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	b := newBystander(c, e)
	for _, f := range []struct {
		rule   string
		frame  []byte
		status int
		close  string
	}{
		{"an unmasked frame", []byte{0x81, 2, 'h', 'i'}, 1002, "violation_protocol"},
		{"a reserved bit", []byte{0xC1, 0x80, 0, 0, 0, 0}, 1002, "violation_protocol"},
		{"a message larger than the limit, before it arrives", append([]byte{0x81, 0xFF, 0, 0, 0, 0, 0x40, 0, 0, 0}, 1, 2, 3, 4), 1009, "violation_too_large"},
		{"text that is no UTF-8", ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte("\xff")))), 1007, "violation_utf8"},
		{"a binary frame to a text protocol", ws.MustCompileFrame(ws.MaskFrame(ws.NewBinaryFrame([]byte("x")))), 1003, "binary_frame"},
		{"random bytes", []byte("\x93\x0f\xa8\x44garbage garbage garbage"), 1002, "violation_protocol"},
	} {
		t.Run(f.rule, func(t *testing.T) {
			before := e.closes(f.close)
			a := dial(t, e, "/ws?room=a")
			a.connected("a")
			if _, err := a.conn.Write(f.frame); err != nil {
				t.Fatal(err)
			}
			a.wantClose(f.status, "")
			until(t, "the close is counted", func() bool { return e.closes(f.close) == before+1 })
			b.served()
		})
	}
}

func TestAHalfFrameHoldsOnlyWhatArrived(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.MaxMessageBytes = 16 << 20 })
	b := newBystander(c, e)
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	header := append([]byte{0x81, 0xFF}, binary.BigEndian.AppendUint64(nil, 16<<20)...)
	if _, err := a.conn.Write(append(header, 1, 2, 3, 4, 'x')); err != nil {
		t.Fatal(err)
	}
	b.served()
	if err := wsutil.WriteClientMessage(b.a.conn, ws.OpPing, nil); err != nil {
		t.Fatal(err)
	}
	b.served()
}

func TestHandshakesThatNeverFinishAreBounded(t *testing.T) {
	c := newCluster(t, policy.Dev())
	const limit, flood = 64, 500
	e := c.edge(func(cfg *Config) { cfg.Loops = 1; cfg.MaxHandshakes = limit })
	b := newBystander(c, e)
	for range flood {
		raw(t, e, "GET /ws HTTP/1.1\r\n")
	}
	until(t, "the oldest are sent away", func() bool { return e.refusals("overloaded") >= flood-limit })
	if n := e.workers[0].counts.Pending.Load(); n > limit {
		t.Errorf("%d handshakes pending: the bound is %d", n, limit)
	}
	// Newcomers get in all the same.
	for range 20 {
		dial(t, e, "/ws?room=a").connected("a")
	}
	b.served()
}

func TestTooManyConnectionsAreToldToComeBack(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.Loops = 1; cfg.MaxConnections = 16 })
	var last *client
	for range 16 {
		last = dial(t, e, "/ws?room=a")
		last.connected("a")
	}
	status, body, header := get(t, e, "/ws?room=a")
	if status != 503 || header.Get("Retry-After") == "" || !strings.Contains(body, "overloaded") {
		t.Fatalf("%d %s %v", status, body, header)
	}
	if e.refusals("max_connections") != 1 {
		t.Error("not counted")
	}
	_ = last.conn.Close()
	until(t, "a place is free again", func() bool { return e.connections() < 16 })
	dial(t, e, "/ws?room=a").connected("a")
}

// stall connects a client that stops reading, with a small receive buffer.
func stall(t *testing.T, e *Edge, room string) *client {
	t.Helper()
	a := dial(t, e, "/ws?room="+room)
	if err := a.conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	a.connected(room)
	return a
}

func TestAClientThatStopsReadingLosesMessagesAndIsToldSo(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.MaxQueueBytes = 64 << 10; cfg.Loops = 1 })
	slow := stall(t, e, "busy")
	fast := dial(t, e, "/ws?room=busy")
	fast.connected("busy")
	b := newBystander(c, e)
	body := strings.Repeat("x", 8<<10)
	drops := func() (n uint64) {
		e.workers[0].counts.Drops.Each(func(reason string, k uint64) {
			if reason == "slow" {
				n = k
			}
		})
		return n
	}
	sent := 0
	for drops() < 50 {
		c.publish("busy", fmt.Sprintf(`"%d %s"`, sent, body), nil)
		fast.want(fmt.Sprintf(`{"room":"busy","data":"%d %s"}`, sent, body))
		if sent++; sent > 100000 {
			t.Fatal("nothing was dropped")
		}
	}
	if q := e.workers[0].counts.QueuedBytes.Load(); q > 64<<10 {
		t.Errorf("%d bytes queued: the bound is 64 KiB", q)
	}
	b.served()
	// It reads again: whole messages in order up to the gap, the notice, and
	// then what is published from now on.
	next := 0
	for {
		text, err := slow.next()
		if err != nil {
			t.Fatal(err)
		}
		if text == `{"gap":{"room":"busy","reason":"slow"}}` {
			break
		}
		if !strings.HasPrefix(text, fmt.Sprintf(`{"room":"busy","data":"%d x`, next)) {
			t.Fatalf("message %d is %.40s…", next, text)
		}
		next++
	}
	if next == 0 || next+int(drops()) != sent {
		t.Errorf("%d messages before the gap and %d dropped of %d", next, drops(), sent)
	}
	c.publish("busy", "1", nil)
	slow.want(`{"room":"busy","data":1}`)
}

func TestASlowReaderOfAStrictRoomIsDisconnected(t *testing.T) {
	set := policy.Dev()
	set.Rooms[0].Slow = policy.Disconnect
	c := newCluster(t, set)
	e := c.edge(func(cfg *Config) { cfg.MaxQueueBytes = 64 << 10; cfg.Loops = 1; cfg.CloseTimeout = patience })
	slow := stall(t, e, "busy")
	b := newBystander(c, e)
	body := strings.Repeat("x", 8<<10)
	for e.closes("slow") == 0 {
		c.publish("busy", body, nil)
	}
	b.served()
	slow.wantClose(4100, `{"code":"slow","retry_ms":2000}`)
}

// The ping deadline comes between the close and the end of the client's time for
// its own half: it must not cut that short.
func TestAnOlderDeadlineDoesNotCutACloseShort(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) {
		cfg.PingInterval, cfg.CloseTimeout = 500*time.Millisecond, 3*time.Second
	})
	client := dial(t, e, "/ws")
	client.send(`{"connect":{"token":"none"}}`)
	_ = client.conn.SetReadDeadline(time.Now().Add(patience))
	for {
		h, err := ws.ReadHeader(client.r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, client.r, h.Length); err != nil {
			t.Fatal(err)
		}
		if h.OpCode == ws.OpClose {
			break
		}
	}
	closed := time.Now()
	if _, err := io.ReadAll(client.r); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(closed); took < 2*time.Second {
		t.Fatalf("the connection ended %s after the close frame, close_timeout is 3s", took)
	}
}

func TestADeadPeerIsFound(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.PingInterval, cfg.PongTimeout = time.Second, time.Second })
	quiet := dial(t, e, "/ws?room=a")
	quiet.connected("a")
	until(t, "the silent client is closed", func() bool { return e.closes("ping_timeout") == 1 })
}

func TestALivingClientIsPingedAndStays(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.PingInterval, cfg.PongTimeout = time.Second, time.Second })
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	got := make(chan string, 1)
	go func() {
		text, _ := a.next() // answers pings meanwhile
		got <- text
	}()
	pinged := func() (n uint64) {
		for _, w := range e.workers {
			n += w.counts.BytesIn.Load()
		}
		return n
	}
	before := pinged()
	until(t, "three pongs came", func() bool { return pinged() >= before+3*6 })
	c.publish("a", "1", nil)
	if text := <-got; text != `{"room":"a","data":1}` {
		t.Fatal(text)
	}
}

func TestNATSGoesAwayAndComesBack(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.NATSTimeout = 500 * time.Millisecond })
	a, b := dial(t, e, "/ws?room=a"), dial(t, e, "/ws?room=a&room=b")
	a.connected("a")
	b.connected("a", "b")
	c.nats.Stop()
	until(t, "the edge says so", func() bool { return e.Ready() != nil })
	until(t, "metrics say so", func() bool { return !e.Bus().Connected })
	a.send(`{"id":1,"ping":{}}`)
	a.want(`{"id":1,"pong":{}}`) // clients stay connected
	a.send(`{"id":2,"publish":{"room":"a","text":"lost"}}`)
	a.wantPrefix(`{"id":2,"error":{"code":"unavailable"`)
	a.send(`{"id":3,"subscribe":{"rooms":[{"room":"new"}]}}`)
	a.wantPrefix(`{"id":3,"error":{"code":"unavailable"`)
	// Who connects by URL, to a room that nobody is in, has no answer to look at.
	dial(t, e, "/ws?room=new").wantClose(4101, `{"code":"unavailable","retry_ms":1000}`)
	if err := c.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	a.want(`{"gap":{"room":"a","reason":"bus_reconnected"}}`)
	first, err := b.next()
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.next()
	if all := first + second; err != nil || !strings.Contains(all, `{"gap":{"room":"a","reason":"bus_reconnected"}}`) || !strings.Contains(all, `{"gap":{"room":"b","reason":"bus_reconnected"}}`) {
		t.Fatalf("%s %s %v", first, second, err)
	}
	until(t, "the edge is ready again", func() bool { return e.Ready() == nil })
	until(t, "NATS takes our publishes again", func() bool { return c.nc.IsConnected() })
	c.publish("a", "1", nil)
	a.want(`{"room":"a","data":1}`)
	a.send(`{"id":4,"subscribe":{"rooms":[{"room":"new"}]}}`)
	a.want(`{"id":4,"subscribed":{"rooms":[{"room":"new"}]}}`)
}
