package block

import (
	"strings"
	"testing"
	"time"
)

func TestEntriesReadBack(t *testing.T) {
	for _, e := range []Entry{
		{Kind: Token, Subject: "5e2b", Created: 5, Until: 9},
		{Kind: User, Subject: "a b>*.\n\x00ö", Created: 5, Reason: "spam"},
		{Kind: Issued, Subject: "alice", Before: 7, Created: 5, Until: 100},
	} {
		got, err := Decode(e.Encode())
		if err != nil || *got != e {
			t.Errorf("%+v: %+v, %v", e, got, err)
		}
		kind, digest, _ := strings.Cut(e.Key(), ".")
		if kind != string(e.Kind) || len(digest) != 32 || strings.Trim(digest, "0123456789abcdef") != "" {
			t.Errorf("key %q", e.Key())
		}
	}
	if Key(User, "alice") == Key(Issued, "alice") || Key(User, "alice") == Key(User, "Alice") {
		t.Error("two subjects share a key")
	}
}

func TestEntriesThatMeanNothingAreRefused(t *testing.T) {
	for rule, text := range map[string]string{
		"no JSON":                  `{`,
		"an unknown kind":          `{"kind":"room","subject":"a"}`,
		"no subject":               `{"kind":"user"}`,
		"a long subject":           `{"kind":"user","subject":"` + strings.Repeat("a", MaxSubject+1) + `"}`,
		"issued without a time":    `{"kind":"issued","subject":"a"}`,
		"a time where none is":     `{"kind":"user","subject":"a","before":5}`,
		"an end before everything": `{"kind":"user","subject":"a","until":-1}`,
	} {
		if e, err := Decode([]byte(text)); err == nil {
			t.Errorf("%s: %+v", rule, e)
		}
	}
}

func TestAnEntryIsOverAtItsEnd(t *testing.T) {
	now := time.Unix(100, 0)
	for until, want := range map[int64]bool{0: false, 99: true, 100: true, 101: false} {
		if e := (Entry{Until: until}); e.Over(now) != want {
			t.Errorf("until %d: over is %t", until, !want)
		}
	}
}
