package listen

import (
	"fmt"
	"time"

	"nabat/proto/wire"
)

// PublishPath begins the only paths where a request may have a body, and then
// with POST only. The name of a room follows.
const PublishPath = "/v1/rooms/"

// Bodies bounds the bytes of request bodies that the handshakes of one loop hold
// together, on all its ports. Owner: the loop.
type Bodies struct{ max, held int }

// NewBodies returns a bound of max bytes.
func NewBodies(max int) *Bodies { return &Bodies{max: max} }

// body is what has arrived of a request's body.
type body struct {
	want int
	got  []byte
	done func(body []byte)
}

// firstChunk is what is held of a body at once, if it is that long: what was
// announced and never comes costs no more.
const firstChunk = 4 << 10

// bodyLength reads a Content-Length (RFC 9110 §8.6). Leading zeros are legal and
// refused: no client writes them, and a second reader could take them for octal.
func bodyLength(v []byte) (int64, bool) {
	const digits = 18 // fit an int64
	if len(v) == 0 || len(v) > digits || v[0] == '0' && len(v) > 1 {
		return 0, false
	}
	n := int64(0)
	for _, c := range v {
		if !isDigit(c) {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// Collect gives the body that head announces to done once it is whole: before
// Collect returns, where it came with the head. done must end in Respond, Refuse
// or Await, and gets bytes that are valid during the call only. It is not called
// when the client leaves, or is too slow for Limits.HeadTimeout, which is for
// head and body together. The caller has bounded the length.
func (h *Handshake) Collect(head *Head, rest []byte, done func(body []byte)) {
	want, held := int(head.Length), h.held
	h.held = false
	if len(rest) >= want {
		done(rest[:want:want])
		return
	}
	h.body = &body{want: want, done: done}
	h.buf = nil // rest is copied now
	h.gather(rest)
	// RFC 9110 §10.1.1: who sends already does not wait for it.
	if h.state == waiting && len(rest) == 0 && head.Has("Expect", "100-continue") {
		h.write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
	}
	if held && h.state == waiting {
		if h.tls != nil {
			h.Progress() // what it has decrypted has no event
		}
		h.acceptor.loop.Again(h.ref)
	}
}

// gather takes a part of the body. What follows the body is not read: there is
// one request in a connection.
func (h *Handshake) gather(p []byte) {
	b := h.body
	p = p[:min(len(p), b.want-len(b.got))]
	if !h.acceptor.limits.Bodies.grow(b, len(b.got)+len(p)) {
		h.Refuse(&wire.Error{Code: wire.Overloaded, RetryMS: h.acceptor.limits.RetryAfterSecond * 1000,
			Reason: "too many bytes of requests are on their way to this node"})
		return
	}
	if b.got = append(b.got, p...); len(b.got) < b.want {
		return
	}
	h.body = nil
	b.done(b.got)
	h.acceptor.limits.Bodies.release(b)
}

// grow makes room for n bytes, and reports false when there is none.
func (l *Bodies) grow(b *body, n int) bool {
	if n <= cap(b.got) {
		return true
	}
	size := min(b.want, max(n, 2*cap(b.got), firstChunk))
	if l.held+size-cap(b.got) > l.max {
		return false
	}
	l.held += size - cap(b.got)
	b.got = append(make([]byte, 0, size), b.got...)
	return true
}

func (l *Bodies) release(b *body) { l.held -= cap(b.got) }

// dropBody forgets a body that will not be whole.
func (h *Handshake) dropBody() {
	if h.body != nil {
		h.acceptor.limits.Bodies.release(h.body)
		h.body = nil
	}
}

// Await holds the connection for an answer that comes in a later turn, within
// limit from now; then late is the answer. What follows waits in the socket.
func (h *Handshake) Await(limit time.Duration, late *wire.Error) {
	h.held, h.late, h.buf = true, late, nil
	h.deadline = h.acceptor.loop.Now().Add(limit)
	h.acceptor.loop.WakeIn(h.ref, limit)
}

// cutShort refuses a request whose client has ended before its body was whole
// (RFC 9112 §8). It may still read.
func (h *Handshake) cutShort() {
	h.Refuse(malformed("the body ended after %d of %d bytes (RFC 9112 §8)", len(h.body.got), h.body.want))
}

func (h *Handshake) bodyTimeout() *wire.Error {
	return &wire.Error{Code: wire.BodyTimeout, RetryMS: h.acceptor.limits.RetryAfterSecond * 1000,
		Reason: fmt.Sprintf("%d of the body's %d bytes arrived in %s, which is for head and body together", len(h.body.got), h.body.want, h.acceptor.limits.HeadTimeout)}
}
