package listen

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nabat/edge/internal/loop"
	"nabat/proto/wire"
)

func write(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
}

func request(method, path string) string {
	return method + " " + path + " HTTP/1.1\r\n" + ok
}

func TestOneRequestIsAnsweredAndPipelinedOnesAreNot(t *testing.T) {
	s := serve(t, Limits{})
	a := s.ask(request("GET", "/a") + request("GET", "/b"))
	if a.status != 200 || a.body != "GET /a +"+request("GET", "/b") || a.rest != "" {
		t.Errorf("%+v", a)
	}
}

func TestAHeadRequestGetsNoBody(t *testing.T) {
	s := serve(t, Limits{})
	conn := s.dial()
	write(t, conn, request("HEAD", "/a"))
	all, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(all), "\r\nContent-Length: 9\r\n") || !strings.HasSuffix(string(all), "\r\n\r\n") {
		t.Errorf("%q %v", all, err)
	}
}

func TestAClientThatHasNothingMoreToSayIsAnswered(t *testing.T) {
	for _, path := range []string{"/a", "/hold"} {
		t.Run(path, func(t *testing.T) {
			s := serve(t, Limits{})
			conn := s.dial()
			write(t, conn, request("GET", path))
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			await(t, s.served)
			if path == "/hold" {
				_ = s.loop.Do(await(t, s.hold))
			}
			if a := read(t, conn, "GET"); a.status != 200 {
				t.Errorf("%+v", a)
			}
			until(t, "the connection is gone", func() bool { return s.loop.Connections() == 0 })
		})
	}
}

func TestWhatFollowsTheHeadReachesTheNextHandler(t *testing.T) {
	const more = 3 << 20 // many times the loop's buffer
	for _, path := range []string{"/raw", "/holdraw"} {
		t.Run(path, func(t *testing.T) {
			s := serve(t, Limits{MaxHead: 1 << 20})
			conn := s.dial()
			go func() {
				_, _ = io.WriteString(conn, request("GET", path)+strings.Repeat("x", more))
				_ = conn.CloseWrite()
			}()
			seen := await(t, s.served)
			if path == "/holdraw" {
				_ = s.loop.Do(await(t, s.hold))
			}
			r := await(t, s.raw)
			// No event of its own is left to r: all came before it was there.
			rest := len(seen) - len("GET "+path+" +")
			if n := await(t, r.end); n+rest != more {
				t.Errorf("%d bytes with the head and %d after it: %d were sent", rest, n, more)
			}
		})
	}
}

func TestAHeldRequestIsServedOnceWhateverFollows(t *testing.T) {
	s := serve(t, Limits{})
	conn := s.dial()
	write(t, conn, request("GET", "/hold"))
	answer := await(t, s.hold)
	write(t, conn, "more")
	// Another connection's round trip shows that the loop has had its turn.
	s.ask(request("GET", "/other"))
	_ = s.loop.Do(answer)
	if a := read(t, conn, "GET"); a.body != "/hold +" {
		t.Errorf("%+v", a)
	}
	if all := fmt.Sprint(await(t, s.served), " ", await(t, s.served)); all != "GET /hold + GET /other +" {
		t.Error(all)
	}
	select {
	case again := <-s.served:
		t.Errorf("served again: %s", again)
	default:
	}
}

func TestWhatCameWhileARequestWasHeldReachesTheNextHandler(t *testing.T) {
	s := serve(t, Limits{})
	conn := s.dial()
	write(t, conn, request("GET", "/holdraw"))
	answer := await(t, s.hold)
	write(t, conn, "more")
	_ = conn.CloseWrite()
	s.ask(request("GET", "/other")) // the loop has had its turn, and the event is spent
	_ = s.loop.Do(answer)
	if n := await(t, await(t, s.raw).end); n != len("more") {
		t.Errorf("%d bytes", n)
	}
}

func TestAHeldRequestThatIsNotAnsweredIsRefused(t *testing.T) {
	s := serve(t, Limits{HeadTimeout: 50 * time.Millisecond})
	a := s.ask(request("GET", "/hold"))
	if code, _ := a.refusal(t); a.status != 503 || code != string(wire.Overloaded) || a.header.Get("Retry-After") != "2" {
		t.Errorf("%+v", a)
	}
	_ = s.loop.Do(await(t, s.hold)) // the late answer finds nobody
	if n := s.counts.Pending.Load(); n != 0 {
		t.Errorf("%d pending", n)
	}
}

func TestAHeadThatDoesNotArriveIsRefused(t *testing.T) {
	s := serve(t, Limits{HeadTimeout: 50 * time.Millisecond})
	for _, part := range []string{"", "G", "GET / HTTP/1.1\r\nHost: a\r\n"} {
		a := s.ask(part)
		if code, _ := a.refusal(t); a.status != 408 || code != string(wire.HeadTimeout) {
			t.Errorf("%q: %+v", part, a)
		}
	}
}

// Whoever is refused and floods on gets a share of each turn, no more.
func TestAFloodAfterARefusalDoesNotHoldTheLoop(t *testing.T) {
	s := serve(t, Limits{})
	conn := s.dial()
	write(t, conn, "\x00")
	until(t, "it is refused", func() bool { return s.refused(wire.BadRequest) == 1 })
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan uint64, 1)
	var seen, most uint64
	var turn func()
	turn = func() { // once in every turn
		now := s.counts.BytesIn.Load()
		most, seen = max(most, now-seen), now
		if s.loop.Connections() == 0 {
			over <- most
			return
		}
		_ = s.loop.Post(turn)
	}
	_ = s.loop.Do(func() {
		// All that the kernel takes, before the loop reads any of it.
		junk, sent := make([]byte, 64<<10), 0
		_ = raw.Write(func(fd uintptr) bool {
			for {
				n, err := unix.Write(int(fd), junk)
				if err != nil {
					return true
				}
				sent += n
			}
		})
		if sent < 1<<20 {
			t.Errorf("the kernel took %d bytes only", sent)
		}
		_ = conn.CloseWrite()
		seen = s.counts.BytesIn.Load()
		turn()
	})
	// A turn serves an event, and those who asked to go on.
	if most := await(t, over); most == 0 || most > 2*readsPerTurn*loop.ReadBufferBytes {
		t.Errorf("%d bytes in one turn", most)
	}
}

func TestAFloodAfterARefusalIsCutOff(t *testing.T) {
	s := serve(t, Limits{})
	conn := s.dial()
	for {
		if _, err := conn.Write(make([]byte, 1<<20)); err != nil {
			if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
				t.Fatal(err)
			}
			break
		}
	}
	until(t, "it is gone", func() bool { return s.loop.Connections() == 0 })
}

func TestAClientThatLeavesBeforeItsHeadIsCounted(t *testing.T) {
	s := serve(t, Limits{})
	conn := s.dial()
	write(t, conn, "GET / HT")
	until(t, "it is there", func() bool { return s.counts.Pending.Load() == 1 })
	_ = conn.Close()
	until(t, "it is gone", func() bool {
		return s.refused("gone") == 1 && s.counts.Pending.Load() == 0 && s.loop.Connections() == 0
	})
}
