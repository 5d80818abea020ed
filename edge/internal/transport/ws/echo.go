package ws

import (
	"time"

	"nabat/edge/internal/loop"
	"nabat/edge/internal/transport"
)

// Echo returns every data frame through the same reader and writer: a
// diagnostic, and what a conformance suite talks to. It stops reading until
// what it owes is written. Owner: the loop.
type Echo struct {
	out     transport.Out
	env     *transport.Env
	reader  Reader
	max     int
	deflate bool   // compression was negotiated
	unread  []byte // arrived, and not read while output waits
	closing bool
	ended   bool
	closeBy time.Time // when closing, the end of the client's time
}

var (
	_ loop.Handler    = (*Echo)(nil)
	_ transport.Owner = (*Echo)(nil)
	_ Sink            = (*echoInput)(nil)
)

// Start makes e serve the connection after the 101 response.
func (e *Echo) Start(env *transport.Env, ref loop.Ref, socket transport.Socket, maxMessage int, a Answer) {
	e.env, e.max, e.deflate = env, maxMessage, a.Deflate
	env.Writer.Open(&e.out, ref, socket, true)
	env.Counts.WebSockets.Add(1)
	env.Writer.Send(&e.out, a.Response)
}

// Feed takes bytes that arrived from the client.
func (e *Echo) Feed(b []byte) {
	for len(b) > 0 && !e.closing && !e.out.Closed() {
		if e.out.Pending() > 0 {
			e.unread = append(e.unread, b...)
			return
		}
		feed := e.reader.Feed
		if e.deflate {
			feed = e.reader.FeedDeflated
		}
		n, violation := feed(b, e.max, (*echoInput)(e))
		b = b[n:]
		e.env.Writer.FlushOne(&e.out)
		if violation != nil {
			e.close(violation.Status, violation.Reason)
			return
		}
	}
}

// Ready implements loop.Handler.
func (e *Echo) Ready(ev loop.Events) {
	if ev.Writable() {
		e.env.Writer.Writable(&e.out)
	}
	if ev.Gone() {
		e.end()
		return
	}
	if !ev.Readable() || e.out.Closed() || (e.out.Pending() > 0 && !e.closing) {
		return
	}
	if !e.env.Read(&e.out, ev, e.Feed) {
		e.end()
	}
}

// Drained implements transport.Owner: what was left unread comes first.
func (e *Echo) Drained() {
	if e.closing {
		e.env.HalfClose(&e.out)
		return
	}
	b := e.unread
	e.unread = nil
	e.Feed(b)
	if e.out.Pending() == 0 {
		e.env.Loop.Again(e.out.Ref())
	}
}

// Wake implements loop.Handler.
func (e *Echo) Wake() {
	if !e.closing {
		return
	}
	// A Wake may be left over from the handshake.
	if rest := e.closeBy.Sub(e.env.Loop.Now()); rest > 0 {
		e.env.Loop.WakeIn(e.out.Ref(), rest)
		return
	}
	e.end()
}

// Failed implements transport.Owner.
func (e *Echo) Failed(error) { e.end() }

// Slow implements transport.Owner; Echo bounds itself.
func (e *Echo) Slow() { e.end() }

// Gapped implements transport.Owner; Echo is in no room.
func (e *Echo) Gapped([]uint32) {}

// Lagged implements transport.Owner; Echo is in no room.
func (e *Echo) Lagged(uint32) {}

func (e *Echo) close(status uint16, reason string) {
	if e.closing {
		return
	}
	e.closing, e.closeBy = true, e.env.Loop.Now().Add(e.env.Limits.CloseTimeout)
	e.env.Writer.Send(&e.out, AppendCloseFrame(nil, status, reason))
	e.env.Writer.FlushOne(&e.out)
	e.env.HalfClose(&e.out)
}

func (e *Echo) end() {
	if e.ended {
		return
	}
	e.ended = true
	e.env.Counts.WebSockets.Add(-1)
	e.env.Counts.Closes.Add("echo", 1)
	ref := e.out.Ref()
	e.env.Writer.Close(&e.out)
	e.env.Loop.Remove(ref)
}

type echoInput Echo

func (in *echoInput) Message(text bool, payload []byte) {
	e := (*Echo)(in)
	op := OpBinary
	if text {
		op = OpText
	}
	e.env.Counts.MessagesIn.Add(1)
	b, done := []byte(nil), false
	if e.deflate {
		b, done = e.env.Deflater.Append(nil, byte(op), payload)
	}
	if !done {
		b = AppendFrame(nil, op, payload)
	}
	e.env.Writer.Send(&e.out, b)
	if len(payload) > 32<<10 {
		e.reader.Pause()
	}
}

func (in *echoInput) Ping(payload []byte) {
	e := (*Echo)(in)
	e.env.Writer.Send(&e.out, AppendFrame(nil, OpPong, payload))
}

func (in *echoInput) Pong([]byte) {}

func (in *echoInput) Close(status uint16, _ []byte) {
	if status == 0 {
		status = noStatus
	}
	(*Echo)(in).close(status, "")
}
