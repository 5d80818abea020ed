package history

import (
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Headers that the server writes behind those of the publisher.
const (
	headerStream   = "Nats-Stream"
	headerSubject  = "Nats-Subject"
	headerSequence = "Nats-Sequence"
	headerTime     = "Nats-Time-Stamp"
	headerPending  = "Nats-Num-Pending"
	headerPrevious = "Nats-Last-Sequence"
	headerUpTo     = "Nats-UpTo-Sequence"
)

type replyKind byte

const (
	replyUnreadable replyKind = iota // a stored message whose header hides what the server wrote
	replyMessage
	replyForeign // a stored message of another stream
	replyEnd     // the last of an answer
)

// reply is one message of an answer.
type reply struct {
	kind        replyKind
	stored      Stored
	previous    uint64 // sequence of the message before in this answer; 0 before the first
	pending     uint64
	upTo        uint64
	status      int
	description string
}

// parse reads what the server wrote for a request to stream. A publisher can write the same names, and
// a status too; the server's own come last, and only the end of an answer has
// no sequence. headerBytes is the size of m's header on the wire.
func parse(m *nats.Msg, headerBytes int, stream string) reply {
	h := m.Header
	if h == nil || hidden(h, headerBytes) >= serverBytes {
		return reply{}
	}
	if len(h[headerSequence]) == 0 {
		return parseEnd(m)
	}
	sequence, ok1 := number(h, headerSequence)
	previous, ok2 := number(h, headerPrevious)
	written, err := time.Parse(time.RFC3339Nano, last(h, headerTime))
	subject := last(h, headerSubject)
	if !ok1 || !ok2 || err != nil || subject == "" || sequence <= previous {
		return reply{}
	}
	if by := last(h, headerStream); by != stream {
		if by == "" || swallowed(h, stream) {
			return reply{}
		}
		return reply{kind: replyForeign}
	}
	p := reply{kind: replyMessage, previous: previous}
	p.stored = Stored{Subject: subject, Sequence: sequence, Time: written, Data: m.Data}
	for _, name := range []string{headerStream, headerSubject, headerSequence, headerTime, headerPending, headerPrevious, headerUpTo} {
		delete(h, name)
	}
	if len(h) > 0 {
		p.stored.Header = h
	}
	return p
}

func parseEnd(m *nats.Msg) reply {
	status, err := strconv.Atoi(last(m.Header, "Status"))
	if err != nil || len(m.Data) > 0 {
		return reply{}
	}
	p := reply{kind: replyEnd, status: status, description: last(m.Header, "Description")}
	p.previous, _ = number(m.Header, headerPrevious)
	p.pending, _ = number(m.Header, headerPending)
	p.upTo, _ = number(m.Header, headerUpTo)
	return p
}

// serverBytes is less than what the server adds to a stored message: six lines
// with a time and at least one byte for each other value.
const serverBytes = 130

// hidden is at least the number of bytes on the wire that did not become h.
// NATS stores a header as the publisher sent it, with an empty line in the
// middle if it likes, and appends its own lines. The parser stops at the empty
// line, so that one would believe the sequence, subject or end of answer that
// the publisher wrote.
//
// The sum takes each line for as short as it can be, without a space after the
// colon and with a bare newline, so an honest header counts two bytes for each
// line: one of more than fifty lines is taken for one that hides something.
func hidden(h nats.Header, headerBytes int) int {
	n := headerBytes - len("NATS/1.0\n\n")
	for name, values := range h {
		for _, v := range values {
			n -= len(name) + len(":") + len(v) + len("\n")
		}
	}
	// The parser makes one of each out of the first line, which has no name.
	for _, name := range []string{"Status", "Description"} {
		if len(h[name]) > 0 {
			n += len(name) + len(":") + len("\n")
		}
	}
	return n
}

// Hides reports whether a republished message carries header lines that its
// publisher kept from the parser: what the server wrote can not be read then.
// subject is what m came on.
func Hides(m *nats.Msg) bool {
	return m.Header == nil || hidden(m.Header, m.Size()-len(m.Subject)-len(m.Reply)-len(m.Data)) >= republishBytes
}

// republishBytes is serverBytes for a republished message: five lines, with the
// names that control gives to streams.
const republishBytes = 110

// swallowed reports whether the server's first line, which names the stream,
// has become part of a line that the publisher left open.
func swallowed(h nats.Header, stream string) bool {
	for name, values := range h {
		if name != headerStream && strings.HasSuffix(name, headerStream) {
			return true
		}
		for _, v := range values {
			if strings.HasSuffix(v, headerStream+": "+stream) {
				return true
			}
		}
	}
	return false
}

func last(h nats.Header, name string) string {
	values := h[name]
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

func number(h nats.Header, name string) (uint64, bool) {
	n, err := strconv.ParseUint(last(h, name), 10, 64)
	return n, err == nil
}
