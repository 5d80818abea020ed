package tlsconn

import (
	"bytes"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"testing"
	"time"
)

// echo lets a client send messages of these sizes, which the server returns
// record by record, and compares.
func echo(t testing.TB, s *Server, version uint16, piece func() int, sizes []int) {
	t.Helper()
	l, p := newLane(t, s, 4), newPipe()
	defer l.stop()
	side := l.accept(p, piece, func(s *side, b []byte) { s.seal(t, b) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = p.Close() }()
		conn := tls.Client(p, clientConfig(version))
		for i, size := range sizes {
			sent := bytes.Repeat([]byte{byte(i + 1)}, size)
			if _, err := conn.Write(sent); err != nil {
				t.Errorf("write: %v", err)
				return
			}
			got := make([]byte, size)
			if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("message %d of %d bytes comes back wrong: %v", i, size, err)
				return
			}
		}
		if err := conn.CloseWrite(); err != nil {
			t.Errorf("goodbye: %v", err)
		}
	}()
	side.run(t)
	<-done
	if side.ended != io.EOF {
		t.Errorf("the client's goodbye is %v", side.ended)
	}
	if n := l.counts.TLSPending.Load(); n != 0 || l.counts.TLSHandshakes.Load() != 1 {
		t.Errorf("%d pending, %d done", n, l.counts.TLSHandshakes.Load())
	}
}

func TestPiecesOfAnySizeMakeTheSameBytes(t *testing.T) {
	s := newServer(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, n := range []int{1, 2, 5, 6, 100, 16 << 10, 64 << 10} {
			sizes := []int{1, 150, 3000}
			if n > 5 {
				sizes = append(sizes, MaxRecord-1, MaxRecord, MaxRecord+1, 100_000)
			}
			echo(t, s, version, always(n), sizes)
		}
	}
}

// FuzzPieces cuts a session into pieces as the input says.
func FuzzPieces(f *testing.F) {
	s := newServer(f)
	f.Add(true, []byte{0}, uint64(1))
	f.Add(false, []byte{1, 2, 3, 255}, uint64(2))
	f.Add(true, []byte{3, 200, 5, 5}, uint64(3))
	f.Fuzz(func(t *testing.T, new bool, cuts []byte, seed uint64) {
		if len(cuts) == 0 || len(cuts) > 200 {
			return
		}
		version, at := uint16(tls.VersionTLS12), 0
		if new {
			version = tls.VersionTLS13
		}
		random := rand.New(rand.NewPCG(seed, 1))
		var sizes []int
		for range 1 + random.IntN(6) {
			sizes = append(sizes, 1+random.IntN(1<<random.IntN(16)))
		}
		echo(t, s, version, func() int {
			at++
			n := int(cuts[at%len(cuts)])
			return 1 + n*n/4
		}, sizes)
	})
}

// FuzzGarbage feeds what no client of TLS sends, from the first byte, and after
// the handshake.
func FuzzGarbage(f *testing.F) {
	s := newServer(f)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), false)
	f.Add([]byte{0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0}, false)
	f.Add([]byte{0x17, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20}, true)
	f.Fuzz(func(t *testing.T, garbage []byte, open bool) {
		l, p := newLane(t, s, 4), newPipe()
		defer l.stop()
		side := l.accept(p, always(64<<10), func(_ *side, b []byte) { t.Errorf("plaintext %q out of garbage", b) })
		go func() {
			if open {
				if tls.Client(p, clientConfig(tls.VersionTLS13)).Handshake() != nil {
					return
				}
			}
			_, _ = p.Write(garbage)
			_ = p.Close()
		}()
		side.run(t)
	})
}

