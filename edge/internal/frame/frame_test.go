package frame

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/gobwas/ws"

	"nabat/proto/wire"
)

func text(body string) *Message {
	return New(wire.Message{Room: "a", Kind: wire.Text, Body: []byte(body)}, "")
}

// object is the JSON object of a text that needs no escapes.
func object(body string) string { return `{"room":"a","text":"` + body + `"}` }

// ofLength is a message whose JSON object has n bytes.
func ofLength(n int) (*Message, string) {
	body := strings.Repeat("x", n-len(object("")))
	return text(body), object(body)
}

// RFC 6455 §5.2: the length has 7 bits, 16 from 126 on, 64 from 65536 on.
func TestHeaderForms(t *testing.T) {
	for _, c := range []struct {
		payload int
		header  string
	}{
		{30, "\x81\x1e"},
		{125, "\x81\x7d"},
		{126, "\x81\x7e\x00\x7e"},
		{65535, "\x81\x7e\xff\xff"},
		{65536, "\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"},
	} {
		m, want := ofLength(c.payload)
		got := m.Bytes(WebSocketJSON)
		if string(got) != c.header+want {
			t.Errorf("payload of %d: %d bytes, beginning with %q", c.payload, len(got), got[:min(len(got), 12)])
		}
		if cap(got) != len(got) {
			t.Errorf("payload of %d: an append would write into shared bytes", c.payload)
		}
		// Another implementation reads the same.
		r := bytes.NewReader(got)
		h, err := ws.ReadHeader(r)
		if err != nil || !h.Fin || h.Masked || h.OpCode != ws.OpText || h.Length != int64(len(want)) || r.Len() != len(want) {
			t.Errorf("payload of %d: read back %+v, %v", c.payload, h, err)
		}
	}
	if got := AppendHeader(nil, 8, 0); string(got) != "\x88\x00" {
		t.Errorf("an empty close frame: %q", got)
	}
	if got := AppendHeader(nil, 2, 1<<32-1); string(got) != "\x82\x7f\x00\x00\x00\x00\xff\xff\xff\xff" {
		t.Errorf("the longest frame: %q", got)
	}
}

func TestBytes(t *testing.T) {
	message := wire.Message{Room: "a", Epoch: "k3", Offset: 7, Kind: wire.Data, Body: []byte(`{"x":1}`), Event: "e", User: "alice"}
	const json = `{"room":"a","epoch":"k3","offset":7,"data":{"x":1},"event":"e","user":"alice"}`
	gap := wire.Gap{Room: "a", Reason: "slow"}
	said := string(wire.Object{Value: gap}.AppendJSON(nil))
	for _, c := range []struct {
		rule   string
		m      *Message
		notice bool
		e      Encoding
		want   string
	}{
		{"a message is one text frame", New(message, ""), false, WebSocketJSON, "\x81\x4e" + json},
		{"a message is one event, named if the publisher named it", New(message, ""), false, EventStream, "event: e\ndata: " + json + "\n\n"},
		{"an event has no name otherwise", text("hi"), false, EventStream, "data: " + object("hi") + "\n\n"},
		{"an event's name cannot forge lines", New(wire.Message{Room: "a", Kind: wire.Data, Body: []byte("1"), Event: "x\ndata: y"}, ""), false, EventStream,
			"event: x data: y\ndata: {\"room\":\"a\",\"data\":1,\"event\":\"x\\ndata: y\"}\n\n"},
		{"a body with more escapes than expected is whole", text(strings.Repeat("\x01", 1000)), false, WebSocketJSON,
			"\x81\x7e\x17\x86" + object(strings.Repeat(`\u0001`, 1000))},
		{"a notice is the object itself", Notice("a", gap), true, WebSocketJSON, "\x81$" + said},
		{"a notice is an event named after its kind", Notice("a", gap), true, EventStream, "event: gap\ndata: " + said + "\n\n"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			if got := string(c.m.Bytes(c.e)); got != c.want {
				t.Errorf("got  %.300q\nwant %.300q", got, c.want)
			}
			if c.m.IsNotice() != c.notice || c.m.Room != "a" {
				t.Errorf("notice %v, room %q", c.m.IsNotice(), c.m.Room)
			}
		})
	}
}

func TestBytesAreMadeOnceAndShared(t *testing.T) {
	for e := range batches {
		m := text("hi")
		got := make([][]byte, 16)
		var wg sync.WaitGroup
		for i := range got {
			wg.Go(func() { got[i] = m.Bytes(e) })
		}
		wg.Wait()
		for _, b := range got {
			if unsafe.SliceData(b) != unsafe.SliceData(got[0]) || len(b) != len(got[0]) {
				t.Fatalf("encoding %d: recipients have bytes of their own", e)
			}
		}
	}
}

func TestJoin(t *testing.T) {
	list := []*Message{text("1"), Notice("a", wire.Gap{Room: "a"}), text("3")}
	for e := range batches {
		var want []byte
		for _, m := range list {
			want = append(want, m.Bytes(e)...)
		}
		if got := Join(list, e); !bytes.Equal(got, want) {
			t.Errorf("encoding %d: got %q, want %q", e, got, want)
		}
		if got := Join(list[:1], e); unsafe.SliceData(got) != unsafe.SliceData(list[0].Bytes(e)) {
			t.Errorf("encoding %d: a single message was copied", e)
		}
		if got := Join(nil, e); len(got) != 0 {
			t.Errorf("encoding %d: nothing became %q", e, got)
		}
	}
	// The joined frames are whole frames one behind the other.
	r := bytes.NewReader(Join(list, WebSocketJSON))
	for range list {
		h, err := ws.ReadHeader(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, r, h.Length); err != nil {
			t.Fatal(err)
		}
	}
	if r.Len() != 0 {
		t.Errorf("%d bytes behind the last frame", r.Len())
	}
}

