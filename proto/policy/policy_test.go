package policy

import (
	"strings"
	"testing"
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
	if p := set.For("news.a"); p.Publish || !p.Anonymous.Subscribe || p.Slow != Drop {
		t.Errorf("news: %+v", p)
	}
	if p := set.For("other"); p == nil || p.Match != ">" {
		t.Errorf("default: %+v", p)
	}
	again, err := Decode(set.Encode())
	if err != nil || len(again.Rooms) != 3 || again.Rooms[0] != set.Rooms[0] {
		t.Errorf("decode: %+v, %v", again, err)
	}
	if n := testing.AllocsPerRun(100, func() { set.For("other.room") }); n != 0 {
		t.Errorf("%v allocations", n)
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
		{"anonymous publish without publish", "rooms:\n - match: a\n   anonymous: {publish: true}", "anonymous.publish needs publish: true"},
		{"an unknown key in anonymous", "rooms:\n - match: a\n   anonymous: {read: true}", `unknown key "read" in anonymous`},
		{"a bad slow rule", "rooms:\n - match: a\n   slow: wait", `slow is "wait": must be drop or disconnect`},
		{"lag, which is not built yet", "rooms:\n - match: a\n   slow: lag", "slow: lag is not yet supported"},
		{"history, which is not built yet", "rooms:\n - match: a\n   history: {messages: 10}", `p.yaml:3: "history" is not yet supported`},
		{"presence, which is not built yet", "rooms:\n - match: a\n   presence: true", `p.yaml:3: "presence" is not yet supported`},
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
	for _, text := range []string{"", "{", `{"rooms":[{"match":"a..b"}]}`, `{"rooms":[{"match":"a","slow":"x"}]}`} {
		if _, err := Decode([]byte(text)); err == nil {
			t.Errorf("Decode(%q) passed", text)
		}
	}
}

func FuzzParseYAML(f *testing.F) {
	f.Add([]byte("rooms:\n - match: a\n   publish: true\n"))
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
