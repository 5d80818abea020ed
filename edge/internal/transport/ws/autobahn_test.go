package ws

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nabat/edge/internal/listen"
	"nabat/edge/internal/loop"
	"nabat/edge/internal/metrics"
	"nabat/edge/internal/outq"
	"nabat/edge/internal/transport"
)

// These are the cases of the Autobahn test suite, by their numbers, against
// Echo on a real loop and a real socket. Those of compression (12, 13) are in
// autobahn_deflate_test.go.

const patience = 60 * time.Second

// echoServer accepts connections and serves Echo on every path.
type echoServer struct {
	addr string
	env  *transport.Env
	loop *loop.Loop
}

type turn struct{ w *transport.Writer }

func (t turn) EndTurn() { t.w.Flush() }

type noRooms struct{}

func (noRooms) Rule(uint32) outq.Rule { return outq.Disconnect }

func (s *echoServer) Serve(h *listen.Handshake, head *listen.Head, rest []byte) {
	if err := Check(head); err != nil {
		h.Refuse(err)
		return
	}
	answer, err := Accept(head, "", s.env.Deflater != nil)
	if err != nil {
		panic(err)
	}
	e := new(Echo)
	e.Start(s.env, h.Ref(), h.Upgrade(e), 64<<20, answer)
	e.Feed(rest)
}

func startEcho(t *testing.T) *echoServer {
	t.Helper()
	l, err := loop.New(loop.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	counts := new(metrics.Loop)
	w := transport.NewWriter(l, noRooms{}, counts, transport.Bounds{Queue: 1 << 20, Lag: 1 << 20})
	s := &echoServer{loop: l, env: &transport.Env{Loop: l, Writer: w, Counts: counts,
		Limits: &transport.Limits{CloseTimeout: patience}}}
	fds, bound, err := listen.Sockets("127.0.0.1:0", 1, listen.SocketOptions{Backlog: 64})
	if err != nil {
		t.Fatal(err)
	}
	s.addr = bound.String()
	// Room for more than the loop reads at once.
	if err := unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_RCVBUF, 200<<10); err != nil {
		t.Fatal(err)
	}
	a := listen.NewAcceptor(l, fds[0], s, listen.Limits{MaxHead: 8 << 10, HeadTimeout: patience, MaxHandshakes: 64}, counts)
	if err := l.Do(func() { l.SetTurn(turn{w}) }); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	return s
}

// peer is a client that sends any bytes, and reads frames strictly.
type peer struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader

	extensions string // of the response
}

func (s *echoServer) dial(t *testing.T, extra string) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	p := &peer{t: t, conn: conn, r: bufio.NewReaderSize(conn, 64<<10)}
	if _, err := io.WriteString(conn, "GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+key+extra+"\r\n"); err != nil {
		t.Fatal(err)
	}
	head := ""
	for !strings.HasSuffix(head, "\r\n\r\n") {
		line, err := p.r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		head += line
	}
	_, after, negotiated := strings.Cut(head, "Sec-WebSocket-Extensions: ")
	if !strings.HasPrefix(head, "HTTP/1.1 101 ") || (negotiated && s.env.Deflater == nil) {
		t.Fatalf("%q", head)
	}
	p.extensions, _, _ = strings.Cut(after, "\r\n")
	return p
}

// send writes b in chops of n bytes, whole for 0.
func (p *peer) send(b []byte, n int) {
	if n == 0 {
		n = max(len(b), 1)
	}
	for ; len(b) > 0; b = b[min(n, len(b)):] {
		if _, err := p.conn.Write(b[:min(n, len(b))]); err != nil {
			return // the edge has failed the connection: reading tells why
		}
	}
}

