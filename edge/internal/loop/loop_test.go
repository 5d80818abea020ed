package loop

import (
	"errors"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

type recorder struct {
	events chan Events
	wakes  chan struct{}
}

func (r *recorder) Ready(ev Events) {
	select {
	case r.events <- ev:
	default:
	}
}

func (r *recorder) Wake() { r.wakes <- struct{}{} }

func newRecorder() *recorder {
	return &recorder{events: make(chan Events, 16), wakes: make(chan struct{}, 16)}
}

func start(t *testing.T, turn Turn) *Loop {
	t.Helper()
	l, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if err := l.Do(func() { l.SetTurn(turn) }); err != nil {
		t.Fatal(err)
	}
	return l
}

func pair(t *testing.T) (ours, theirs int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fds[1]) })
	return fds[0], fds[1]
}

func add(t *testing.T, l *Loop, fd int, h Handler) (ref Ref) {
	t.Helper()
	if err := l.Do(func() {
		var err error
		if ref, err = l.Add(fd, h); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	return ref
}

func await[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came in 10 s")
		panic("unreachable")
	}
}

func TestEventsReachTheHandler(t *testing.T) {
	l := start(t, nil)
	ours, theirs := pair(t)
	h := newRecorder()
	ref := add(t, l, ours, h)
	if _, err := unix.Write(theirs, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if ev := await(t, h.events); !ev.Readable() || ev.Writable() {
		t.Fatalf("first event %x: that the new socket is writable nobody asked", ev)
	}
	if err := l.Do(func() { l.AwaitRoom(ref) }); err != nil {
		t.Fatal(err)
	}
	if ev := await(t, h.events); !ev.Writable() {
		t.Fatalf("event %x: there is room", ev)
	}
}

func TestAnEventOfAClosedConnectionDoesNotReachItsSuccessor(t *testing.T) {
	l := start(t, nil)
	ours, theirs := pair(t)
	h := newRecorder()
	ref := add(t, l, ours, h)
	successor := newRecorder()
	err := l.Do(func() {
		// The event is under way when the connection closes and its slot is
		// used again.
		if _, err := unix.Write(theirs, []byte("x")); err != nil {
			t.Error(err)
		}
		l.Remove(ref)
		next := l.table.add(-1, successor)
		if next.Slot != ref.Slot || next.Generation == ref.Generation {
			t.Errorf("slot %v after %v", next, ref)
		}
		if l.Handler(ref) != nil || l.Remove(ref) {
			t.Error("the old name still finds a connection")
		}
		l.table.remove(next)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(successor.events) != 0 {
		t.Fatal("the successor got an event")
	}
}

func TestPostRunsOnTheLoopInOrder(t *testing.T) {
	l := start(t, nil)
	var got []int
	for i := range 1000 {
		if err := l.Post(func() { got = append(got, i) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Do(func() {}); err != nil {
		t.Fatal(err)
	}
	for i, v := range got {
		if i != v {
			t.Fatalf("task %d ran at place %d", v, i)
		}
	}
	if len(got) != 1000 {
		t.Fatalf("%d of 1000 tasks ran", len(got))
	}
}

func TestPostAfterCloseIsRefused(t *testing.T) {
	l, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Post(func() { t.Error("ran") }); err != ErrClosed {
		t.Fatalf("got %v", err)
	}
	if err := l.Close(); err != ErrClosed {
		t.Fatalf("second close: %v", err)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestWhatPostTookRunsAlsoWhenTheLoopCloses(t *testing.T) {
	for range 100 {
		l, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		var taken, ran atomic.Int64
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for l.Post(func() { ran.Add(1) }) == nil {
					taken.Add(1)
				}
			})
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if taken.Load() != ran.Load() {
			t.Fatalf("%d tasks were taken, %d ran", taken.Load(), ran.Load())
		}
	}
}

// An error of epoll_wait ends the loop's goroutine: nobody may wait for it.
func TestALoopThatFailsSaysSoAndCloses(t *testing.T) {
	before := descriptors(t)
	failed := make(chan error, 2)
	l, err := New(Options{OnError: func(err error) { failed <- err }})
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := fds[0], fds[1]
	add(t, l, ours, newRecorder())
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	// From the next turn on the loop waits on a descriptor that is no epoll.
	epoll := int(reflect.ValueOf(l.epoll).Elem().FieldByName("fd").Int())
	if err := l.Do(func() {
		if err := unix.Dup3(null, epoll, unix.O_CLOEXEC); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := await(t, failed); !errors.Is(err, unix.EINVAL) {
		t.Fatal(err)
	}
	if err := l.Post(func() { t.Error("ran") }); err != ErrClosed {
		t.Fatalf("post: %v", err)
	}
	if err := l.Do(func() { t.Error("ran") }); err != ErrClosed {
		t.Fatalf("do: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l.Connections() != 0 {
		t.Fatal("a connection stays")
	}
	if n, err := unix.Read(theirs, make([]byte, 1)); n != 0 || err != nil {
		t.Fatalf("the connection is not closed: %d %v", n, err)
	}
	_, _ = unix.Close(theirs), unix.Close(null)
	if after := descriptors(t); after != before {
		t.Fatalf("%d descriptors, %d before", after, before)
	}
	if len(failed) != 0 {
		t.Fatalf("failed twice: %v", <-failed)
	}
}

func TestWhoWaitsWhenTheLoopFailsIsReleased(t *testing.T) {
	l, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	answer := make(chan error, 1)
	if err := l.Do(func() {
		go func() { answer <- l.Do(func() { t.Error("ran") }) }()
		for waits := false; !waits; {
			l.mu.Lock()
			waits = len(l.tasks) > 0
			l.mu.Unlock()
		}
		l.fail()
	}); err != nil && err != ErrClosed {
		t.Fatal(err)
	}
	if err := await(t, answer); err != ErrClosed {
		t.Fatalf("got %v", err)
	}
}

type turns struct{ n atomic.Int64 }

func (c *turns) EndTurn() { c.n.Add(1) }

func TestATurnEndsAfterPostedTasks(t *testing.T) {
	c := &turns{}
	l := start(t, c)
	var before int64
	if err := l.Do(func() { before = c.n.Load() }); err != nil {
		t.Fatal(err)
	}
	if err := l.Do(func() {}); err != nil {
		t.Fatal(err)
	}
	if c.n.Load() <= before {
		t.Fatal("no turn ended")
	}
}

func TestManyKicksCostOneTurn(t *testing.T) {
	c := &turns{}
	l := start(t, c)
	_ = l.Do(func() {
		before := c.n.Load()
		for range 1000 {
			l.Kick()
		}
		if c.n.Load() != before {
			t.Error("a kick ran a turn inside a turn")
		}
	})
}

func TestWake(t *testing.T) {
	l := start(t, nil)
	ours, _ := pair(t)
	h := newRecorder()
	ref := add(t, l, ours, h)
	_ = l.Do(func() {
		l.WakeIn(ref, time.Hour)
		l.WakeIn(ref, time.Millisecond) // the earliest wins
	})
	await(t, h.wakes)
}

// The wheel against a model, with a clock of its own.
func TestWheel(t *testing.T) {
	var tab table
	var w wheel
	now := time.Unix(1000, 0)
	w.start(now)
	h := newRecorder()
	fired := func() int { n := len(h.wakes); drain(h.wakes); return n }
	ref := tab.add(-1, h)
	for _, c := range []struct {
		rule    string
		set     []time.Duration
		advance time.Duration
		want    int
	}{
		{"not before its time", []time.Duration{time.Second}, 900 * time.Millisecond, 0},
		{"at its time", nil, 200 * time.Millisecond, 1},
		{"once", nil, time.Minute, 0},
		{"the earliest of several wins", []time.Duration{time.Minute, time.Second}, 2 * time.Second, 1},
		{"the overtaken one does not fire", nil, 2 * time.Minute, 0},
		{"beyond the horizon it takes several rounds", []time.Duration{10 * time.Minute}, 9 * time.Minute, 0},
		{"and then fires", nil, 2 * time.Minute, 1},
		{"zero is the next tick", []time.Duration{0}, 100 * time.Millisecond, 1},
		{"a later one is ignored while an earlier is pending", []time.Duration{time.Second, time.Second, 2 * time.Second}, 10 * time.Second, 1},
	} {
		for _, d := range c.set {
			w.set(ref, d, &tab)
		}
		now = now.Add(c.advance)
		w.advance(now, &tab)
		if got := fired(); got != c.want {
			t.Errorf("%s: fired %d times, want %d", c.rule, got, c.want)
		}
	}
	w.set(ref, time.Second, &tab)
	tab.remove(ref)
	w.advance(now.Add(time.Minute), &tab)
	if fired() != 0 {
		t.Error("a closed connection was woken")
	}
}

func drain(ch chan struct{}) {
	for len(ch) > 0 {
		<-ch
	}
}

func TestAgainComesBackInTheNextTurn(t *testing.T) {
	l := start(t, nil)
	ours, _ := pair(t)
	h := newRecorder()
	ref := add(t, l, ours, h)
	_ = l.Do(func() { l.Again(ref) })
	if ev := await(t, h.events); !ev.Readable() {
		t.Fatalf("event %x", ev)
	}
}

// greedy asks to go on at every event, twice, as a reader does that never
// comes to an end.
type greedy struct {
	loop  *Loop
	ref   Ref
	ready int
}

func (g *greedy) Ready(Events) {
	g.ready++
	g.loop.Again(g.ref)
	g.loop.Again(g.ref)
}

func (g *greedy) Wake() {}

func TestAgainTwiceIsAgainOnce(t *testing.T) {
	l := start(t, nil)
	ours, theirs := pair(t)
	g := &greedy{loop: l}
	_ = l.Do(func() {
		var err error
		if g.ref, err = l.Add(ours, g); err != nil {
			t.Error(err)
		}
	})
	seen, most, turns := 0, 0, 0
	over := make(chan struct{})
	var turn func()
	turn = func() { // once in every turn
		if turns > 0 {
			most = max(most, g.ready-seen)
		}
		seen = g.ready
		if turns++; turns > 100 {
			l.Remove(g.ref)
			close(over)
			return
		}
		if _, err := unix.Write(theirs, []byte("x")); err != nil {
			t.Error(err) // an event of its own in every turn
		}
		_ = l.Post(turn)
	}
	_ = l.Post(turn)
	await(t, over)
	if most > 2 {
		t.Errorf("ready %d times in one turn: an event and one Again are two", most)
	}
}

func BenchmarkPost(b *testing.B) {
	l, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	b.ReportAllocs()
	fn := func() {}
	for b.Loop() {
		_ = l.Post(fn)
	}
	_ = l.Do(func() {})
}
