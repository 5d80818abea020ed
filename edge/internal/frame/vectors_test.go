package frame

import (
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

func TestNoticesInBothEncodings(t *testing.T) {
	var list []struct {
		Rule, JSON  string
		EventStream string `json:"event_stream"`
	}
	vectors(t, "notices.json", &list)
	for _, v := range list {
		t.Run(v.Rule, func(t *testing.T) {
			if got := string(AppendObjectEvent(nil, []byte(v.JSON))); got != v.EventStream {
				t.Errorf("got  %q\nwant %q", got, v.EventStream)
			}
			m := Notice("a", []byte(v.JSON))
			if got := string(m.Bytes(EventStream)); got != v.EventStream {
				t.Errorf("got  %q\nwant %q", got, v.EventStream)
			}
			if got, want := string(m.Bytes(WebSocketJSON)), string(AppendText(nil, []byte(v.JSON))); got != want {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
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
			if got, want := string(m.Bytes(WebSocketJSON)), string(AppendText(nil, []byte(v.JSON))); got != want {
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