// next reads one frame, in words; "end" when the edge ends the connection.
func (p *peer) next() string {
	p.t.Helper()
	var h [10]byte
	if _, err := io.ReadFull(p.r, h[:2]); err != nil {
		if errors.Is(err, io.EOF) {
			return "end"
		}
		p.t.Fatal(err)
	}
	length := uint64(h[1])
	switch length {
	case 126:
		if _, err := io.ReadFull(p.r, h[2:4]); err != nil {
			p.t.Fatal(err)
		}
		length = uint64(binary.BigEndian.Uint16(h[2:]))
	case 127:
		if _, err := io.ReadFull(p.r, h[2:10]); err != nil {
			p.t.Fatal(err)
		}
		length = binary.BigEndian.Uint64(h[2:])
	}
	if length > 64<<20 {
		p.t.Fatalf("a frame of %d bytes: % x", length, h)
	}
	payload := make([]byte, length)
	if _, err := io.ReadFull(p.r, payload); err != nil {
		p.t.Fatal(err)
	}
	if p.extensions != "" && h[0]&rsv1 != 0 {
		h[0] &^= rsv1
		payload = []byte("deflated " + inflated(p.t, payload))
	}
	switch h[0] {
	case 0x81:
		return "text " + string(payload)
	case 0x82:
		return "binary " + string(payload)
	case 0x89:
		return "ping " + string(payload)
	case 0x8a:
		return "pong " + string(payload)
	case 0x88:
		if length == 0 {
			return "close"
		}
		return fmt.Sprintf("close %d", binary.BigEndian.Uint16(payload))
	}
	p.t.Fatalf("frame % x", h)
	return ""
}

func (p *peer) want(list ...string) {
	p.t.Helper()
	for i, w := range list {
		if got := p.next(); got != w {
			p.t.Fatalf("%d: got %.80q (%d bytes)\nwant %.80q (%d bytes)", i, got, len(got), w, len(w))
		}
	}
}

// script is what a case sends and what must come back.
type script struct {
	name string
	send []byte
	want []string
}

func join(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

const (
	text, binaryF   = 0x81, 0x82 // whole messages
	textStart       = 0x01
	binaryStart     = 0x02
	more, last      = 0x00, 0x80
	ping, pong, bye = 0x89, 0x8a, 0x88
)

func str(op byte, s string) []byte { return masked(op, []byte(s)) }

func status(code int, reason string) []byte {
	return masked(bye, append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...))
}

// goodbye ends a case that did not fail.
var goodbye = status(1000, "")

