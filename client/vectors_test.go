package client

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"nabat/proto/wire"
)

func vectors(t *testing.T, name string, into any) {
	t.Helper()
	data, err := os.ReadFile("../proto/testdata/vectors/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// encodings returns a reader of what rule stands for in a file, for each encoding.
// It must be asked for the rules in the file's order.
func encodings(t *testing.T, file string) func(t *testing.T, rule, json string) map[string]*inbound {
	t.Helper()
	var list []struct {
		File, Rule string
		ProtoHex   string `json:"proto_hex"`
	}
	vectors(t, "protobuf.json", &list)
	hexes := map[string][]string{}
	for _, v := range list {
		if v.File == file {
			hexes[v.Rule] = append(hexes[v.Rule], v.ProtoHex)
		}
	}
	return func(t *testing.T, rule, text string) map[string]*inbound {
		t.Helper()
		if len(hexes[rule]) == 0 {
			t.Fatalf("no %q in Protobuf", rule)
		}
		object, err := hex.DecodeString(hexes[rule][0])
		if err != nil {
			t.Fatal(err)
		}
		hexes[rule] = hexes[rule][1:]
		inJSON, err := jsonCodec{}.read([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		inProto, err := protoCodec{}.read(object)
		if err != nil {
			t.Fatal(err)
		}
		return map[string]*inbound{"JSON": inJSON, "Protobuf": inProto}
	}
}

func TestMessageVectorsAreRead(t *testing.T) {
	var list []struct {
		Rule, Room, Body, Event, User, Epoch, JSON string
		BodyBase64                                 string `json:"body_base64"`
		Hint                                       string
		Offset                                     uint64
	}
	vectors(t, "messages.json", &list)
	read := encodings(t, "messages.json")
	for _, v := range list {
		t.Run(v.Rule, func(t *testing.T) {
			body := []byte(v.Body)
			if v.BodyBase64 != "" {
				body, _ = base64.StdEncoding.DecodeString(v.BodyBase64) // the test of wire checks it
			}
			want := wire.Message{Room: v.Room, Epoch: v.Epoch, Offset: v.Offset, Event: v.Event, User: v.User}
			want.Kind, want.Body = wire.Classify(body, v.Hint)
			for encoding, in := range read(t, v.Rule, v.JSON) {
				e, ok := in.event()
				if !ok || e.Message == nil {
					t.Fatalf("%s: %+v", encoding, e)
				}
				if diff := cmp.Diff(want, *e.Message); diff != "" {
					t.Errorf("%s: %s", encoding, diff)
				}
			}
		})
	}
}

func TestReplyAndNoticeVectorsAreRead(t *testing.T) {
	for _, name := range []string{"replies.json", "notices.json"} {
		var list []struct {
			Rule, Kind, JSON string
			ID               *uint64
			Value            json.RawMessage
		}
		vectors(t, name, &list)
		read := encodings(t, name)
		for _, v := range list {
			t.Run(v.Rule, func(t *testing.T) {
				for encoding, in := range read(t, v.Rule, v.JSON) {
					if (in.ID == nil) != (v.ID == nil) || (in.ID != nil && *in.ID != *v.ID) {
						t.Errorf("%s: id %v, want %v", encoding, in.ID, v.ID)
					}
					got, want := readAs(t, in, v.Kind, v.Value)
					if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
						t.Errorf("%s: %s", encoding, diff)
					}
				}
			})
		}
	}
}

// readAs is what was read, and what the vector's value says. Bodies and values that
// are JSON are compact in both.
func readAs(t *testing.T, in *inbound, kind string, value json.RawMessage) (got, want any) {
	t.Helper()
	decode := func(into any) any {
		t.Helper()
		var compact bytes.Buffer
		if err := json.Compact(&compact, value); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(compact.Bytes(), into); err != nil {
			t.Fatal(err)
		}
		return into
	}
	switch kind {
	case "connected":
		return in.Connected, decode(new(wire.Connected))
	case "subscribed":
		return in.Subscribed, decode(new(wire.Subscribed))
	case "unsubscribed":
		return in.Unsubscribed, decode(new(wire.Unsubscribed))
	case "published":
		return in.Published, decode(new(wire.Position))
	case "error":
		return in.Error, decode(new(jsonError)).(*jsonError).wire()
	case "gap":
		return in.Gap, decode(new(wire.Gap))
	case "lagging":
		return in.Lagging, decode(new(wire.Position))
	case "reset":
		return in.Reset, decode(new(wire.Position))
	case "expiring":
		return in.Expiring.Seconds, decode(new(struct{ In int64 })).(*struct{ In int64 }).In
	case "history":
		return in.History, decode(new(jsonPage)).(*jsonPage).wire()
	case "result":
		m := decode(new(jsonMessage)).(*jsonMessage).message()
		return in.Result, &wire.Result{Kind: m.Kind, Body: m.Body}
	case "presence":
		state := decode(new(jsonPresence)).(*jsonPresence).wire()
		return []any{in.Presence.page, in.Presence.change}, []any{state.page, state.change}
	case "authed", "pong":
		return nil, nil // that they came is all
	}
	t.Fatalf("the client does not know %q", kind)
	return nil, nil
}

func TestErrorVectorsAreRead(t *testing.T) {
	var list []struct {
		Code  wire.Code
		Value struct {
			Reason  string
			RetryMS int `json:"retry_ms"`
			Backend string
		}
		JSON string
	}
	vectors(t, "errors.json", &list)
	read := encodings(t, "errors.json")
	for _, v := range list {
		if v.JSON == "" {
			continue
		}
		for encoding, in := range read(t, string(v.Code), v.JSON) {
			if in.Error == nil {
				t.Fatalf("%s: %s", encoding, v.JSON)
			}
			if diff := cmp.Diff(&wire.Error{Code: v.Code, Reason: v.Value.Reason, RetryMS: v.Value.RetryMS, Backend: v.Value.Backend}, in.Error); diff != "" {
				t.Errorf("%s: %s", encoding, diff)
			}
		}
	}
}

// What the edge reads of a command that the client writes is the command.
func TestCommandVectorsAreWritten(t *testing.T) {
	var list []struct {
		Rule, Text string
		Code       wire.Code
	}
	vectors(t, "commands.json", &list)
	for _, v := range list {
		if v.Code != "" {
			continue
		}
		t.Run(v.Rule, func(t *testing.T) {
			var want wire.Command
			if err := wire.Parse([]byte(v.Text), &want); err != nil {
				t.Fatal(err)
			}
			for _, codec := range []codec{jsonCodec{}, protoCodec{}} {
				object, err := codec.write(&want)
				if err != nil {
					t.Fatal(err)
				}
				var got wire.Command
				if err := codec.encoding().Parse(object, &got); err != nil {
					t.Fatalf("%s: %q: %v", codec.subprotocol(), object, err)
				}
				if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(wire.Command{})); diff != "" {
					t.Errorf("%s: %s", codec.subprotocol(), diff)
				}
			}
		})
	}
}

func TestCloseVectorsSayWhetherToComeBack(t *testing.T) {
	var list []struct {
		Rule     string
		Status   uint16
		Code     wire.Code
		RetryMS  int    `json:"retry_ms"`
		ComeBack string `json:"come_back"`
	}
	vectors(t, "closes.json", &list)
	for _, v := range list {
		t.Run(v.Rule, func(t *testing.T) {
			wait, again := (&CloseError{Close: wire.Close{Status: v.Status, Code: v.Code, RetryMS: v.RetryMS}}).Retry()
			if again != (v.ComeBack != "never") || (again && wait != time.Duration(v.RetryMS)*time.Millisecond) {
				t.Errorf("%d: wait %s, again %v; want %s", v.Status, wait, again, v.ComeBack)
			}
		})
	}
}
