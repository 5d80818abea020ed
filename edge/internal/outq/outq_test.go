package outq

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func item(room uint32, n int) Item { return Item{Bytes: make([]byte, n), Room: room, Count: 1} }

func TestPush(t *testing.T) {
	const bound = 100
	type push struct {
		it   Item
		rule Rule
		want Verdict
	}
	for _, c := range []struct {
		rule   string
		pushes []push
		gaps   int
		bytes  int
	}{
		{"messages up to the bound are queued", []push{{item(1, 60), Drop, Queued}, {item(1, 40), Drop, Queued}}, 0, 100},
		{"a message over the bound is dropped and its room noted once", []push{{item(1, 90), Drop, Queued}, {item(2, 20), Drop, Dropped}, {item(2, 20), Drop, Dropped}}, 1, 90},
		{"after a drop even small messages are dropped: one gap, not many", []push{{item(1, 90), Drop, Queued}, {item(1, 20), Drop, Dropped}, {item(3, 1), Drop, Dropped}}, 2, 90},
		{"a room that must not lose messages overflows", []push{{item(1, 90), Drop, Queued}, {item(1, 20), Disconnect, Overflow}}, 0, 90},
		{"a room with history lags: nothing of it is queued or noted", []push{{item(1, 90), Lag, Queued}, {item(1, 20), Lag, Lagging}, {item(1, 5), Lag, Queued}}, 0, 95},
		{"a gap of another room does not stop one with history", []push{{item(1, 90), Drop, Queued}, {item(1, 20), Drop, Dropped}, {item(2, 5), Lag, Queued}}, 1, 95},
		{"a single frame larger than the bound is taken by an empty queue", []push{{item(1, 500), Drop, Queued}}, 0, 500},
		{"replies may exceed the bound by the reserve", []push{{item(1, 100), Drop, Queued}, {item(NoRoom, 50), Drop, Queued}, {item(NoRoom, replyReserve), Drop, Overflow}}, 0, 150},
	} {
		t.Run(c.rule, func(t *testing.T) {
			var q Queue
			for i, p := range c.pushes {
				if got := q.Push(p.it, bound, p.rule); got != p.want {
					t.Fatalf("push %d: got %d, want %d", i, got, p.want)
				}
			}
			if len(q.gaps) != c.gaps || q.Bytes() != c.bytes {
				t.Fatalf("gaps %v, bytes %d", q.gaps, q.Bytes())
			}
		})
	}
}

func TestGapsAreTakenOnceTheQueueIsHalfEmpty(t *testing.T) {
	var q Queue
	q.Push(item(1, 100), 100, Drop)
	q.Push(item(7, 1), 100, Drop)
	if q.TakeGaps(100) != nil {
		t.Fatal("taken while the queue is full")
	}
	q.Advance(50)
	if got := q.TakeGaps(100); len(got) != 1 || got[0] != 7 {
		t.Fatalf("got %v", got)
	}
	if v := q.Push(item(7, 1), 100, Drop); v != Queued {
		t.Fatalf("after the notice: %v", v)
	}
}

func TestForgetRoom(t *testing.T) {
	var q Queue
	q.Push(item(1, 100), 100, Drop)
	q.Push(item(7, 1), 100, Drop)
	q.ForgetRoom(7)
	if q.Gapped() {
		t.Fatal("a room that was left must not be announced")
	}
}

func TestGatherCopiesOnlyWhatMustBeJoined(t *testing.T) {
	scratch := make([]byte, 0, 8)
	for _, c := range []struct {
		rule   string
		items  []string
		want   string
		shared bool // the item's own bytes
	}{
		{"nothing waits", nil, "", true},
		{"a single item is not copied", []string{"abc"}, "abc", true},
		{"nor is a first item that alone fills the buffer", []string{"abcdefghi", "j"}, "abcdefghi", true},
		{"small items are joined", []string{"abc", "def"}, "abcdef", false},
		{"as far as they fit", []string{"abc", "def", "ghi", "j"}, "abcdefgh", false},
	} {
		t.Run(c.rule, func(t *testing.T) {
			var q Queue
			for _, s := range c.items {
				q.Force(Item{Bytes: []byte(s), Count: 1})
			}
			got := q.Gather(scratch)
			if string(got) != c.want {
				t.Fatalf("got %q", got)
			}
			if shared := len(got) == 0 || &got[0] != &scratch[:1][0]; shared != c.shared {
				t.Fatalf("the item's own bytes: %v", shared)
			}
			if q.Len() != len(c.items) {
				t.Fatal("Gather took items off")
			}
		})
	}
}

func TestTruncateKeepsAFrameThatWasBegun(t *testing.T) {
	for _, c := range []struct {
		rule    string
		items   []string
		written int
		dropped int
		want    string
	}{
		{"an empty queue", nil, 0, 0, ""},
		{"one item stays", []string{"abc"}, 0, 0, "abc"},
		{"what is behind the first goes", []string{"abc", "de", "f"}, 0, 3, "abc"},
		{"the rest of a begun frame stays", []string{"abc", "de", "f"}, 1, 3, "bc"},
		{"also when it is not the first of all", []string{"abc", "de", "f"}, 4, 1, "e"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			var q Queue
			for _, s := range c.items {
				q.Force(Item{Bytes: []byte(s), Count: 1})
			}
			q.Advance(c.written)
			q.noteGap(7)
			if got := q.Truncate(); got != c.dropped || q.Gapped() {
				t.Errorf("dropped %d, gapped %v", got, q.Gapped())
			}
			if got := q.Gather(make([]byte, 0, 64)); string(got) != c.want || q.Bytes() != len(c.want) {
				t.Errorf("left %q, %d bytes", got, q.Bytes())
			}
		})
	}
}

// A queue that is written as fast as it is filled neither grows nor keeps what
// was written.
func TestASteadyQueueNeitherGrowsNorAllocates(t *testing.T) {
	var q Queue
	it, scratch := item(1, 100), make([]byte, 0, 1024)
	step := func() {
		q.Push(it, 1000, Drop)
		q.Advance(len(q.Gather(scratch)) - 50)
	}
	for range 100 {
		step()
	}
	if n := testing.AllocsPerRun(100, func() { step() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if cap(q.items) > 32 {
		t.Errorf("%d places for %d items", cap(q.items), q.Len())
	}
	for _, old := range q.items[:q.head] {
		if old.Bytes != nil {
			t.Fatal("a written buffer is still held")
		}
	}
}

// Whatever the sizes of pushes and writes, the bytes come out as they went in.
func TestBytesComeOutInOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var q Queue
	var want, got []byte
	scratch := make([]byte, 0, 64)
	next := byte(0)
	for range 5000 {
		if r.IntN(2) == 0 {
			b := make([]byte, 1+r.IntN(100))
			for i := range b {
				b[i] = next
				next++
			}
			want = append(want, b...)
			q.Force(Item{Bytes: b})
			continue
		}
		out := q.Gather(scratch)
		if len(out) == 0 {
			continue
		}
		n := 1 + r.IntN(len(out))
		got = append(got, out[:n]...)
		q.Advance(n)
	}
	for q.Len() > 0 {
		out := q.Gather(scratch)
		got = append(got, out...)
		q.Advance(len(out))
	}
	if !bytes.Equal(got, want) || q.Bytes() != 0 {
		t.Fatalf("%d bytes out, %d in, %d left", len(got), len(want), q.Bytes())
	}
}