// run sends each script whole, and in chops; it ends as Autobahn ends a case:
// with a close handshake, unless the edge must fail the connection.
func run(t *testing.T, s *echoServer, scripts []script, chops ...int) {
	t.Helper()
	for _, c := range scripts {
		t.Run(c.name, func(t *testing.T) {
			for _, n := range append([]int{0}, chops...) {
				p := s.dial(t, "")
				want, send := c.want, c.send
				if len(want) == 0 || !strings.HasPrefix(want[len(want)-1], "close") {
					send, want = join(send, goodbye), append(append([]string{}, want...), "close 1000")
				}
				go p.send(send, n)
				p.want(append(append([]string{}, want...), "end")...)
				_ = p.conn.Close()
			}
		})
	}
	until(t, "all connections are gone", func() bool { return s.loop.Connections() == 0 })
	if n := s.env.Counts.QueuedBytes.Load(); n != 0 {
		t.Errorf("%d bytes queued for nobody", n)
	}
	if n := s.env.Counts.WebSockets.Load(); n != 0 {
		t.Errorf("%d connections counted", n)
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

func TestAutobahn1Framing(t *testing.T) {
	s := startEcho(t)
	var list []script
	for i, n := range []int{0, 125, 126, 127, 128, 65535, 65536} {
		star, bin := strings.Repeat("*", n), strings.Repeat("\xfe", n)
		list = append(list,
			script{fmt.Sprintf("1.1.%d text of %d bytes", i+1, n), str(text, star), []string{"text " + star}},
			script{fmt.Sprintf("1.2.%d binary of %d bytes", i+1, n), str(binaryF, bin), []string{"binary " + bin}})
	}
	run(t, s, list, 997) // 1.1.8, 1.2.8
	for _, c := range list[:10] {
		run(t, s, []script{c}, 1, 2, 3, 5, 7, 64, 127, 128, 129)
	}
}

func TestAutobahn2PingPong(t *testing.T) {
	long := strings.Repeat("\xfe", 125)
	var ten []byte
	var pongs []string
	for i := range 10 {
		ten = append(ten, str(ping, fmt.Sprint("payload-", i))...)
		pongs = append(pongs, fmt.Sprint("pong payload-", i))
	}
	run(t, startEcho(t), []script{
		{"2.1 without payload", str(ping, ""), []string{"pong "}},
		{"2.2 with payload", str(ping, "Hello, world!"), []string{"pong Hello, world!"}},
		{"2.3 with binary payload", str(ping, "\x00\xff\xfe\xfd\xfc\xfb\x00\xff"), []string{"pong \x00\xff\xfe\xfd\xfc\xfb\x00\xff"}},
		{"2.4 with 125 bytes, and 2.6 octet by octet", str(ping, long), []string{"pong " + long}},
		{"2.5 with 126 bytes", str(ping, long+"\xfe"), []string{"close 1002"}},
		{"2.7 unsolicited pong", str(pong, ""), nil},
		{"2.8 unsolicited pong with payload", str(pong, "unsolicited"), nil},
		{"2.9 unsolicited pong, then ping", join(str(pong, "unsolicited"), str(ping, "ping")), []string{"pong ping"}},
		{"2.10 ten pings, and 2.11 octet by octet", ten, pongs},
		{"2.x pong with 126 bytes", str(pong, long+"\xfe"), []string{"close 1002"}},
	}, 1)
}

func TestAutobahn3ReservedBits(t *testing.T) {
	var list []script
	for rsv := byte(1); rsv <= 7; rsv++ {
		list = append(list,
			script{fmt.Sprintf("3.%d RSV=%d on text", rsv, rsv), str(text|rsv<<4, "Hello"), []string{"close 1002"}},
			script{fmt.Sprintf("3.%d RSV=%d behind a message", rsv, rsv), join(str(text, "Hello"), str(text|rsv<<4, "Hello"), str(ping, "")), []string{"text Hello", "close 1002"}},
			script{fmt.Sprintf("3.%d RSV=%d on binary", rsv, rsv), str(binaryF|rsv<<4, "\x00\xff"), []string{"close 1002"}},
			script{fmt.Sprintf("3.%d RSV=%d on ping", rsv, rsv), str(ping|rsv<<4, "Hello"), []string{"close 1002"}},
			script{fmt.Sprintf("3.%d RSV=%d on close", rsv, rsv), masked(bye|rsv<<4, nil), []string{"close 1002"}},
			script{fmt.Sprintf("3.%d RSV=%d on a continuation", rsv, rsv), join(str(textStart, "a"), str(last|rsv<<4, "b")), []string{"close 1002"}})
	}
	run(t, startEcho(t), list, 1)
}

func TestAutobahn4ReservedOpcodes(t *testing.T) {
	var list []script
	for i, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		group, n := 1+i/5, 1+i%5
		list = append(list,
			script{fmt.Sprintf("4.%d.%d opcode %d", group, n, op), masked(0x80|op, nil), []string{"close 1002"}},
			script{fmt.Sprintf("4.%d.%d opcode %d with payload", group, n, op), str(0x80|op, "reserved opcode payload"), []string{"close 1002"}},
			script{fmt.Sprintf("4.%d.%d opcode %d behind a message", group, n, op), join(str(text, "Hello, world!"), str(0x80|op, "x"), str(ping, "")), []string{"text Hello, world!", "close 1002"}},
			script{fmt.Sprintf("4.%d.%d opcode %d inside a message", group, n, op), join(str(textStart, "Hello"), str(0x80|op, "x")), []string{"close 1002"}})
	}
	run(t, startEcho(t), list, 1)
}

func TestAutobahn5Fragmentation(t *testing.T) {
	f1, f2 := str(textStart, "fragment1"), str(last, "fragment2")
	whole := "text fragment1fragment2"
	five := join(str(textStart, "fragment1"), str(more, "fragment2"), str(ping, "pongme 1!"), str(more, "fragment3"), str(more, "fragment4"), str(ping, "pongme 2!"), str(last, "fragment5"))
	run(t, startEcho(t), []script{
		{"5.1 fragmented ping", join(str(0x09, "fragment1"), f2), []string{"close 1002"}},
		{"5.2 fragmented pong", join(str(0x0a, "fragment1"), f2), []string{"close 1002"}},
		{"5.x fragmented close", masked(0x08, nil), []string{"close 1002"}},
		{"5.3 text in two fragments, 5.4 frame by frame, 5.5 octet by octet", join(f1, f2), []string{whole}},
		{"5.6 ping between fragments, 5.7, 5.8", join(f1, str(ping, "ping payload"), f2), []string{"pong ping payload", whole}},
		{"5.x pong between fragments", join(f1, str(pong, "unsolicited"), f2), []string{whole}},
		{"5.9 continuation without start, 5.10, 5.11", join(str(last, "non-continuation payload"), str(text, "Hello, world!")), []string{"close 1002"}},
		{"5.12 unfinished continuation without start, 5.13, 5.14", join(str(more, "non-continuation payload"), str(text, "Hello, world!")), []string{"close 1002"}},
		{"5.x continuation behind a finished message", join(f1, f2, str(last, "again")), []string{whole, "close 1002"}},
		{"5.15 message, then continuation and new start", join(f1, f2, str(more, "fragment3"), str(textStart, "fragment4")), []string{whole, "close 1002"}},
		{"5.16 a message inside another, continued, 5.17", join(str(more, "fragment1"), str(textStart, "fragment2"), str(last, "fragment3")), []string{"close 1002"}},
		{"5.18 two starts", join(f1, str(text, "fragment2")), []string{"close 1002"}},
		{"5.x binary start inside text", join(f1, str(binaryStart, "fragment2")), []string{"close 1002"}},
		{"5.19 five fragments and two pings, 5.20", five, []string{"pong pongme 1!", "pong pongme 2!", "text fragment1fragment2fragment3fragment4fragment5"}},
		{"5.x close between fragments", join(f1, goodbye), []string{"close 1000"}},
		{"5.x empty fragments", join(str(binaryStart, ""), str(more, ""), str(last, "")), []string{"binary "}},
	}, 1)
}

func TestAutobahn6UTF8(t *testing.T) {
	s := startEcho(t)
	var list []script
	octets := func(s string) (b []byte) {
		b = str(textStart, "")
		for i := range len(s) {
			b = append(b, str(more, s[i:i+1])...)
		}
		return append(b, str(last, "")...)
	}
	for _, v := range validText {
		list = append(list,
			script{fmt.Sprintf("6.x valid %q", v), str(text, v), []string{"text " + v}},
			script{fmt.Sprintf("6.2 valid, a fragment for each octet %q", v), octets(v), []string{"text " + v}})
	}
	for _, v := range invalidText {
		list = append(list,
			script{fmt.Sprintf("6.x invalid %q", v), str(text, v), []string{"close 1007"}},
			script{fmt.Sprintf("6.3 invalid, a fragment for each octet %q", v), octets(v), []string{"close 1007"}},
			script{fmt.Sprintf("6.x allowed in binary %q", v), str(binaryF, v), []string{"binary " + v}})
	}
	list = append(list,
		script{"6.1.1 empty text", str(text, ""), []string{"text "}},
		script{"6.1.2 three empty fragments", join(str(textStart, ""), str(more, ""), str(last, "")), []string{"text "}},
		script{"6.1.3 one of three is not empty", join(str(textStart, ""), str(more, "middle frame payload"), str(last, "")), []string{"text middle frame payload"}},
		script{"6.x a control frame inside a character", join(str(textStart, "\xe2\x82"), str(ping, "\xff"), str(last, "\xac")), []string{"pong \xff", "text €"}},
		script{"6.x a cut character does not reach the next message", join(str(binaryStart, "\xe2"), str(last, ""), str(text, "\xac")), []string{"binary \xe2", "close 1007"}})
	run(t, s, list, 1)
}

// 6.4: the close comes though neither the frame nor the message is complete.
func TestAutobahn6FailFast(t *testing.T) {
	s := startEcho(t)
	const good, bad = "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5", "\xf4\x90"
	for _, c := range []struct {
		name  string
		parts []string
	}{
		{"6.4.1 in the second fragment", []string{string(str(textStart, good)), string(str(more, bad+"\x80\x80"))}},
		{"6.4.2 in the third fragment, on a cut character", []string{string(str(textStart, good+"\xf4")), string(str(more, "\x90"))}},
		{"6.4.3 inside a frame", []string{string(maskedAs(text, 1000, []byte(good+bad)))}},
		{"6.4.4 inside a frame, at the next octet", []string{string(maskedAs(text, 1000, []byte(good+"\xf4"))), string([]byte{0x90 ^ []byte{0x37, 0xfa, 0x21, 0x3d}[12%4]})}},
		{"a 64-bit length whose first bit is set, before the mask", []string{"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x01"}},
		{"a reserved opcode, before the length", []string{"\x83"}},
		{"a reserved bit, before the length", []string{"\xc1"}},
		{"an unmasked frame, before its payload", []string{"\x81\x05"}},
		{"a long ping, before its payload", []string{"\x89\xfe"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := s.dial(t, "")
			for _, part := range c.parts {
				p.send([]byte(part), 0)
			}
			want := "close 1002"
			if strings.HasPrefix(c.name, "6.") {
				want = "close 1007"
			}
			p.want(want, "end")
		})
	}
}

func TestAutobahn7Close(t *testing.T) {
	list := []script{
		{"7.1.1 a message, then close", join(str(text, "Hello World!"), goodbye), []string{"text Hello World!", "close 1000"}},
		{"7.1.2 two closes", join(goodbye, goodbye), []string{"close 1000"}},
		{"7.1.3 ping after close", join(goodbye, str(ping, "")), []string{"close 1000"}},
		{"7.1.4 text after close", join(goodbye, str(text, "Hello World!")), []string{"close 1000"}},
		{"7.1.5 fragment, close, fragment", join(str(textStart, "fragment1"), goodbye, str(last, "fragment2")), []string{"close 1000"}},
		{"7.1.x garbage after close", join(goodbye, []byte("\xff\xff\xff")), []string{"close 1000"}},
		{"7.3.1 without payload", masked(bye, nil), []string{"close"}},
		{"7.3.2 a payload of one byte", str(bye, "a"), []string{"close 1002"}},
		{"7.3.3 a status", status(1000, ""), []string{"close 1000"}},
		{"7.3.4 a reason", status(1000, "Hello World!"), []string{"close 1000"}},
		{"7.3.5 a reason of 123 bytes", status(1000, strings.Repeat("*", 123)), []string{"close 1000"}},
		{"7.3.6 a reason of 124 bytes", status(1000, strings.Repeat("*", 124)), []string{"close 1002"}},
		{"7.5.1 a reason that is not UTF-8", status(1000, invalidText[0]), []string{"close 1007"}},
		{"7.5.x a reason that ends inside a character", status(1000, "\xe2\x82"), []string{"close 1007"}},
	}
	for i, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999, 1012, 1013, 1014} {
		list = append(list, script{fmt.Sprintf("7.7.%d valid status %d", i+1, code), status(code, ""), []string{fmt.Sprintf("close %d", code)}})
	}
	for i, code := range []int{0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 1015, 5000, 65535} {
		list = append(list,
			script{fmt.Sprintf("7.9.%d invalid status %d", i+1, code), status(code, ""), []string{"close 1002"}},
			script{fmt.Sprintf("7.13 invalid status %d with a reason", code), status(code, "reason"), []string{"close 1002"}})
	}
	run(t, startEcho(t), list, 1)
}

