package frame

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"testing"

	"nabat/proto/wire"
)

func vectors(t *testing.T, name string, into any) {
	t.Helper()
	data, err := os.ReadFile("../../../proto/testdata/vectors/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// notice is what the edge says to a room or to one client, out of a vector.
func notice(t *testing.T, kind string, value []byte) wire.Value {
	t.Helper()
	var err error
	read := func(into any) { err = json.Unmarshal(value, into) }
	var v wire.Value
	switch kind {
	case "gap":
		var g wire.Gap
		read(&g)
		v = g
	case "unsubscribed":
		var u wire.Unsubscribed
		read(&u)
		v = u
	case "expiring":
		var e struct{ In int64 }
		read(&e)
		v = wire.Expiring{Seconds: e.In}
	case "error":
		e := new(wire.Error)
		read(e)
		v = e
	case "connected":
		c := new(wire.Connected)
		read(c)
		v = c
	default:
		t.Skipf("%s is never said to a room", kind)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestNoticesInEveryEncoding(t *testing.T) {
	var list []struct {
		Rule, Kind, JSON string
		Value            json.RawMessage
		EventStream      string `json:"event_stream"`
	}
	vectors(t, "notices.json", &list)
	for _, v := range list {
		t.Run(v.Rule, func(t *testing.T) {
			o := wire.Object{Value: notice(t, v.Kind, v.Value)}
			m := Notice("a", o.Value)
			proto := string(wire.Protobuf.Append(nil, o))
			for e, want := range [forms]string{
				WebSocketJSON:       string(AppendHeader(nil, opText, len(v.JSON))) + v.JSON,
				EventStream:         v.EventStream,
				WebSocketProto:      string(AppendHeader(nil, opBinary, len(proto))) + proto,
				WebSocketJSONBatch:  string(AppendHeader(nil, opText, len(v.JSON))) + v.JSON,
				WebSocketProtoBatch: string(batchOf(proto)),
			} {
				if got := string(Append([]byte("before"), Encoding(e), o)); got != "before"+want {
					t.Errorf("encoding %d: got  %q\nwant %q", e, got, want)
				}
				if got := string(Join([]*Message{m}, Encoding(e))); got != want {
					t.Errorf("encoding %d: got  %q\nwant %q", e, got, want)
				}
			}
		})
	}
}

// batchOf is a frame with objects behind their lengths.
func batchOf(objects ...string) []byte {
	var all []byte
	for _, o := range objects {
		all = append(binary.AppendUvarint(all, uint64(len(o))), o...)
	}
	return append(AppendHeader(nil, opBinary, len(all)), all...)
}

func TestMessagesInBothEncodings(t *testing.T) {
	var list []struct {
		Rule, Room, Body, Hint, Event, User, Epoch, JSON string
		BodyBase64                                       string `json:"body_base64"`
		EventStream                                      string `json:"event_stream"`
		Offset                                           uint64
	}
	vectors(t, "messages.json", &list)
	for _, v := range list {
		if v.BodyBase64 != "" {
			continue
		}
		t.Run(v.Rule, func(t *testing.T) {
			w := wire.Message{Room: v.Room, Epoch: v.Epoch, Offset: v.Offset, Event: v.Event, User: v.User}
			w.Kind, w.Body = wire.Classify([]byte(v.Body), v.Hint)
			m := New(w, "")
			if got, want := string(m.Bytes(WebSocketJSON)), string(AppendHeader(nil, opText, len(v.JSON)))+v.JSON; got != want {
				t.Errorf("got  %q\nwant %q", got, want)
			}
			if got := string(m.Bytes(EventStream)); v.EventStream != "" && got != v.EventStream {
				t.Errorf("got  %q\nwant %q", got, v.EventStream)
			}
		})
	}
}

// The header of a frame grows with its payload (RFC 6455 §5.2).
func TestFrameHeaders(t *testing.T) {
	for n, want := range map[int]string{0: "\x81\x00", 125: "\x81\x7d", 126: "\x81\x7e\x00\x7e", 65535: "\x81\x7e\xff\xff",
		65536: "\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"} {
		if got := string(AppendHeader(nil, opText, n)); got != want {
			t.Errorf("%d bytes: %q, want %q", n, got, want)
		}
	}
}
