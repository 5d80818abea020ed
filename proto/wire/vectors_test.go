package wire

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// objectVector is an object that the edge says: json is {"id":id,kind:value}.
type objectVector struct {
	Rule, Kind, JSON string
	ID               *uint64
	Value            json.RawMessage
	EventStream      string `json:"event_stream"`
}

// write makes the edge's object out of its value.
func (v *objectVector) write() ([]byte, error) {
	value, err := v.value()
	if err != nil {
		return nil, err
	}
	return Object{v.ID, value}.AppendJSON(nil), nil
}

func (v *objectVector) value() (Value, error) {
	decode := func(into any) error {
		d := json.NewDecoder(strings.NewReader(string(v.Value)))
		d.DisallowUnknownFields()
		return d.Decode(into)
	}
	switch v.Kind {
	case "connected":
		var c Connected
		err := decode(&c)
		return &c, err
	case "subscribed":
		var s struct{ Rooms []Position }
		err := decode(&s)
		return Subscribed{s.Rooms}, err
	case "unsubscribed":
		var u struct {
			Rooms  []string
			Reason Code
		}
		err := decode(&u)
		return Unsubscribed{u.Rooms, u.Reason}, err
	case "published":
		var p Position
		err := decode(&p)
		return Published{p}, err
	case "authed":
		var a struct {
			User    string
			Expires int64
		}
		err := decode(&a)
		return Authed{a.User, a.Expires}, err
	case "pong":
		err := decode(&struct{}{})
		return Ponged{}, err
	case "error":
		var e errorValue
		err := decode(&e)
		return &Error{Code: e.Code, Reason: e.Reason, RetryMS: e.RetryMS, Backend: e.Backend}, err
	case "gap":
		var g Gap
		err := decode(&g)
		return g, err
	case "lagging", "reset":
		var p Position
		err := decode(&p)
		if v.Kind == "reset" {
			return Reset{p}, err
		}
		return Lagging{p}, err
	case "history":
		return v.page(decode)
	case "result":
		m, err := readMessage(v.Value)
		return &Result{m.Kind, m.Body}, err
	case "presence":
		return v.presence(decode)
	case "expiring":
		var e struct{ In int64 }
		err := decode(&e)
		return Expiring{e.In}, err
	}
	return nil, fmt.Errorf("there is no kind %q", v.Kind)
}

// presence is a page where there are members, else a change.
func (v *objectVector) presence(decode func(any) error) (Value, error) {
	type member struct {
		User        string
		Connections uint64
		Info        json.RawMessage
	}
	var in struct {
		Room, Next                    string
		Users, Anonymous, Connections uint64
		Members, Join, Leave          []member
		Lost                          bool
	}
	err := decode(&in)
	list := func(from []member) (to []Member) {
		for _, m := range from {
			one := Member{User: m.User, Connections: m.Connections}
			if m.Info != nil {
				_, one.Info = Classify(m.Info, "json") // compact
			}
			to = append(to, one)
		}
		return to
	}
	if in.Members != nil {
		return &PresencePage{in.Room, in.Users, in.Anonymous, in.Connections, list(in.Members), in.Next}, err
	}
	return &PresenceChange{in.Room, list(in.Join), list(in.Leave), in.Users, in.Anonymous, in.Lost}, err
}

func (v *objectVector) page(decode func(any) error) (Value, error) {
	var in struct {
		Room, Epoch string
		Messages    []json.RawMessage
		More        bool
	}
	if err := decode(&in); err != nil {
		return nil, err
	}
	page := Page{Room: in.Room, Epoch: in.Epoch, More: in.More}
	for _, raw := range in.Messages {
		m, err := readMessage(raw)
		if err != nil {
			return nil, err
		}
		page.Messages = append(page.Messages, m)
	}
	return &page, nil
}

type errorValue struct {
	Code    Code
	Reason  string
	RetryMS int `json:"retry_ms"`
	Backend string
}

