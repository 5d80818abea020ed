package wire

import (
	"bytes"

	"google.golang.org/protobuf/encoding/protowire"
)

// Encoding is the form of all objects of a connection, both ways.
type Encoding uint8

// The encodings.
const (
	JSON     Encoding = iota // sub-protocol nabat.v1.json
	Protobuf                 // sub-protocol nabat.v1.proto: client.proto
)

// Append appends an answer or a notice.
func (e Encoding) Append(dst []byte, o Object) []byte {
	if e == Protobuf {
		return o.appendProto(dst)
	}
	return o.AppendJSON(dst)
}

// AppendMessage appends a message.
func (e Encoding) AppendMessage(dst []byte, m *Message) []byte {
	if e == Protobuf {
		return appendMessageField(dst, kindMessage.number, m)
	}
	return AppendMessage(dst, m)
}

// Parse reads one command. It is as strict in each encoding as Parse is in JSON,
// and knows the same errors.
func (e Encoding) Parse(object []byte, c *Command) *Error {
	if e == Protobuf {
		return parseProto(object, c)
	}
	return Parse(object, c)
}

// AppendBatched appends an object to a frame that may hold several: JSON objects
// have a line each, Protobuf ones stand behind their length. first says that
// nothing is in the frame yet.
func (e Encoding) AppendBatched(dst, object []byte, first bool) []byte {
	switch {
	case e == Protobuf:
		dst = protowire.AppendVarint(dst, uint64(len(object)))
	case !first:
		dst = append(dst, '\n')
	}
	return append(dst, object...)
}

// Batched is the number of bytes that AppendBatched appends.
func (e Encoding) Batched(object []byte, first bool) int {
	switch {
	case e == Protobuf:
		return protowire.SizeBytes(len(object))
	case first:
		return len(object)
	}
	return 1 + len(object)
}

// Split calls fn for each object of a frame that may hold several, until fn
// reports false. Empty lines are no objects. A frame without any object, or
// whose end is missing, is an error; what stands before it is taken.
func (e Encoding) Split(batch []byte, fn func(object []byte) bool) *Error {
	objects := 0
	for len(batch) > 0 {
		var object []byte
		if e == Protobuf {
			var n int
			if object, n = protowire.ConsumeBytes(batch); n < 0 {
				return bad("the frame ends within an object or its length")
			}
			batch = batch[n:]
		} else {
			object, batch, _ = bytes.Cut(batch, []byte("\n"))
			if len(bytes.TrimSpace(object)) == 0 {
				continue
			}
		}
		objects++
		if !fn(object) {
			return nil
		}
	}
	if objects == 0 {
		return bad("the frame holds no object")
	}
	return nil
}
