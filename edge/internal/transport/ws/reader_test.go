package ws

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// events is what a Reader found, in words.
type events struct {
	list  []string
	pause func() // called after each message, if set
}

func (e *events) add(format string, args ...any) {
	e.list = append(e.list, fmt.Sprintf(format, args...))
}

func (e *events) Message(text bool, payload []byte) {
	if text {
		e.add("text %q", payload)
	} else {
		e.add("binary %q", payload)
	}
	if e.pause != nil {
		e.pause()
	}
}
func (e *events) Ping(payload []byte)                { e.add("ping %q", payload) }
func (e *events) Pong(payload []byte)                { e.add("pong %q", payload) }
func (e *events) Close(status uint16, reason []byte) { e.add("close %d %q", status, reason) }

// feed gives b to a new reader in chops of these sizes, again and again. What
// it found ends with the violation, if there was one.
func feed(t testing.TB, b []byte, max int, sizes ...int) []string {
	t.Helper()
	var r Reader
	var e events
	b = bytes.Clone(b)
	arrived, failed := 0, false
	for i := 0; len(b) > 0; i++ {
		n := min(sizes[i%len(sizes)], len(b))
		chunk := bytes.Clone(b[:n]) // a buffer that is used again afterwards
		taken, v := r.Feed(chunk, max, &e)
		if v != nil {
			if failed {
				t.Fatalf("a second violation: %v", v)
			}
			failed = true
			e.add("violation %d", v.Status)
		} else if taken != n {
			t.Fatalf("took %d of %d bytes", taken, n)
		}
		for i := range chunk {
			chunk[i] = 0xEE
		}
		b = b[n:]
		arrived += n
		if r.p != nil {
			// Growing doubles, or less: what arrived bounds what is held.
			if held := cap(r.p.message) + cap(r.p.control); held > 2*arrived+1024 {
				t.Fatalf("%d bytes held after %d arrived", held, arrived)
			}
			if len(r.p.message) > max {
				t.Fatalf("%d bytes of a message held: the bound is %d", len(r.p.message), max)
			}
		}
	}
	return e.list
}

// masked makes a client's frame. b0 is the first byte: FIN, RSV and opcode.
func masked(b0 byte, payload []byte) []byte { return maskedAs(b0, len(payload), payload) }

// maskedAs announces another length than it has.
func maskedAs(b0 byte, length int, payload []byte) []byte {
	b := []byte{b0}
	switch {
	case length < 126:
		b = append(b, 0x80|byte(length))
	case length < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(length))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(length))
	}
	mask := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	b = append(b, mask[:]...)
	b = append(b, payload...)
	tail := b[len(b)-len(payload):]
	if len(tail) > 64<<10 {
		ws.Cipher(tail, mask, 0) // the loop below takes long where races are looked for
		return b
	}
	for i := range tail {
		tail[i] ^= mask[i%4]
	}
	return b
}

// model reads frames the slow, plain way: the whole input at once, by the rules
// of RFC 6455 one after the other.
func model(b []byte, max int) (list []string) {
	var message []byte
	kind := byte(0)
	fail := func(status int) []string { return append(list, fmt.Sprintf("violation %d", status)) }
	words := map[byte]string{1: "text", 2: "binary", 9: "ping", 10: "pong"}
	for len(b) > 0 {
		fin, op := b[0]&0x80 != 0, b[0]&0x0f
		if b[0]&0x70 != 0 || (op > 2 && op < 8) || op > 10 {
			return fail(1002)
		}
		if len(b) < 2 {
			return list
		}
		length, header := uint64(b[1]&0x7f), 2
		if b[1]&0x80 == 0 || (op >= 8 && (length > 125 || !fin)) {
			return fail(1002)
		}
		switch length {
		case 126:
			if header = 4; len(b) < header {
				return list
			}
			if length = uint64(binary.BigEndian.Uint16(b[2:])); length < 126 {
				return fail(1002)
			}
		case 127:
			if header = 10; len(b) < header {
				return list
			}
			if length = binary.BigEndian.Uint64(b[2:]); length < 1<<16 || length > 1<<63-1 {
				return fail(1002)
			}
		}
		if len(b) < header+4 {
			return list
		}
		mask := b[header : header+4]
		b = b[header+4:]
		if op < 8 {
			if (op == 0) != (kind != 0) {
				return fail(1002)
			}
			if length > uint64(max-len(message)) {
				return fail(1009)
			}
			if op != 0 {
				kind = op
			}
		}
		payload := bytes.Clone(b[:min(uint64(len(b)), length)])
		for i := range payload {
			payload[i] ^= mask[i%4]
		}
		whole := uint64(len(payload)) == length
		b = b[len(payload):]
		if op < 8 {
			message = append(message, payload...)
			if kind == 1 && (!viable(message) || (whole && fin && !utf8.Valid(message))) {
				return fail(1007)
			}
		}
		switch {
		case !whole:
			return list
		case op < 8 && fin:
			list = append(list, fmt.Sprintf("%s %q", words[kind], message))
			message, kind = nil, 0
		case op == 9, op == 10:
			list = append(list, fmt.Sprintf("%s %q", words[op], payload))
		case op == 8 && length == 0:
			return append(list, `close 0 ""`)
		case op == 8:
			if length == 1 || !mayBeSent(binary.BigEndian.Uint16(payload)) {
				return fail(1002)
			}
			if !utf8.Valid(payload[2:]) {
				return fail(1007)
			}
			return append(list, fmt.Sprintf("close %d %q", binary.BigEndian.Uint16(payload), payload[2:]))
		}
	}
	return list
}

