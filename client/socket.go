package client

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"nabat/proto/wire"
)

// socket is the frames of one connection, in one encoding.
type socket struct {
	// Set at creation, never changed.
	conn    net.Conn
	codec   codec
	batch   bool
	silence time.Duration
	most    int64 // bytes of one message

	// writeMu guards writes to conn.
	writeMu sync.Mutex

	// Atomic.
	lastRead atomic.Int64 // unix nanoseconds
	held     atomic.Bool  // the reader waits for room in a queue
}

func newSocket(conn net.Conn, codec codec, o *Options) *socket {
	s := &socket{conn: conn, codec: codec, batch: o.Batch, silence: o.Silence, most: o.MaxMessageBytes}
	s.lastRead.Store(time.Now().UnixNano())
	return s
}

// receive reads until the end, and calls handle for each object.
func (s *socket) receive(source *bufio.Reader, handle func(object []byte) error) error {
	reader := &wsutil.Reader{Source: source, State: ws.StateClientSide, CheckUTF8: true, MaxMessageSize: s.most, OnIntermediate: s.control}
	for {
		header, err := reader.NextFrame()
		if err != nil {
			return err
		}
		if header.OpCode.IsControl() {
			if err := s.control(header, reader); err != nil {
				return err
			}
			continue
		}
		frame, err := io.ReadAll(reader)
		if err != nil {
			return err
		}
		s.lastRead.Store(time.Now().UnixNano())
		if header.OpCode != s.codec.op() {
			return fmt.Errorf("the server sent a frame that is not of %s", s.codec.subprotocol())
		}
		if err := s.take(frame, handle); err != nil {
			return err
		}
	}
}

// control answers ping and close frames, which may stand between the fragments
// of a message (RFC 6455 §5.4).
func (s *socket) control(header ws.Header, body io.Reader) error {
	payload, err := io.ReadAll(io.LimitReader(body, ws.MaxControlFramePayloadSize))
	if err != nil {
		return err
	}
	s.lastRead.Store(time.Now().UnixNano())
	switch header.OpCode {
	case ws.OpPing:
		return s.write(ws.OpPong, payload)
	case ws.OpClose:
		status, reason := ws.ParseCloseFrameData(payload)
		closed := &CloseError{Close: wire.Close{Status: uint16(status)}}
		var said jsonError
		if json.Unmarshal([]byte(reason), &said) == nil {
			closed.Code, closed.RetryMS, closed.Text = said.Code, said.RetryMS, said.Reason
		}
		_ = s.write(ws.OpClose, payload[:min(len(payload), 2)]) // RFC 6455 §5.5.1: echo the status
		return closed
	}
	return nil
}

// take handles a frame, which with Batch may hold several objects.
func (s *socket) take(frame []byte, handle func(object []byte) error) (err error) {
	if !s.batch {
		return handle(frame)
	}
	bad := s.codec.encoding().Split(frame, func(object []byte) bool {
		err = handle(object)
		return err == nil
	})
	if bad != nil {
		return fmt.Errorf("the server sent what is not the protocol: %s", bad.Reason)
	}
	return err
}

// send writes one object in a frame of its own.
func (s *socket) send(object []byte) error {
	if s.batch {
		object = s.codec.encoding().AppendBatched(nil, object, true)
	}
	return s.write(s.codec.op(), object)
}

// write sends one frame, masked as RFC 6455 §5.3 wants it of a client.
func (s *socket) write(op ws.OpCode, payload []byte) error {
	frame, err := ws.CompileFrame(ws.MaskFrame(ws.NewFrame(op, true, payload)))
	if err != nil {
		return err
	}
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if err := s.conn.SetWriteDeadline(time.Now().Add(s.silence)); err != nil {
		return err
	}
	_, err = s.conn.Write(frame)
	return err
}

// hold is told when the reader waits for room in a queue: the silence is then ours,
// not the server's.
func (s *socket) hold(on bool) {
	s.lastRead.Store(time.Now().UnixNano())
	s.held.Store(on)
}

// watch asks a silent server for a sign of life, and gives it up when there is
// none. It ends with the reader.
func (s *socket) watch(done <-chan struct{}) {
	ticker := time.NewTicker(s.silence / 2)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case now := <-ticker.C:
			silent := now.Sub(time.Unix(0, s.lastRead.Load()))
			switch {
			case s.held.Load():
			case silent >= 2*s.silence:
				_ = s.conn.Close() // the reader finds out
			case silent >= s.silence:
				_ = s.write(ws.OpPing, nil) // a failure shows in the reader
			}
		}
	}
}
