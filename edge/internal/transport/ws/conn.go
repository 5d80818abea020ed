// Package ws is the WebSocket transport: frames in, frames out (RFC 6455).
package ws

import (
	"nabat/edge/internal/frame"
	"nabat/edge/internal/loop"
	"nabat/edge/internal/transport"
	"nabat/proto/wire"
)

// Conn is one WebSocket connection with a session. Its idle state is this
// struct and nothing else: no goroutine, no buffer, no timer.
// Owner: the loop.
type Conn struct {
	transport.Link
	reader Reader
}

// New returns a connection that speaks encoding e, for Start.
func New(e frame.Encoding) *Conn {
	c := new(Conn)
	c.Form, c.Session.Encoding = e, e.Wire()
	return c
}

var (
	_ loop.Handler     = (*Conn)(nil)
	_ transport.Owner  = (*Conn)(nil)
	_ transport.Client = (*Conn)(nil)
	_ Sink             = (*input)(nil)
)

// Start makes c serve the connection after the 101 response, which goes out
// with the turn. The caller opens the session and then feeds what the client
// sent behind its request.
func (c *Conn) Start(env *transport.Env, ref loop.Ref, socket transport.Socket, a Answer) {
	c.Env = env
	if a.Deflate {
		c.Form = c.Form.Deflated()
	}
	env.Writer.Open(&c.Out, ref, socket, false)
	env.Counts.WebSockets.Add(1)
	c.Heard()
	env.Writer.Send(&c.Out, a.Response)
	env.Loop.WakeIn(ref, env.Limits.PingInterval)
}

// Feed takes bytes that arrived from the client. They are unmasked in place.
func (c *Conn) Feed(b []byte) {
	c.Heard()
	if c.Out.Closed() {
		return
	}
	feed := c.reader.Feed
	if c.Form.IsDeflated() {
		feed = c.reader.FeedDeflated
	}
	if _, violation := feed(b, c.Env.Limits.MaxMessageBytes, (*input)(c)); violation != nil {
		c.violate(violation)
	}
}

// Ready implements loop.Handler.
func (c *Conn) Ready(ev loop.Events) {
	if ev.Writable() {
		c.Env.Writer.Writable(&c.Out)
	}
	if !ev.Readable() || c.Out.Closed() {
		return
	}
	if !c.Env.Read(&c.Out, ev, c.Feed) {
		c.end("gone")
	}
}

// Wake implements loop.Handler: close timeout, session deadlines, liveness.
func (c *Conn) Wake() {
	if c.Closing {
		if c.CloseOver() {
			c.end("")
		}
		return
	}
	c.SessionWake()
	if c.Closing || c.Out.Closed() {
		return
	}
	limits := c.Env.Limits
	switch silence := c.Silence(); {
	case c.Pinged && silence >= limits.PingInterval+limits.PongTimeout:
		c.end("ping_timeout")
	case c.Pinged:
		c.Env.Loop.WakeIn(c.Out.Ref(), limits.PingInterval+limits.PongTimeout-silence)
	case silence >= limits.PingInterval:
		c.Pinged = true
		c.Env.Writer.Send(&c.Out, pingFrame)
		c.Env.Loop.WakeIn(c.Out.Ref(), limits.PongTimeout)
	default:
		c.Env.Loop.WakeIn(c.Out.Ref(), limits.PingInterval-silence)
	}
}

var pingFrame = AppendFrame(nil, OpPing, nil)

// Say implements transport.Client.
func (c *Conn) Say(object wire.Object) {
	if c.Closing {
		return
	}
	c.Env.Writer.Send(&c.Out, frame.Append(nil, c.Form, object))
}

// Transport implements transport.Client.
func (c *Conn) Transport() string { return "websocket" }

// Encoding implements transport.Client.
func (c *Conn) Encoding() frame.Encoding { return c.Form }