// mayBeSent lists RFC 6455 §7.4 and the IANA registry of close codes.
func mayBeSent(status uint16) bool {
	for _, s := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014} {
		if s == status {
			return true
		}
	}
	return status >= 3000 && status < 5000
}

// viable reports whether b can be the beginning of UTF-8, by trying.
func viable(b []byte) bool {
	for cut := 0; cut <= min(3, len(b)); cut++ {
		if utf8.Valid(b[:len(b)-cut]) && completes(b[len(b)-cut:], 3) {
			return true
		}
	}
	return false
}

func completes(tail []byte, more int) bool {
	if len(tail) == 0 || (utf8.Valid(tail) && utf8.RuneCount(tail) == 1) {
		return true
	}
	for _, c := range []byte{0x80, 0x90, 0xa0, 0xbf} {
		if more > 0 && completes(append(bytes.Clone(tail), c), more-1) {
			return true
		}
	}
	return false
}

func TestTheModelKnowsUTF8(t *testing.T) {
	for text, want := range map[string]bool{"": true, "\xf0": true, "\xf0\x90": true, "\xf0\x80": false, "\xf4\x8f": true, "\xf4\x90": false,
		"\xed\x9f": true, "\xed\xa0": false, "\xc0": false, "\xf5": false, "\xe0\x9f": false, "\x80": false, "a\xe2\x82": true, "a\xe2b": false} {
		if viable([]byte(text)) != want {
			t.Errorf("%q", text)
		}
	}
}

// Close statuses, all 65,536 of them, are those of RFC 6455 §7.4 and IANA.
func TestCloseStatuses(t *testing.T) {
	for s := range 1 << 16 {
		if validStatus(uint16(s)) != mayBeSent(uint16(s)) {
			t.Errorf("%d", s)
		}
	}
}

// RFC 6455 §8.1: a text message fails at the byte that proves it wrong, not
// later and not before, whatever frames and reads cut it.
func TestTextFailsAtTheByteThatProvesItWrong(t *testing.T) {
	for _, text := range append(append([]string{}, invalidText...), validText...) {
		want := len(text) + 1 // only at the end, or never
		for i := 1; i <= len(text); i++ {
			if !viable([]byte(text[:i])) {
				want = i
				break
			}
		}
		for _, lead := range []string{"", "abc", "κόσμε"} {
			var r Reader
			var e events
			stream := maskedAs(0x81, len(lead)+len(text)+1, []byte(lead+text))
			head := len(stream) - len(text)
			got := len(text) + 1
			for i := range stream {
				if _, v := r.Feed(stream[i:i+1], 1<<20, &e); v != nil {
					if v.Status != 1007 {
						t.Fatalf("%q: %v", text, v)
					}
					got = i + 1 - head
					break
				}
			}
			if got != want {
				t.Errorf("%q after %q: failed at byte %d, want %d", text, lead, got, want)
			}
		}
	}
}

