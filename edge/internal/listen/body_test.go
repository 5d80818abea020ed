package listen

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"nabat/proto/wire"
)

// collect answers with the body; rooms choose how.
func (s *server) collect(h *Handshake, head *Head, rest []byte, room string) {
	answer := func(b *Body) { h.Respond(200, "text/plain", []byte(room+" +"+string(b.Bytes()))) }
	switch room {
	case "held":
		heldHead, heldRest := h.Hold(head, rest)
		s.hold <- func() {
			if h.Open() {
				h.Collect(heldHead, heldRest, answer)
			}
		}
	case "later", "never":
		h.Collect(head, rest, func(b *Body) {
			limit := time.Hour
			if room == "never" {
				limit = 50 * time.Millisecond
			}
			kept := room + " +" + string(b.Bytes())
			b.Await(limit, &wire.Error{Code: wire.Unavailable, Reason: "nothing came"})
			s.hold <- func() {
				if h.Open() {
					h.Respond(200, "text/plain", []byte(kept))
				}
			}
		})
	default:
		h.Collect(head, rest, answer)
	}
	s.served <- room
}

// held is how many bytes of bodies the loop holds.
func (s *server) held() (n int) {
	_ = s.loop.Do(func() { n = s.door.limits.Bodies.held })
	return n
}

func posted(room string, size int, fields string) string {
	return fmt.Sprintf("POST /v1/rooms/%s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%s\r\n", room, size, fields)
}

func TestABodyMeansTheSameInPieces(t *testing.T) {
	for _, size := range []int{0, 1, 5, 300} {
		body := strings.Repeat("0123456789", 30)[:size]
		whole := posted("room", size, "") + body
		for _, chop := range []int{1, 7, len(whole) - size, len(whole) - size/2, len(whole)} {
			for _, tail := range []string{"", "GET / HTTP/1.1\r\n"} {
				t.Run(fmt.Sprintf("%d in %d with %d", size, chop, len(tail)), func(t *testing.T) {
					s := serve(t, Limits{})
					conn := s.dial()
					for rest := whole; len(rest) > 0; {
						n := min(chop, len(rest))
						if n == len(rest) {
							rest += tail
							n = len(rest)
						}
						seen := s.counts.BytesIn.Load()
						write(t, conn, rest[:n])
						rest = rest[n:]
						if chop > 1 { // each piece is read alone
							until(t, "a piece is read", func() bool { return s.counts.BytesIn.Load() == seen+uint64(n) })
						}
					}
					if a := read(t, conn, "POST"); a.status != 200 || a.body != "room +"+body || a.rest != "" {
						t.Errorf("%+v", a)
					}
					if n := s.held(); n != 0 {
						t.Errorf("%d bytes are held", n)
					}
				})
			}
		}
	}
}

func TestALargeBodyIsCollected(t *testing.T) {
	const size = 900 << 10 // many times the loop's buffer
	for _, room := range []string{"room", "held"} {
		t.Run(room, func(t *testing.T) {
			s := serve(t, Limits{})
			conn := s.dial()
			body := strings.Repeat("x", size)
			go func() { _, _ = io.WriteString(conn, posted(room, size, "")+body) }()
			await(t, s.served)
			if room == "held" {
				_ = s.loop.Do(await(t, s.hold))
			}
			if a := read(t, conn, "POST"); a.status != 200 || a.body != room+" +"+body {
				t.Errorf("%d %d bytes", a.status, len(a.body))
			}
		})
	}
}

func TestAClientThatAsksIsToldToSendItsBody(t *testing.T) {
	for _, c := range []struct {
		rule, fields, early string
		told                bool
	}{
		{"RFC 9110 §10.1.1: who waits is told", "Expect: 100-continue\r\n", "", true},
		{"in any case", "expect: 100-Continue\r\n", "", true},
		{"who sends already need not be", "Expect: 100-continue\r\n", "he", false},
		{"who does not ask is not", "", "", false},
	} {
		t.Run(c.rule, func(t *testing.T) {
			s := serve(t, Limits{})
			conn := s.dial()
			write(t, conn, posted("room", 5, c.fields)+c.early)
			await(t, s.served)
			const say = "HTTP/1.1 100 Continue\r\n\r\n"
			if c.told {
				got := make([]byte, len(say))
				if _, err := io.ReadFull(conn, got); err != nil || string(got) != say {
					t.Fatalf("%q %v", got, err)
				}
			}
			write(t, conn, "hello"[len(c.early):])
			if all, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(all), "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(string(all), "room +hello") {
				t.Errorf("%q %v", all, err)
			}
		})
	}
}

func TestABodyThatDoesNotArriveIsRefused(t *testing.T) {
	s := serve(t, Limits{HeadTimeout: 50 * time.Millisecond})
	a := s.ask(posted("room", 5, "") + "hell")
	if code, reason := a.refusal(t); a.status != 408 || code != string(wire.BodyTimeout) || reason != "4 of the body's 5 bytes arrived in 50ms, which is for head and body together" {
		t.Errorf("%+v", a)
	}
	if n := s.held(); n != 0 || s.counts.Pending.Load() != 0 {
		t.Errorf("%d bytes are held", n)
	}
}

func TestABodyThatEndsTooSoonIsRefused(t *testing.T) {
	s := serve(t, Limits{})
	conn := s.dial()
	write(t, conn, posted("room", 5, "")+"hell")
	await(t, s.served)
	_ = conn.CloseWrite()
	a := read(t, conn, "POST")
	if code, reason := a.refusal(t); a.status != 400 || code != string(wire.BadRequest) || reason != "the body ended after 4 of 5 bytes (RFC 9112 §8)" {
		t.Errorf("%+v", a)
	}
	if n := s.held(); n != 0 {
		t.Errorf("%d bytes are held", n)
	}
}