func TestAPartlySentOutboxIsKeptAndCounted(t *testing.T) {
	s := newServer(t)
	l, p := newLane(t, s, 4), newPipe()
	defer l.stop()
	side := l.accept(p, always(64<<10), func(s *side, b []byte) {
		if err := s.conn.Seal(bytes.Repeat([]byte("x"), 5000)); err != nil {
			t.Error(err)
		}
		whole := len(s.conn.Outbox())
		p.give(s.conn.Outbox()[:100])
		if grown := s.conn.Sent(100); grown != whole-100 || s.conn.Pending() != whole-100 {
			t.Errorf("grown by %d, %d pending, of %d", grown, s.conn.Pending(), whole)
		}
		// Another connection of the loop uses the shared buffer.
		copy(l.engine.sealed[:cap(l.engine.sealed)], bytes.Repeat([]byte{0xEE}, cap(l.engine.sealed)))
		p.give(s.conn.Outbox()[:200])
		if grown := s.conn.Sent(200); grown != -200 {
			t.Errorf("grown by %d", grown)
		}
		s.flush()
		if s.conn.Pending() != 0 || s.conn.Drop() != 0 {
			t.Errorf("%d pending", s.conn.Pending())
		}
		s.done = true
	})
	go func() {
		conn := tls.Client(p, clientConfig(tls.VersionTLS13))
		if _, err := conn.Write([]byte("go")); err != nil {
			t.Error(err)
		}
		got := make([]byte, 5000)
		if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, bytes.Repeat([]byte("x"), 5000)) {
			t.Errorf("what arrives is damaged: %v", err)
		}
	}()
	side.run(t)
}

func TestAHandshakeThatIsDroppedEndsItsGoroutine(t *testing.T) {
	s := newServer(t)
	l := newLane(t, s, 1)
	p := newPipe()
	first := l.accept(p, always(64<<10), nil)
	go func() { _ = tls.Client(p, clientConfig(tls.VersionTLS13)).Handshake() }()
	feed := func(s *side, want int) {
		t.Helper()
		select {
		case <-s.pipe.written:
			s.conn.Feed(s.pipe.take(64 << 10))
		case <-time.After(deadline):
			t.Fatal("no hello")
		}
		if n := len(l.engine.running); n != want {
			t.Fatalf("%d running", n)
		}
	}
	feed(first, 1)
	q := newPipe()
	second := l.accept(q, always(64<<10), nil)
	go func() { _ = tls.Client(q, clientConfig(tls.VersionTLS13)).Handshake() }()
	feed(second, 1)
	if l.engine.waiting != 1 {
		t.Errorf("%d wait for the one place", l.engine.waiting)
	}
	first.conn.Drop()
	for len(l.engine.running) == 0 || !hasPlace(l.engine, second.conn) { // the goroutine ends, and gives its place away
		select {
		case fn := <-l.tasks:
			fn()
		case <-time.After(deadline):
			t.Fatal("the place is not given on")
		}
	}
	second.conn.Fail(Overloaded)
	l.stop() // waits for both
	if n := l.counts.TLSPending.Load(); n != 0 {
		t.Errorf("%d pending", n)
	}
	p.hangUp()
	q.hangUp()
}

func hasPlace(e *Engine, c *Conn) bool {
	for hs := range e.running {
		if hs.conn == c {
			return true
		}
	}
	return false
}

func TestARecordAllocatesLittle(t *testing.T) {
	s := newServer(t)
	l, p := newLane(t, s, 4), newPipe()
	defer l.stop()
	message := bytes.Repeat([]byte("m"), 150)
	side := l.accept(p, always(64<<10), func(s *side, b []byte) {
		if n := testing.AllocsPerRun(100, func() {
			_ = s.conn.Seal(message)
			s.conn.Sent(len(s.conn.Outbox()))
			if b, err := s.conn.Next(); b != nil || err != nil {
				t.Errorf("%q, %v", b, err)
			}
		}); n > 2 { // crypto/tls wraps its reader; the race detector loses its pooled buffer
			t.Errorf("%v allocations for a record sealed and a read that finds nothing", n)
		}
		s.done = true
	})
	go func() { _, _ = tls.Client(p, clientConfig(tls.VersionTLS13)).Write([]byte("go")) }()
	side.run(t)
}