// FuzzReader makes frames out of a script and cuts them anywhere: the reader
// finds what the model finds in the whole.
func FuzzReader(f *testing.F) {
	frame := masked
	f.Add(frame(0x81, []byte("Hello")), []byte{1})
	f.Add(append(frame(0x01, []byte("Hel")), append(frame(0x89, []byte("x")), frame(0x80, []byte("lo"))...)...), []byte{3, 1, 7})
	f.Add(append(frame(0x01, []byte("\xe2\x82")), frame(0x80, []byte("\xac"))...), []byte{1})
	f.Add(frame(0x82, bytes.Repeat([]byte{7}, 300)), []byte{200, 3})
	f.Add(frame(0x88, []byte("\x03\xe8bye")), []byte{2})
	f.Add(frame(0x88, []byte{3}), []byte{9})
	f.Add(append(frame(0x88, nil), frame(0x81, []byte("late"))...), []byte{4})
	f.Add([]byte{0x81, 0xfe, 0, 5, 1, 2, 3, 4}, []byte{1})
	f.Add([]byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, []byte{5})
	f.Add(maskedAs(0x82, 1<<20, []byte("x")), []byte{6})
	f.Add([]byte("\x81\x05Hello"), []byte{2})
	f.Fuzz(func(t *testing.T, stream, cuts []byte) {
		const max = 1 << 10
		sizes := []int{1}
		for _, c := range cuts {
			sizes = append(sizes, 1+int(c))
		}
		if len(cuts) > 0 {
			sizes = sizes[1:]
		}
		// Raw bytes seldom make a second frame: read them as a script, too.
		for _, s := range [][]byte{stream, wellFormed(stream)} {
			want := fmt.Sprint(model(s, max))
			if got := fmt.Sprint(feed(t, s, max, len(s)+1)); got != want {
				t.Fatalf("%x in one piece:\ngot  %s\nwant %s", s, got, want)
			}
			if got := fmt.Sprint(feed(t, s, max, sizes...)); got != want {
				t.Fatalf("%x in chops of %v:\ngot  %s\nwant %s", s, sizes, got, want)
			}
			if got := fmt.Sprint(feed(t, s, max, 1)); got != want {
				t.Fatalf("%x byte by byte:\ngot  %s\nwant %s", s, got, want)
			}
		}
	})
}

// wellFormed reads pairs of (first byte, length) with a payload as well-formed
// frames, most of them allowed.
func wellFormed(b []byte) (stream []byte) {
	for len(b) >= 2 && len(stream) < 8<<10 {
		first, n := b[0], int(b[1])
		b = b[2:]
		if first&0x40 == 0 {
			first = [...]byte{0x81, 0x82, 0x01, 0x02, 0x80, 0x00, 0x89, 0x8a}[first&7]
		} else {
			first &^= 0x40
		}
		payload := bytes.Repeat(b[:min(len(b), 1+n%5)], 1+n%60)
		b = b[min(len(b), 1+n%5):]
		if first&0x08 != 0 && len(payload) > 125 {
			payload = payload[:n%126]
		}
		stream = append(stream, masked(first, payload)...)
	}
	return stream
}

func TestAPausedReaderGoesOnWhereItStopped(t *testing.T) {
	stream := bytes.Join([][]byte{masked(0x81, []byte("a")), masked(0x89, []byte("b")), masked(0x01, []byte("c")), masked(0x80, []byte("d")), masked(0x82, []byte("e"))}, nil)
	for _, size := range []int{1, 2, 3, 5, 8, 100} {
		var r Reader
		var e events
		e.pause = r.Pause
		pauses := 0
		for b := bytes.Clone(stream); len(b) > 0; {
			n, v := r.Feed(b[:min(size, len(b))], 1<<10, &e)
			if v != nil {
				t.Fatal(v)
			}
			if n < min(size, len(b)) {
				pauses++
			}
			b = b[n:]
		}
		if got := fmt.Sprint(e.list); got != `[text "a" ping "b" text "cd" binary "e"]` || !r.Idle() {
			t.Errorf("in chops of %d: %s", size, got)
		}
		if size == 100 && pauses != 2 {
			t.Errorf("%d pauses", pauses)
		}
	}
}

type nothing struct{}

func (nothing) Message(bool, []byte) {}
func (nothing) Ping([]byte)          {}
func (nothing) Pong([]byte)          {}
func (nothing) Close(uint16, []byte) {}

func TestWholeFramesCostNoMemory(t *testing.T) {
	stream := append(masked(0x81, bytes.Repeat([]byte("x"), 500)), masked(0x89, []byte("ping"))...)
	buf := make([]byte, len(stream))
	var r Reader
	if n := testing.AllocsPerRun(100, func() {
		copy(buf, stream)
		if _, v := r.Feed(buf, 1<<10, nothing{}); v != nil {
			t.Fatal(v)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if !r.Idle() {
		t.Error("something is kept between messages")
	}
}

func TestAnAnnouncedLengthCostsNoMemory(t *testing.T) {
	var r Reader
	if _, v := r.Feed(maskedAs(0x82, 64<<20, []byte("x")), 64<<20, nothing{}); v != nil {
		t.Fatal(v)
	}
	if n := cap(r.p.message); n > 64 {
		t.Errorf("%d bytes for one that arrived", n)
	}
}

// RFC 6455 §7.1.7: what comes after a violation is neither read nor reported.
func TestNothingIsReadAfterAViolation(t *testing.T) {
	var r Reader
	var e events
	if _, v := r.Feed(masked(0x83, nil), 1<<10, &e); v == nil || v.Status != 1002 || v.Label() != "protocol" {
		t.Fatal(v)
	}
	late := masked(0x81, []byte("late"))
	if n, v := r.Feed(late, 1<<10, &e); v != nil || n != len(late) || len(e.list) != 0 {
		t.Errorf("%d %v %v", n, v, e.list)
	}
}
