// Package frame makes the bytes of a message: once for each encoding in use,
// shared by every recipient.
package frame

import (
	"slices"
	"sync"

	"nabat/proto/wire"
)

// Encoding is a form in which a message's bytes go out, compressed or not.
type Encoding uint8

// The forms. Those from batches on hold several objects in a frame; they are
// joined out of the others' bytes and not made for each message. Behind them
// come the same forms for clients that negotiated compression.
const (
	WebSocketJSON       Encoding = iota // one text frame holding one JSON object
	EventStream                         // the lines of one server-sent event
	WebSocketProto                      // one binary frame holding one Protobuf object
	WebSocketJSONBatch                  // a text frame with a line for each object
	WebSocketProtoBatch                 // a binary frame with objects behind their lengths
	forms               Encoding = iota

	batches   = WebSocketJSONBatch
	Encodings = 2 * int(forms)
)

// Deflated is e for a client that negotiated compression; whether a message is
// compressed is up to the message. Event streams have no frames to compress.
func (e Encoding) Deflated() Encoding {
	if e == EventStream || e.IsDeflated() {
		return e
	}
	return e + forms
}

// IsDeflated reports whether e is for a client that negotiated compression.
func (e Encoding) IsDeflated() bool { return e >= forms }

// Plain is e without compression.
func (e Encoding) Plain() Encoding { return e % forms }

// Wire is the form of the objects.
func (e Encoding) Wire() wire.Encoding {
	if p := e.Plain(); p == WebSocketProto || p == WebSocketProtoBatch {
		return wire.Protobuf
	}
	return wire.JSON
}

// Batch reports whether a frame may hold several objects.
func (e Encoding) Batch() bool { return e.Plain() >= batches }

// single is e without batches. Those are joined out of plain frames, and not
// compressed.
func (e Encoding) single() Encoding {
	switch e.Plain() {
	case WebSocketJSONBatch:
		return WebSocketJSON
	case WebSocketProtoBatch:
		return WebSocketProto
	}
	return e
}

// index is the place of a message's bytes in e, which is none with batches.
func (e Encoding) index() int {
	if e.IsDeflated() {
		return int(e.Plain() + batches)
	}
	return int(e)
}

// opcode is that of a frame in e.
func (e Encoding) opcode() byte {
	if e.Wire() == wire.Protobuf {
		return opBinary
	}
	return opText
}

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
	// Deflater compresses the message for those who negotiated it; nil where the
	// policy of the room does not ask for that. To be set before m is shared.
	Deflater *Deflater

	// Trace is told when a loop has handed the message to its members; nil for
	// most. To be set before m is shared.
	Trace Trace

	notice wire.Value // nil for a message
	weight int        // of a notice that a bound may drop, as it may a message; 0 for others
	lazy   [2 * batches]struct {
		once  sync.Once
		bytes []byte
	}
}

// Trace follows one message. Safe from any goroutine.
type Trace interface {
	Delivered(loop, members int, offset uint64)
}

// New makes a message. It keeps m's body.
func New(m wire.Message, exclude string) *Message {
	return &Message{Message: m, Exclude: exclude}
}

// Silent is m for those who have its content already: it only moves the room on.
func (m *Message) Silent() *Message {
	return &Message{Message: wire.Message{Room: m.Room, Offset: m.Offset}, Prev: m.Prev, Hidden: true}
}

// Notice makes a notice to the members of room.
func Notice(room string, notice wire.Value) *Message {
	return &Message{Message: wire.Message{Room: room}, notice: notice}
}

// Change makes a notice that comes as often as messages do, and that a bound may
// drop like one. weight is about its size.
func Change(room string, notice wire.Value, weight int) *Message {
	return &Message{Message: wire.Message{Room: room}, notice: notice, weight: max(weight, 1)}
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
	return len(m.Body) + m.weight + overhead
}

// MustArrive reports that m is a notice or a mark which no bound may drop.
func (m *Message) MustArrive() bool { return m.notice != nil && m.weight == 0 || m.Mark != nil }

// IsNotice reports whether m is a notice and not a publication.
func (m *Message) IsNotice() bool { return m.notice != nil }

// Bytes returns m in encoding e, which is none with batches: Join makes those.
// The result is shared and must not be changed.
func (m *Message) Bytes(e Encoding) []byte {
	l := &m.lazy[e.index()]
	l.once.Do(func() { l.bytes = m.encode(e) })
	return l.bytes
}

