package swarm

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// secure is TLS on a descriptor that a loop watches. The handshake runs on a
// goroutine of its own, which the loop wakes; afterwards the loop reads and
// writes, and a read that finds nothing returns errNothing.
type secure struct {
	conn *tls.Conn
	wire *wire
}

// wire is the net.Conn below TLS.
type wire struct {
	fd     int
	ready  chan struct{} // capacity 1: the loop saw an event
	gone   chan struct{} // closed by the loop, which then closes fd
	steady atomic.Bool   // the handshake is over: never wait
}

// errNothing is what a read without data gives. crypto/tls forgets an error
// that calls itself temporary.
var errNothing net.Error = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "nothing to read" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

// clientConfig verifies nothing: what is measured has the certificate that
// was made for the run, and the load is no secret.
func clientConfig() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
}

func newSecure(fd int, config *tls.Config) *secure {
	w := &wire{fd: fd, ready: make(chan struct{}, 1), gone: make(chan struct{})}
	return &secure{conn: tls.Client(w, config), wire: w}
}

// event tells a handshake that there may be something. Loop only.
func (w *wire) event() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

func (w *wire) wait() error {
	if w.steady.Load() {
		return errNothing
	}
	select {
	case <-w.ready:
		return nil
	case <-w.gone:
		return net.ErrClosed
	}
}

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	for {
		select {
		case <-w.gone:
			return 0, net.ErrClosed
		default:
		}
		n, err := unix.Read(w.fd, p)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if err := w.wait(); err != nil {
				return 0, err
			}
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// Write implements net.Conn. A client writes little: a full socket is a
// failure once the handshake is over.
func (w *wire) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		select {
		case <-w.gone:
			return written, net.ErrClosed
		default:
		}
		n, err := unix.Write(w.fd, p[written:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			if err := w.wait(); err != nil {
				return written, os.ErrDeadlineExceeded
			}
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return written, err
		default:
			written += n
		}
	}
	return written, nil
}

// Close implements net.Conn; the loop closes the descriptor.
func (w *wire) Close() error { return nil }

// LocalAddr implements net.Conn.
func (w *wire) LocalAddr() net.Addr { return &net.TCPAddr{} }

// RemoteAddr implements net.Conn.
func (w *wire) RemoteAddr() net.Addr { return &net.TCPAddr{} }

// SetDeadline implements net.Conn; the loop has the deadlines.
func (w *wire) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (w *wire) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// shake starts c's handshake on a goroutine that ends with it.
func (l *loop) shake(c *client) {
	c.state = securing
	s := newSecure(c.fd, l.tls)
	c.tls = s
	l.shaking.Go(func() {
		err := s.conn.Handshake()
		s.wire.steady.Store(err == nil)
		l.post(func() { l.shaken(c, s, err) })
	})
}

// shaken goes on with a connection whose handshake has ended. c may have ended
// meanwhile, and even have begun another.
func (l *loop) shaken(c *client, s *secure, err error) {
	if c.tls != s {
		_ = unix.Close(s.wire.fd) // it was given up meanwhile
		return
	}
	c.state = upgrading
	if err != nil {
		l.end(c, fmt.Sprintf("TLS: %v", err))
		return
	}
	l.upgrade(c)
	if c.state != ended {
		l.handle(c, 0) // what came meanwhile raises no event any more
	}
}