func TestBodiesAreBounded(t *testing.T) {
	s := serve(t, Limits{Bodies: NewBodies(3 * firstChunk)})
	var conns []*net.TCPConn
	for range 3 {
		conn := s.dial()
		conns = append(conns, conn)
		write(t, conn, posted("room", 2*firstChunk, "")+"x")
		await(t, s.served)
	}
	if n := s.held(); n != 3*firstChunk {
		t.Errorf("%d bytes are held", n)
	}
	// One more has no room, and neither has what one of them goes on to send.
	a := s.ask(posted("room", 2*firstChunk, "") + "x")
	if code, _ := a.refusal(t); a.status != 503 || code != string(wire.Overloaded) || a.header.Get("Retry-After") != "2" {
		t.Errorf("%+v", a)
	}
	await(t, s.served)
	write(t, conns[0], strings.Repeat("x", firstChunk))
	if a := read(t, conns[0], "POST"); a.status != 503 {
		t.Errorf("%+v", a)
	}
	// Whoever leaves makes room.
	_ = conns[1].Close()
	until(t, "there is room", func() bool { return s.held() == firstChunk })
	// One that came in one piece is counted while its answer is awaited.
	conn := s.dial()
	write(t, conn, posted("later", 2*firstChunk, "")+strings.Repeat("x", 2*firstChunk))
	answer := await(t, s.hold)
	if n := s.held(); n != 3*firstChunk {
		t.Errorf("%d bytes are held", n)
	}
	if a := s.ask(posted("room", 1, "") + "x"); a.status != 503 {
		t.Errorf("%+v", a)
	}
	_ = s.loop.Do(answer)
	if a := read(t, conn, "POST"); a.status != 200 {
		t.Errorf("%+v", a)
	}
	write(t, conns[2], strings.Repeat("x", 2*firstChunk-1))
	if a := read(t, conns[2], "POST"); a.status != 200 {
		t.Errorf("%+v", a)
	}
	if n := s.held(); n != 0 {
		t.Errorf("%d bytes are held", n)
	}
}

func TestManyUnfinishedBodiesAreHandshakesInFlight(t *testing.T) {
	s := serve(t, Limits{})
	first := s.dial()
	write(t, first, posted("room", 5, ""))
	await(t, s.served)
	for range s.door.limits.MaxHandshakes {
		write(t, s.dial(), posted("room", 5, ""))
		await(t, s.served)
	}
	a := read(t, first, "POST")
	if code, _ := a.refusal(t); a.status != 503 || code != string(wire.Overloaded) {
		t.Errorf("%+v", a)
	}
}

// Whoever is sent away while something is done for it is not told that nothing was.
func TestAnAwaitedAnswerMakesRoom(t *testing.T) {
	s := serve(t, Limits{})
	first := s.dial()
	write(t, first, posted("later", 5, "")+"hello")
	await(t, s.hold)
	await(t, s.served)
	for range s.door.limits.MaxHandshakes {
		write(t, s.dial(), posted("room", 5, ""))
		await(t, s.served)
	}
	a := read(t, first, "POST")
	if code, _ := a.refusal(t); a.status != 503 || code != string(wire.Unavailable) {
		t.Errorf("%+v", a)
	}
}

func TestAnAnswerThatIsAwaited(t *testing.T) {
	s := serve(t, Limits{})
	conn := s.dial()
	write(t, conn, posted("later", 5, "")+"hello")
	answer := await(t, s.hold)
	write(t, conn, "more") // waits in the socket
	_ = s.loop.Do(answer)
	if a := read(t, conn, "POST"); a.body != "later +hello" {
		t.Errorf("%+v", a)
	}
	a := s.ask(posted("never", 5, "") + "hello")
	if code, reason := a.refusal(t); a.status != 503 || code != string(wire.Unavailable) || reason != "nothing came" {
		t.Errorf("%+v", a)
	}
	_ = s.loop.Do(await(t, s.hold)) // the late answer finds nobody
}

// The answer has a time of its own, whatever is left of that for the head.
func TestAnAwaitedAnswerOutlivesTheHandshake(t *testing.T) {
	s := serve(t, Limits{HeadTimeout: 50 * time.Millisecond})
	conn := s.dial()
	write(t, conn, posted("later", 5, "")+"hello")
	answer := await(t, s.hold)
	// Another that never ends its head shows that the time is over.
	if a := s.ask("GET"); a.status != 408 {
		t.Errorf("%+v", a)
	}
	_ = s.loop.Do(answer)
	if a := read(t, conn, "POST"); a.status != 200 {
		t.Errorf("%+v", a)
	}
}

func TestSegments(t *testing.T) {
	for path, want := range map[string]string{
		"/v1/rooms/a.b":        "a.b true",
		"/v1/rooms/team%20c+d": "team c+d true",
		"/v1/rooms/a%2Fb":      "a/b true",
		"/v1/rooms/a/b":        " false",
		"/v1/rooms/":           " false",
		"/v1/rooms":            " false",
		"/v1/roomsa":           " false",
	} {
		h, _, err := parse("POST "+path+"?x=/ HTTP/1.1\r\n"+ok, 1000, 8<<10)
		if err != nil {
			t.Fatal(err)
		}
		segment, found := h.Segment(PublishPath)
		if got := fmt.Sprint(segment, " ", found); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