func TestReplyAndNoticeVectors(t *testing.T) {
	kinds := map[string]bool{}
	for _, name := range []string{"replies.json", "notices.json"} {
		var list []objectVector
		load(t, name, &list)
		for _, v := range list {
			kinds[v.Kind] = true
			t.Run(v.Rule, func(t *testing.T) {
				got, err := v.write()
				if err != nil || string(got) != v.JSON {
					t.Errorf("got  %s, %v\nwant %s", got, err, v.JSON)
				}
				if name == "notices.json" && v.EventStream == "" {
					t.Error("a notice has a form on event streams")
				}
			})
		}
	}
	for _, kind := range []string{"connected", "subscribed", "unsubscribed", "published", "authed", "pong", "error", "gap", "expiring",
		"history", "result", "presence", "lagging", "reset"} {
		if !kinds[kind] {
			t.Errorf("no vector of %s", kind)
		}
	}
}

func TestErrorVectors(t *testing.T) {
	var list []struct {
		Code   Code
		Status int
		Close  uint16
		Again  bool
		Value  *errorValue
		JSON   string
	}
	load(t, "errors.json", &list)
	if len(list) != len(Table) {
		t.Fatalf("%d vectors, %d codes", len(list), len(Table))
	}
	id := uint64(7)
	for i, v := range list {
		if e := Table[i]; v.Code != e.Code || v.Status != e.Status || v.Close != e.Close || v.Again != e.Returns || v.Code.HTTPStatus() != v.Status {
			t.Errorf("vector %+v, table %+v", v, e)
		}
		if v.Value == nil {
			continue
		}
		got := Object{&id, &Error{Code: v.Value.Code, Reason: v.Value.Reason, RetryMS: v.Value.RetryMS, Backend: v.Value.Backend}}.AppendJSON(nil)
		if string(got) != v.JSON || v.Value.Code != v.Code {
			t.Errorf("got  %s\nwant %s", got, v.JSON)
		}
		if v.Close != 0 {
			if c := CloseFor(&Error{Code: v.Code}); c.Status != v.Close {
				t.Errorf("%s closes with %d, want %d", v.Code, c.Status, v.Close)
			}
		}
	}
}

func TestCloseVectors(t *testing.T) {
	var list []struct {
		Rule        string
		Status      uint16
		Code        Code
		RetryMS     int `json:"retry_ms"`
		Reason      string
		ComeBack    string `json:"come_back"`
		EventStream string `json:"event_stream"`
	}
	load(t, "closes.json", &list)
	seen := map[Code]bool{}
	for _, v := range list {
		t.Run(v.Rule, func(t *testing.T) {
			e := byCode[v.Code]
			if e == nil {
				return // of a proxy, of RFC 6455 or of a later version
			}
			seen[v.Code] = true
			var said struct{ Reason string }
			if err := json.Unmarshal([]byte(v.Reason), &said); err != nil {
				t.Fatal(err)
			}
			c := Close{Status: v.Status, Code: v.Code, RetryMS: v.RetryMS, Text: said.Reason}
			if e.Close != v.Status || c.Reason() != v.Reason {
				t.Errorf("close %d %s, want %d %s", e.Close, c.Reason(), v.Status, v.Reason)
			}
			if got := string(AppendCloseEvent(nil, c)); got != v.EventStream {
				t.Errorf("got  %q\nwant %q", got, v.EventStream)
			}
			if e.Returns != (v.ComeBack != "never") {
				t.Errorf("comes back: %s, the table says %v", v.ComeBack, e.Returns)
			}
		})
	}
	for _, e := range Table {
		if e.Close != 0 && !seen[e.Code] {
			t.Errorf("no vector of close %s", e.Code)
		}
	}
	for _, c := range []Close{CloseExpired, CloseProtocol, CloseConnectTimeout, CloseSlow, CloseDrain} {
		found := false
		for _, v := range list {
			found = found || v.Status == c.Status && v.Code == c.Code && v.RetryMS == c.RetryMS
		}
		if !found {
			t.Errorf("no vector of %+v", c)
		}
	}
}
