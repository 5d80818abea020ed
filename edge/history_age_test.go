package edge

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"nabat/internal/bus"
	"nabat/proto/policy"
)

// What can be proved to who comes back when all messages of a room have left the
// store.

// resumeAfter is resumeFrom of a client that says for how long it was away.
func resumeAfter(ms int, room string, offset uint64) string {
	return strings.Replace(resumeFrom(room, "k1", offset), `"rooms"`, fmt.Sprintf(`"away_ms":%d,"rooms"`, ms), 1)
}

// emptied waits until stream and mirror have let go of all messages.
func (c *cluster) emptied() {
	c.t.Helper()
	until(c.t, "the store is empty", func() bool {
		for _, name := range []string{c.set.Rooms[0].Stream.Name, c.set.Rooms[0].Stream.Mirror} {
			if s, err := c.jetstream().Stream(c.t.Context(), name); err != nil || s.CachedInfo().State.Msgs != 0 {
				return false
			}
		}
		return true
	})
}

func TestAllOfARoomHasExpired(t *testing.T) {
	c := newCluster(t, policy.Dev())
	// The streams let go sooner than the policy says, so that who was away for a
	// moment, by the policy, need not come back in that moment.
	s, h := c.kept("k1", policy.History{Age: time.Second}), policy.History{Age: time.Hour}
	set := policy.Dev()
	set.Version, set.Rooms[0].History, set.Rooms[0].Stream = 2, &h, &s
	c.set = set
	c.put(bus.BucketConfig, bus.KeyPolicies, set.Encode())

	c.store("a", "0")
	c.store("a", "1")
	c.mirrored(c.store("b", "2"))
	open := c.readyForHistory(c.edge(nil))
	dial(t, open, "/ws?room=a").connected("a") // from 2 on: nothing is in its memory
	c.emptied()
	fresh := c.readyForHistory(c.edge(nil))
	hurried := c.readyForHistory(c.edge(func(cfg *Config) { cfg.HistoryPatience = time.Second }))

	for _, v := range []struct {
		rule           string
		on             *Edge
		connect, rooms string
	}{
		{"who has the newest message of the stream misses nothing", fresh, resumeFrom("b", "k1", 3),
			`{"room":"b","epoch":"k1","offset":3,"recovered":true}`},
		{"who has not, and says not for how long, may miss what has expired", fresh, resumeFrom("a", "k1", 2),
			`{"room":"a","epoch":"k1","offset":0,"recovered":false,"reason":"history_cut"}`},
		{"who was away for less than half of what messages live misses nothing", fresh, resumeAfter(29*60_000, "a", 2),
			`{"room":"a","epoch":"k1","offset":2,"recovered":true}`},
		{"who was away for longer may", fresh, resumeAfter(31*60_000, "a", 2),
			`{"room":"a","epoch":"k1","offset":0,"recovered":false,"reason":"history_cut"}`},
		{"only a position above all that was ever stored is ahead", hurried, resumeAfter(1000, "a", 4),
			`{"room":"a","epoch":"k1","offset":0,"recovered":false,"reason":"ahead_of_history"}`},
		{"a node that knows the room knows who has all of it", open, resumeFrom("a", "k1", 2),
			`{"room":"a","epoch":"k1","offset":2,"recovered":true}`},
		{"and that who has not can not have the rest", open, resumeAfter(1000, "a", 1),
			`{"room":"a","epoch":"k1","offset":2,"recovered":false,"reason":"history_cut"}`},
	} {
		t.Run(v.rule, func(t *testing.T) {
			r := dial(t, v.on, "/ws")
			r.t = t
			r.send(v.connect)
			r.wantConnected(v.rooms)
			r.quiet()
		})
	}

	// An event stream can not say for how long: what the stream has decides.
	for last, want := range map[string]string{
		`{"b":"k1:3"}`: `{"room":"b","epoch":"k1","offset":3,"recovered":true}`,
		`{"b":"k1:2"}`: `{"room":"b","epoch":"k1","offset":0,"recovered":false,"reason":"history_cut"}`,
	} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+fresh.Addr()+"/sse?room=b", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Last-Event-ID", last)
		if hello := firstData(t, req); !strings.Contains(hello, `"rooms":[`+want+`]`) {
			t.Errorf("%s: %s", last, hello)
		}
	}

	// Who was told that nothing is missing gets what comes then, once.
	r := dial(t, fresh, "/ws")
	r.send(resumeFrom("b", "k1", 3))
	r.wantConnected(`{"room":"b","epoch":"k1","offset":3,"recovered":true}`)
	r.want(message("b", c.store("b", "3"), 3))
	r.quiet()
}

// What is older is still there, so it was not time that took the room's messages, and
// time proves nothing.
func TestTimeProvesNothingOfWhatWasRemovedByHand(t *testing.T) {
	c := newHistory(t, kept100())
	c.store("other", "0")
	c.store("a", "1")
	gone := c.store("a", "2") // 3
	c.store("other", "3")
	c.purge("a", gone)
	fresh := c.readyForHistory(c.edge(nil))
	c.resumed(fresh, resumeAfter(1000, "a", 2), `{"room":"a","epoch":"k1","offset":0,"recovered":false,"reason":"history_cut"}`)
}

// What is no longer kept when a slow reader gets to it is told, at its place and to
// the message.
func TestASlowReaderIsToldWhatIsNoLongerKept(t *testing.T) {
	const kept = 20
	c := newHistory(t, policy.History{Messages: kept, Age: time.Hour})
	e := c.readyForHistory(c.edge(func(cfg *Config) {
		cfg.LagQueueBytes, cfg.Loops, cfg.SendBuffer, cfg.RecentMessages = 32<<10, 1, 16<<10, 2
	}))
	slow := stall(t, e, "busy")
	body := `"` + strings.Repeat("x", 4<<10) + `"`
	var total uint64
	for e.workers[0].counts.Lags.Load() == 0 {
		total = c.store("busy", body)
	}
	for range 3 * kept {
		total = c.store("busy", body)
	}
	c.mirrored(total)
	var had, gaps uint64
	for had < total {
		got, err := slow.next()
		if err != nil {
			t.Fatalf("at %d of %d: %v", had, total, err)
		}
		var o struct {
			Offset uint64
			Gap    *struct {
				From, To uint64
				Reason   string
			}
			Lagging *struct{}
		}
		if err := json.Unmarshal([]byte(got), &o); err != nil {
			t.Fatalf("%.100s (%v)", got, err)
		}
		switch {
		case o.Lagging != nil:
		case o.Gap != nil:
			gaps++
			if o.Gap.Reason != "history_cut" || o.Gap.From != had || o.Gap.To <= had+1 {
				t.Fatalf("behind %d: %+v", had, *o.Gap)
			}
			had = o.Gap.To - 1
		default:
			if o.Offset != had+1 { // the whole stream is of this room
				t.Fatalf("got offset %d behind %d: %.100s", o.Offset, had, got)
			}
			had++
		}
	}
	if gaps == 0 {
		t.Error("nothing was lost: the test is none")
	}
	until(t, "the reader is live again", func() bool { return e.workers[0].counts.Lagging.Load() == 0 })
	c.publish("busy", "1", nil)
	slow.want(message("busy", total+1, 1))
}

// firstData is the first event of an event stream.
func firstData(t *testing.T, req *http.Request) string {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "data: ") {
	}
	return lines.Text()
}
