package wire

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// What the edge says in Protobuf, as client.proto has it. It is written by hand,
// into the caller's buffer: tests hold it against code generated from the file.

// appendProto appends o as an Object of client.proto.
func (o Object) appendProto(dst []byte) []byte {
	if o.ID != nil {
		dst = protowire.AppendTag(dst, 1, protowire.VarintType)
		dst = protowire.AppendVarint(dst, *o.ID)
	}
	dst, start := begin(dst, o.Value.kind().number)
	return end(o.Value.appendProto(dst), start)
}

// begin appends a field that is a message; end is called once its fields have
// been appended behind start.
func begin(dst []byte, n protowire.Number) (out []byte, start int) {
	dst = append(protowire.AppendTag(dst, n, protowire.BytesType), 0)
	return dst, len(dst)
}

// end writes the length before start, where begin left one byte for it.
func end(dst []byte, start int) []byte {
	n := len(dst) - start
	for range protowire.SizeVarint(uint64(n)) - 1 {
		dst = append(dst, 0)
	}
	at := len(dst) - n
	copy(dst[at:], dst[start:start+n])
	protowire.AppendVarint(dst[:start-1], uint64(n))
	return dst
}

// putText appends a text field; an empty one is left out. What is not UTF-8
// becomes U+FFFD, as in JSON.
func putText[T ~string](dst []byte, n protowire.Number, s T) []byte {
	if s == "" {
		return dst
	}
	return putElement(dst, n, s)
}

// putElement is putText for lists, where an empty text stands.
func putElement[T ~string](dst []byte, n protowire.Number, s T) []byte {
	if utf8.ValidString(string(s)) {
		dst = protowire.AppendTag(dst, n, protowire.BytesType)
		return protowire.AppendString(dst, string(s))
	}
	dst, start := begin(dst, n)
	for _, r := range string(s) {
		dst = utf8.AppendRune(dst, r)
	}
	return end(dst, start)
}

func putNumber[T ~uint64 | ~int64 | ~int](dst []byte, n protowire.Number, v T) []byte {
	if v == 0 {
		return dst
	}
	dst = protowire.AppendTag(dst, n, protowire.VarintType)
	return protowire.AppendVarint(dst, uint64(v))
}

func putBool(dst []byte, n protowire.Number, v bool) []byte {
	dst = protowire.AppendTag(dst, n, protowire.VarintType)
	return protowire.AppendVarint(dst, protowire.EncodeBool(v))
}

func appendMessageField(dst []byte, n protowire.Number, m *Message) []byte {
	dst, start := begin(dst, n)
	dst = putText(dst, 1, m.Room)
	dst = putText(dst, 2, m.Epoch)
	dst = putNumber(dst, 3, m.Offset)
	dst = protowire.AppendTag(dst, bodyField+protowire.Number(m.Kind), protowire.BytesType)
	dst = protowire.AppendBytes(dst, m.Body)
	dst = putText(dst, 7, m.Event)
	return end(putText(dst, 8, m.User), start)
}

// bodyField is the number of Message.json; text and binary follow, as the kinds
// do.
const bodyField = 4

func putPositions(dst []byte, n protowire.Number, list []Position) []byte {
	for _, p := range list {
		var start int
		dst, start = begin(dst, n)
		dst = end(p.appendProto(dst), start)
	}
	return dst
}

func (p Position) appendProto(dst []byte) []byte {
	dst = putText(dst, 1, p.Room)
	dst = putText(dst, 2, p.Epoch)
	dst = putNumber(dst, 3, p.Offset)
	if p.Recovered != nil {
		dst = putBool(dst, 4, *p.Recovered)
	}
	return putText(dst, 5, p.Reason)
}

func (c *Connected) appendProto(dst []byte) []byte {
	dst = putText(dst, 1, c.Session)
	dst = putText(dst, 2, c.Node)
	dst = putText(dst, 3, c.User)
	dst = putNumber(dst, 4, c.Expires)
	return putPositions(dst, 5, c.Rooms)
}

func (s Subscribed) appendProto(dst []byte) []byte { return putPositions(dst, 1, s.Rooms) }

func (u Unsubscribed) appendProto(dst []byte) []byte {
	for _, room := range u.Rooms {
		dst = putElement(dst, 1, room)
	}
	return putText(dst, 2, u.Reason)
}

func (a Authed) appendProto(dst []byte) []byte {
	return putNumber(putText(dst, 1, a.User), 2, a.Expires)
}

func (h *Page) appendProto(dst []byte) []byte {
	dst = putText(dst, 1, h.Room)
	dst = putText(dst, 2, h.Epoch)
	for _, m := range h.Messages {
		dst = appendMessageField(dst, 3, m)
	}
	if h.More {
		dst = putBool(dst, 4, true)
	}
	return dst
}

func (Ponged) appendProto(dst []byte) []byte { return dst }

func (e *Error) appendProto(dst []byte) []byte {
	dst = putText(dst, 1, e.Code)
	dst = putText(dst, 2, e.Reason)
	return putText(putNumber(dst, 3, e.RetryMS), 4, e.Backend)
}

func (g Gap) appendProto(dst []byte) []byte {
	dst = putText(dst, 1, g.Room)
	dst = putText(dst, 2, g.Reason)
	dst = putNumber(dst, 3, g.From)
	return putNumber(dst, 4, g.To)
}

func (e Expiring) appendProto(dst []byte) []byte { return putNumber(dst, 1, e.Seconds) }
