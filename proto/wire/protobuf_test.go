package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"nabat/proto/clientpb"
)

// protoVectors are the vectors of one file in Protobuf, by their rules. Where a
// rule stands twice they are in the file's order.
func protoVectors(t testing.TB, file string) map[string][][]byte {
	var list []struct {
		File, Rule string
		ProtoHex   string `json:"proto_hex"`
	}
	load(t, "protobuf.json", &list)
	found := map[string][][]byte{}
	for _, v := range list {
		b, err := hex.DecodeString(v.ProtoHex)
		if err != nil {
			t.Fatal(err)
		}
		if v.File == file {
			found[v.Rule] = append(found[v.Rule], b)
		}
	}
	return found
}

// take is the next vector of a rule.
func take(t *testing.T, list map[string][][]byte, rule string) []byte {
	t.Helper()
	if len(list[rule]) == 0 {
		t.Fatalf("protobuf.json has no %q", rule)
	}
	b := list[rule][0]
	list[rule] = list[rule][1:]
	return b
}

func TestMessageVectorsInProtobuf(t *testing.T) {
	var list []messageVector
	load(t, "messages.json", &list)
	hexes := protoVectors(t, "messages.json")
	for _, v := range list {
		t.Run(v.Rule, func(t *testing.T) {
			m := v.message()
			if got, want := Protobuf.AppendMessage(nil, &m), take(t, hexes, v.Rule); !bytes.Equal(got, want) {
				t.Errorf("got  %x\nwant %x", got, want)
			}
		})
	}
}

func TestReplyAndNoticeVectorsInProtobuf(t *testing.T) {
	for _, name := range []string{"replies.json", "notices.json"} {
		var list []objectVector
		load(t, name, &list)
		hexes := protoVectors(t, name)
		for _, v := range list {
			t.Run(v.Rule, func(t *testing.T) {
				value, err := v.value()
				if err != nil {
					t.Fatal(err)
				}
				if got, want := Protobuf.Append(nil, Object{v.ID, value}), take(t, hexes, v.Rule); !bytes.Equal(got, want) {
					t.Errorf("got  %x\nwant %x", got, want)
				}
			})
		}
	}
}

func TestErrorVectorsInProtobuf(t *testing.T) {
	hexes := protoVectors(t, "errors.json")
	var list []struct{ Value *errorValue }
	load(t, "errors.json", &list)
	id := uint64(7)
	for _, v := range list {
		if e := v.Value; e != nil {
			got := Protobuf.Append(nil, Object{&id, &Error{Code: e.Code, Reason: e.Reason, RetryMS: e.RetryMS, Backend: e.Backend}})
			if want := take(t, hexes, string(e.Code)); !bytes.Equal(got, want) {
				t.Errorf("%s: got  %x\nwant %x", e.Code, got, want)
			}
		}
	}
}

// A command means the same in both encodings.
func TestCommandVectorsInProtobuf(t *testing.T) {
	var list []commandVector
	load(t, "commands.json", &list)
	hexes := protoVectors(t, "commands.json")
	for _, v := range list {
		if v.Code != "" {
			continue
		}
		t.Run(v.Rule, func(t *testing.T) {
			var inJSON, inProto Command
			if err := JSON.Parse([]byte(v.Text), &inJSON); err != nil {
				t.Fatal(err)
			}
			if err := Protobuf.Parse(take(t, hexes, v.Rule), &inProto); err != nil {
				t.Fatal(err)
			}
			if describe(&inJSON) != describe(&inProto) {
				t.Errorf("JSON     %s\nProtobuf %s", describe(&inJSON), describe(&inProto))
			}
		})
	}
}

// describe is all that a command says.
func describe(c *Command) string {
	d := *c
	d.body = nil
	return fmt.Sprintf("%+v %q", d, d.Publish.Body)
}

func TestCommandsThatOnlyProtobufCanSay(t *testing.T) {
	var list []struct {
		Rule, Code, Reason string
		ProtoHex           string `json:"proto_hex"`
		ID                 *uint64
	}
	load(t, "proto_commands.json", &list)
	var c Command
	for _, v := range list {
		t.Run(v.Rule, func(t *testing.T) {
			b, err := hex.DecodeString(v.ProtoHex)
			if err != nil {
				t.Fatal(err)
			}
			refused := Protobuf.Parse(b, &c)
			if refused == nil || string(refused.Code) != v.Code || !strings.Contains(refused.Reason, v.Reason) {
				t.Errorf("got %v, want %s: %s", refused, v.Code, v.Reason)
			}
			if c.HasID != (v.ID != nil) || v.ID != nil && c.ID != *v.ID {
				t.Errorf("id %d (%v)", c.ID, c.HasID)
			}
		})
	}
}

