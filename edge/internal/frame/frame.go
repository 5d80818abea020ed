// Package frame makes the bytes of a message: once for each encoding in use,
// shared by every recipient.
package frame

import (
	"sync"

	"nabat/proto/wire"
)

// Encoding is a form in which a message's bytes go out.
type Encoding uint8

// The encodings. Later sub-protocols add theirs before encodings.
const (
	WebSocketJSON Encoding = iota // one text frame holding one JSON object
	EventStream                   // the lines of one server-sent event
	Encodings     int      = iota
)

// Message is one publication, one notice to a whole room, or a mark, on its way
// to its recipients. It is immutable; its bytes are made when first asked for.
// Safe from any goroutine.
type Message struct {
	wire.Message
	// Exclude is the connection id that should not get it; empty for none.
	Exclude string
	// Prev is the offset of the message that was handed out before this one in
	// its room; only where the room has history, and not in a replay.
	Prev uint64
	// Key is what the message is the newest state of; used where rooms conflate.
	Key string
	// Hidden messages are shown to nobody: they only move the room on.
	Hidden bool
	// Mark is set when this is no message but a place in the order.
	Mark *Mark

	notice []byte // one JSON object; nil for a message
	lazy   [Encodings]struct {
		once  sync.Once
		bytes []byte
	}
}

// New makes a message. It keeps m's body.
func New(m wire.Message, exclude string) *Message {
	return &Message{Message: m, Exclude: exclude}
}

// Notice makes a notice to the members of room out of one JSON object whose
// single key is its kind, such as {"gap":…}.
func Notice(room string, object []byte) *Message {
	return &Message{Message: wire.Message{Room: room}, notice: object}
}

// Mark tells a loop, in the order of a room's messages, where the room stands:
// what comes behind it is newer than Offset. Epoch is empty where the room has
// no history, or where it can not be read now.
type Mark struct {
	Epoch  string
	Offset uint64
	Err    error // the room can not be opened
}

// NewMark makes a mark of room.
func NewMark(room string, m Mark) *Message {
	return &Message{Message: wire.Message{Room: room}, Mark: &m}
}

// Size is what a waiting message weighs, in bytes.
func (m *Message) Size() int {
	const overhead = 256 // the struct, and what its encodings add
	return len(m.Body) + overhead
}

// MustArrive reports that m is a notice or a mark, which no bound may drop.
func (m *Message) MustArrive() bool { return m.notice != nil || m.Mark != nil }

// IsNotice reports whether m is a notice and not a publication.
func (m *Message) IsNotice() bool { return m.notice != nil }

// Bytes returns m in encoding e. The result is shared and must not be changed.
func (m *Message) Bytes(e Encoding) []byte {
	l := &m.lazy[e]
	l.once.Do(func() { l.bytes = m.encode(e) })
	return l.bytes
}

func (m *Message) encode(e Encoding) []byte {
	if e == EventStream {
		if m.notice != nil {
			return AppendObjectEvent(nil, m.notice)
		}
		return wire.AppendEvent(make([]byte, 0, m.sizeHint()), &m.Message)
	}
	// The longest header first, the object behind it, then the real header
	// moved up to the object: one buffer, one allocation.
	buf := make([]byte, maxHeader, maxHeader+m.sizeHint())
	if m.notice != nil {
		buf = append(buf, m.notice...)
	} else {
		buf = wire.AppendMessage(buf, &m.Message)
	}
	var header [maxHeader]byte
	h := AppendHeader(header[:0], opText, len(buf)-maxHeader)
	start := maxHeader - len(h)
	copy(buf[start:], h)
	return buf[start:len(buf):len(buf)]
}

func (m *Message) sizeHint() int {
	return len(m.notice) + len(m.Body)*4/3 + len(m.Room) + len(m.User) + len(m.Event) + 96
}

const (
	opText    = 1
	maxHeader = 10
)

// AppendHeader appends the header of an unmasked, unfragmented frame with n
// bytes of payload (RFC 6455 §5.2).
func AppendHeader(dst []byte, opcode byte, n int) []byte {
	const fin = 0x80
	switch {
	case n < 126:
		return append(dst, fin|opcode, byte(n))
	case n < 1<<16:
		return append(dst, fin|opcode, 126, byte(n>>8), byte(n))
	}
	return append(dst, fin|opcode, 127, 0, 0, 0, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// AppendText appends one JSON object as a text frame.
func AppendText(dst, object []byte) []byte {
	return append(AppendHeader(dst, opText, len(object)), object...)
}

// AppendObjectEvent appends one JSON object that is not a message as a
// server-sent event named after its kind. An event stream carries no commands,
// so the object has no id before it.
func AppendObjectEvent(dst, object []byte) []byte {
	dst = append(dst, "event: "...)
	dst = append(dst, Kind(object)...)
	dst = append(dst, "\ndata: "...)
	dst = append(dst, object...)
	return append(dst, '\n', '\n')
}

// Kind is the first key of an object that the edge itself wrote: {"gap":…}.
func Kind(object []byte) []byte {
	const start = len(`{"`)
	for i := start; i < len(object); i++ {
		if object[i] == '"' {
			return object[start:i]
		}
	}
	return nil
}

// Join returns the bytes of several messages in encoding e, one behind the
// other, in one buffer; a single message's own bytes are not copied.
func Join(list []*Message, e Encoding) []byte {
	if len(list) == 1 {
		return list[0].Bytes(e)
	}
	n := 0
	for _, m := range list {
		n += len(m.Bytes(e))
	}
	buf := make([]byte, 0, n)
	for _, m := range list {
		buf = append(buf, m.Bytes(e)...)
	}
	return buf
}