// 7.1.6: the close comes behind all that is owed.
func TestAutobahn7CloseBehindAMessageUnderWay(t *testing.T) {
	big := strings.Repeat("BAsd7&jh23", 256<<10/10)
	run(t, startEcho(t), []script{{"7.1.6 256 kB, close, ping", join(str(text, big), goodbye, str(ping, "")), []string{"text " + big, "close 1000"}}}, 4096)
}

func TestAutobahn9Limits(t *testing.T) {
	s := startEcho(t)
	for _, n := range []int{64 << 10, 1 << 20, 4 << 20, 16 << 20} {
		if raceEnabled && n > 1<<20 {
			continue // a minute of copying, and no other code than for 1 MB
		}
		star, bin := strings.Repeat("*", n), strings.Repeat("\xfe", n)
		list := []script{{fmt.Sprintf("9.1 text of %d bytes", n), str(text, star), []string{"text " + star}}}
		if n < 16<<20 {
			list = append(list, script{fmt.Sprintf("9.2 binary of %d bytes", n), str(binaryF, bin), []string{"binary " + bin}})
		}
		for _, size := range []int{64, 256, 1 << 10, 16 << 10, 256 << 10, 4 << 20} {
			if n/size > 1<<16 || (n == 16<<20 && size != 16<<10) || n < size {
				continue
			}
			b := str(textStart, star[:size])
			for at := size; at < n; at += size {
				b = append(b, str(more, star[at:min(at+size, n)])...)
			}
			b = append(b, str(last, "")...)
			list = append(list, script{fmt.Sprintf("9.3 text of %d bytes in fragments of %d", n, size), b, []string{"text " + star}})
		}
		run(t, s, list)
	}
	for _, c := range []struct{ size, chop int }{{256 << 10, 128}, {512 << 10, 512}, {1 << 20, 997}, {1 << 20, 2 << 10}} {
		t.Run(fmt.Sprintf("9.5, 9.6 %d bytes in chops of %d", c.size, c.chop), func(t *testing.T) {
			star := strings.Repeat("*", c.size)
			p := s.dial(t, "")
			go p.send(join(str(text, star), str(binaryF, star), goodbye), c.chop)
			p.want("text "+star, "binary "+star, "close 1000", "end")
		})
	}
	// 9.7, 9.8: round trips of each size.
	for _, n := range []int{0, 16, 64, 256, 1 << 10, 4 << 10} {
		p := s.dial(t, "")
		body := strings.Repeat("*", n)
		for range 100 {
			p.send(str(text, body), 0)
			p.want("text " + body)
		}
	}
}

