package ws

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// Op is a frame's opcode (RFC 6455 §5.2).
type Op byte

// The opcodes.
const (
	OpContinuation Op = 0x0
	OpText         Op = 0x1
	OpBinary       Op = 0x2
	OpClose        Op = 0x8
	OpPing         Op = 0x9
	OpPong         Op = 0xA
)

func (o Op) control() bool { return o&0x8 != 0 }

// Violation is how a client broke the protocol, and the close status that says
// so (RFC 6455 §7.4.1).
type Violation struct {
	Status uint16
	Reason string
	label  string // of metrics; empty where the status says it
}

// Label is the metric label of the violation.
func (v *Violation) Label() string {
	switch {
	case v.label != "":
		return v.label
	case v.Status == 1007:
		return "utf8"
	case v.Status == 1009:
		return "too_large"
	}
	return "protocol"
}

func violation(format string, args ...any) *Violation {
	return &Violation{Status: 1002, Reason: fmt.Sprintf(format, args...)}
}

func notUTF8(what string) *Violation { return &Violation{Status: 1007, Reason: what} }

func tooLarge(max int) *Violation {
	return &Violation{Status: 1009, Reason: fmt.Sprintf("a message may have %d bytes", max)}
}

// Sink takes what a Reader finds. Payloads are valid until the call returns.
type Sink interface {
	Message(text bool, payload []byte)
	Ping(payload []byte)
	Pong(payload []byte)
	// Close gets status 0 when the frame carried none. Nothing follows it.
	Close(status uint16, reason []byte)
}

// Reader reads the frames of one connection as their bytes arrive. The zero
// value is ready, and between messages it holds nothing but a nil pointer.
type Reader struct{ p *partial }

// partial is what a Reader keeps of a frame or message that is not complete.
type partial struct {
	header   [maxHeader]byte // of a frame whose header is cut
	have     int
	frame    header // the frame whose payload is arriving; inFrame tells if there is one
	inFrame  bool
	got      int    // payload bytes of frame that have arrived
	message  []byte // payload of the fragments so far
	kind     Op     // of the fragmented message; 0 when there is none
	deflated bool   // the fragmented message is
	tail     [utf8.UTFMax]byte
	tailLen  int
	control  []byte // payload of a control frame that is cut
	paused   bool
	finished bool // a close frame was read, or the client broke the protocol
}

// maxHeader is 2 bytes, an 8-byte length and a 4-byte mask (RFC 6455 §5.2).
const maxHeader = 14

type header struct {
	op       Op
	fin      bool
	deflated bool // RSV1 (RFC 7692 §6)
	mask     [4]byte
	length   int
}

// reading is what one call of Feed is about.
type reading struct {
	max      int  // bytes of a message, fragments together, inflated
	deflate  bool // compression was negotiated
	inflated int  // bytes that compressed messages came to so far
	sink     Sink
}

// Idle reports that no frame and no message is under way.
func (r *Reader) Idle() bool { return r.p == nil }

// Pause makes the Feed under way return after the present frame. For use by a
// Sink.
func (r *Reader) Pause() { r.need().paused = true }

func (r *Reader) need() *partial {
	if r.p == nil {
		r.p = new(partial)
	}
	return r.p
}

// Feed reads the frames in buf, unmasking them in place, and hands complete
// messages to s. Frames that lie whole in buf are not copied. maxMessage bounds
// a message, fragments together. It returns how much of buf it took: all,
// unless the sink paused it or the client broke the protocol. It reports one
// violation, and takes what comes after it unread.
func (r *Reader) Feed(buf []byte, maxMessage int, s Sink) (consumed int, v *Violation) {
	return r.read(buf, &reading{max: maxMessage, sink: s})
}

// FeedDeflated is Feed where compression was negotiated. maxMessage bounds what
// a message inflates to.
func (r *Reader) FeedDeflated(buf []byte, maxMessage int, s Sink) (consumed int, v *Violation) {
	return r.read(buf, &reading{max: maxMessage, deflate: true, sink: s})
}

func (r *Reader) read(buf []byte, f *reading) (consumed int, v *Violation) {
	for consumed < len(buf) {
		if r.p != nil && (r.p.finished || r.p.paused) {
			break
		}
		n, v := r.step(buf[consumed:], f)
		consumed += n
		if v != nil {
			r.p = &partial{finished: true}
			return consumed, v
		}
	}
	if p := r.p; p != nil {
		if p.finished {
			return len(buf), nil // what follows a close frame or a violation is not read (RFC 6455 §5.5.1, §7.1.7)
		}
		p.paused = false
		r.release()
	}
	return consumed, nil
}

