// Package tlsconn is TLS on an event loop: bytes in, bytes out, and no system
// call. The caller reads and writes the socket.
//
// crypto/tls wants a connection that blocks, and during a handshake every error
// is final. So a handshake runs on a goroutine of its own, parked whenever the
// client has to speak; an Engine bounds how many there are, and a Server how
// many compute at a time. After it, crypto/tls is driven on the loop over a
// connection that never blocks: a read without input is a Temporary error, which
// crypto/tls does not keep, and a write is always taken, into an outbox. From
// then on an idle connection has no goroutine, no timer and no buffer of ours.
//
// Only this package knows crypto/tls.
package tlsconn

import (
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// MaxRecord is the most plaintext that one record carries (RFC 8446 §5.1).
const MaxRecord = 16 << 10

// Socket is a connected descriptor and its TLS side, nil where bytes travel as
// they are.
type Socket struct {
	FD  int
	TLS *Conn
}

// Conn is the TLS side of one connection. Owner: the loop.
type Conn struct {
	// Set at creation, never changed.
	engine *Engine

	// Owned by loop; during the handshake, by its goroutine.
	tls *tls.Conn

	// Owned by loop.
	shaking  *handshake // nil once the connection is open
	in       []byte     // ciphertext that crypto/tls has not read; of the caller within a Feed
	out      []byte     // ciphertext that the socket has not taken
	counted  int        // bytes of out that Sent has told of
	borrowed bool       // out lies in the engine's buffer
	unread   bool       // Next may have more
}

// Open reports whether the handshake is done: now Next and Seal may be used.
func (c *Conn) Open() bool { return c.shaking == nil }

// Feed takes bytes that arrived. They are the caller's again after the calls of
// Next that follow, up to Keep.
func (c *Conn) Feed(wire []byte) {
	if c.shaking != nil {
		c.shaking.feed(wire)
		return
	}
	c.unread = true
	if len(c.in) > 0 {
		c.in = append(c.in, wire...) // a kept rest comes first
		return
	}
	c.in = wire
}

// Next returns the next piece of plaintext, valid until the next call for any
// connection of the engine, or nothing when more must arrive first. io.EOF means
// that the client has said goodbye; every error is final.
func (c *Conn) Next() ([]byte, error) {
	if c.shaking != nil {
		return nil, nil
	}
	n, err := c.tls.Read(c.engine.plain)
	if n > 0 {
		return c.engine.plain[:n], nil
	}
	c.unread = false
	if errors.Is(err, errWouldBlock) {
		return nil, nil
	}
	return nil, err
}

// Unread reports whether Next may have more without further input.
func (c *Conn) Unread() bool { return c.unread }

// Keep copies what was fed and is not used up, for calls of Next in a later
// turn.
func (c *Conn) Keep() {
	if len(c.in) > 0 {
		c.in = append([]byte(nil), c.in...)
	}
}

// Seal puts plaintext into the outbox, as records. Call Outbox and Sent before
// Seal is called for another connection of the engine: they share a buffer.
func (c *Conn) Seal(b []byte) error {
	if len(c.out) == 0 {
		c.out, c.borrowed = c.engine.sealed[:0], true
	}
	_, err := c.tls.Write(b)
	return err
}

// CloseWrite says goodbye (close_notify, RFC 8446 §6.1), once.
func (c *Conn) CloseWrite() {
	if c.shaking == nil {
		// After a fatal alert there is nothing more to say, and nobody to tell.
		_ = c.tls.CloseWrite()
	}
}

// Outbox is what must go to the socket next.
func (c *Conn) Outbox() []byte { return c.out }

// Pending is the number of bytes in the outbox.
func (c *Conn) Pending() int { return len(c.out) }

// Sent takes n bytes off the outbox and keeps the rest. It returns by how much
// the rest grew since the last call, for a gauge.
func (c *Conn) Sent(n int) (grown int) {
	switch rest := c.out[n:]; {
	case len(rest) == 0:
		c.out = nil
	case c.borrowed:
		c.out = append([]byte(nil), rest...)
	default:
		c.out = rest
	}
	c.borrowed = false
	grown = len(c.out) - c.counted
	c.counted = len(c.out)
	return grown
}

// Drop forgets the connection: a handshake under way is given up. It returns
// what Sent last left, for the same gauge.
func (c *Conn) Drop() (counted int) {
	if c.shaking != nil {
		c.shaking.giveUp()
	}
	counted = c.counted
	c.in, c.out, c.counted, c.unread = nil, nil, 0, false
	return counted
}

// shim is a Conn as crypto/tls sees it.
type shim Conn

var _ net.Conn = (*shim)(nil)

// Read implements net.Conn.
func (s *shim) Read(p []byte) (int, error) {
	if s.shaking != nil {
		return s.shaking.read(p)
	}
	if len(s.in) == 0 {
		return 0, errWouldBlock
	}
	n := copy(p, s.in)
	if s.in = s.in[n:]; len(s.in) == 0 {
		s.in = nil
	}
	return n, nil
}

// Write implements net.Conn. It must not fail: for crypto/tls that is final.
func (s *shim) Write(p []byte) (int, error) {
	if s.shaking != nil {
		s.shaking.write(p)
	} else {
		s.out = append(s.out, p...)
	}
	return len(p), nil
}

// Close implements net.Conn. The descriptor is not ours.
func (s *shim) Close() error { return nil }

// LocalAddr implements net.Conn; crypto/tls does not ask.
func (s *shim) LocalAddr() net.Addr { return nil }

// RemoteAddr implements net.Conn; crypto/tls does not ask.
func (s *shim) RemoteAddr() net.Addr { return nil }

// SetDeadline implements net.Conn. Deadlines are the loop's.
func (s *shim) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (s *shim) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (s *shim) SetWriteDeadline(time.Time) error { return nil }

// wouldBlock is the error of a read without input.
type wouldBlock struct{}

var errWouldBlock net.Error = wouldBlock{}

func (wouldBlock) Error() string   { return "tlsconn: no input" }
func (wouldBlock) Timeout() bool   { return false }
func (wouldBlock) Temporary() bool { return true }
