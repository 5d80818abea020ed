package tlsconn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"nabat/edge/internal/metrics"
)

const deadline = 60 * time.Second

// writePair writes a self-signed certificate and its key.
func writePair(t testing.TB, f Files, ends time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "edge"},
		NotBefore: ends.Add(-2 * time.Hour), NotAfter: ends, DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f.Certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, f.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

func write(t testing.TB, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func newFiles(t testing.TB) Files {
	t.Helper()
	dir := t.TempDir()
	f := Files{Certificate: filepath.Join(dir, "c.pem"), Key: filepath.Join(dir, "k.pem")}
	writePair(t, f, time.Now().Add(time.Hour))
	return f
}

func newServer(t testing.TB) *Server {
	t.Helper()
	s, err := NewServer(newFiles(t), "1.2", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// lane is a loop of its own for one engine: it runs what is posted, and what
// the pipe brings, one after the other.
type lane struct {
	tasks  chan func()
	engine *Engine
	counts metrics.Loop
	closed chan struct{}
}

func newLane(t testing.TB, s *Server, places int) *lane {
	t.Helper()
	l := &lane{tasks: make(chan func(), 1024), closed: make(chan struct{})}
	l.engine = NewEngine(s, places, func(fn func()) error {
		select {
		case l.tasks <- fn:
			return nil
		case <-l.closed:
			return net.ErrClosed
		}
	}, time.Now, &l.counts)
	return l
}

// stop ends what is under way, and proves that no goroutine is left.
func (l *lane) stop() {
	l.engine.Stop()
	close(l.closed)
	l.engine.Wait()
}

// pipe is a connected pair of which one end is a net.Conn and the other is
// driven by hand, with buffers without a bound.
type pipe struct {
	mu         sync.Mutex
	arrived    sync.Cond
	up, down   []byte // to the server, to the client
	upClosed   bool
	downClosed bool
	written    chan struct{} // cap 1: up has grown
}

func newPipe() *pipe {
	p := &pipe{written: make(chan struct{}, 1)}
	p.arrived.L = &p.mu
	return p
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	p.up = append(p.up, b...)
	p.mu.Unlock()
	p.tell()
	return len(b), nil
}

func (p *pipe) tell() {
	select {
	case p.written <- struct{}{}:
	default:
	}
}

func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.down) == 0 {
		if p.downClosed {
			return 0, io.EOF
		}
		p.arrived.Wait()
	}
	n := copy(b, p.down)
	p.down = p.down[n:]
	return n, nil
}

func (p *pipe) Close() error {
	p.mu.Lock()
	p.upClosed = true
	p.mu.Unlock()
	p.tell()
	return nil
}

func (p *pipe) LocalAddr() net.Addr              { return nil }
func (p *pipe) RemoteAddr() net.Addr             { return nil }
func (p *pipe) SetDeadline(time.Time) error      { return nil }
func (p *pipe) SetReadDeadline(time.Time) error  { return nil }
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }

// take returns at most n bytes that the client wrote.
func (p *pipe) take(n int) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	n = min(n, len(p.up))
	b := append([]byte(nil), p.up[:n]...)
	p.up = p.up[n:]
	return b
}

func (p *pipe) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.upClosed && len(p.up) == 0
}

// give hands bytes to the client.
func (p *pipe) give(b []byte) {
	p.mu.Lock()
	p.down = append(p.down, b...)
	p.mu.Unlock()
	p.arrived.Broadcast()
}

func (p *pipe) hangUp() {
	p.mu.Lock()
	p.downClosed = true
	p.mu.Unlock()
	p.arrived.Broadcast()
}

// side is the server's side of a pipe: what a listener and a transport do with
// a Conn, with pieces of any size.
type side struct {
	lane  *lane
	pipe  *pipe
	conn  *Conn
	piece func() int              // size of the next piece off the wire, and onto it
	got   func(s *side, b []byte) // plaintext
	ended error
	done  bool
}

func (l *lane) accept(p *pipe, piece func() int, got func(*side, []byte)) *side {
	s := &side{lane: l, pipe: p, piece: piece, got: got}
	s.conn = l.engine.Accept(s)
	return s
}

func always(n int) func() int { return func() int { return n } }

// Progress implements Owner.
func (s *side) Progress() {
	s.flush()
	s.pull()
}

func (s *side) flush() {
	for s.conn.Pending() > 0 {
		n := min(s.piece(), s.conn.Pending())
		s.pipe.give(s.conn.Outbox()[:n])
		s.conn.Sent(n)
	}
}

func (s *side) pull() {
	for s.ended == nil {
		b, err := s.conn.Next()
		if len(b) == 0 {
			s.ended = err
			break
		}
		s.got(s, append([]byte(nil), b...))
		if s.piece()%3 == 0 && s.conn.Unread() {
			s.conn.Keep() // as if others had their turn
		}
	}
	s.flush()
}

func (s *side) seal(t testing.TB, b []byte) {
	for len(b) > 0 {
		n := min(len(b), MaxRecord)
		if err := s.conn.Seal(b[:n]); err != nil {
			t.Errorf("seal: %v", err)
			return
		}
		s.flush()
		b = b[n:]
	}
}

// run drives the side until the client has closed, the handshake has failed, or
// TLS has ended.
func (s *side) run(t testing.TB) {
	timeout := time.After(deadline)
	for !s.done && s.ended == nil && s.conn.Failure() == "" {
		if wire := s.pipe.take(s.piece()); len(wire) > 0 {
			s.conn.Feed(wire)
			s.Progress()
			for i := range wire {
				wire[i] = 0xAA // the caller's buffer is used again
			}
			continue
		}
		if s.pipe.over() {
			s.conn.EOF()
			if s.conn.Open() {
				break
			}
		}
		select {
		case fn := <-s.lane.tasks:
			fn()
		case <-s.pipe.written:
		case <-timeout:
			t.Error("the client does not end")
			return
		}
	}
	s.flush()
	s.conn.Drop()
	s.pipe.hangUp()
}

func clientConfig(version uint16) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version}
}

// notify receives SIGHUP until the test ends.
func notify(t *testing.T, c chan os.Signal) {
	signal.Notify(c, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(c) })
}