func (m *Message) encode(e Encoding) []byte {
	if e.IsDeflated() {
		plain := m.Bytes(e.Plain())
		if b, ok := m.Deflater.Append(nil, plain[0]&^fin, payload(plain)); ok {
			return b
		}
		return plain
	}
	if e == EventStream {
		if m.notice != nil {
			return Append(nil, e, wire.Object{Value: m.notice})
		}
		return wire.AppendEvent(make([]byte, 0, m.sizeHint()), &m.Message)
	}
	// The longest header first, the object behind it, then the real header
	// moved up to the object: one buffer, one allocation.
	buf := make([]byte, maxHeader, maxHeader+m.sizeHint())
	if m.notice != nil {
		buf = e.Wire().Append(buf, wire.Object{Value: m.notice})
	} else {
		buf = e.Wire().AppendMessage(buf, &m.Message)
	}
	var header [maxHeader]byte
	h := AppendHeader(header[:0], e.opcode(), len(buf)-maxHeader)
	start := maxHeader - len(h)
	copy(buf[start:], h)
	return buf[start:len(buf):len(buf)]
}

func (m *Message) sizeHint() int {
	return len(m.Body)*4/3 + len(m.Room) + len(m.User) + len(m.Event) + 96
}

const (
	opText    = 1
	opBinary  = 2
	maxHeader = 10
	fin       = 0x80
)

// AppendHeader appends the header of an unmasked, unfragmented frame with n
// bytes of payload (RFC 6455 §5.2). The opcode may come with reserved bits.
func AppendHeader(dst []byte, opcode byte, n int) []byte {
	switch {
	case n < 126:
		return append(dst, fin|opcode, byte(n))
	case n < 1<<16:
		return append(dst, fin|opcode, 126, byte(n>>8), byte(n))
	}
	return append(dst, fin|opcode, 127, 0, 0, 0, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// Append appends an answer or a notice in encoding e: a frame of its own, or an
// event named after the object's kind. An event stream carries no commands, so
// that the object has no id there.
func Append(dst []byte, e Encoding, o wire.Object) []byte {
	if e == EventStream {
		dst = append(dst, "event: "...)
		dst = append(dst, o.Kind()...)
		dst = append(dst, "\ndata: "...)
		return append(o.AppendJSON(dst), '\n', '\n')
	}
	scratch := scratches.Get().(*[]byte)
	object := e.Wire().Append((*scratch)[:0], o)
	if e.Plain() == WebSocketProtoBatch {
		dst = AppendHeader(dst, opBinary, wire.Protobuf.Batched(object, true))
		dst = wire.Protobuf.AppendBatched(dst, object, true)
	} else {
		dst = slices.Grow(dst, maxHeader+len(object))
		dst = append(AppendHeader(dst, e.opcode(), len(object)), object...)
	}
	if cap(object) <= maxScratch {
		*scratch = object
		scratches.Put(scratch)
	}
	return dst
}

// maxScratch is the largest buffer that is kept for the next object.
const maxScratch = 4 << 10

// scratches hold an object until its size, which stands before it, is known.
var scratches = sync.Pool{New: func() any { return new([]byte) }}

// Join returns the bytes of several messages in encoding e in one buffer: frames
// one behind the other, or batches. Where a message is alone and needs no more
// than itself its own bytes are not copied.
func Join(list []*Message, e Encoding) []byte {
	if len(list) == 1 && e.Plain() != WebSocketProtoBatch {
		return list[0].Bytes(e.single())
	}
	n := 0
	for _, m := range list {
		n += len(m.Bytes(e.single()))
	}
	if e.Batch() {
		return joinBatches(make([]byte, 0, n+maxHeader), list, e)
	}
	buf := make([]byte, 0, n)
	for _, m := range list {
		buf = append(buf, m.Bytes(e)...)
	}
	return buf
}

// maxBatch is the payload of a batch; a message that is larger stands alone.
const maxBatch = 64 << 10

// joinBatches appends as few frames as hold the objects of all messages. A
// batched object takes less than its own frame did, so that dst need not grow.
func joinBatches(dst []byte, list []*Message, e Encoding) []byte {
	for len(list) > 0 {
		n, size := 0, 0
		for _, m := range list {
			more := e.Wire().Batched(payload(m.Bytes(e.single())), n == 0)
			if n > 0 && size+more > maxBatch {
				break
			}
			n, size = n+1, size+more
		}
		dst = AppendHeader(dst, e.opcode(), size)
		for i, m := range list[:n] {
			dst = e.Wire().AppendBatched(dst, payload(m.Bytes(e.single())), i == 0)
		}
		list = list[n:]
	}
	return dst
}