// A turn's messages in one frame: lines of text, or objects behind their lengths.
func TestJoinOfBatches(t *testing.T) {
	list := []*Message{text("1"), Notice("a", wire.Gap{Room: "a"}), text(strings.Repeat("x", 300))}
	var lines, objects []string
	for _, m := range list {
		lines = append(lines, string(payload(m.Bytes(WebSocketJSON))))
		objects = append(objects, string(payload(m.Bytes(WebSocketProto))))
	}
	want := strings.Join(lines, "\n")
	want = string(AppendHeader(nil, opText, len(want))) + want
	if got := string(Join(list, WebSocketJSONBatch)); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got, want := Join(list, WebSocketProtoBatch), batchOf(objects...); !bytes.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := Join(list[:1], WebSocketJSONBatch); unsafe.SliceData(got) != unsafe.SliceData(list[0].Bytes(WebSocketJSON)) {
		t.Error("a single line was copied")
	}
	if got, want := Join(list[:1], WebSocketProtoBatch), batchOf(objects[0]); !bytes.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// Batches end at maxBatch; what is larger stands alone, and nothing is lost.
func TestBatchesAreBounded(t *testing.T) {
	var list []*Message
	for i := range 200 {
		list = append(list, text(fmt.Sprint(i, strings.Repeat("x", i*50))))
	}
	list = append(list, text(strings.Repeat("y", 100000)), text("last"))
	for _, e := range []Encoding{WebSocketJSONBatch, WebSocketProtoBatch} {
		joined := Join(list, e)
		r := bytes.NewReader(joined)
		frames, next := 0, 0
		for r.Len() > 0 {
			h, err := ws.ReadHeader(r)
			if err != nil || byte(h.OpCode) != e.opcode() || !h.Fin || h.Length > int64(r.Len()) {
				t.Fatalf("%+v, %v", h, err)
			}
			batch := make([]byte, h.Length)
			_, _ = r.Read(batch) // a bytes.Reader that has as much
			first := next
			err2 := e.Wire().Split(batch, func(b []byte) bool {
				if want := payload(list[next].Bytes(e.single())); !bytes.Equal(b, want) {
					t.Fatalf("object %d: %.40q, want %.40q", next, b, want)
				}
				next++
				return true
			})
			if err2 != nil || len(batch) > maxBatch && next > first+1 {
				t.Fatalf("a frame of %d bytes with %d objects: %v", len(batch), next-first, err2)
			}
			frames++
		}
		if next != len(list) || frames > len(joined)/maxBatch*2 {
			t.Errorf("encoding %d: %d objects in %d frames", e, next, frames)
		}
		if got := testing.AllocsPerRun(10, func() { Join(list, e) }); got != 1 {
			t.Errorf("encoding %d: %v allocations", e, got)
		}
	}
}

// What a message costs: itself and one buffer for each encoding in use,
// whatever the number of recipients; and a turn's messages one buffer more.
func TestAllocations(t *testing.T) {
	body := bytes.Repeat([]byte("x"), 200)
	list := make([]*Message, 16)
	for i := range list {
		list[i] = text("hi")
		list[i].Bytes(WebSocketJSON)
		list[i].Bytes(WebSocketProto)
	}
	var keep []byte
	var kept *Message
	for _, c := range []struct {
		what string
		want float64
		do   func()
	}{
		{"a message in one encoding", 2, func() {
			kept = New(wire.Message{Room: "sports.news", Kind: wire.Text, Body: body}, "")
			keep = kept.Bytes(WebSocketJSON)
		}},
		{"a message in both encodings", 3, func() {
			kept = New(wire.Message{Room: "sports.news", Kind: wire.Binary, Body: body, User: "alice", Event: "e"}, "")
			kept.Bytes(WebSocketJSON)
			keep = kept.Bytes(EventStream)
		}},
		{"a message in all encodings", 5, func() {
			kept = New(wire.Message{Room: "sports.news", Kind: wire.Binary, Body: body, User: "alice", Event: "e"}, "")
			for e := range forms {
				keep = Join([]*Message{kept}, e) // the Protobuf batch is one more, for each loop
			}
		}},
		{"a recipient in Protobuf", 0, func() { keep = list[0].Bytes(WebSocketProto) }},
		{"a recipient", 0, func() { keep = list[0].Bytes(WebSocketJSON) }},
		{"a room's turn with one message", 0, func() { keep = Join(list[:1], WebSocketJSON) }},
		{"a room's turn with sixteen", 1, func() { keep = Join(list, WebSocketJSON) }},
		{"a room's turn with sixteen in a JSON batch", 1, func() { keep = Join(list, WebSocketJSONBatch) }},
		{"a room's turn with sixteen in a Protobuf batch", 1, func() { keep = Join(list, WebSocketProtoBatch) }},
	} {
		if got := testing.AllocsPerRun(100, c.do); got != c.want {
			t.Errorf("%s: %v allocations, want %v", c.what, got, c.want)
		}
	}
	_ = keep
}