// release gives up the partial state when there is nothing in it.
func (r *Reader) release() {
	p := r.p
	if p.have == 0 && !p.inFrame && p.kind == 0 && !p.finished && !p.paused {
		r.p = nil
	}
}

// step takes one header or some payload off the front of buf.
func (r *Reader) step(buf []byte, f *reading) (int, *Violation) {
	p := r.p
	if p != nil && p.inFrame {
		return r.payload(buf, f)
	}
	if p != nil && p.have > 0 {
		return r.cutHeader(buf, f)
	}
	h, n, v := parseHeader(buf, f.deflate)
	if v != nil {
		return 0, v
	}
	if n == 0 {
		p = r.need()
		p.have = copy(p.header[:], buf)
		return p.have, nil
	}
	if v := r.admit(h, f); v != nil {
		return n, v
	}
	if whole := n + h.length; whole <= len(buf) && (h.op.control() || (h.fin && h.op != OpContinuation)) {
		payload := buf[n:whole]
		ws.Cipher(payload, h.mask, 0)
		return whole, r.complete(h, payload, f)
	}
	r.begin(h)
	return n, r.emptyFrame(f)
}

// cutHeader goes on with a header whose first bytes came earlier.
func (r *Reader) cutHeader(buf []byte, f *reading) (int, *Violation) {
	p := r.p
	n := copy(p.header[p.have:], buf)
	h, size, v := parseHeader(p.header[:p.have+n], f.deflate)
	if v != nil {
		return 0, v
	}
	if size == 0 {
		p.have += n
		return n, nil
	}
	taken := size - p.have
	p.have = 0
	if v := r.admit(h, f); v != nil {
		return taken, v
	}
	r.begin(h)
	return taken, r.emptyFrame(f)
}

func (r *Reader) begin(h header) {
	p := r.need()
	p.frame, p.inFrame, p.got = h, true, 0
	switch {
	case h.op.control():
		p.control = p.control[:0]
	case h.op != OpContinuation:
		p.kind, p.deflated, p.message, p.tailLen = h.op, h.deflated, nil, 0
	}
}

// emptyFrame ends a frame that has no payload to wait for.
func (r *Reader) emptyFrame(f *reading) *Violation {
	if r.p.frame.length == 0 {
		_, v := r.payload(nil, f)
		return v
	}
	return nil
}

// admit checks a header against the state of the connection (RFC 6455 §5.4).
func (r *Reader) admit(h header, f *reading) *Violation {
	if h.op.control() {
		return nil
	}
	open := r.p != nil && r.p.kind != 0
	have, deflated := 0, h.deflated
	switch {
	case h.op == OpContinuation && !open:
		return violation("a continuation frame without a message to continue")
	case h.op != OpContinuation && open:
		return violation("a new message began inside a fragmented one")
	case open:
		have, deflated = len(r.p.message), r.p.deflated
	}
	most := f.max
	if deflated {
		most = deflatedMost(most)
	}
	if h.length > most-have {
		return tooLarge(f.max)
	}
	return nil
}

// payload takes payload bytes of the frame under way.
func (r *Reader) payload(buf []byte, f *reading) (int, *Violation) {
	p := r.p
	n := min(len(buf), p.frame.length-p.got)
	chunk := buf[:n]
	ws.Cipher(chunk, p.frame.mask, p.got)
	p.got += n
	if p.frame.op.control() {
		p.control = append(p.control, chunk...)
	} else {
		p.message = append(p.message, chunk...)
		// §8.1: fail as soon as the bytes prove that this is not UTF-8. What is
		// compressed proves nothing before it is inflated.
		if p.kind == OpText && !p.deflated && !p.text(chunk) {
			return n, notUTF8("a text message is not UTF-8")
		}
	}
	if p.got < p.frame.length {
		return n, nil
	}
	p.inFrame = false
	if p.frame.op.control() {
		return n, r.complete(p.frame, p.control, f)
	}
	if !p.frame.fin {
		return n, nil
	}
	if p.kind == OpText && p.tailLen > 0 {
		return n, notUTF8("a text message ends inside a character")
	}
	kind, message := p.kind, p.message
	p.kind, p.message = 0, nil
	if p.deflated {
		return n, f.inflate(kind, message)
	}
	f.sink.Message(kind == OpText, message)
	return n, nil
}

// text validates the next bytes of a text message, keeping a cut character.
func (p *partial) text(b []byte) bool {
	for p.tailLen > 0 && len(b) > 0 {
		p.tail[p.tailLen] = b[0]
		p.tailLen++
		b = b[1:]
		if utf8.FullRune(p.tail[:p.tailLen]) {
			if r, size := utf8.DecodeRune(p.tail[:p.tailLen]); r == utf8.RuneError && size <= 1 {
				return false
			}
			p.tailLen = 0
		}
	}
	// Only the last three bytes can be the beginning of a cut character.
	end := len(b)
	for i := 1; i <= min(utf8.UTFMax-1, len(b)); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-i:]) {
				end = len(b) - i
			}
			break
		}
	}
	if !utf8.Valid(b[:end]) {
		return false
	}
	p.tailLen += copy(p.tail[p.tailLen:], b[end:])
	return true
}

