package ws

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/flate"
)

// inflater is what it takes to inflate one message: a flate reader with its
// window, and room for what goes in and what comes out.
type inflater struct {
	r      io.ReadCloser // a flate.Resetter too
	source bytes.Reader
	in     []byte
	out    []byte
}

// inflaters are as many as there are loops: a message is inflated in one go, and
// nothing of it is kept for the next (client_no_context_takeover).
var inflaters = sync.Pool{New: func() any { return &inflater{r: flate.NewReader(bytes.NewReader(nil))} }}

const (
	// deflateTail is what a sender leaves out (RFC 7692 §7.2.1), and behind it a
	// last empty block, so that the flate reader finds an end.
	deflateTail = "\x00\x00\xff\xff\x01\x00\x00\xff\xff"
	// deflateWindow is the most that DEFLATE refers back to (RFC 1951 §3.2.5).
	deflateWindow = 32 << 10
	// inflaterKeeps bounds what an inflater keeps of a large message.
	inflaterKeeps = 256 << 10
	// mostInflated bounds what the bytes of one read may come to: 128 times as
	// much as the loop reads at once, which no text does, would keep it from others.
	mostInflated = 8 << 20
	// mostEnds bounds the blocks of a message that say they are the last: going on
	// behind one costs a window, and each takes two bytes.
	mostEnds = 8
)

// deflatedMost is what a message of max bytes may take compressed. Where bytes
// do not compress a sender with little memory makes them an eighth larger
// (deflateBound in zlib).
func deflatedMost(max int) int { return max + max>>3 + max>>6 + 64 }

var (
	errTooLarge    = errors.New("too large")
	errTooManyEnds = errors.New("too many last blocks")
)

// inflate hands over a compressed message that lies whole in memory.
func (f *reading) inflate(kind Op, payload []byte) *Violation {
	i := inflaters.Get().(*inflater)
	defer i.release()
	switch err := i.inflate(payload, f.max); {
	case errors.Is(err, errTooLarge):
		return tooLarge(f.max)
	case err != nil:
		return &Violation{Status: 1007, Reason: "a compressed message is not DEFLATE (RFC 7692 §7.2.2)", label: "deflate"}
	}
	if f.inflated += len(i.out); f.inflated > max(mostInflated, f.max) {
		return &Violation{Status: 1009, Reason: "so little data must not inflate to so much"}
	}
	return f.message(kind, i.out)
}

func (i *inflater) release() {
	if cap(i.in) > inflaterKeeps || cap(i.out) > inflaterKeeps {
		i.in, i.out = nil, nil
	}
	i.source.Reset(nil)
	inflaters.Put(i)
}

// inflate makes i.out what payload inflates to. It stops as soon as that is more
// than max bytes.
func (i *inflater) inflate(payload []byte, max int) error {
	i.out = i.out[:0]
	if len(payload) == 0 {
		return nil // not even the empty block's header: some send this for nothing
	}
	i.in = append(append(i.in[:0], payload...), deflateTail...)
	i.source.Reset(i.in)
	// RFC 7692 §7.2.3.4: a block may say that it is the last, and others follow.
	for n := 0; n == 0 || i.source.Len() > len(deflateTail); n++ {
		if n == mostEnds {
			return errTooManyEnds
		}
		window := i.out[len(i.out)-min(len(i.out), deflateWindow):]
		if err := i.r.(flate.Resetter).Reset(&i.source, window); err != nil {
			return err
		}
		if err := i.stream(max); err != nil {
			return err
		}
	}
	return nil
}

// stream appends to i.out until a block that says it is the last.
func (i *inflater) stream(max int) error {
	for {
		if len(i.out) > max {
			return errTooLarge
		}
		if len(i.out) == cap(i.out) {
			i.out = slices.Grow(i.out, 4<<10)
		}
		n, err := i.r.Read(i.out[len(i.out):min(cap(i.out), max+1)])
		i.out = i.out[:len(i.out)+n]
		switch {
		case len(i.out) > max:
			return errTooLarge
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}
