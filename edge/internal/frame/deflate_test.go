package frame

import (
	"bytes"
	"compress/flate"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"nabat/proto/wire"
)

// inflate is what a client does (RFC 7692 §7.2.2), with another implementation.
func inflate(t testing.TB, b []byte) string {
	t.Helper()
	out, err := io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(b), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func long() *Message {
	m := text(strings.Repeat("nabat ", 200))
	m.Deflater = NewDeflater(256, 2)
	return m
}

func TestACompressedMessageIsTheSameMessage(t *testing.T) {
	for range 3 { // a flate writer that was used before
		m := long()
		b, plain := m.Bytes(WebSocketJSON.Deflated()), m.Bytes(WebSocketJSON)
		if b[0] != 0xc1 || len(b) > len(plain)/4 {
			t.Fatalf("%d of %d bytes, beginning with % x", len(b), len(plain), b[:2])
		}
		if got := inflate(t, payload(b)); got != string(payload(plain)) {
			t.Fatalf("inflates to %.200q", got)
		}
		if plain[0] != 0x81 {
			t.Fatalf("the plain frame begins with % x", plain[:2])
		}
	}
}

func TestWhatIsNotCompressed(t *testing.T) {
	noise := make([]byte, 3000)
	r := rand.NewChaCha8([32]byte{7})
	_, _ = r.Read(noise)
	m := func(d *Deflater, body string) *Message {
		m := New(wire.Message{Room: "a", Kind: wire.Text, Body: []byte(body)}, "")
		m.Deflater = d
		return m
	}
	for _, c := range []struct {
		rule string
		m    *Message
	}{
		{"a message of a room whose policy does not ask for it", m(nil, strings.Repeat("x", 2000))},
		{"a message below the threshold", m(NewDeflater(256, 1), strings.Repeat("x", 255-len(object(""))))},
		{"a message that does not shrink", m(NewDeflater(0, 1), string("aZ9q"))},
		{"a notice", Notice("a", wire.Gap{Room: strings.Repeat("a", 999)})},
	} {
		t.Run(c.rule, func(t *testing.T) {
			b, plain := c.m.Bytes(WebSocketJSON.Deflated()), c.m.Bytes(WebSocketJSON)
			if unsafe.SliceData(b) != unsafe.SliceData(plain) || len(b) != len(plain) {
				t.Errorf("% x, plain % x", b[:2], plain[:2])
			}
			if n := c.m.Deflater.Counts(); n != (Compression{}) {
				t.Errorf("counted %+v", n)
			}
		})
	}
	if b, ok := NewDeflater(0, 1).Append([]byte("before"), 2, noise); ok || string(b) != "before" {
		t.Errorf("noise became %d bytes", len(b))
	}
	at := m(NewDeflater(256, 1), strings.Repeat("x", 256-len(object(""))))
	if b := at.Bytes(WebSocketJSON.Deflated()); b[0] != 0xc1 {
		t.Errorf("at the threshold: % x", b[:2])
	}
}

func TestEncodingsAndTheirCompressedTwins(t *testing.T) {
	for e := range forms {
		d := e.Deflated()
		switch {
		case e == EventStream && d != e:
			t.Error("an event stream has no frames to compress")
		case e != EventStream && (d == e || !d.IsDeflated() || d.Plain() != e || d.Deflated() != d || int(d) >= Encodings):
			t.Errorf("%d and %d", e, d)
		}
		if e.IsDeflated() || e.Plain() != e {
			t.Errorf("%d", e)
		}
	}
}

// One message, many loops: it is compressed once, and counted once.
func TestAMessageIsCompressedOnceForAll(t *testing.T) {
	m := long()
	got := make([][]byte, 16)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() { got[i] = m.Bytes(WebSocketJSON.Deflated()) })
	}
	wg.Wait()
	for _, b := range got {
		if unsafe.SliceData(b) != unsafe.SliceData(got[0]) {
			t.Fatal("recipients have bytes of their own")
		}
	}
	if n, want := m.Deflater.Counts(), (Compression{1, uint64(len(payload(m.Bytes(WebSocketJSON)))), uint64(len(payload(got[0])))}); n != want {
		t.Errorf("counted %+v, want %+v", n, want)
	}
	var b []byte
	if n := testing.AllocsPerRun(100, func() { b = Join([]*Message{m}[:1:1], WebSocketJSON.Deflated()) }); n != 0 {
		t.Errorf("%v allocations for a recipient", n)
	}
	_ = b
}

func TestADeflaterKeepsNoMoreWritersThanItMay(t *testing.T) {
	d := NewDeflater(0, 2)
	body := []byte(strings.Repeat("nabat ", 100<<10))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			b, ok := d.Append(nil, opText, body)
			if !ok || inflate(t, payload(b)) != string(body) {
				t.Error("not the same")
			}
		})
	}
	wg.Wait()
	if len(d.idle) > 2 {
		t.Errorf("%d writers kept", len(d.idle))
	}
	one := make([]byte, 0, 4<<10)
	short := body[:2000]
	if n := testing.AllocsPerRun(100, func() { _, _ = d.Append(one, opText, short) }); n != 0 {
		t.Errorf("%v allocations with a writer at hand", n)
	}
	for len(d.idle) > 0 {
		if got := cap((<-d.idle).out); got > keptBytes {
			t.Errorf("%d bytes kept", got)
		}
	}
}

func BenchmarkDeflate1KiB(b *testing.B) {
	d := NewDeflater(0, 1)
	m := text(strings.Repeat(`{"id":17,"user":"alice","price":12.5},`, 27))
	p := payload(m.Bytes(WebSocketJSON))
	b.ReportAllocs()
	for b.Loop() {
		_, _ = d.Append(nil, opText, p)
	}
}