// 10.1.1: a message in automatic fragments of 1,300 bytes.
func TestAutobahn10AutoFragmentation(t *testing.T) {
	star := strings.Repeat("*", 65536)
	b := str(textStart, star[:1300])
	for at := 1300; at < len(star); at += 1300 {
		op := byte(more)
		if at+1300 >= len(star) {
			op = last
		}
		b = append(b, str(op, star[at:min(at+1300, len(star))])...)
	}
	run(t, startEcho(t), []script{{"10.1.1", b, []string{"text " + star}}}, 997)
}

func TestFramesThatNoClientMaySend(t *testing.T) {
	hello := []byte("\x81\x05Hello")
	wide := func(length uint64) []byte {
		return append(binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, length), 1, 2, 3, 4)
	}
	run(t, startEcho(t), []script{
		{"RFC 6455 §5.1 unmasked", hello, []string{"close 1002"}},
		{"RFC 6455 §5.1 unmasked behind a masked one", join(str(text, "a"), hello), []string{"text a", "close 1002"}},
		{"RFC 6455 §5.1 unmasked close", []byte("\x88\x02\x03\xe8"), []string{"close 1002"}},
		{"RFC 6455 §5.2 5 in 16 bits", []byte("\x81\xfe\x00\x05\x00\x00\x00\x00Hello"), []string{"close 1002"}},
		{"RFC 6455 §5.2 125 in 16 bits", []byte("\x81\xfe\x00\x7d\x00\x00\x00\x00"), []string{"close 1002"}},
		{"RFC 6455 §5.2 5 in 64 bits", append(wide(5), "Hello"...), []string{"close 1002"}},
		{"RFC 6455 §5.2 65535 in 64 bits", wide(65535), []string{"close 1002"}},
		{"RFC 6455 §5.2 most significant bit", wide(1 << 63), []string{"close 1002"}},
		{"RFC 6455 §5.2 all bits", wide(1<<64 - 1), []string{"close 1002"}},
		{"RFC 6455 §7.4.1 a byte above the limit", wide(64<<20 + 1), []string{"close 1009"}},
		{"RFC 6455 §7.4.1 the largest length", wide(1<<63 - 1), []string{"close 1009"}},
		{"RFC 6455 §7.4.1 fragments above the limit", join(str(binaryStart, "x"), append([]byte{0x00}, wide(64 << 20)[1:]...)), []string{"close 1009"}},
	}, 1)
}

