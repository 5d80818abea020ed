package wire

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Kind is the form of a message's body.
type Kind uint8

// The kinds, and the values of the Nabat-Body header that ask for them.
const (
	Data   Kind = iota // JSON
	Text               // UTF-8
	Binary             // anything; base64 in JSON
)

// String is the value of the Nabat-Body header.
func (k Kind) String() string { return [...]string{"json", "text", "binary"}[k] }

// Message is one publication as a client gets it.
type Message struct {
	Room   string
	Epoch  string // empty without history
	Offset uint64 // 0 without history
	Kind   Kind
	Body   []byte // compact JSON, UTF-8, or anything, by Kind
	Event  string
	User   string
}

// Classify decides how a body is shown. hint is the Nabat-Body header; without
// one, valid JSON is Data, valid UTF-8 Text and the rest Binary. A hint that the
// body does not bear is passed over. JSON comes back compact; the body itself
// is returned where nothing had to change.
func Classify(body []byte, hint string) (Kind, []byte) {
	switch {
	case hint == "binary" || !utf8.Valid(body):
		return Binary, body
	case hint == "text" || !json.Valid(body):
		return Text, body
	}
	if !bytes.ContainsAny(body, " \t\r\n") {
		return Data, body
	}
	var b bytes.Buffer
	b.Grow(len(body))
	if json.Compact(&b, body) != nil {
		return Text, body
	}
	return Data, b.Bytes()
}

// AppendMessage appends m as one JSON object in one line.
func AppendMessage(dst []byte, m *Message) []byte {
	dst = append(dst, `{"room":`...)
	dst = appendText(dst, m.Room)
	if m.Epoch != "" {
		dst = append(dst, `,"epoch":`...)
		dst = appendText(dst, m.Epoch)
	}
	if m.Offset != 0 {
		dst = append(dst, `,"offset":`...)
		dst = strconv.AppendUint(dst, m.Offset, 10)
	}
	dst = appendBody(append(dst, ','), m.Kind, m.Body)
	if m.Event != "" {
		dst = append(dst, `,"event":`...)
		dst = appendText(dst, m.Event)
	}
	if m.User != "" {
		dst = append(dst, `,"user":`...)
		dst = appendText(dst, m.User)
	}
	return append(dst, '}')
}

// appendText appends s as a JSON string. What is not UTF-8 becomes U+FFFD.
func appendText[T ~string | ~[]byte](dst []byte, s T) []byte {
	dst, _ = jsontext.AppendQuote(dst, s) // its only error is invalid UTF-8, which it replaces
	return dst
}

// AppendEvent appends m as one server-sent event.
func AppendEvent(dst []byte, m *Message) []byte {
	if m.Event != "" {
		dst = append(dst, "event: "...)
		dst = append(dst, oneLine.Replace(m.Event)...)
		dst = append(dst, '\n')
	}
	dst = append(dst, "data: "...)
	dst = AppendMessage(dst, m)
	return append(dst, '\n', '\n')
}

// minRetry is the least time after which an EventSource is told to come back,
// in milliseconds: it does so whatever the code, and all of a node at once.
const minRetry = 1000

// ClosedID is the id of the event that ends a stream for good. An EventSource
// comes back whenever its stream ends, and says the id of the last event: with
// this one it is answered 204, and stays away (WHATWG HTML, server-sent events).
const ClosedID = "closed"

// AppendCloseEvent appends the end of an event stream: what a close frame would
// say, and the time that an EventSource waits before it comes back.
func AppendCloseEvent(dst []byte, c Close) []byte {
	dst = append(dst, "event: close\nretry: "...)
	dst = strconv.AppendInt(dst, int64(max(c.RetryMS, minRetry)), 10)
	if !c.Returns() {
		dst = append(dst, "\nid: "+ClosedID...)
	}
	dst = append(dst, "\ndata: "...)
	dst = append(dst, c.Reason()...)
	return append(dst, '\n', '\n')
}

var oneLine = strings.NewReplacer("\r", " ", "\n", " ", "\x00", " ")