// What is written by hand has the names and numbers of client.proto.
func TestTheTablesAreThoseOfClientProto(t *testing.T) {
	file := clientpb.File_client_proto.Messages()
	fields := file.ByName("Command").Fields()
	for name, verb := range verbs {
		if f := fields.ByName(protoreflect.Name(name)); f == nil || f.Number() != protowire.Number(verb)+1 {
			t.Errorf("verb %s: %v", name, f)
		}
	}
	if fields.Len() != len(verbs)+1 {
		t.Errorf("Command has %d fields", fields.Len())
	}
	kinds := []kind{kindMessage}
	for _, v := range []Value{&Connected{}, Subscribed{}, Unsubscribed{}, Published{}, Authed{}, &Page{}, &PresencePage{}, &Result{}, Ponged{}, &Error{}, Gap{}, Reset{}, Lagging{}, Expiring{}} {
		kinds = append(kinds, v.kind())
	}
	fields = file.ByName("Object").Fields()
	for _, k := range kinds {
		if f := fields.ByName(protoreflect.Name(k.name)); f == nil || f.Number() != k.number {
			t.Errorf("kind %+v: %v", k, f)
		}
	}
	if fields.Len() != len(kinds)+2 { // id, and ping, which this edge does not send
		t.Errorf("Object has %d fields, %d kinds", fields.Len(), len(kinds))
	}
}

