package nodes

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"nabat/internal/bus"
)

func TestALeaseIsGoneOnlyWhenOurOwnIsStillSeen(t *testing.T) {
	const own = "control.me"
	l := newLeases(own)
	now := time.Unix(1_000_000, 0)
	revision := uint64(0)
	put := func(key string, at time.Duration) {
		revision++
		value, _ := json.Marshal(bus.Lease{Node: key[len("edge."):], State: "ready"})
		l.put(key, value, revision, now.Add(at))
	}
	own0 := func(at time.Duration) {
		revision++
		l.put(own, []byte(`{"node":"me"}`), revision, now.Add(at))
	}
	if l.gone("a") || l.known() {
		t.Fatal("before the watch has told anything, somebody is taken for dead")
	}
	put("edge.a", 0)
	l.settled()
	if !l.gone("b") || l.gone("a") || l.known() {
		t.Fatal("an edge without a lease is there, or one with a lease is not")
	}
	own0(0)
	own0(14 * time.Second)
	if l.gone("a") || !l.known() {
		t.Fatal("a lease has ended before its time")
	}
	if l.gone("a") { // the watch is silent: nobody dies of that
		t.Fatal("a silent watch killed an edge")
	}
	own0(16 * time.Second)
	if !l.gone("a") || len(l.live("edge.")) != 0 {
		t.Fatal("a lease that was not renewed for longer than its time is there")
	}
	put("edge.a", 17*time.Second)
	l.put("edge.a", []byte(`{"node":"a"}`), revision, now.Add(time.Hour)) // a new watch repeats what is there
	own0(33 * time.Second)
	if !l.gone("a") {
		t.Fatal("a repetition has renewed a lease")
	}
	put("edge.a", 33*time.Second)
	l.remove("edge.a")
	if !l.gone("a") {
		t.Fatal("a lease that was given back is there")
	}
	if l.stale(now.Add(40*time.Second)) || !l.stale(now.Add(60*time.Second)) {
		t.Fatal("stale")
	}
}

func TestRoomsAreSpreadOverReplicasAndMoveOnlyWithThem(t *testing.T) {
	ids := []string{"a1", "a2", "a3"}
	count := make(map[string]int)
	for i := range 30_000 {
		room := fmt.Sprint("chat.", i)
		owner := first(ids, room)
		count[owner]++
		if owner != "a2" && first([]string{"a3", "a1"}, room) != owner {
			t.Fatalf("%s moved though its replica stays", room)
		}
	}
	for id, n := range count {
		if n < 9_000 || n > 11_000 {
			t.Errorf("%s has %d of 30000 rooms", id, n)
		}
	}
	if bus.NodeToken("edge.0 a") != "edge%2E0%20a" {
		t.Error(bus.NodeToken("edge.0 a"))
	}
}
