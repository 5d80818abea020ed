package listen

import (
	"fmt"
	"time"

	"nabat/proto/wire"
)

// PublishPath begins the only paths where a request may have a body, and then
// with POST only. The name of a room follows.
const PublishPath = "/v1/rooms/"

// Bodies bounds the bytes of request bodies that are under way on one loop, on all
// its ports: while they arrive, and until they are answered. Owner: the loop.
type Bodies struct{ max, held int }

// NewBodies returns a bound of max bytes.
func NewBodies(max int) *Bodies { return &Bodies{max: max} }

// Body is that of one request, from its head to its answer. Owner: the loop.
type Body struct {
	h       *Handshake
	want    int
	got     []byte
	charged int // bytes, to Limits.Bodies
	done    func(*Body)
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
// or Await. It is not called when the client leaves, or is too slow for
// Limits.HeadTimeout, which is for head and body together. The caller has bounded
// the length.
func (h *Handshake) Collect(head *Head, rest []byte, done func(*Body)) {
	held := h.held
	b := &Body{h: h, want: int(head.Length), done: done}
	h.held, h.body = false, b
	if len(rest) >= b.want {
		if b.charge(b.want) {
			b.got = rest[:b.want:b.want]
			done(b)
		}
		return
	}
	h.buf = nil // rest is copied now
	b.feed(rest)
	// RFC 9110 §10.1.1: who sends already does not wait for it.
	if h.state == waiting && len(rest) == 0 && head.Has("Expect", "100-continue") {
		writeNow(h, []byte("HTTP/1.1 100 Continue\r\n\r\n"))
	}
	if held && h.state == waiting {
		if h.tls != nil {
			h.Progress() // what it has decrypted has no event
		}
		h.acceptor.loop.Again(h.ref)
	}
}

// feed takes a part of the body. What follows the body is not read: there is one
// request in a connection.
func (b *Body) feed(p []byte) {
	p = p[:min(len(p), b.want-len(b.got))]
	if n := len(b.got) + len(p); n > cap(b.got) {
		size := min(b.want, max(n, 2*cap(b.got), firstChunk))
		if !b.charge(size - cap(b.got)) {
			return
		}
		b.got = append(make([]byte, 0, size), b.got...)
	}
	if b.got = append(b.got, p...); len(b.got) == b.want {
		b.done(b)
	}
}

// charge counts n bytes until the request is answered, or refuses it.
func (b *Body) charge(n int) bool {
	a := b.h.acceptor
	if l := a.limits.Bodies; l.held+n <= l.max {
		l.held += n
		b.charged += n
		return true
	}
	b.h.Refuse(&wire.Error{Code: wire.Overloaded, RetryMS: a.limits.RetryAfterSecond * 1000,
		Reason: "too many bytes of requests are under way on this node"})
	return false
}

// forget gives back what was charged. b may be nil.
func (b *Body) forget() {
	if b != nil {
		b.h.acceptor.limits.Bodies.held -= b.charged
		b.h.body = nil
	}
}

// Bytes is the whole body, until done returns.
func (b *Body) Bytes() []byte { return b.got }

// Await holds the connection for an answer that comes in a later turn, within
// limit from now; then late is the answer. What follows waits in the socket.
func (b *Body) Await(limit time.Duration, late *wire.Error) {
	h := b.h
	b.got, h.buf = nil, nil
	h.held, h.late = true, late
	h.deadline = h.acceptor.loop.Now().Add(limit)
	h.acceptor.loop.WakeIn(h.ref, limit)
}

// cutShort refuses a request whose client has ended before its body was whole
// (RFC 9112 §8). It may still read.
func (b *Body) cutShort() {
	b.h.Refuse(malformed("the body ended after %d of %d bytes (RFC 9112 §8)", len(b.got), b.want))
}

// timeOut refuses a request whose body was too slow.
func (b *Body) timeOut() {
	l := &b.h.acceptor.limits
	b.h.Refuse(&wire.Error{Code: wire.BodyTimeout, RetryMS: l.RetryAfterSecond * 1000,
		Reason: fmt.Sprintf("%d of the body's %d bytes arrived in %s, which is for head and body together", len(b.got), b.want, l.HeadTimeout)})
}