// All fields of all values, with generated code as the reader.
func TestWhatIsWrittenIsRead(t *testing.T) {
	id := uint64(1<<53 - 1)
	long := strings.Repeat("x", 20000)
	at := Position{Room: "a", Epoch: "k3", Offset: 1 << 40}
	recovered := at.WithRecovery(HistoryCut)
	no := false
	pb := &clientpb.Position{Room: "a", Epoch: "k3", Offset: 1 << 40}
	pbRecovered := &clientpb.Position{Room: "a", Epoch: "k3", Offset: 1 << 40, Recovered: &no, Reason: HistoryCut}
	message := &Message{Room: "a", Epoch: "k3", Offset: 2, Kind: Binary, Body: []byte{0, 255}, Event: "e", User: "a\xff\xfeb"}
	pbMessage := &clientpb.Message{Room: "a", Epoch: "k3", Offset: 2, Body: &clientpb.Message_Binary{Binary: []byte{0, 255}}, Event: "e", User: "a\ufffd\ufffdb"}
	for _, c := range []struct {
		value Value
		want  *clientpb.Object
	}{
		{&Connected{"s", "n", long, 1790000000, []Position{at, recovered}}, &clientpb.Object{Kind: &clientpb.Object_Connected{Connected: &clientpb.Connected{
			Session: "s", Node: "n", User: long, Expires: 1790000000, Rooms: []*clientpb.Position{pb, pbRecovered}}}}},
		{Subscribed{[]Position{{}}}, &clientpb.Object{Kind: &clientpb.Object_Subscribed{Subscribed: &clientpb.Subscribed{Rooms: []*clientpb.Position{{}}}}}},
		{Unsubscribed{[]string{"", long}, NotAllowed}, &clientpb.Object{Kind: &clientpb.Object_Unsubscribed{Unsubscribed: &clientpb.Unsubscribed{Rooms: []string{"", long}, Reason: "not_allowed"}}}},
		{Published{at}, &clientpb.Object{Kind: &clientpb.Object_Published{Published: pb}}},
		{Authed{"u", 5}, &clientpb.Object{Kind: &clientpb.Object_Authed{Authed: &clientpb.Authed{User: "u", Expires: 5}}}},
		{&Page{"a", "k3", []*Message{message, message}, true}, &clientpb.Object{Kind: &clientpb.Object_History{History: &clientpb.HistoryPage{Room: "a", Epoch: "k3", Messages: []*clientpb.Message{pbMessage, pbMessage}, More: true}}}},
		{&PresencePage{"a", 3, 2, 6, []Member{{"u", 4, []byte("1")}, {User: long}}, "u"}, &clientpb.Object{Kind: &clientpb.Object_Presence{Presence: &clientpb.PresenceState{Room: "a", Users: 3, Anonymous: 2, Connections: 6,
			Members: []*clientpb.Member{{User: "u", Connections: 4, Info: []byte("1")}, {User: long}}, Next: "u"}}}},
		{&PresenceChange{Room: "a", Join: []Member{{User: "u", Info: []byte("{}")}}, Leave: []Member{{User: "v"}, {}}, Users: 3, Anonymous: 2}, &clientpb.Object{Kind: &clientpb.Object_Presence{Presence: &clientpb.PresenceState{Room: "a", Users: 3, Anonymous: 2,
			Join: []*clientpb.Member{{User: "u", Info: []byte("{}")}}, Leave: []*clientpb.Member{{User: "v"}, {}}}}}},
		{&PresenceChange{Room: "a", Users: 3, Lost: true}, &clientpb.Object{Kind: &clientpb.Object_Presence{Presence: &clientpb.PresenceState{Room: "a", Lost: true}}}},
		{Ponged{}, &clientpb.Object{Kind: &clientpb.Object_Pong{Pong: &clientpb.Pong{}}}},
		{&Error{Code: BadRoom, Reason: "r", RetryMS: 100}, &clientpb.Object{Kind: &clientpb.Object_Error{Error: &clientpb.Error{Code: "bad_room", Reason: "r", RetryMs: 100}}}},
		{Gap{"a", GapSlow, 3, 4}, &clientpb.Object{Kind: &clientpb.Object_Gap{Gap: &clientpb.Gap{Room: "a", Reason: "slow", From: 3, To: 4}}}},
		{Reset{at}, &clientpb.Object{Kind: &clientpb.Object_Reset_{Reset_: pb}}},
		{Lagging{at}, &clientpb.Object{Kind: &clientpb.Object_Lagging{Lagging: pb}}},
		{Expiring{60}, &clientpb.Object{Kind: &clientpb.Object_Expiring{Expiring: &clientpb.Expiring{Seconds: 60}}}},
	} {
		for _, withID := range []*uint64{nil, &id, new(uint64)} {
			c.want.Id = withID
			var got clientpb.Object
			b := Protobuf.Append([]byte("before"), Object{withID, c.value})
			if err := proto.Unmarshal(b[len("before"):], &got); err != nil || !proto.Equal(&got, c.want) {
				t.Errorf("got  %v, %v\nwant %v", &got, err, c.want)
			}
		}
	}
	var got clientpb.Object
	if err := proto.Unmarshal(Protobuf.AppendMessage(nil, message), &got); err != nil || !proto.Equal(got.GetMessage(), pbMessage) {
		t.Errorf("got %v, %v", &got, err)
	}
}

func TestBatches(t *testing.T) {
	for _, c := range []struct {
		rule    string
		e       Encoding
		batch   string
		objects []string
		fault   string
	}{
		{"a line is an object", JSON, "{\"a\":1}\n{\"b\":2}", []string{`{"a":1}`, `{"b":2}`}, ""},
		{"a last line end is no object", JSON, "{\"a\":1}\n", []string{`{"a":1}`}, ""},
		{"empty lines are no objects", JSON, "\n \r\n{\"a\":1}\r\n\n", []string{"{\"a\":1}\r"}, ""},
		{"an empty frame is a fault", JSON, "", nil, "holds no object"},
		{"lines without an object are a fault", JSON, " \n", nil, "holds no object"},
		{"an object stands behind its length", Protobuf, "\x02ab\x01c", []string{"ab", "c"}, ""},
		{"an object may be empty", Protobuf, "\x00", []string{""}, ""},
		{"an empty frame is a fault in Protobuf", Protobuf, "", nil, "holds no object"},
		{"an object that is cut is a fault, those before it are taken", Protobuf, "\x01a\x05bc", []string{"a"}, "ends within"},
		{"a length that is cut is a fault", Protobuf, "\x01a\x80", []string{"a"}, "ends within"},
		{"a length has at most ten bytes", Protobuf, strings.Repeat("\xff", 11), nil, "ends within"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			var got []string
			err := c.e.Split([]byte(c.batch), func(b []byte) bool { got = append(got, string(b)); return true })
			if !slices.Equal(got, c.objects) {
				t.Errorf("got %q", got)
			}
			if (err != nil) != (c.fault != "") || err != nil && (err.Code != BadCommand || !strings.Contains(err.Reason, c.fault)) {
				t.Errorf("got %v", err)
			}
		})
	}
	for e := range Protobuf + 1 {
		var batch []byte
		objects, size := []string{"1", strings.Repeat("x", 127), strings.Repeat("y", 20000)}, 0
		for i, o := range objects {
			batch, size = e.AppendBatched(batch, []byte(o), i == 0), size+e.Batched([]byte(o), i == 0)
		}
		var got []string
		err := e.Split(batch, func(b []byte) bool { got = append(got, string(b)); return len(got) < 2 })
		if err != nil || !slices.Equal(got, objects[:2]) || size != len(batch) {
			t.Errorf("%d objects, %v, %d of %d bytes", len(got), err, size, len(batch))
		}
	}
}

