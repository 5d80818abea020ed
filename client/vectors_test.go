package client

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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

func TestMessageVectorsAreRead(t *testing.T) {
	var list []struct {
		Rule, Room, Body, Event, User, Epoch, JSON string
		BodyBase64                                 string `json:"body_base64"`
		Hint                                       string
		Offset                                     uint64
	}
	vectors(t, "messages.json", &list)
	for _, v := range list {
		t.Run(v.Rule, func(t *testing.T) {
			body := []byte(v.Body)
			if v.BodyBase64 != "" {
				body, _ = base64.StdEncoding.DecodeString(v.BodyBase64) // the test of wire checks it
			}
			want := wire.Message{Room: v.Room, Epoch: v.Epoch, Offset: v.Offset, Event: v.Event, User: v.User}
			want.Kind, want.Body = wire.Classify(body, v.Hint)
			in := inbound{raw: []byte(v.JSON)}
			if err := json.Unmarshal(in.raw, &in); err != nil {
				t.Fatal(err)
			}
			e, ok := in.event()
			if !ok || e.Message == nil {
				t.Fatalf("%+v", e)
			}
			if diff := cmp.Diff(want, *e.Message); diff != "" {
				t.Error(diff)
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
		for _, v := range list {
			t.Run(v.Rule, func(t *testing.T) {
				in := inbound{raw: []byte(v.JSON)}
				if err := json.Unmarshal(in.raw, &in); err != nil {
					t.Fatal(err)
				}
				if (in.ID == nil) != (v.ID == nil) || (in.ID != nil && *in.ID != *v.ID) {
					t.Errorf("id %v, want %v", in.ID, v.ID)
				}
				var got, want any
				switch v.Kind {
				case "connected":
					got, want = in.Connected, new(wire.Connected)
				case "subscribed":
					got, want = in.Subscribed, new(struct{ Rooms []wire.Position })
				case "result":
					var value struct {
						Data   json.RawMessage
						Text   string
						Base64 []byte
					}
					if err := json.Unmarshal(v.Value, &value); err != nil {
						t.Fatal(err)
					}
					m := in.Result.message()
					var data bytes.Buffer
					_ = json.Compact(&data, value.Data) // empty where the body is another
					if body := data.String() + value.Text + string(value.Base64); string(m.Body) != body {
						t.Errorf("%s %q, want %q", m.Kind, m.Body, body)
					}
					return
				case "unsubscribed":
					got, want = in.Unsubscribed, new(struct{ Rooms []string })
				case "published":
					got, want = in.Published, new(wire.Position)
				case "error":
					got, want = in.Error, new(inboundError)
				case "gap":
					got, want = in.Gap, new(wire.Gap)
				case "lagging":
					got, want = in.Lagging, new(wire.Position)
				case "reset":
					got, want = in.Reset, new(wire.Position)
				case "expiring":
					got, want = in.Expiring, new(struct{ In int64 })
				default:
					return // authed and pong: that they came is all
				}
				if err := json.Unmarshal(v.Value, want); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
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
	for _, v := range list {
		if v.JSON == "" {
			continue
		}
		var in inbound
		if err := json.Unmarshal([]byte(v.JSON), &in); err != nil || in.Error == nil {
			t.Fatalf("%s: %v", v.JSON, err)
		}
		if diff := cmp.Diff(&wire.Error{Code: v.Code, Reason: v.Value.Reason, RetryMS: v.Value.RetryMS, Backend: v.Value.Backend}, in.Error.wire()); diff != "" {
			t.Error(diff)
		}
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
