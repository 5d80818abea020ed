package resume

import (
	"slices"
	"testing"
)

func push(r *Ring[uint64], size int, offsets ...uint64) {
	for _, o := range offsets {
		r.Push(Entry[uint64]{Offset: o, Item: o}, size)
	}
}

func offsets(list []Entry[uint64]) (l []uint64) {
	for _, e := range list {
		l = append(l, e.Offset)
	}
	return l
}

func TestRingRules(t *testing.T) {
	cases := []struct {
		rule  string
		build func(r *Ring[uint64])
		after uint64
		want  []uint64
		ok    bool
		low   uint64
	}{
		{"an empty ring proves what is behind its reset", func(r *Ring[uint64]) { r.Reset(5) }, 5, nil, true, 5},
		{"and nothing before it", func(r *Ring[uint64]) { r.Reset(5) }, 4, nil, false, 5},
		{"from low on it has everything", func(r *Ring[uint64]) { r.Reset(5); push(r, 1, 7, 9) }, 5, []uint64{7, 9}, true, 5},
		{"the offset need not be a message", func(r *Ring[uint64]) { r.Reset(5); push(r, 1, 7, 9) }, 8, []uint64{9}, true, 5},
		{"nothing is after the newest", func(r *Ring[uint64]) { r.Reset(5); push(r, 1, 7, 9) }, 9, nil, true, 5},
		{"nor above it", func(r *Ring[uint64]) { r.Reset(5); push(r, 1, 7, 9) }, 20, nil, true, 5},
		{"the oldest go first by number", func(r *Ring[uint64]) { push(r, 1, 1, 2, 3, 4, 5, 6, 7, 8) }, 3, []uint64{4, 5, 6, 7, 8}, true, 3},
		{"behind what is gone it proves nothing", func(r *Ring[uint64]) { push(r, 1, 1, 2, 3, 4, 5, 6) }, 0, nil, false, 1},
		{"the oldest go first by bytes", func(r *Ring[uint64]) { push(r, 40, 1, 2, 3) }, 1, []uint64{2, 3}, true, 1},
		{"one too large empties it", func(r *Ring[uint64]) { push(r, 1, 1, 2); push(r, 101, 3) }, 3, nil, true, 3},
		{"a repeated message is ignored", func(r *Ring[uint64]) { push(r, 1, 1, 2, 2, 1) }, 0, []uint64{1, 2}, true, 0},
		{"a reset forgets", func(r *Ring[uint64]) { push(r, 1, 1, 2); r.Reset(8); push(r, 1, 9) }, 8, []uint64{9}, true, 8},
		{"a smaller bound applies at once", func(r *Ring[uint64]) { push(r, 1, 1, 2, 3); r.Bound(1, 100); push(r, 1, 4) }, 3, []uint64{4}, true, 3},
		{"a ring of nothing still knows where it is", func(r *Ring[uint64]) { r.Bound(0, 0); push(r, 1, 1, 2) }, 2, nil, true, 2},
	}
	for _, c := range cases {
		t.Run(c.rule, func(t *testing.T) {
			var r Ring[uint64]
			r.Bound(5, 100)
			c.build(&r)
			list, ok := r.After(c.after)
			if got := offsets(list); ok != c.ok || !slices.Equal(got, c.want) {
				t.Errorf("after %d: %v, %v; want %v, %v", c.after, got, ok, c.want, c.ok)
			}
			if r.Low() != c.low {
				t.Errorf("low is %d, want %d", r.Low(), c.low)
			}
		})
	}
}

func TestAFullRingPushesWithoutAllocation(t *testing.T) {
	var r Ring[uint64]
	r.Bound(5, 100)
	if r.buf != nil {
		t.Fatal("a buffer for a room without messages")
	}
	offset := uint64(0)
	next := func() { offset++; push(&r, 1, offset) }
	for range 20 {
		next()
	}
	if n := testing.AllocsPerRun(100, next); n != 0 {
		t.Fatalf("%v allocations", n)
	}
	if len(r.buf) != 5 || r.Len() != 5 || r.Newest() != offset {
		t.Fatalf("%d slots, %d messages, newest %d of %d", len(r.buf), r.Len(), r.Newest(), offset)
	}
}
