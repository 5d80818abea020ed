package edge

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/internal/bus"
	"nabat/proto/policy"
)

// A slow reader of a room that conflates gets the newest of each key, in order,
// once it reads again, and neither a gap nor a close.
func TestASlowReaderGetsTheNewestOfEachKey(t *testing.T) {
	for _, history := range []bool{false, true} {
		t.Run(fmt.Sprintf("history %v", history), func(t *testing.T) {
			var c *cluster
			if history {
				c = newHistory(t, policy.History{Messages: 5000, Age: time.Hour})
				c.set.Version, c.set.Rooms[0].Slow = 3, policy.Conflate
				c.put(bus.BucketConfig, bus.KeyPolicies, c.set.Encode())
			} else {
				set := policy.Dev()
				set.Rooms[0].Slow = policy.Conflate
				c = newCluster(t, set)
			}
			e := c.edge(func(cfg *Config) { cfg.LagQueueBytes, cfg.Loops, cfg.SendBuffer = 32<<10, 1, 16<<10 })
			until(t, "the policy is in force", func() bool { return e.policy("quotes").SlowRule() == policy.Conflate })
			slow := stall(t, e, "quotes")
			filler := strings.Repeat("x", 4<<10)
			send := func(key string, n int) {
				body := fmt.Sprintf(`{"key":%q,"n":%d,"filler":%q}`, key, n, filler)
				c.publish("quotes", body, nats.Header{bus.HeaderKey: {key}})
			}
			n := 0
			for ; e.workers[0].counts.Lags.Load() == 0; n++ {
				send("ab"[n%2:n%2+1], n)
			}
			for range 50 {
				n++
				send("a", n)
			}
			last := map[string]int{"a": n, "b": n + 1}
			send("b", n+1)
			got, count, highest := map[string]int{}, 0, -1
			for got["a"] != last["a"] || got["b"] != last["b"] {
				text, err := slow.next()
				if err != nil {
					t.Fatal(err)
				}
				var m struct {
					Data struct {
						Key string
						N   int
					}
				}
				if err := json.Unmarshal([]byte(text), &m); err != nil || m.Data.Key == "" {
					t.Fatalf("%.100s (%v)", text, err)
				}
				if m.Data.N <= highest {
					t.Fatalf("%d after %d", m.Data.N, highest)
				}
				highest, got[m.Data.Key] = m.Data.N, m.Data.N
				count++
			}
			if count >= n {
				t.Errorf("%d of %d messages came: nothing was overtaken", count, n)
			}
			until(t, "the reader is live again", func() bool { return e.workers[0].counts.Lagging.Load() == 0 })
			send("a", n+2)
			slow.wantPrefix(`{"room":"quotes"`)
			if e.workers[0].counts.Conflated.Load() == 0 {
				t.Error("not counted")
			}
		})
	}
}

// With every, all members get the first message at once, and then the newest of
// each key when the time is over.
func TestConflationBoundsTheRateOfAKey(t *testing.T) {
	set := policy.Dev()
	set.Rooms[0].Conflation = &policy.Conflation{Every: 300 * time.Millisecond}
	c := newCluster(t, set)
	e := c.edge(nil)
	a := dial(t, e, "/ws?room=quotes")
	a.connected("quotes")
	send := func(key string, n int) { c.publish("quotes", fmt.Sprint(n), nats.Header{bus.HeaderKey: {key}}) }
	send("x", 1)
	a.want(`{"room":"quotes","data":1}`)
	for n := 2; n < 20; n++ {
		send("x", n)
	}
	send("y", 20)
	send("x", 21)
	// However the publishes fell into windows, the newest of both come last, and
	// what comes is in order.
	last, count := 1, 0
	for last != 21 {
		text, err := a.next()
		if err != nil {
			t.Fatal(err)
		}
		var m struct{ Data int }
		if err := json.Unmarshal([]byte(text), &m); err != nil || m.Data <= last {
			t.Fatalf("%s after %d (%v)", text, last, err)
		}
		last = m.Data
		count++
	}
	if count == 20 {
		t.Error("nothing was overtaken")
	}
}
