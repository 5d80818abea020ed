// Package sse is the server-sent-events transport: a connection that only
// writes, on the same loop as all others (WHATWG HTML, server-sent events).
package sse

import (
	"net/http"
	"strconv"
	"time"

	"nabat/edge/internal/frame"
	"nabat/edge/internal/loop"
	"nabat/edge/internal/transport"
	"nabat/proto/wire"
)

// Conn is one event stream with a session. Owner: the loop.
type Conn struct {
	transport.Link
	places []wire.Position // in rooms with history
}

var (
	_ loop.Handler         = (*Conn)(nil)
	_ transport.Owner      = (*Conn)(nil)
	_ transport.Positioned = (*Conn)(nil)
)

// retryMS is when a client returns whose stream broke without a goodbye. The
// browsers' own defaults differ.
const retryMS = 2000

// Head is the response head of an event stream and the stream's first line.
// headers are whole lines without their ends. No length and no chunks: the
// stream ends with the connection, and so every member of a room can be sent
// the same bytes.
func Head(now time.Time, headers ...string) []byte {
	b := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n" +
		"Cache-Control: no-store\r\nConnection: close\r\nX-Accel-Buffering: no\r\nDate: ")
	b = append(now.UTC().AppendFormat(b, http.TimeFormat), "\r\n"...) // RFC 9110 §6.6.1
	for _, line := range headers {
		b = append(append(b, line...), "\r\n"...)
	}
	b = strconv.AppendInt(append(b, "\r\nretry: "...), retryMS, 10)
	return append(b, '\n')
}

// Start makes c serve the connection; head goes out with the turn.
func (c *Conn) Start(env *transport.Env, ref loop.Ref, socket transport.Socket, head []byte) {
	c.Env = env
	env.Writer.Open(&c.Out, ref, socket, false)
	env.Counts.EventStreams.Add(1)
	c.Heard()
	env.Writer.Send(&c.Out, head)
	env.Loop.WakeIn(ref, env.Limits.PingInterval)
}

// Ready implements loop.Handler. A client has nothing to say on an event
// stream: what it sends is read and dropped, so that its end is seen.
func (c *Conn) Ready(ev loop.Events) {
	if ev.Writable() {
		c.Env.Writer.Writable(&c.Out)
	}
	if ev.Readable() && !c.Out.Closed() && !c.Env.Read(&c.Out, ev, func([]byte) {}) {
		c.end("gone")
	}
}

// Wake implements loop.Handler. The comment line keeps proxies from closing a
// quiet stream; a dead peer is found by TCP_USER_TIMEOUT once it is unanswered.
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
	if c.Silence() >= c.Env.Limits.PingInterval {
		c.Heard()
		c.Env.Writer.Send(&c.Out, comment)
	}
	c.Env.Loop.WakeIn(c.Out.Ref(), c.Env.Limits.PingInterval-c.Silence())
}

var comment = []byte(":\n\n")

// Say implements transport.Client: an event named after the object's kind.
func (c *Conn) Say(object wire.Object) {
	if c.Closing {
		return
	}
	var b []byte
	if len(c.places) > 0 {
		b = c.appendID(b)
	}
	c.Env.Writer.Send(&c.Out, frame.Append(b, frame.EventStream, object))
}

// Place implements transport.Positioned.
func (c *Conn) Place(at wire.Position) {
	for i := range c.places {
		if c.places[i].Room == at.Room {
			c.places[i].Epoch, c.places[i].Offset = at.Epoch, at.Offset
			return
		}
	}
	c.places = append(c.places, wire.Position{Room: at.Room, Epoch: at.Epoch, Offset: at.Offset})
}

// Events implements transport.Positioned: before each message an id line with
// the positions that the client will have once it has the message. The browser
// sends the last one it saw when it comes back (WHATWG HTML, Last-Event-ID).
func (c *Conn) Events(epoch string, list []*frame.Message) []byte {
	var b []byte
	for _, m := range list {
		if !m.IsNotice() {
			c.Place(wire.Position{Room: m.Room, Epoch: epoch, Offset: m.Offset})
			b = c.appendID(b)
		}
		b = append(b, m.Bytes(frame.EventStream)...)
	}
	return b
}

func (c *Conn) appendID(b []byte) []byte {
	return append(wire.AppendCursor(append(b, "id: "...), c.places), '\n')
}

// Transport implements transport.Client.
func (c *Conn) Transport() string { return "sse" }

// Encoding implements transport.Client.
func (c *Conn) Encoding() frame.Encoding { return frame.EventStream }

// Close implements transport.Client: an event named close with the code, and a
// retry time that EventSource obeys when it comes back.
func (c *Conn) Close(cl wire.Close) {
	if !c.Begin(string(cl.Code)) {
		return
	}
	c.Env.Writer.Send(&c.Out, wire.AppendCloseEvent(nil, cl))
	c.Env.Writer.FlushOne(&c.Out)
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
		c.Env.Counts.EventStreams.Add(-1)
		if c.Closing {
			label = ""
		}
		c.End(label)
	}
}
