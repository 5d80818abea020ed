package quota

import (
	"strings"
	"testing"
)

// Each step is a call on the same namespaces, of 2 rooms and 3 members each; ! is a
// refusal.
func TestNamespaces(t *testing.T) {
	for _, c := range []struct{ name, steps string }{
		{"a namespace has so many rooms", "open:a.1 open:a.2 !open:a.3 !enter:a.3 open:b.1"},
		{"a room that is open counts once", "open:a.1 open:a.1 enter:a.1 open:a.2"},
		{"a room that nobody wants any more makes place", "open:a.1 open:a.2 close:a.1 open:a.3"},
		{"a room stays while it has members", "open:a.1 enter:a.1 close:a.1 open:a.2 !open:a.3 leave:a.1 open:a.3"},
		{"a namespace has so many members", "enter:a.1 enter:a.1 enter:a.2 !enter:a.1 !enter:a.2 leave:a.1 enter:a.2"},
		{"a room without a dot is a namespace", "enter:a enter:a.1 !enter:a.2"},
		{"who is refused is not counted", "enter:a.1 enter:a.1 enter:a.1 !enter:a.1 leave:a.1 enter:a.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := NewNamespaces(2, 3, nil)
			for _, step := range strings.Fields(c.steps) {
				call, room, _ := strings.Cut(strings.TrimPrefix(step, "!"), ":")
				ok := true
				switch call {
				case "open":
					ok = n.Open(room)
				case "enter":
					ok = n.Enter(room)
				case "close":
					n.Close(room)
				case "leave":
					n.Leave(room)
				}
				if ok == strings.HasPrefix(step, "!") {
					t.Fatalf("%s: %v", step, ok)
				}
			}
		})
	}
}

func TestNamespacesThatAreEmptyAreForgotten(t *testing.T) {
	n := NewNamespaces(0, 5, nil)
	if !n.Open("a.1") || !n.Enter("a.1") {
		t.Fatal("refused")
	}
	n.Close("a.1")
	n.Leave("a.1")
	if len(n.spaces) != 0 {
		t.Errorf("%d are kept", len(n.spaces))
	}
	if n := NewNamespaces(0, 0, nil); n != nil || !n.Enter("a") {
		t.Error("what is not bounded is counted, or refused")
	}
}
