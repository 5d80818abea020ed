package conflate

import (
	"fmt"
	"testing"

	"nabat/edge/internal/frame"
	"nabat/proto/wire"
)

func put(t *Table, key, body string) {
	m := frame.New(wire.Message{Room: "r", Kind: wire.Text, Body: []byte(body)}, "")
	m.Key = key
	t.Put(m)
}

func bodies(list []*frame.Message) (s string) {
	for _, m := range list {
		s += string(m.Body) + " "
	}
	return s
}

func TestSince(t *testing.T) {
	var table Table
	put(&table, "a", "a1")
	put(&table, "b", "b1")
	at := table.At()
	put(&table, "a", "a2")
	put(&table, "c", "c1")
	put(&table, "a", "a3")
	for _, c := range []struct {
		rule string
		at   uint64
		want string
	}{
		{"everything, each key once, in the order of the newest", 0, "b1 c1 a3 "},
		{"what came behind a place", at, "c1 a3 "},
		{"nothing new", table.At(), ""},
	} {
		list, whole := table.Since(c.at)
		if got := bodies(list); got != c.want || !whole {
			t.Errorf("%s: got %q, whole %v", c.rule, got, whole)
		}
	}
}

func TestKeysAreBoundedAndALossIsTold(t *testing.T) {
	var table Table
	for i := range MaxKeys {
		put(&table, fmt.Sprint(i), "x")
	}
	at := table.At()
	if _, whole := table.Since(0); !whole {
		t.Error("lossy before the bound")
	}
	put(&table, "0", "again") // no new key: the oldest is now 1
	put(&table, "new", "x")
	if len(table.newest) != MaxKeys {
		t.Errorf("%d keys", len(table.newest))
	}
	if _, ok := table.newest["1"]; ok {
		t.Error("the key that was silent for longest is still there")
	}
	if _, whole := table.Since(0); whole {
		t.Error("who needs the forgotten message is not told")
	}
	if list, whole := table.Since(at); !whole || len(list) != 2 {
		t.Errorf("who had it needs nothing: %d, whole %v", len(list), whole)
	}
}