// Close implements transport.Client: a close frame with the code and its JSON
// reason, then the client's half of the close is awaited (RFC 6455 §7.1.1).
func (c *Conn) Close(cl wire.Close) { c.close(cl.Status, cl.Reason(), string(cl.Code)) }

func (c *Conn) close(status uint16, reason, label string) {
	if c.Begin(label) {
		c.Env.Writer.Send(&c.Out, AppendCloseFrame(nil, status, reason))
		c.Env.Loop.WakeIn(c.Out.Ref(), c.Env.Limits.CloseTimeout)
	}
}

// violate fails the connection as RFC 6455 §7.1.7 asks: say why, then close.
func (c *Conn) violate(v *Violation) {
	c.close(v.Status, v.Reason, "violation_"+v.Label())
	c.FinishWriting()
}

// FinishWriting flushes, and closes as soon as nothing is left to write: the
// server closes TCP first (RFC 6455 §7.1.1).
func (c *Conn) FinishWriting() {
	c.Env.Writer.FlushOne(&c.Out)
	if c.Out.Closed() {
		return
	}
	c.Env.HalfClose(&c.Out)
}

// Drained implements transport.Owner.
func (c *Conn) Drained() {
	if c.Closing {
		c.Env.HalfClose(&c.Out)
		return
	}
	c.Env.Drained(c.Out.Ref())
}

// Lagged implements transport.Owner.
func (c *Conn) Lagged(room uint32) {
	if !c.Closing {
		c.Env.Lag(c.Out.Ref(), room)
	}
}

// Failed implements transport.Owner.
func (c *Conn) Failed(error) { c.end("gone") }

// Slow implements transport.Owner: what waits is given up for the goodbye.
func (c *Conn) Slow() {
	if c.Closing {
		c.end("")
		return
	}
	c.Env.Writer.GiveUp(&c.Out)
	c.Close(wire.CloseSlow)
}

// Gapped implements transport.Owner.
func (c *Conn) Gapped(rooms []uint32) {
	if !c.Closing {
		c.Env.Gap(c.Out.Ref(), rooms)
	}
}

func (c *Conn) end(label string) {
	if !c.Out.Closed() {
		c.Env.Counts.WebSockets.Add(-1)
		if c.Closing {
			label = "" // the close was counted when it began
		}
		c.End(label)
	}
}

// input is Conn as the reader sees it.
type input Conn

func (in *input) Message(text bool, payload []byte) {
	c := (*Conn)(in)
	if c.Closing {
		return
	}
	switch form := c.Form.Wire(); {
	case form == wire.JSON && !text:
		c.close(1003, "nabat.v1.json takes text frames", "binary_frame")
	case form == wire.Protobuf && text:
		c.close(1003, "nabat.v1.proto takes binary frames", "text_frame")
	case !c.Form.Batch():
		in.object(payload)
	default:
		if err := form.Split(payload, in.object); err != nil && !c.Closing {
			c.Session.Complain(c.Env.Host, c.SessionRef(), c.Env.Session, err)
		}
	}
}

// object hands one command to the session. It reports whether the next is wanted.
func (in *input) object(b []byte) bool {
	c := (*Conn)(in)
	c.Env.Counts.MessagesIn.Add(1)
	c.Session.Handle(c.Env.Host, c.SessionRef(), c.Env.Session, b)
	return !c.Closing && !c.Out.Closed()
}

// Ping answers with the same payload (RFC 6455 §5.5.3).
func (in *input) Ping(payload []byte) {
	if c := (*Conn)(in); !c.Closing {
		c.Env.Writer.Send(&c.Out, AppendFrame(nil, OpPong, payload))
	}
}

// Pong needs nothing: hearing the client is what counts.
func (in *input) Pong([]byte) {}

// Close answers the client's close with its own code (RFC 6455 §5.5.1), or
// ends a close that the edge began, whose frame may still wait to be sent.
func (in *input) Close(status uint16, reason []byte) {
	c := (*Conn)(in)
	if status == 0 {
		status = noStatus
	}
	c.close(status, "", "client")
	c.FinishWriting()
}