// complete hands over a control frame, or a message that came in one frame.
func (r *Reader) complete(h header, payload []byte, f *reading) *Violation {
	if h.deflated {
		return f.inflate(h.op, payload)
	}
	switch h.op {
	case OpText, OpBinary:
		return f.message(h.op, payload)
	case OpPing:
		f.sink.Ping(payload)
	case OpPong:
		f.sink.Pong(payload)
	case OpClose:
		return r.close(payload, f.sink)
	}
	return nil
}

// message hands over a message that lies whole in memory.
func (f *reading) message(kind Op, payload []byte) *Violation {
	if kind == OpText && !utf8.Valid(payload) {
		return notUTF8("a text message is not UTF-8")
	}
	f.sink.Message(kind == OpText, payload)
	return nil
}

// close reads a close frame (RFC 6455 §5.5.1, §7.4).
func (r *Reader) close(payload []byte, s Sink) *Violation {
	r.need().finished = true
	if len(payload) == 0 {
		s.Close(0, nil)
		return nil
	}
	if len(payload) == 1 {
		return violation("a close frame with half a status code")
	}
	status, reason := binary.BigEndian.Uint16(payload), payload[2:]
	if !validStatus(status) {
		return violation("close status %d must not be sent", status)
	}
	if !utf8.Valid(reason) {
		return notUTF8("the reason of a close frame is not UTF-8")
	}
	s.Close(status, reason)
	return nil
}

// validStatus: RFC 6455 §7.4.2 and the IANA registry.
func validStatus(s uint16) bool {
	switch {
	case s >= 1000 && s <= 1003, s >= 1007 && s <= 1014, s >= 3000 && s <= 4999:
		return true
	}
	return false
}

// parseHeader reads a client's frame header; n is 0 when it is cut.
func parseHeader(b []byte, deflate bool) (h header, n int, v *Violation) {
	if len(b) < 2 {
		if len(b) == 1 {
			v = checkFirst(b[0], deflate)
		}
		return h, 0, v
	}
	if v := checkFirst(b[0], deflate); v != nil {
		return h, 0, v
	}
	h.op, h.fin, h.deflated = Op(b[0]&0x0f), b[0]&0x80 != 0, b[0]&rsv1 != 0
	length, extra := int(b[1]&0x7f), 0
	switch {
	case b[1]&0x80 == 0:
		return h, 0, violation("a client's frame must be masked (RFC 6455 §5.1)")
	case h.op.control() && length > 125:
		return h, 0, violation("a control frame has at most 125 bytes (RFC 6455 §5.5)")
	case h.op.control() && !h.fin:
		return h, 0, violation("a control frame must not be fragmented (RFC 6455 §5.5)")
	case length == 126:
		extra = 2
	case length == 127:
		extra = 8
	}
	if n = 2 + extra; len(b) < n {
		return h, 0, nil
	}
	switch extra {
	case 2:
		if length = int(binary.BigEndian.Uint16(b[2:])); length < 126 {
			return h, 0, violation("the length is not in its shortest form (RFC 6455 §5.2)")
		}
	case 8:
		wide := binary.BigEndian.Uint64(b[2:])
		if wide>>63 != 0 || wide < 1<<16 {
			return h, 0, violation("the 64-bit length is not in its shortest form, or negative (RFC 6455 §5.2)")
		}
		length = int(wide)
	}
	h.length = length
	if n += copy(h.mask[:], b[n:]); n < 2+extra+len(h.mask) {
		return h, 0, nil
	}
	return h, n, nil
}

// rsv1 marks the first frame of a compressed message (RFC 7692 §6).
const rsv1 = 0x40

func checkFirst(b byte, deflate bool) *Violation {
	op := Op(b & 0x0f)
	switch reserved := b & 0x70; {
	case reserved == 0:
	case reserved != rsv1 || !deflate:
		return violation("a reserved bit is set and no extension was negotiated for it (RFC 6455 §5.2)")
	case op.control(), op == OpContinuation:
		return violation("only the first frame of a message says that it is compressed, and no control frame is (RFC 7692 §6.1)")
	}
	switch op {
	case OpContinuation, OpText, OpBinary, OpClose, OpPing, OpPong:
		return nil
	}
	return violation("opcode %d is reserved (RFC 6455 §5.2)", op)
}
