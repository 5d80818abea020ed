package rate

import (
	"testing"
	"time"
)

func TestBucket(t *testing.T) {
	const ms = int64(time.Millisecond)
	type step struct{ at, n, wait int64 } // ms, units, ms
	for _, c := range []struct {
		rule  string
		limit Limit
		steps []step
	}{
		{"without a limit everything passes", Limit{}, []step{{0, 1 << 40, 0}, {0, 1 << 40, 0}}},
		{"a burst passes at once, the next waits for one unit", Limit{10, 3}, []step{{0, 1, 0}, {0, 1, 0}, {0, 1, 0}, {0, 1, 100}, {99, 1, 1}, {100, 1, 0}, {100, 1, 100}}},
		{"a pause fills the bucket and no more", Limit{10, 3}, []step{{0, 3, 0}, {60_000, 3, 0}, {60_000, 1, 100}}},
		{"several units wait for all of them", Limit{10, 3}, []step{{0, 2, 0}, {0, 3, 200}, {200, 3, 0}}},
		{"more than a burst passes when the bucket is full, and is paid for", Limit{10, 3}, []step{{0, 10, 0}, {0, 1, 800}, {800, 1, 0}, {800, 10, 300}}},
		{"a rate above one in a nanosecond's reach stays a rate", Limit{1 << 30, 1 << 30}, []step{{0, 1 << 30, 0}, {0, 1 << 30, 1000}}},
		{"the largest burst does not overflow", Limit{1, MaxBurst}, []step{{0, MaxBurst, 0}, {0, 1, 1000}}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			var b Bucket
			for i, s := range c.steps {
				wait := b.Wait(c.limit, s.n, s.at*ms)
				if wait != s.wait*ms {
					t.Fatalf("step %d: waits %s, want %d ms", i, time.Duration(wait), s.wait)
				}
				if wait == 0 {
					b.Spend(c.limit, s.n, s.at*ms)
				}
			}
		})
	}
}

// Whoever waits as long as he was told passes then, and not a moment earlier.
func TestWaitIsHonest(t *testing.T) {
	for _, l := range []Limit{{7, 3}, {1, 1}, {999_999_937, 12345}, {3, 1000}} {
		var b Bucket
		now := int64(0)
		for n := int64(1); n < 2000; n += 13 {
			if wait := b.Wait(l, n, now); wait > 0 {
				if b.Wait(l, n, now+wait-1) == 0 || b.Wait(l, n, now+wait) != 0 {
					t.Fatalf("%+v: %d units at %d: the wait of %d is wrong", l, n, now, wait)
				}
				now += wait
			}
			b.Spend(l, n, now)
		}
	}
}
