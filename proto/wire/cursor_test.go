package wire

import (
	"maps"
	"strings"
	"testing"
)

type cursorVector struct {
	Rule, Cursor, Reason string
	Positions            []Position
}

func (v *cursorVector) byRoom() map[string]Position {
	m := make(map[string]Position)
	for _, p := range v.Positions {
		if p.Epoch != "" {
			m[p.Room] = p
		}
	}
	return m
}

func TestCursorVectors(t *testing.T) {
	var list struct{ Cursors, Read, Refused []cursorVector }
	load(t, "cursors.json", &list)
	if len(list.Cursors) == 0 || len(list.Read) == 0 || len(list.Refused) == 0 {
		t.Fatal("a list of vectors is empty")
	}
	for _, v := range list.Cursors {
		t.Run(v.Rule, func(t *testing.T) {
			if got := string(AppendCursor(nil, v.Positions)); got != v.Cursor {
				t.Errorf("got  %s\nwant %s", got, v.Cursor)
			}
		})
	}
	for _, v := range append(list.Cursors, list.Read...) {
		t.Run(v.Rule+", read", func(t *testing.T) {
			got, err := ParseCursor(v.Cursor)
			if err != nil || !maps.Equal(got, v.byRoom()) {
				t.Errorf("got %v, %v; want %v", got, err, v.byRoom())
			}
		})
	}
	for _, v := range list.Refused {
		t.Run(v.Rule, func(t *testing.T) {
			got, err := ParseCursor(v.Cursor)
			if err == nil || err.Code != BadRequest || !strings.Contains(err.Reason, v.Reason) {
				t.Errorf("got %v, %v; want %s", got, err, v.Reason)
			}
		})
	}
}