func TestAnUnknownExtensionIsDeclined(t *testing.T) {
	s := startEcho(t)
	p := s.dial(t, "Sec-WebSocket-Extensions: x-unknown; mode=\"a, b\"; level=3\r\nSec-WebSocket-Extensions: x-other\r\n")
	p.send(str(text, "Hello"), 0)
	p.want("text Hello")
	p.send(str(text|0x40, "Hello"), 0) // what was not negotiated is not allowed
	p.want("close 1002", "end")
}

// The edge stops reading while it owes, so a client that only sends is held by
// its own socket and costs no more than the buffers of one turn.
func TestEchoDoesNotReadAheadOfItsReader(t *testing.T) {
	s := startEcho(t)
	p := s.dial(t, "")
	const frames = 1000 // 32 MB, more than all kernel buffers
	frame := str(binaryF, strings.Repeat("x", 32<<10))
	sent := make(chan int, 1)
	go func() {
		n := 0
		for range frames {
			if _, err := p.conn.Write(frame); err != nil {
				break
			}
			n++
		}
		sent <- n
	}()
	until(t, "the edge owes", func() bool { return s.env.Counts.QueuedBytes.Load() > 0 })
	for range frames {
		if n := s.env.Counts.QueuedBytes.Load(); n > 1<<20 {
			t.Fatalf("%d bytes queued", n)
		}
		p.want("binary " + strings.Repeat("x", 32<<10))
	}
	if n := <-sent; n != frames {
		t.Errorf("%d sent", n)
	}
}

