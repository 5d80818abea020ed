package frame

import (
	"sync/atomic"

	"github.com/klauspost/compress/flate"
)

// Deflater compresses frames (RFC 7692, permessage-deflate). It keeps nothing of
// a message for the next (server_no_context_takeover), so that one compressed
// frame serves every recipient. Safe from any goroutine.
type Deflater struct {
	// Set at creation, never changed.
	minBytes int
	idle     chan *deflation

	// Atomic.
	messages, before, after atomic.Uint64
}

// Compression is what a Deflater did.
type Compression struct {
	Messages uint64 // frames compressed, whatever the number of their recipients
	Before   uint64 // bytes of their payloads
	After    uint64 // the same, compressed
}

// deflation is a flate writer, a megabyte of tables, and what it writes to.
type deflation struct {
	w   *flate.Writer
	out []byte
}

// Write implements io.Writer.
func (d *deflation) Write(p []byte) (int, error) {
	d.out = append(d.out, p...)
	return len(p), nil
}

// level 3 makes a message of 256 bytes as small as level 6 does, and costs no
// more than level 1 there.
const level = 3

// keptBytes bounds the buffer that a deflation keeps.
const keptBytes = 256 << 10

// NewDeflater returns a Deflater for payloads of minBytes and more. It keeps at
// most writers flate writers, made when they are first needed.
func NewDeflater(minBytes, writers int) *Deflater {
	return &Deflater{minBytes: minBytes, idle: make(chan *deflation, writers)}
}

func (d *Deflater) take() *deflation {
	select {
	case one := <-d.idle:
		return one
	default:
	}
	one := new(deflation)
	var err error
	if one.w, err = flate.NewWriter(one, level); err != nil {
		panic("frame: " + err.Error()) // the level is a constant
	}
	return one
}

func (d *Deflater) give(one *deflation) {
	if cap(one.out) > keptBytes {
		one.out = nil
	}
	select {
	case d.idle <- one:
	default:
	}
}

// Append appends payload as one compressed frame. It reports false, and appends
// nothing, where that is not worth it: the payload is short, or does not shrink.
// A nil Deflater compresses nothing.
func (d *Deflater) Append(dst []byte, opcode byte, payload []byte) ([]byte, bool) {
	if d == nil || len(payload) < d.minBytes {
		return dst, false
	}
	one := d.take()
	defer d.give(one)
	one.out = one.out[:0]
	one.w.Reset(one)
	// deflation.Write does not fail, and so these do not.
	_, _ = one.w.Write(payload)
	_ = one.w.Flush()
	// RFC 7692 §7.2.1: the empty block 00 00 ff ff that a flush ends with is not sent.
	const tail = 4
	out := one.out[:len(one.out)-tail]
	if len(out) >= len(payload) {
		return dst, false
	}
	d.messages.Add(1)
	d.before.Add(uint64(len(payload)))
	d.after.Add(uint64(len(out)))
	if dst == nil {
		dst = make([]byte, 0, maxHeader+len(out))
	}
	return append(AppendHeader(dst, opcode|rsv1, len(out)), out...), true
}

// Counts is what d did so far; nothing for a nil Deflater.
func (d *Deflater) Counts() Compression {
	if d == nil {
		return Compression{}
	}
	return Compression{Messages: d.messages.Load(), Before: d.before.Load(), After: d.after.Load()}
}

// rsv1 marks a compressed message (RFC 7692 §6).
const rsv1 = 0x40

// payload is a frame of AppendHeader without its header (RFC 6455 §5.2).
func payload(frame []byte) []byte {
	switch frame[1] {
	case 126:
		return frame[4:]
	case 127:
		return frame[10:]
	}
	return frame[2:]
}
