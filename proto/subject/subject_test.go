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

		NotCanonical []string `json:"not_canonical"`
		Patterns     []string
		NotPatterns  []string `json:"not_patterns"`
		Matches      []struct {
			Pattern, Room string
			Match         bool
		}
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
	for _, subj := range v.NotCanonical {
		if room, err := Decode(RoomPrefix, subj); err == nil {
			t.Errorf("Decode(%q) = %q, want an error", subj, room)
		}
	}
	for _, p := range v.Patterns {
		if err := CheckPattern(p); err != nil {
			t.Error(err)
		}
	}
	for _, p := range v.NotPatterns {
		if CheckPattern(p) == nil {
			t.Errorf("CheckPattern(%q) passed", p)
		}
	}
	for _, c := range v.Matches {
		if Match(c.Pattern, c.Room) != c.Match {
			t.Errorf("Match(%q, %q) is not %v", c.Pattern, c.Room, c.Match)
		}
	}
	if len(v.Rooms) == 0 || len(v.Refused) == 0 || len(v.NotCanonical) == 0 || len(v.Patterns) == 0 || len(v.NotPatterns) == 0 || len(v.Matches) == 0 {
		t.Error("a list of vectors is empty")
	}
}

func TestARoomThatJSONCanNotHold(t *testing.T) {
	if err := CheckRoom("a\xffb"); err == nil || !strings.Contains(err.Error(), "valid UTF-8") {
		t.Error(err)
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
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
