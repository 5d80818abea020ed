package client

import (
	"bufio"
	"errors"
	"fmt"
	"time"

	"github.com/gobwas/ws"

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
	err := c.socket.receive(source, c.handle)
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
	_ = c.socket.conn.Close() // nothing can be done about it
	close(c.done)
	close(c.outlet.events)
}

// handle gives an object to the command that waits for it, or to Events.
func (c *Conn) handle(object []byte) error {
	in, err := c.socket.codec.read(object)
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
				c.outlet.put(Event{Recovered: recoveryOf(p)}, c.closing, c.socket.hold)
			}
		case in.Error != nil && in.Error.RetryMS == 0:
			c.outlet.put(Event{Unsubscribed: []string{w.joins}, Reason: in.Error.Code}, c.closing, c.socket.hold)
		}
		return nil
	}
	if in.Ping {
		pong, err := c.socket.codec.write(&wire.Command{Verb: wire.Pong})
		if err != nil {
			return err
		}
		return c.socket.send(pong)
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
	if c.socket.codec.encoding() == wire.JSON {
		event.Raw = object
	}
	c.outlet.put(event, c.closing, c.socket.hold)
	return nil
}
