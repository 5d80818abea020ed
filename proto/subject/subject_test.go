package subject

import (
	"encoding/json"
	"hash/fnv"
	"os"
	"strings"
	"testing"
)

func TestVectors(t *testing.T) {
	data, err := os.ReadFile("../testdata/vectors/subjects.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Rooms   []struct{ Room, Subject string }
		Refused []struct{ Room, Rule string }
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	for _, c := range v.Rooms {
		got, err := Encode(RoomPrefix, c.Room)
		if err != nil || got != c.Subject {
			t.Errorf("Encode(%q) = %q, %v; want %q", c.Room, got, err, c.Subject)
		}
		back, err := Decode(RoomPrefix, c.Subject)
		if err != nil || back != c.Room {
			t.Errorf("Decode(%q) = %q, %v; want %q", c.Subject, back, err, c.Room)
		}
	}
	for _, c := range v.Refused {
		err := CheckRoom(c.Room)
		if err == nil || !strings.Contains(err.Error(), c.Rule) {
			t.Errorf("CheckRoom(%q) = %v; want a text with %q", c.Room, err, c.Rule)
		}
	}
}

func TestRoomsThatJSONCanNotHold(t *testing.T) {
	for name, rule := range map[string]string{
		"a\xffb":                       "valid UTF-8",
		strings.Repeat("a", 201):       "at most 200 bytes",
		strings.Repeat("%", 90):        "encoded subject",
		strings.Repeat("a.", 16) + "a": "at most 16 tokens",
		"tab\there":                    "control characters",
		"line\u2028separator":          "control characters",
	} {
		if err := CheckRoom(name); err == nil || !strings.Contains(err.Error(), rule) {
			t.Errorf("CheckRoom(%q) = %v; want a text with %q", name, err, rule)
		}
	}
}

func TestDecodeAcceptsOnlyTheCanonicalForm(t *testing.T) {
	for _, s := range []string{"room.%41", "room.a%2a", "room.a b", "room.%", "room.%2", "room.*", "live.a", "room.", "room.a%00"} {
		if got, err := Decode(RoomPrefix, s); err == nil {
			t.Errorf("Decode(%q) = %q, want an error", s, got)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, room string
		want          bool
	}{
		{"a.b", "a.b", true}, {"a.b", "a.c", false}, {"a.b", "a", false}, {"a", "a.b", false},
		{"a.*", "a.b", true}, {"a.*", "a", false}, {"a.*", "a.b.c", false}, {"*", "a", true}, {"*.b", "a.b", true},
		{"a.>", "a.b.c", true}, {"a.>", "a", false}, {">", "a", true}, {">", "a.b.c", true}, {"a.*.c", "a.x.c", true},
		{"a*", "ab", false}, {"a*", "a*", true},
	} {
		if got := Match(c.pattern, c.room); got != c.want {
			t.Errorf("Match(%q, %q) = %v", c.pattern, c.room, got)
		}
	}
	if n := testing.AllocsPerRun(100, func() { Match("chat.*.>", "chat.42.news") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a.>", "a.b", true}, {"a.*", "*.b", true}, {"a.*", "b.*", false}, {"a", "a.>", false},
		{">", "a", true}, {"a.b", "a.b", true}, {"a.*", "a.b.c", false}, {"a.*.c", "a.b.>", true},
	} {
		if Overlap(c.a, c.b) != c.want || Overlap(c.b, c.a) != c.want {
			t.Errorf("Overlap(%q, %q) is not %v", c.a, c.b, c.want)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, p := range []string{"a", "a.*", "a.>", ">", "*", "a*", "*.b.>"} {
		if err := CheckPattern(p); err != nil {
			t.Error(err)
		}
	}
	for _, p := range []string{"", "a.>.b", "a..b", "_x", "a.", "$SYS.>"} {
		if CheckPattern(p) == nil {
			t.Errorf("CheckPattern(%q) passed", p)
		}
	}
}

func TestShardIsFNV1a(t *testing.T) {
	for _, s := range []string{"room.a", "room.sports.news", "room.team%20chat%201"} {
		h := fnv.New32a()
		h.Write([]byte(s))
		if Shard(s) != h.Sum32()%Shards {
			t.Errorf("Shard(%q)", s)
		}
	}
}

func FuzzRoundTrip(f *testing.F) {
	for _, s := range []string{"sports.news", "team chat 1", "100%", "a*b", "ünï.çode", "a..b", "_x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		subj, err := Encode(RoomPrefix, name)
		if err != nil {
			return
		}
		if strings.ContainsAny(subj, " \t\r\n") || len(subj) > MaxSubjectBytes {
			t.Fatalf("dangerous subject %q", subj)
		}
		back, err := Decode(RoomPrefix, subj)
		if err != nil || back != name {
			t.Fatalf("%q → %q → %q, %v", name, subj, back, err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add("room.a%20b")
	f.Fuzz(func(t *testing.T, subj string) {
		name, err := Decode(RoomPrefix, subj)
		if err != nil {
			return
		}
		if again, err := Encode(RoomPrefix, name); err != nil || again != subj {
			t.Fatalf("%q has two subjects: %q", name, again)
		}
	})
}
