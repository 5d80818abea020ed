package swarm

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestOrder(t *testing.T) {
	tests := []struct {
		name                  string
		arrivals              []uint64
		total                 uint64
		late, twice, received int
		missing               uint64
	}{
		{"all once and in order", []uint64{1, 2, 3, 4}, 4, 0, 0, 4, 0},
		{"a duplicate of the last", []uint64{1, 2, 2, 3}, 3, 0, 1, 3, 0},
		{"a duplicate of an earlier one", []uint64{1, 2, 3, 1}, 3, 0, 1, 3, 0},
		{"a hole", []uint64{1, 2, 4, 5}, 5, 0, 0, 4, 1},
		{"a hole at the beginning", []uint64{3, 4}, 4, 0, 0, 2, 2},
		{"a hole at the end", []uint64{1, 2}, 5, 0, 0, 2, 3},
		{"nothing came", nil, 7, 0, 0, 0, 7},
		{"a swap is late and not missing", []uint64{1, 3, 2, 4}, 4, 1, 0, 4, 0},
		{"a swap and then the same again", []uint64{1, 3, 2, 2, 4}, 4, 1, 1, 4, 0},
		{"a wide hole filled from its middle", []uint64{1, 9, 5, 4, 6, 2, 8, 3, 7, 10}, 10, 7, 0, 10, 0},
		{"a wide hole filled in part", []uint64{1, 9, 5, 5}, 9, 1, 1, 3, 6},
		{"number 0 never is", []uint64{0, 1}, 1, 0, 1, 1, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var o Order
			var late, twice, received int
			for _, n := range test.arrivals {
				switch o.Take(n) {
				case InOrder:
					received++
				case Late:
					late++
					received++
				case Duplicate:
					twice++
				}
			}
			if late != test.late || twice != test.twice || received != test.received || o.Missing(test.total) != test.missing {
				t.Errorf("late %d, duplicates %d, received %d, missing %d; want %d %d %d %d",
					late, twice, received, o.Missing(test.total), test.late, test.twice, test.received, test.missing)
			}
		})
	}
}

// Whatever the shuffle, the counts are those of a set.
func TestOrderAgainstASet(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		const total = 60
		var o Order
		seen, highest := make(map[uint64]bool), uint64(0)
		for range 90 {
			n := 1 + random.Uint64N(total)
			want := InOrder
			if seen[n] {
				want = Duplicate
			} else if n < highest {
				want = Late
			}
			seen[n], highest = true, max(highest, n)
			if got := o.Take(n); got != want {
				t.Fatalf("Take(%d) = %d, want %d (holes %v)", n, got, want, o.holes)
			}
		}
		if got := o.Missing(total); got != uint64(total-len(seen)) {
			t.Fatalf("missing %d, want %d", got, total-len(seen))
		}
		if !slices.IsSortedFunc(o.holes, func(a, b hole) int { return int(a.first) - int(b.first) }) {
			t.Fatalf("holes %v", o.holes)
		}
	}
}

func TestOrderForgetsTheOldestHoleBeyondItsBound(t *testing.T) {
	var o Order
	for n := uint64(2); n <= 2*(maxHoles+3); n += 2 { // every odd number is missing
		o.Take(n)
	}
	if len(o.holes) != maxHoles {
		t.Errorf("%d holes, want %d", len(o.holes), maxHoles)
	}
	if got := o.Missing(2 * (maxHoles + 3)); got != maxHoles+3 {
		t.Errorf("missing %d, want %d", got, maxHoles+3)
	}
	if o.Take(1) != Duplicate {
		t.Error("a message for a forgotten hole is not a duplicate")
	}
}

func TestTakingInOrderAllocatesNothing(t *testing.T) {
	var o Order
	n := uint64(0)
	if got := testing.AllocsPerRun(1000, func() { n++; o.Take(n) }); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
