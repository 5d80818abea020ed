package listen

import (
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"nabat/edge/internal/loop"
	"nabat/edge/internal/tlsconn"
	"nabat/proto/wire"
)

const refusalType = "application/json; charset=utf-8"

type handshakeState uint8

const (
	waiting   handshakeState = iota // for the rest of the head or of the body, or for the router's answer
	lingering                       // answered with a refusal; waiting for the client to close
	done                            // given to a transport, or closed
)

// Handshake is one connection until its request has been answered. It holds no
// buffer while the head arrives in one piece. Owner: the loop.
type Handshake struct {
	acceptor *Acceptor
	ref      loop.Ref
	fd       int
	state    handshakeState
	held     bool   // the router answers later; what follows waits in the socket
	more     bool   // the socket may hold input whose event is spent
	headOnly bool   // the answer has no body: the method is HEAD
	buf      []byte // a partial head, or a held one with what came behind it
	scanned  int
	tls      *tlsconn.Conn // nil on a plain port
	body     *Body         // nil unless the router wants one
	late     *wire.Error   // the answer, where the router gives none in time; nil: it still checks the token
	deadline time.Time     // of the whole, where something else wakes before
	client   netip.Addr
	prelude  bool // a PROXY protocol header may or must come first
	seated   bool // counted for its client's address, or refused that
}

// readsPerTurn is how many buffers one client may send before others get their
// turn.
const readsPerTurn = 4

var _ loop.Handler = (*Handshake)(nil)

// Ready reads the head. Called by the loop.
func (h *Handshake) Ready(ev loop.Events) {
	if !h.readable(ev) {
		return
	}
	buf := h.acceptor.loop.Buffer()
	for range readsPerTurn {
		if h.held || h.state == done {
			return
		}
		if h.tls != nil && h.tls.Full() {
			h.more = true // Progress goes on
			return
		}
		n, errno := readNow(h.fd, buf)
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			return
		case errno != 0 || n == 0:
			h.endOfInput()
			return
		}
		h.acceptor.counts.BytesIn.Add(uint64(n))
		if h.state == lingering {
			continue // discard, so that closing does not reset the connection
		}
		h.more = n == len(buf) || ev&unix.EPOLLRDHUP != 0
		h.receive(buf[:n])
	}
	if !h.held && h.state != done {
		h.acceptor.loop.Again(h.ref)
	}
}

func (h *Handshake) feed(b []byte) {
	if h.body != nil {
		h.body.feed(b)
		return
	}
	if h.buf != nil {
		h.buf = append(h.buf, b...)
		b = h.buf
	}
	head := &h.acceptor.head // parsed and answered within this call, or held as a copy
	n, err := head.Parse(b, h.scanned, h.acceptor.limits.MaxHead)
	switch {
	case errors.Is(err, ErrMore):
		h.keep(b)
		h.scanned = len(h.buf)
	case err != nil:
		h.refuse(err)
	default:
		h.headOnly = string(head.Method) == "HEAD"
		if !h.identify(head) {
			return
		}
		h.acceptor.router.Serve(h, head, b[n:])
	}
}

// keep copies b, which is what has arrived so far, unless it is kept already.
func (h *Handshake) keep(b []byte) {
	if h.buf == nil {
		h.buf = append(make([]byte, 0, 2*len(b)), b...)
	}
}

func (h *Handshake) refuse(err error) {
	var e *wire.Error
	if !errors.As(err, &e) {
		e = &wire.Error{Code: wire.BadRequest, Reason: err.Error()}
	}
	h.Refuse(e)
}

// Hold keeps a copy of what the head and the bytes behind it alias, for an
// answer that comes in a later turn. It returns the copies.
func (h *Handshake) Hold(head *Head, rest []byte) (*Head, []byte) {
	h.held = true
	n := len(head.Bytes())
	h.buf = append(append(make([]byte, 0, n+len(rest)), head.Bytes()...), rest...)
	again := new(Head)
	if _, err := again.Parse(h.buf, 0, max(n, h.acceptor.limits.MaxHead)); err != nil {
		panic("listen: a parsed head does not parse again: " + err.Error())
	}
	return again, h.buf[n:]
}

// Ref is the connection's name on its loop.
func (h *Handshake) Ref() loop.Ref { return h.ref }

// Upgrade hands the descriptor over: next serves the connection from now on.
// The caller writes the response and feeds rest to next.
func (h *Handshake) Upgrade(next loop.Handler) tlsconn.Socket {
	h.leave()
	h.acceptor.counts.Handshakes.Add(1)
	h.acceptor.loop.Swap(h.ref, next)
	if h.more || h.held || h.tls != nil {
		h.acceptor.loop.Again(h.ref) // the handshake took next's event, or TLS has more
	}
	return tlsconn.Socket{FD: h.fd, TLS: h.tls}
}

