package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

func load(t testing.TB, name string, into any) {
	data, err := os.ReadFile("../testdata/vectors/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

type messageVector struct {
	Rule, Room, Hint, Body, Event, User, Epoch, JSON string
	BodyBase64                                       string `json:"body_base64"`
	EventStream                                      string `json:"event_stream"`
	Offset                                           uint64
}

func (v *messageVector) message() Message {
	body := []byte(v.Body)
	if v.BodyBase64 != "" {
		body, _ = base64.StdEncoding.DecodeString(v.BodyBase64)
	}
	m := Message{Room: v.Room, Epoch: v.Epoch, Offset: v.Offset, Event: v.Event, User: v.User}
	m.Kind, m.Body = Classify(body, v.Hint)
	return m
}

func TestMessageVectors(t *testing.T) {
	var list []messageVector
	load(t, "messages.json", &list)
	for _, v := range list {
		t.Run(v.Rule, func(t *testing.T) {
			m := v.message()
			if got := string(AppendMessage(nil, &m)); got != v.JSON {
				t.Errorf("got  %s\nwant %s", got, v.JSON)
			}
			if got := string(AppendEvent(nil, &m)); v.EventStream != "" && got != v.EventStream {
				t.Errorf("got  %q\nwant %q", got, v.EventStream)
			}
		})
	}
}

type commandVector struct {
	Rule, Text, Verb, Token, Body, Kind, Code, Reason string
	ID                                                *uint64
	Rooms                                             []string
	Wants                                             []RoomRequest
	AwayMS                                            uint64 `json:"away_ms"`
	Method                                            string
	Presence                                          *struct {
		Room, After string
		Limit       *uint64
	}
	History *struct {
		Room          string
		Limit, Before uint64
		After         *uint64
	}
}

// history is what the vector says that the command asks for.
func (v *commandVector) history() (h HistoryRequest) {
	if v.History == nil {
		return h
	}
	h.Room, h.Limit, h.Before = v.History.Room, v.History.Limit, v.History.Before
	if v.History.After != nil {
		h.After, h.IsAfter = *v.History.After, true
	}
	return h
}

// presence is what the vector says that the command asks for.
func (v *commandVector) presence() (r PresenceRequest) {
	if v.Presence == nil {
		return r
	}
	r.Room, r.After = v.Presence.Room, v.Presence.After
	if v.Presence.Limit != nil {
		r.Limit, r.HasLimit = *v.Presence.Limit, true
	}
	return r
}

func TestCommandVectors(t *testing.T) {
	var list []commandVector
	load(t, "commands.json", &list)
	var c Command
	for _, v := range list {
		t.Run(v.Rule, func(t *testing.T) {
			err := Parse([]byte(v.Text), &c)
			if v.ID != nil && (!c.HasID || c.ID != *v.ID) {
				t.Errorf("id %d (%v), want %d", c.ID, c.HasID, *v.ID)
			}
			if v.Code != "" {
				if err == nil || string(err.Code) != v.Code || !strings.Contains(err.Reason, v.Reason) {
					t.Fatalf("got %v, want %s: %s", err, v.Code, v.Reason)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.Verb != verbs[v.Verb] || c.Token != v.Token || len(c.Rooms) != len(v.Rooms) {
				t.Errorf("parsed %+v", c)
			}
			for i, r := range v.Rooms {
				if c.Rooms[i].Room != r {
					t.Errorf("room %d is %q", i, c.Rooms[i].Room)
				}
			}
			if v.Wants != nil && !slices.Equal(c.Rooms, v.Wants) {
				t.Errorf("wants %+v", c.Rooms)
			}
			if c.Presence != v.presence() {
				t.Errorf("presence %+v", c.Presence)
			}
			if c.History != v.history() || c.AwayMS != v.AwayMS {
				t.Errorf("history %+v, away for %d ms", c.History, c.AwayMS)
			}
			if c.Verb == RPC {
				if c.Call.Method != v.Method || c.Call.Kind.String() != v.Kind || string(c.Call.Body) != v.Body {
					t.Errorf("call %+v", c.Call)
				}
				return
			}
			if v.Kind != "" && (c.Publish.Kind.String() != v.Kind || string(c.Publish.Body) != v.Body) {
				t.Errorf("body %s %q", c.Publish.Kind, c.Publish.Body)
			}
		})
	}
}

func TestTable(t *testing.T) {
	seen := map[Code]bool{}
	for _, e := range Table {
		if seen[e.Code] || e.Meaning == "" || e.Status < 400 {
			t.Errorf("entry %+v", e)
		}
		seen[e.Code] = true
		if e.Close >= 4100 != e.Returns && e.Close != 0 && e.Code != TokenExpired {
			t.Errorf("%s: close %d says otherwise than returns %v", e.Code, e.Close, e.Returns)
		}
		if reason := CloseFor(&Error{Code: e.Code, RetryMS: 99999}).Reason(); len(reason) > 123 || !json.Valid([]byte(reason)) {
			t.Errorf("close reason %s", reason)
		}
	}
}

func TestAllocations(t *testing.T) {
	m := Message{Room: "sports.news", Kind: Data, Body: []byte(`{"title":"x"}`)}
	buf := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(100, func() { buf = AppendMessage(buf[:0], &m) }); n != 0 {
		t.Errorf("AppendMessage: %v allocations", n)
	}
	body := []byte(`{"title":"x"}`)
	if n := testing.AllocsPerRun(100, func() { Classify(body, "") }); n != 0 {
		t.Errorf("Classify: %v allocations", n)
	}
}

func FuzzParse(f *testing.F) {
	var list []commandVector
	load(f, "commands.json", &list)
	for _, v := range list {
		f.Add([]byte(v.Text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var c, again Command
		err := Parse(text, &c)
		if err != nil {
			if err.Code == "" || err.Reason == "" {
				t.Fatalf("empty error for %q", text)
			}
			return
		}
		if !json.Valid(text) {
			t.Fatalf("accepted what is not JSON: %q", text)
		}
		if err := Parse(text, &again); err != nil || again.Verb != c.Verb || !bytes.Equal(again.Publish.Body, c.Publish.Body) {
			t.Fatalf("second parse differs: %v", err)
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"a": 1}`), "", "room.a", "ev", "u")
	f.Add([]byte("\xff\x00"), "text", "r", "a\nb", "\xff")
	f.Fuzz(func(t *testing.T, body []byte, hint, room, event, user string) {
		m := Message{Room: room, Event: event, User: user}
		m.Kind, m.Body = Classify(body, hint)
		out := AppendMessage(nil, &m)
		if bytes.ContainsAny(out, "\r\n") || !json.Valid(out) {
			t.Fatalf("not one line of JSON: %q", out)
		}
		var back struct {
			Data   json.RawMessage
			Text   *string
			Base64 *[]byte
		}
		if err := json.Unmarshal(out, &back); err != nil {
			t.Fatal(err)
		}
		switch m.Kind {
		case Text:
			if *back.Text != string(body) {
				t.Fatalf("text %q became %q", body, *back.Text)
			}
		case Binary:
			if !bytes.Equal(*back.Base64, body) {
				t.Fatal("bytes changed")
			}
		}
		event1 := AppendEvent(nil, &m)
		if n := bytes.Count(event1, []byte("\n")); n > 3 || bytes.IndexByte(event1, '\r') >= 0 {
			t.Fatalf("forged lines: %q", event1)
		}
	})
}

func BenchmarkAppendMessage(b *testing.B) {
	m := Message{Room: "sports.news", Kind: Data, Body: bytes.Repeat([]byte("1"), 128)}
	buf := make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendMessage(buf[:0], &m)
	}
}

func BenchmarkParsePublish(b *testing.B) {
	text := []byte(`{"id":4,"publish":{"room":"chat.42","data":{"text":"hi"}}}`)
	var c Command
	b.ReportAllocs()
	for b.Loop() {
		if err := Parse(text, &c); err != nil {
			b.Fatal(err)
		}
	}
}
