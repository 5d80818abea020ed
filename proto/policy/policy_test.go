package policy

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseYAMLAccepts(t *testing.T) {
	set, err := ParseYAML("p.yaml", []byte(`
rooms:
  - match: "chat.>"
    publish: true
    slow: disconnect
  - match: news.*
    anonymous: {subscribe: true}
  - match: ">"
`))
	if err != nil {
		t.Fatal(err)
	}
	if p := set.For("chat.1.2"); !p.Publish || p.Slow != Disconnect || p.Anonymous.Subscribe {
		t.Errorf("chat: %+v", p)
	}
	if p := set.For("news.a"); p.Publish || !p.Anonymous.Subscribe || p.SlowRule() != Drop {
		t.Errorf("news: %+v", p)
	}
	if p := set.For("other"); p == nil || p.Match != ">" {
		t.Errorf("default: %+v", p)
	}
	again, err := Decode(set.Encode())
	if err != nil || len(again.Rooms) != 3 || !reflect.DeepEqual(again.Rooms, set.Rooms) {
		t.Errorf("decode: %+v, %v", again, err)
	}
	if n := testing.AllocsPerRun(100, func() { set.For("other.room") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestParseYAMLReadsHistory(t *testing.T) {
	set, err := ParseYAML("p.yaml", []byte(`
rooms:
  - match: "chat.>"
    history: {messages: 100, age: 24h, bytes: 2GiB, replicas: 3}
    latest: true
    compress: true
  - match: news
    history: {bytes: 1500KB}
    slow: drop
  - match: quotes.>
    history: {age: 1s}
    slow: lag
  - match: plain
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Policy{
		{Match: "chat.>", History: &History{Messages: 100, Age: 24 * time.Hour, Bytes: 2 << 30, Replicas: 3}, Latest: true, Compress: true},
		{Match: "news", History: &History{Bytes: 1_500_000}, Slow: Drop},
		{Match: "quotes.>", History: &History{Age: time.Second}, Slow: Lag},
		{Match: "plain"},
	}
	if !reflect.DeepEqual(set.Rooms, want) {
		t.Fatalf("%+v", set.Rooms)
	}
	for i, rule := range []Slow{Lag, Drop, Lag, Drop} {
		if got := set.Rooms[i].SlowRule(); got != rule {
			t.Errorf("%s: %s, want %s", set.Rooms[i].Match, got, rule)
		}
	}
	set.Rooms[0].Stream = &Stream{Name: "NABAT_chat_k3", Mirror: "NABAT_chat_k3_H", Epoch: "k3"}
	again, err := Decode(set.Encode())
	if err != nil || !reflect.DeepEqual(again, set) {
		t.Fatalf("%+v, %v", again, err)
	}
	if err := Dev().Check(); err != nil {
		t.Fatal(err)
	}
}

func TestRatesAndSizes(t *testing.T) {
	set, err := ParseYAML("p.yaml", []byte("rooms:\n - match: chat.>\n   rates: {publish: 5, burst: 20}\n   max_message_bytes: 4KiB\n - match: b\n   rates: {publish: 5}\n   max_message_bytes: 100\n"))
	if err != nil {
		t.Fatal(err)
	}
	if p := set.For("chat.x"); *p.Rates != (Rates{5, 20}) || p.MaxMessageBytes != 4096 {
		t.Errorf("%+v", p)
	}
	if p := set.For("b"); *p.Rates != (Rates{5, 0}) || p.MaxMessageBytes != 100 {
		t.Errorf("%+v", p)
	}
	if again, err := Decode(set.Encode()); err != nil || !reflect.DeepEqual(again, set) {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestHooks(t *testing.T) {
	set, err := ParseYAML("p.yaml", []byte("rooms:\n - match: chat.>\n   hooks: {subscribe: true, publish: true}\n - match: b\n   hooks: {publish: true}\n - match: c\n"))
	if err != nil {
		t.Fatal(err)
	}
	for room, want := range map[string][2]bool{"chat.x": {true, true}, "b": {false, true}, "c": {}, "nowhere": {}} {
		if p := set.For(room); p.AsksSubscribe() != want[0] || p.AsksPublish() != want[1] {
			t.Errorf("%s: %+v", room, p)
		}
	}
	if again, err := Decode(set.Encode()); err != nil || !reflect.DeepEqual(again, set) {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestConflation(t *testing.T) {
	set, err := ParseYAML("p.yaml", []byte("rooms:\n - match: quotes.>\n   conflate: {every: 250ms}\n - match: b\n   slow: conflate\n - match: c\n   slow: drop\n   conflate: {every: 1s}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if p := set.For("quotes.x"); p.SlowRule() != Conflate || p.Conflation.Every != 250*time.Millisecond {
		t.Errorf("%+v", p)
	}
	if p := set.For("b"); p.SlowRule() != Conflate || p.Conflation != nil {
		t.Errorf("%+v", p)
	}
	if p := set.For("c"); p.SlowRule() != Drop {
		t.Errorf("a rule that is given counts: %+v", p)
	}
	again, err := Decode(set.Encode())
	if err != nil || again.Rooms[0].Conflation.Every != 250*time.Millisecond {
		t.Errorf("decode: %+v, %v", again, err)
	}
}

func TestPresence(t *testing.T) {
	set, err := ParseYAML("p.yaml", []byte("rooms:\n - match: a\n   presence: true\n - match: b\n   presence: {grace: 0s, full: 0, anonymous: true}\n - match: c\n   presence: false\n - match: d\n   presence: {grace: 1m}\n"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode(set.Encode())
	if err != nil || !reflect.DeepEqual(again.Rooms, set.Rooms) {
		t.Fatalf("decode: %+v, %v", again, err)
	}
	for _, c := range []struct {
		room      string
		grace     time.Duration
		full      int
		anonymous bool
	}{{"a", DefaultGrace, DefaultFull, false}, {"b", 0, 0, true}, {"d", time.Minute, DefaultFull, false}} {
		p := again.For(c.room).Presence
		if p == nil || p.GraceTime() != c.grace || p.FullAt() != c.full || p.Anonymous != c.anonymous {
			t.Errorf("%s: %+v", c.room, p)
		}
	}
	if set.For("c").Presence != nil {
		t.Error("presence: false is presence")
	}
	if short, err := Decode([]byte(`{"version":1,"rooms":[{"match":"a","presence":true}]}`)); err != nil || short.For("a").Presence == nil {
		t.Errorf("presence: true in JSON: %+v, %v", short, err)
	}
	if _, err := Decode([]byte(`{"version":1,"rooms":[{"match":"a","presence":{"full":-1}}]}`)); err == nil {
		t.Error("a set with a negative full was taken")
	}
}

func TestForWithoutDefault(t *testing.T) {
	set := &Set{Rooms: []Policy{{Match: "a.*"}}}
	if set.For("b") != nil {
		t.Error("a room that no policy matches has one")
	}
}

func TestParseYAMLRefuses(t *testing.T) {
	for _, c := range []struct{ rule, text, want string }{
		{"an empty file", "", "p.yaml: the file is empty"},
		{"broken YAML", "rooms: [", "p.yaml:1: "},
		{"an unknown key at the top", "room: []", `p.yaml:1: unknown key "room"`},
		{"rooms that are no list", "rooms: {}", "p.yaml:1: rooms must be a list"},
		{"no policies", "rooms: []", "rooms is empty"},
		{"an unknown key", "rooms:\n - match: a\n   pubish: true", `p.yaml:3: unknown key "pubish"`},
		{"a repeated key", "rooms:\n - match: a\n   match: b", `p.yaml:3: key "match" is there twice`},
		{"no match", "rooms:\n - publish: true", "p.yaml:2: a policy needs match"},
		{"a bad pattern", "rooms:\n - match: a..b", "p.yaml:2: room \"a..b\": pattern: a token between dots must not be empty"},
		{"overlap", "rooms:\n - match: a.>\n - match: a.b", `p.yaml:3: policy "a.b" overlaps "a.>"`},
		{"the same pattern twice", "rooms:\n - match: a\n - match: a", `p.yaml:3: policy "a" is there twice`},
		{"a flag that is no flag", "rooms:\n - match: a\n   publish: maybe", "p.yaml:3: publish must be true or false"},
		{"compress as a level", "rooms:\n - match: a\n   compress: 6", "p.yaml:3: compress must be true or false"},
		{"anonymous publish without publish", "rooms:\n - match: a\n   anonymous: {publish: true}", "anonymous.publish needs publish: true"},
		{"an unknown key in anonymous", "rooms:\n - match: a\n   anonymous: {read: true}", `unknown key "read" in anonymous`},
		{"a bad slow rule", "rooms:\n - match: a\n   slow: wait", `slow is "wait": must be lag, conflate, drop or disconnect`},
		{"lag without history", "rooms:\n - match: a\n   slow: lag", "p.yaml:2: policy \"a\": slow: lag needs history"},
		{"rates without publish", "rooms:\n - match: a\n   rates: {burst: 3}", "p.yaml:2: policy \"a\": rates.publish is 0: must be 1 to 1000000"},
		{"a burst below the rate", "rooms:\n - match: a\n   rates: {publish: 3, burst: 2}", "rates.burst is 2: must be rates.publish (3) to 1000000"},
		{"an unknown hook", "rooms:\n - match: a\n   hooks: {connect: true}", "p.yaml:3: unknown key \"connect\" in hooks: there are subscribe and publish"},
		{"a hook that is no flag", "rooms:\n - match: a\n   hooks: {publish: maybe}", "p.yaml:3: hooks.publish must be true or false"},
		{"an unknown rate", "rooms:\n - match: a\n   rates: {bytes: 2}", "p.yaml:3: unknown key \"bytes\" in rates"},
		{"a size of messages that is none", "rooms:\n - match: a\n   max_message_bytes: big", `p.yaml:3: max_message_bytes is "big": must be a size`},
		{"a size of messages beyond NATS's", "rooms:\n - match: a\n   max_message_bytes: 65MiB", "max_message_bytes is 68157440: must be 1 to 64MiB"},
		{"latest without history", "rooms:\n - match: a\n   latest: true", "p.yaml:2: policy \"a\": latest needs history"},
		{"an unknown key in conflate", "rooms:\n - match: a\n   conflate: {each: 1s}", `p.yaml:3: unknown key "each" in conflate`},
		{"a conflation that is too fast", "rooms:\n - match: a\n   conflate: {every: 1ms}", `p.yaml:3: conflate.every is "1ms": must be a duration from 10ms to 1h0m0s`},
		{"a conflation that is no duration", "rooms:\n - match: a\n   conflate: {every: often}", `p.yaml:3: conflate.every is "often"`},
		{"history that is a number", "rooms:\n - match: a\n   history: 10", "p.yaml:3: history must be a mapping"},
		{"history without a bound", "rooms:\n - match: a\n   history: {replicas: 3}", "p.yaml:3: history needs a bound"},
		{"an unknown key in history", "rooms:\n - match: a\n   history:\n     size: 3", `p.yaml:4: unknown key "size" in history`},
		{"no messages", "rooms:\n - match: a\n   history: {messages: 0}", `p.yaml:3: history.messages is "0": must be a number from 1 to 1000000`},
		{"too many messages", "rooms:\n - match: a\n   history: {messages: 1000001}", "history.messages"},
		{"messages in words", "rooms:\n - match: a\n   history: {messages: ten}", "history.messages"},
		{"an age too short", "rooms:\n - match: a\n   history: {age: 999ms}", `p.yaml:3: history.age is "999ms": must be a duration of at least 1s`},
		{"an age without a unit", "rooms:\n - match: a\n   history: {age: 60}", "history.age"},
		{"bytes too few", "rooms:\n - match: a\n   history: {bytes: 1000KiB}", `p.yaml:3: history.bytes is "1000KiB": must be a size of at least 1MiB`},
		{"bytes beyond all disks", "rooms:\n - match: a\n   history: {bytes: 9999999TiB}", "history.bytes"},
		{"bytes in words", "rooms:\n - match: a\n   history: {bytes: much}", "history.bytes"},
		{"a list as bytes", "rooms:\n - match: a\n   history: {bytes: [1]}", "history.bytes"},
		{"too many replicas", "rooms:\n - match: a\n   history: {messages: 1, replicas: 6}", `history.replicas is "6": must be a number from 1 to 5`},
		{"history of a pattern with *", "rooms:\n - match: a.*\n   history: {messages: 1}", "p.yaml:2: policy \"a.*\": history is kept of a room or of <prefix>.>"},
		{"history of a pattern with * before >", "rooms:\n - match: a.*.>\n   history: {messages: 1}", "not of patterns with *"},
		{"history of a pattern that NATS would transform", "rooms:\n - match: a.$1.>\n   history: {messages: 1}", "no token may begin with $ or {{"},
		{"history of a pattern with a function of NATS", "rooms:\n - match: \"{{wildcard(1)}}.>\"\n   history: {messages: 1}", "no token may begin with $ or {{"},
		{"history of the default beside others", "rooms:\n - match: a\n - match: \">\"\n   history: {messages: 1}", "p.yaml:3: policy \">\" has history: then it must be the only policy"},
		{"others beside history of the default", "rooms:\n - match: \">\"\n   history: {messages: 1}\n - match: a", "p.yaml:4: policy \">\" has history: then it must be the only policy"},
		{"a stream in the file", "rooms:\n - match: a\n   stream: {name: x}", `p.yaml:3: unknown key "stream"`},
		{"presence that is neither true nor a mapping", "rooms:\n - match: a\n   presence: yes please", "p.yaml:3: presence must be true, false, or a mapping"},
		{"an unknown key in presence", "rooms:\n - match: a\n   presence: {gracee: 5s}", `p.yaml:3: unknown key "gracee" in presence`},
		{"a grace that is no duration", "rooms:\n - match: a\n   presence: {grace: 5}", `p.yaml:3: presence.grace is "5"`},
		{"a grace above its bound", "rooms:\n - match: a\n   presence: {grace: 11m}", "p.yaml:3: presence.grace is 11m0s: must be 0s to 10m0s"},
		{"a negative grace", "rooms:\n - match: a\n   presence: {grace: -1s}", "p.yaml:3: presence.grace is -1s"},
		{"a full that is no number", "rooms:\n - match: a\n   presence: {full: many}", `p.yaml:3: presence.full is "many"`},
		{"a full above its bound", "rooms:\n - match: a\n   presence: {full: 10001}", "p.yaml:3: presence.full is 10001: must be 0 to 10000"},
		{"an anonymous that is no flag", "rooms:\n - match: a\n   presence: {anonymous: 1}", "p.yaml:3: presence.anonymous must be true or false"},
		{"an alias", "rooms:\n - &x {match: a}\n - *x", "aliases are not supported"},
		{"a list instead of a policy", "rooms:\n - [a]", "a policy must be a mapping"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			set, err := ParseYAML("p.yaml", []byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %+v, %v; want %q", set, err, c.want)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, text := range []string{"", "{", `{"rooms":[{"match":"a..b"}]}`, `{"rooms":[{"match":"a","slow":"x"}]}`,
		`{"rooms":[{"match":"a","stream":{"name":"n","mirror":"m","epoch":"e"}}]}`,
		`{"rooms":[{"match":"a","history":{"messages":1},"stream":{"name":"n","mirror":"m"}}]}`,
		`{"rooms":[{"match":"a","history":{"messages":-1}}]}`, `{"rooms":[{"match":"a","history":{"age":1}}]}`,
		`{"rooms":[{"match":"a","history":{"bytes":1}}]}`, `{"rooms":[{"match":"a","history":{"messages":1,"replicas":6}}]}`} {
		if _, err := Decode([]byte(text)); err == nil {
			t.Errorf("Decode(%q) passed", text)
		}
	}
}

func FuzzParseYAML(f *testing.F) {
	f.Add([]byte("rooms:\n - match: a\n   publish: true\n"))
	f.Add([]byte("rooms:\n - match: a.>\n   history: {messages: 1, age: 1s, bytes: 1MiB, replicas: 3}\n   latest: true\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := ParseYAML("f", data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f:") {
				t.Fatalf("error without a place: %v", err)
			}
			return
		}
		if _, err := Decode(set.Encode()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestEveryFieldIsInTheText: BUS.md has a row for each field of a policy.
func TestEveryFieldIsInTheText(t *testing.T) {
	text, err := os.ReadFile("../BUS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rows, _ := strings.Cut(string(text), "### NABAT_CONFIG policies")
	rows, _, _ = strings.Cut(rows, "\n### ")
	fields := 0
	var look func(of reflect.Type, prefix string)
	look = func(of reflect.Type, prefix string) {
		for i := range of.NumField() {
			name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
			inner := of.Field(i).Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			// Presence has one row with all its fields, and stream is control's.
			if inner.Kind() == reflect.Struct && name != "stream" && name != "presence" {
				look(inner, name+".")
				continue
			}
			fields++
			if !strings.Contains(rows, "`"+prefix+name+"`") {
				t.Errorf("BUS.md has no row for %s%s", prefix, name)
			}
		}
	}
	look(reflect.TypeFor[Policy](), "")
	if fields < 15 {
		t.Errorf("%d fields found", fields)
	}
}
