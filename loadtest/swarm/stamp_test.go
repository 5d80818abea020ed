package swarm

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

func TestPayloadIsJSONOfTheAskedSize(t *testing.T) {
	for _, size := range []int{0, MinPayload, MinPayload + 1, 128, 4096} {
		payload := AppendPayload(nil, Stamp{1, 2, 3, 7}, size)
		if len(payload) != max(size, MinPayload) {
			t.Errorf("size %d gave %d bytes", size, len(payload))
		}
		if !json.Valid(payload) {
			t.Errorf("not JSON: %s", payload)
		}
	}
}

func TestStampIsFoundInWhateverIsAroundIt(t *testing.T) {
	want := Stamp{Run: 0xfeedface, Sequence: 1<<40 - 1, At: math.MaxInt64, Room: 1<<24 - 1}
	payload := AppendPayload(nil, want, 200)
	quoted, _ := json.Marshal(string(payload))
	for _, text := range []string{
		string(payload),
		fmt.Sprintf(`{"room":"a","offset":7,"data":%s}`, payload),
		fmt.Sprintf(`{"push":{"pub":{"data":%s}}}`, quoted),
		"@L" + string(payload),
	} {
		got, end := findStamp([]byte(text), 0)
		if got != want || end < 0 {
			t.Errorf("%s: %+v", text, got)
		}
		if _, again := findStamp([]byte(text), end); again >= 0 {
			t.Errorf("%s: a second stamp", text)
		}
	}
}

func TestStampIsNotFoundWhereNoneIs(t *testing.T) {
	good := string(appendStamp(nil, Stamp{1, 2, 3, 7}))
	for _, text := range []string{"", "@", "@LT", good[:len(good)-1], good[:len(good)-1] + "#", "@LTX" + good[4:], "@LT" + strings.Repeat("f", 40) + "@"} {
		if s, end := findStamp([]byte(text), 0); end >= 0 {
			t.Errorf("%q: %+v", text, s)
		}
	}
}

func TestSeveralStampsOfOneFrame(t *testing.T) {
	var text []byte
	for n := range uint64(3) {
		text = append(AppendPayload(text, Stamp{9, n, 0, 0}, 100), '\n')
	}
	at := 0
	for n := range uint64(3) {
		s, end := findStamp(text, at)
		if end < 0 || s.Sequence != n {
			t.Fatalf("stamp %d: %+v", n, s)
		}
		at = end
	}
}

func TestRestamp(t *testing.T) {
	payload := AppendPayload(nil, Stamp{1, 2, 3, 7}, 128)
	Restamp(payload, Stamp{4, 5, 6, 8})
	if want := AppendPayload(nil, Stamp{4, 5, 6, 8}, 128); string(payload) != string(want) {
		t.Errorf("%s", payload)
	}
}

func TestNowAdvances(t *testing.T) {
	a := Now()
	if b := Now(); b < a || a <= 0 {
		t.Errorf("%d, then %d", a, b)
	}
}

func TestNowIsTheMachinesClock(t *testing.T) {
	before := monotonic()
	now := Now()
	// The anchor is at most half a gap off, which is below this unless all tries
	// were interrupted.
	const off = int64(time.Millisecond)
	if after := monotonic(); now < before-off || now > after+off {
		t.Errorf("%d is not between %d and %d", now, before, after)
	}
}
