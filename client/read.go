package client

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"nabat/proto/wire"
)

// CloseError is why a connection ended.
type CloseError struct {
	// Close is what the server said. Its Status is 1006 when the connection
	// broke without a word.
	wire.Close
	Err error // what broke; nil when the server said goodbye
}

func (e *CloseError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("connection lost: %v", e.Err)
	}
	return fmt.Sprintf("the server closed the connection: %d %s", e.Status, e.Code)
}

func (e *CloseError) Unwrap() error { return e.Err }

// Retry reports whether to come back, and the least time to wait before. After
// 4001 (the token expired) that is only of use with a fresh token.
func (e *CloseError) Retry() (wait time.Duration, again bool) {
	switch {
	case errors.Is(e.Err, ErrClosed), e.Status >= 4000 && e.Status < 4100 && e.Status != 4001:
		return 0, false
	}
	switch ws.StatusCode(e.Status) {
	case ws.StatusProtocolError, ws.StatusUnsupportedData, ws.StatusInvalidFramePayloadData, ws.StatusPolicyViolation, ws.StatusMessageTooBig:
		return 0, false // we would do it again
	}
	return time.Duration(e.RetryMS) * time.Millisecond, true
}

// read is the reader's goroutine: it ends with the connection.
func (c *Conn) read(source *bufio.Reader) {
	reader := &wsutil.Reader{Source: source, State: ws.StateClientSide, CheckUTF8: true, MaxMessageSize: c.options.MaxMessageBytes}
	reader.OnIntermediate = c.control
	err := c.receive(reader)
	var closed *CloseError
	if !errors.As(err, &closed) {
		closed = &CloseError{Close: wire.Close{Status: uint16(ws.StatusAbnormalClosure)}, Err: err}
	}
	select {
	case <-c.closing:
		closed = &CloseError{Close: wire.Close{Status: uint16(ws.StatusNormalClosure)}, Err: ErrClosed}
	default:
	}
	c.err = closed
	_ = c.conn.Close() // nothing can be done about it
	close(c.done)
	close(c.outlet.events)
}

func (c *Conn) receive(reader *wsutil.Reader) error {
	for {
		header, err := reader.NextFrame()
		if err != nil {
			return err
		}
		if header.OpCode.IsControl() {
			if err := c.control(header, reader); err != nil {
				return err
			}
			continue
		}
		frame, err := io.ReadAll(reader)
		if err != nil {
			return err
		}
		c.lastRead.Store(time.Now().UnixNano())
		if header.OpCode != c.codec.op() {
			return fmt.Errorf("the server sent a frame that is not of %s", c.codec.subprotocol())
		}
		if err := c.take(frame); err != nil {
			return err
		}
	}
}

// control answers ping and close frames, which may stand between the fragments
// of a message (RFC 6455 §5.4).
func (c *Conn) control(header ws.Header, body io.Reader) error {
	payload, err := io.ReadAll(io.LimitReader(body, ws.MaxControlFramePayloadSize))
	if err != nil {
		return err
	}
	c.lastRead.Store(time.Now().UnixNano())
	switch header.OpCode {
	case ws.OpPing:
		return c.write(ws.OpPong, payload)
	case ws.OpClose:
		status, reason := ws.ParseCloseFrameData(payload)
		closed := &CloseError{Close: wire.Close{Status: uint16(status)}}
		var said jsonError
		if json.Unmarshal([]byte(reason), &said) == nil {
			closed.Code, closed.RetryMS, closed.Text = said.Code, said.RetryMS, said.Reason
		}
		_ = c.write(ws.OpClose, payload[:min(len(payload), 2)]) // RFC 6455 §5.5.1: echo the status
		return closed
	}
	return nil
}

// take handles a frame, which with Batch may hold several objects.
func (c *Conn) take(frame []byte) (err error) {
	if !c.options.Batch {
		return c.handle(frame)
	}
	bad := c.codec.encoding().Split(frame, func(object []byte) bool {
		err = c.handle(object)
		return err == nil
	})
	if bad != nil {
		return fmt.Errorf("the server sent what is not the protocol: %s", bad.Reason)
	}
	return err
}

// handle gives an object to the command that waits for it, or to Events.
func (c *Conn) handle(object []byte) error {
	in, err := c.codec.read(object)
	if err != nil {
		return fmt.Errorf("the server sent what is not the protocol: %w", err)
	}
	c.mu.Lock()
	c.places.take(in)
	if m := in.Message; m != nil && m.Epoch == "" && m.Offset != 0 {
		m.Epoch = c.places[m.Room].Epoch // said once, when the room was joined
	}
	var w waiter
	if in.ID != nil {
		w = c.waiting[*in.ID]
		delete(c.waiting, *in.ID)
	}
	c.mu.Unlock()
	if in.ID != nil {
		if w.answer != nil {
			w.answer <- in
		}
		switch {
		case w.joins == "":
		case in.Subscribed != nil:
			for _, p := range in.Subscribed.Rooms {
				c.outlet.put(Event{Recovered: recoveryOf(p)}, c.closing, c.hold)
			}
		case in.Error != nil && in.Error.RetryMS == 0:
			c.outlet.put(Event{Unsubscribed: []string{w.joins}, Reason: in.Error.Code}, c.closing, c.hold)
		}
		return nil
	}
	if in.Ping {
		pong, err := c.codec.write(&wire.Command{Verb: wire.Pong})
		if err != nil {
			return err
		}
		return c.send(pong)
	}
	if in.Connected != nil {
		select {
		case c.unasked <- *in.Connected:
		default: // an edge connects once
		}
		return nil
	}
	event, ok := in.event()
	if !ok {
		return nil // a later version of the protocol says more
	}
	if c.codec.encoding() == wire.JSON {
		event.Raw = object
	}
	c.outlet.put(event, c.closing, c.hold)
	return nil
}

// hold is told when the reader waits for room in a queue: the silence is then ours,
// not the server's.
func (c *Conn) hold(on bool) {
	c.lastRead.Store(time.Now().UnixNano())
	c.held.Store(on)
}

// watch asks a silent server for a sign of life, and gives it up when there is
// none. It ends with the reader.
func (c *Conn) watch() {
	ticker := time.NewTicker(c.options.Silence / 2)
	defer ticker.Stop()
	for {
		select {
		case <-c.done:
			return
		case now := <-ticker.C:
			silent := now.Sub(time.Unix(0, c.lastRead.Load()))
			switch {
			case c.held.Load():
			case silent >= 2*c.options.Silence:
				_ = c.conn.Close() // the reader finds out
			case silent >= c.options.Silence:
				_ = c.write(ws.OpPing, nil) // a failure shows in the reader
			}
		}
	}
}