// Open reports whether the connection still waits for its answer.
func (h *Handshake) Open() bool { return h.state == waiting }

func (h *Handshake) leave() {
	if h.state == waiting {
		h.acceptor.counts.Pending.Add(-1)
		h.acceptor.pending--
	}
	h.state = done
	h.buf = nil
	h.body.forget()
	h.acceptor.trim()
}

// Wake ends a handshake that took too long, or a linger. Called by the loop.
func (h *Handshake) Wake() {
	switch {
	case h.state != waiting:
		h.finish("")
	case h.shaking():
		h.wakeShaking()
	case h.deadline.After(h.acceptor.loop.Now()):
		h.acceptor.loop.WakeIn(h.ref, h.deadline.Sub(h.acceptor.loop.Now()))
	case h.late != nil:
		h.Refuse(h.late)
	case h.body != nil:
		h.body.timeOut()
	case h.held:
		h.Refuse(&wire.Error{Code: wire.Overloaded, RetryMS: h.acceptor.limits.RetryAfterSecond * 1000,
			Reason: "the token was not checked in " + h.acceptor.limits.HeadTimeout.String()})
	default:
		h.Refuse(&wire.Error{Code: wire.HeadTimeout, Reason: "the request head did not arrive in " + h.acceptor.limits.HeadTimeout.String()})
	}
}

func (h *Handshake) sendAway() {
	if h.late != nil {
		h.Refuse(h.late) // what it asked for may have been done
		return
	}
	if h.shaking() {
		h.tls.Fail(tlsconn.Overloaded)
	}
	h.Refuse(&wire.Error{Code: wire.Overloaded, RetryMS: h.acceptor.limits.RetryAfterSecond * 1000,
		Reason: "too many handshakes at once; this one was the oldest unfinished"})
}

// finish closes the connection. label counts why, empty when counted already.
func (h *Handshake) finish(label string) {
	if h.state == done {
		return
	}
	if label != "" && h.state == waiting {
		h.acceptor.counts.Refusals.Add(label, 1)
	}
	h.leave()
	h.release()
	h.acceptor.loop.Remove(h.ref)
}

// Refuse answers with the error's HTTP status and {"error":…}, and closes.
func (h *Handshake) Refuse(e *wire.Error, headers ...string) {
	if h.state != waiting {
		return
	}
	h.acceptor.counts.Refusals.Add(string(e.Code), 1)
	h.Respond(e.Code.HTTPStatus(), refusalType, refusalBody(e), withRetry(e, headers)...)
}

// Respond answers with a complete response and closes. Headers are whole lines
// without their ends. A 204 has no body.
func (h *Handshake) Respond(status int, contentType string, body []byte, headers ...string) {
	if h.state != waiting {
		return
	}
	b := response(status, contentType, body, headers...)
	if h.headOnly {
		b = b[:len(b)-len(body)] // RFC 9110 §9.3.2
	}
	// A refusal is small and the socket is new: what does not fit is lost.
	if !h.send(b) {
		h.finish("")
		return
	}
	h.leave()
	h.release()
	h.state = lingering
	if unix.Shutdown(h.fd, unix.SHUT_WR) != nil {
		h.finish("")
		return
	}
	h.held = false
	h.acceptor.loop.WakeIn(h.ref, lingerTime)
	h.acceptor.loop.Again(h.ref)
}

func response(status int, contentType string, body []byte, headers ...string) []byte {
	b := make([]byte, 0, 256+len(body))
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(status)...)
	b = AppendDate(append(b, "\r\n"...), time.Now())
	b = append(b, "Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"...)
	for _, line := range headers {
		b = append(append(b, line...), "\r\n"...)
	}
	if status != http.StatusNoContent {
		b = append(b, "Content-Type: "...)
		b = append(b, contentType...)
		b = append(b, "\r\nContent-Length: "...)
		b = strconv.AppendInt(b, int64(len(body)), 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	return append(b, body...)
}

// AppendDate appends the header line that every response of a server with a
// clock must have (RFC 9110 §6.6.1).
func AppendDate(b []byte, now time.Time) []byte {
	b = now.UTC().AppendFormat(append(b, "Date: "...), http.TimeFormat)
	return append(b, "\r\n"...)
}

// refusal is the response that refuses a request with e.
func refusal(e *wire.Error) []byte {
	return response(e.Code.HTTPStatus(), refusalType, refusalBody(e), withRetry(e, nil)...)
}

func refusalBody(e *wire.Error) []byte { return append(wire.Object{Value: e}.AppendJSON(nil), '\n') }

func withRetry(e *wire.Error, headers []string) []string {
	if e.RetryMS > 0 {
		headers = append(headers, "Retry-After: "+strconv.Itoa((e.RetryMS+999)/1000))
	}
	return headers
}
