package history

import (
	"bytes"
	"net/http"
	"testing"

	"github.com/nats-io/nats.go"
)

// stored appends what the server does to a header that it has stored.
func stored(header []byte) []byte {
	for _, line := range [][2]string{
		{headerStream, "S_H"}, {headerSubject, "room.a"}, {headerSequence, "7"},
		{headerTime, "2026-01-02T03:04:05Z"}, {headerPending, "0"}, {headerPrevious, "3"},
	} {
		var b bytes.Buffer
		if len(header) > 2 {
			b.Write(header[:len(header)-2])
		} else {
			b.WriteString("NATS/1.0\r\n")
		}
		_ = http.Header{line[0]: {line[1]}}.Write(&b)
		b.WriteString("\r\n")
		header = b.Bytes()
	}
	return header
}

// Whatever a publisher sends as a header, its message is read with the
// sequence and subject that the server wrote, or left out; it never ends an
// answer and never fails it.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "NATS/1.0\r\n\r\n", "NATS/1.0\r\nA: b\r\n\r\n", "NATS/1.0\r\nA:b\r\n\r\n", "garbage",
		"NATS/1.0\r\nNats-Sequence: 99\r\nNats-Subject: room.victim\r\nNats-Stream: OTHER\r\n\r\n",
		"NATS/1.0 204 EOB\r\nNats-Last-Sequence: 3\r\nNats-Num-Pending: 0\r\n\r\n",
		"NATS/1.0 204 EOB\r\nNats-Last-Sequence: 3\r\n\r\n\r\n",
		"NATS/1.0 404 No Results\r\n\r\n\r\n", "NATS/1.0\r\nStatus: 204\r\nDescription: EOB\r\n\r\n",
		"NATS/1.0\r\nNats-Stream: OTHER\r\nX: aa", "NATS/1.0\r\nNats-Stream: OTHER\r\nxx", "NATS/1.0 503", "NATS/1.0\r\n\r\nA: b\r\n\r\n",
		"NATS/1.0\nNats-Stream: S_H\nNats-Subject: room.b\nNats-Sequence: 9\nNats-Time-Stamp: 2026-01-02T03:04:05Z\nNats-Num-Pending: 0\nNats-Last-Sequence: 3\n\n\n",
	} {
		f.Add([]byte(seed), []byte("body"))
		f.Add([]byte(seed), []byte(nil))
	}
	f.Fuzz(func(t *testing.T, header, body []byte) {
		wire := stored(header)
		h, err := nats.DecodeHeadersMsg(wire)
		if err != nil {
			h = nil // as nats.go delivers it
		}
		p := parse(&nats.Msg{Header: h, Data: body}, len(wire), "S_H")
		switch p.kind {
		case replyUnreadable:
		case replyMessage:
			if p.stored.Sequence != 7 || p.stored.Subject != "room.a" || p.previous != 3 {
				t.Fatalf("read as %+v", p)
			}
			for name := range p.stored.Header {
				if name == headerSequence || name == headerStream || name == headerSubject {
					t.Fatalf("%s is left in the header", name)
				}
			}
		default:
			t.Fatalf("a publisher made %+v", p)
		}
	})
}

func TestAnOrdinaryHeaderIsReadWhateverItsSpaces(t *testing.T) {
	for _, header := range []string{"NATS/1.0\r\nA: b\r\nA: c\r\n\r\n", "NATS/1.0\r\nA:b\r\nA:c\r\n\r\n", "NATS/1.0\r\nA:  b\r\nA:\tc\r\n\r\n"} {
		wire := stored([]byte(header))
		h, err := nats.DecodeHeadersMsg(wire)
		if err != nil {
			t.Fatal(err)
		}
		p := parse(&nats.Msg{Header: h}, len(wire), "S_H")
		if p.kind != replyMessage || len(p.stored.Header) != 1 || len(p.stored.Header["A"]) != 2 || p.stored.Header["A"][1] != "c" {
			t.Errorf("%q: %+v", header, p)
		}
	}
	many := []byte("NATS/1.0\r\n")
	for range 45 {
		many = append(many, "A-Name: and a value\r\n"...)
	}
	wire := stored(append(many, "\r\n"...))
	h, err := nats.DecodeHeadersMsg(wire)
	if err != nil {
		t.Fatal(err)
	}
	if p := parse(&nats.Msg{Header: h}, len(wire), "S_H"); p.kind != replyMessage {
		t.Errorf("45 headers: %+v", p)
	}
}