func TestAllocationsInProtobuf(t *testing.T) {
	m := Message{Room: "sports.news", Kind: Data, Body: bytes.Repeat([]byte("1"), 300), User: "alice"}
	buf := make([]byte, 0, 512)
	if n := testing.AllocsPerRun(100, func() { buf = Protobuf.AppendMessage(buf[:0], &m) }); n != 0 {
		t.Errorf("AppendMessage: %v allocations", n)
	}
}

// inJSON says a command of generated code in JSON; false where JSON cannot.
func inJSON(m *clientpb.Command) (string, bool) {
	text := func(v any) string { b, _ := json.Marshal(v); return string(b) }
	field := func(list *[]string, name, value string) {
		if value != "" {
			*list = append(*list, text(name)+":"+text(value))
		}
	}
	number := func(list *[]string, name string, n uint64) {
		if n != 0 {
			*list = append(*list, fmt.Sprintf("%q:%d", name, n))
		}
	}
	rooms := func(list []*clientpb.RoomRequest) string {
		var all []string
		for _, r := range list {
			var f []string
			field(&f, "room", r.Room)
			field(&f, "epoch", r.Epoch)
			number(&f, "offset", r.Offset)
			field(&f, "since", r.Since)
			if r.Latest {
				f = append(f, `"latest":true`)
			}
			if r.Presence {
				f = append(f, `"presence":true`)
			}
			all = append(all, "{"+strings.Join(f, ",")+"}")
		}
		return `"rooms":[` + strings.Join(all, ",") + "]"
	}
	var f, o []string
	name := "none"
	switch v := m.Verb.(type) {
	case *clientpb.Command_Connect:
		name = "connect"
		field(&f, "token", v.Connect.Token)
		field(&f, "previous", v.Connect.Previous)
		number(&f, "away_ms", v.Connect.AwayMs)
		f = append(f, rooms(v.Connect.Rooms))
	case *clientpb.Command_Subscribe:
		name = "subscribe"
		number(&f, "away_ms", v.Subscribe.AwayMs)
		f = append(f, rooms(v.Subscribe.Rooms))
	case *clientpb.Command_Unsubscribe:
		name = "unsubscribe"
		f = append(f, `"rooms":`+text(append([]string{}, v.Unsubscribe.Rooms...)))
	case *clientpb.Command_Publish:
		name = "publish"
		field(&f, "room", v.Publish.Room)
		field(&f, "event", v.Publish.Event)
		field(&f, "key", v.Publish.Key)
		field(&f, "message_id", v.Publish.MessageId)
		switch b := v.Publish.Body.(type) {
		case *clientpb.Publish_Json:
			if !json.Valid(b.Json) {
				return "", false
			}
			f = append(f, `"data":`+string(b.Json))
		case *clientpb.Publish_Text:
			f = append(f, `"text":`+text(b.Text))
		case *clientpb.Publish_Binary:
			f = append(f, `"base64":`+text(base64.StdEncoding.EncodeToString(b.Binary)))
		}
	case *clientpb.Command_Auth:
		name = "auth"
		field(&f, "token", v.Auth.Token)
	case *clientpb.Command_History:
		name = "history"
		field(&f, "room", v.History.Room)
		number(&f, "limit", v.History.Limit)
		number(&f, "before", v.History.Before)
		if v.History.After != nil {
			f = append(f, fmt.Sprintf(`"after":%d`, *v.History.After))
		}
	case *clientpb.Command_Presence:
		name = "presence"
		field(&f, "room", v.Presence.Room)
		if v.Presence.Limit != nil {
			f = append(f, fmt.Sprintf(`"limit":%d`, *v.Presence.Limit))
		}
		field(&f, "after", v.Presence.After)
	case *clientpb.Command_Rpc:
		name = "rpc"
		field(&f, "method", v.Rpc.Method)
		switch b := v.Rpc.Body.(type) {
		case *clientpb.Rpc_Json:
			if !json.Valid(b.Json) {
				return "", false
			}
			f = append(f, `"data":`+string(b.Json))
		case *clientpb.Rpc_Text:
			f = append(f, `"text":`+text(b.Text))
		case *clientpb.Rpc_Binary:
			f = append(f, `"base64":`+text(base64.StdEncoding.EncodeToString(b.Binary)))
		}
	case *clientpb.Command_Ping:
		name = "ping"
	case *clientpb.Command_Pong:
		name = "pong"
	}
	if m.Id != nil {
		o = append(o, fmt.Sprintf(`"id":%d`, *m.Id))
	}
	if m.Verb != nil {
		o = append(o, text(name)+":{"+strings.Join(f, ",")+"}")
	}
	return "{" + strings.Join(o, ",") + "}", true
}