// A client that sends its request, more than one read takes, and its end before
// the loop sees any of it: one event tells of all three.
func TestAnEndThatCameWithTheRequestIsSeen(t *testing.T) {
	s := startEcho(t)
	_ = s.loop.Do(func() {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = conn.Close() })
		request := "GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" + key + "\r\n"
		if _, err := conn.Write(append([]byte(request), bytes.Repeat(str(pong, strings.Repeat("x", 94)), 1000)...)); err != nil {
			t.Error(err)
		}
		_ = conn.(*net.TCPConn).CloseWrite()
	})
	until(t, "it came", func() bool { return s.env.Counts.Handshakes.Load() == 1 })
	until(t, "it is gone", func() bool { return s.loop.Connections() == 0 })
}

// A client that breaks the protocol and goes on sending does not keep the
// connection: the close is sent once, and its timeout runs.
func TestAViolatorThatSendsOnIsCutOff(t *testing.T) {
	s := startEcho(t)
	_ = s.loop.Do(func() { s.env.Limits.CloseTimeout = 200 * time.Millisecond })
	p := s.dial(t, "")
	p.send([]byte("\x83"), 0)
	p.want("close 1002", "end")
	for {
		if _, err := p.conn.Write(str(0x83, "again")); err != nil {
			if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
				t.Fatal(err)
			}
			return
		}
	}
}
