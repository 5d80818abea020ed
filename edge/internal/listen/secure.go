package listen

import (
	"golang.org/x/sys/unix"

	"nabat/edge/internal/loop"
	"nabat/edge/internal/tlsconn"
	"nabat/proto/wire"
)

// Secure makes every connection of the acceptor begin with TLS. Call it before
// Start.
func (a *Acceptor) Secure(e *tlsconn.Engine) { a.engine = e }

// lookAgain is when a handshake that waits for its client is looked at. A
// deadline may come a tick early.
const lookAgain = tlsconn.Patience + loop.Tick

var _ tlsconn.Owner = (*Handshake)(nil)

// shaking reports that the TLS handshake is not over.
func (h *Handshake) shaking() bool { return h.tls != nil && !h.tls.Open() }

// secure makes the connection begin with TLS.
func (h *Handshake) secure() {
	h.tls = h.acceptor.engine.Accept(h)
	h.deadline = h.acceptor.loop.Now().Add(h.acceptor.limits.HeadTimeout)
}

// receive takes bytes off the wire. What a proxy says about its client comes
// first and in the clear.
func (h *Handshake) receive(b []byte) {
	if h.prelude {
		if h.buf != nil {
			b = append(h.buf, b...)
		}
		h.buf = nil
		var ok bool
		if b, ok = h.takeProxyHeader(b); !ok {
			return
		}
	}
	if h.tls == nil {
		h.feed(b)
		return
	}
	h.tls.Feed(b)
	h.Progress()
}

// Progress implements tlsconn.Owner: it sends what TLS has to say, and reads
// what it has made readable.
func (h *Handshake) Progress() {
	if h.state != waiting {
		return
	}
	switch h.tls.Failure() {
	case "":
	case tlsconn.PlainHTTP:
		h.tls.Drop()
		h.tls = nil // the answer is what the client understands
		h.Refuse(&wire.Error{Code: wire.PlainOnTLSPort, Reason: "this port speaks TLS: use wss:// or https://"})
		return
	default:
		h.flush() // an alert says why
		h.finish("")
		return
	}
	if h.flush(); h.state != waiting {
		return
	}
	if h.shaking() {
		if h.more && !h.tls.Full() {
			h.acceptor.loop.Again(h.ref)
		}
		h.acceptor.loop.WakeIn(h.ref, lookAgain)
		return
	}
	h.pull()
}

// pull reads the plaintext that there is.
func (h *Handshake) pull() {
	t := h.tls
	for h.state == waiting && !h.held {
		b, err := t.Next()
		if err != nil {
			h.flush()
			h.finish("gone")
			return
		}
		if len(b) == 0 {
			break
		}
		h.feed(b)
	}
	switch {
	case h.state == waiting:
		h.flush()
		t.Keep() // behind a head that is held
		if h.more && !h.held {
			h.acceptor.loop.Again(h.ref) // it went unread during the TLS handshake
		}
	case t.Unread():
		t.Keep() // for the transport
	}
}

// flush writes what TLS has to say.
func (h *Handshake) flush() {
	for h.tls.Pending() > 0 {
		n, err := unix.SendmsgN(h.fd, h.tls.Outbox(), nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err == unix.EAGAIN || err == unix.EINTR || err == unix.ENOBUFS {
			n, err = 0, nil
		}
		full := n < h.tls.Pending()
		h.acceptor.counts.BytesOut.Add(uint64(max(n, 0)))
		h.acceptor.counts.QueuedBytes.Add(int64(h.tls.Sent(max(n, 0))))
		if err != nil {
			h.finish("gone")
			return
		}
		if full {
			h.acceptor.loop.AwaitRoom(h.ref)
			return
		}
	}
}

// send is writeNow for the last that there is to say.
func (h *Handshake) send(b []byte) bool {
	if !writeNow(h, b) {
		return false
	}
	if h.tls != nil {
		h.tls.CloseWrite()
		h.flush()
	}
	return h.state == waiting
}

// writeNow sends a small response at once; what does not fit is lost. It reports
// false when there is nobody who could read it.
func writeNow(h *Handshake, b []byte) bool {
	if h.shaking() {
		return false
	}
	if h.tls == nil {
		_, _ = unix.SendmsgN(h.fd, b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		h.acceptor.counts.BytesOut.Add(uint64(len(b)))
		return true
	}
	for len(b) > 0 {
		n := min(len(b), tlsconn.MaxRecord)
		if h.tls.Seal(b[:n]) != nil {
			return false
		}
		b = b[n:]
		if h.flush(); h.state != waiting {
			return false
		}
	}
	return true
}

// endOfInput is called when the client has closed its half.
func (h *Handshake) endOfInput() {
	if h.state == waiting && h.shaking() {
		h.more = true // seen again once the handshake is over
		h.tls.EOF()
		if h.tls.Failure() != "" {
			h.finish("")
		}
		return
	}
	if h.body != nil && h.tls == nil {
		h.body.cutShort()
		return
	}
	h.finish("gone")
}

// readable reports whether Ready should read. A TLS handshake reads also what a
// client that is gone has left: it may say why.
func (h *Handshake) readable(ev loop.Events) bool {
	if h.tls != nil && ev.Writable() && h.state == waiting {
		h.flush()
	}
	if !ev.Readable() || h.state == done {
		return false
	}
	if ev.Gone() && h.state == waiting && !h.shaking() {
		h.finish("gone")
		return false
	}
	return true
}

// wakeShaking is Wake during the TLS handshake.
func (h *Handshake) wakeShaking() {
	rest := h.deadline.Sub(h.acceptor.loop.Now())
	switch {
	case rest <= 0:
		h.tls.Fail(tlsconn.Timeout)
		h.finish("")
	case h.tls.Stalling():
		h.tls.Fail(tlsconn.Stalled)
		h.finish("")
	default:
		h.acceptor.loop.WakeIn(h.ref, min(rest, lookAgain))
	}
}

// release ends the TLS side of a connection that was not handed over.
func (h *Handshake) release() {
	if h.tls != nil {
		h.acceptor.counts.QueuedBytes.Add(-int64(h.tls.Drop()))
		h.tls = nil
	}
}