// FuzzProtobuf reads commands three times: by hand, by generated code, and by
// hand in JSON. Where a frame says nothing twice and nothing unknown all agree.
func FuzzProtobuf(f *testing.F) {
	for _, list := range protoVectors(f, "commands.json") {
		f.Add(list[0])
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		var c, again Command
		err := Protobuf.Parse(frame, &c)
		if err != nil && (err.Code == "" || err.Reason == "") {
			t.Fatalf("empty error for %x", frame)
		}
		var m clientpb.Command
		if other := proto.Unmarshal(frame, &m); other != nil {
			// Generated code does not look at texts inside of unknown fields, nor do we.
			if err == nil {
				t.Fatalf("accepted %x: %v", frame, other)
			}
			return
		}
		if err != nil && proto.Size(&m) != len(frame) {
			return // they may hold anything; what stands twice is refused by hand
		}
		text, ok := inJSON(&m)
		if !ok {
			if err == nil {
				t.Fatalf("accepted %x: its body is not JSON", frame)
			}
			return
		}
		err2 := JSON.Parse([]byte(text), &again)
		if err == nil && (err2 != nil || describe(&c) != describe(&again)) {
			t.Fatalf("%x\nis   %s\nnot  %s, %v", frame, describe(&c), describe(&again), err2)
		}
		if err != nil && err2 == nil && len(m.ProtoReflect().GetUnknown()) == 0 && !unknownInside(m.ProtoReflect()) {
			t.Fatalf("%x is refused (%v), %s is not", frame, err, text)
		}
	})
}

// unknownInside reports whether a message within m has fields of no name.
func unknownInside(m protoreflect.Message) (found bool) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				inner := v.List().Get(i).Message()
				found = found || len(inner.GetUnknown()) > 0 || unknownInside(inner)
			}
		default:
			found = found || len(v.Message().GetUnknown()) > 0 || unknownInside(v.Message())
		}
		return !found
	})
	return found
}

func BenchmarkAppendMessageProtobuf(b *testing.B) {
	m := Message{Room: "sports.news", Kind: Data, Body: bytes.Repeat([]byte("1"), 128)}
	buf := make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		buf = Protobuf.AppendMessage(buf[:0], &m)
	}
}

// The example of PROTOCOL.md, and the sizes that it names.
func TestTheProtobufOfTheText(t *testing.T) {
	m := Message{Room: "sports.news", Kind: Data, Body: []byte(`{"title":"Goal"}`)}
	inJSON, inProto := JSON.AppendMessage(nil, &m), Protobuf.AppendMessage(nil, &m)
	for _, want := range []string{
		fmt.Sprintf("`%s` has %d bytes in JSON and %d in Protobuf", inJSON, len(inJSON), len(inProto)),
		fmt.Sprintf("\n```\n%x\n```\n", inProto),
	} {
		if !strings.Contains(protocol(t), want) {
			t.Errorf("PROTOCOL.md does not say %s", want)
		}
	}
}
