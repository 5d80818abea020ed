package transport

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nabat/edge/internal/loop"
	"nabat/edge/internal/metrics"
	"nabat/edge/internal/outq"
)

// fixture is a writer on a loop with one connection on a socket pair.
type fixture struct {
	t      *testing.T
	loop   *loop.Loop
	writer *Writer
	counts *metrics.Loop
	owner  *owner
	peer   *os.File
}

type owner struct {
	f       *fixture
	out     Out
	failed  error
	slow    bool
	drained int
	gaps    []uint32
	lags    []uint32
}

func (o *owner) Ready(ev loop.Events) {
	if ev.Writable() {
		o.f.writer.Writable(&o.out)
	}
}
func (o *owner) Wake()              {}
func (o *owner) Lagged(room uint32) { o.lags = append(o.lags, room) }
func (o *owner) Drained()           { o.drained++ }
func (o *owner) Failed(err error)   { o.failed = err }
func (o *owner) Slow()              { o.slow = true }
func (o *owner) Gapped(rooms []uint32) {
	o.gaps = append(o.gaps, rooms...)
	o.f.writer.Send(&o.out, []byte("GAP"))
}

type turn struct{ w *Writer }

func (t turn) EndTurn() { t.w.Flush() }

// strict says that rooms from 100 on must not lose messages, and that those from
// 200 on have history.
type strict struct{}

func (strict) Rule(room uint32) outq.Rule {
	switch {
	case room >= 200:
		return outq.Lag
	case room >= 100:
		return outq.Disconnect
	}
	return outq.Drop
}

func setup(t *testing.T, maxQueue int) *fixture {
	t.Helper()
	f := &fixture{t: t, counts: new(metrics.Loop)}
	l, err := loop.New(loop.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_SNDBUF, 4096)
	f.loop, f.peer, f.owner = l, os.NewFile(uintptr(fds[1]), "peer"), &owner{}
	f.owner.f = f
	t.Cleanup(func() { _ = f.peer.Close() })
	f.do(func() {
		w := NewWriter(l, strict{}, f.counts, Bounds{Queue: maxQueue, Lag: maxQueue})
		l.SetTurn(turn{w})
		f.writer = w
		ref, err := l.Add(fds[0], f.owner)
		if err != nil {
			t.Error(err)
		}
		w.Open(&f.owner.out, ref, Socket{FD: fds[0]}, false)
	})
	return f
}

func (f *fixture) do(fn func()) {
	f.t.Helper()
	if err := f.loop.Do(fn); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) read(n int) []byte {
	f.t.Helper()
	_ = f.peer.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, n)
	if _, err := io.ReadFull(f.peer, b); err != nil {
		f.t.Fatal(err)
	}
	return b
}

func TestATurnIsOneSend(t *testing.T) {
	f := setup(t, 1<<20)
	f.do(func() {
		for i := range 10 {
			f.writer.Send(&f.owner.out, fmt.Appendf(nil, "%d,", i))
		}
	})
	if got := string(f.read(20)); got != "0,1,2,3,4,5,6,7,8,9," {
		t.Fatalf("got %q", got)
	}
	f.do(func() { // the turn is counted once it is over
		if n := f.counts.Sends.Load(); n != 1 {
			t.Errorf("%d sends for one turn", n)
		}
	})
}

func TestDeliverDoesNotOvertakeWhatWaits(t *testing.T) {
	f := setup(t, 1<<20)
	f.do(func() {
		f.writer.Send(&f.owner.out, []byte("reply "))
		f.writer.Deliver(f.owner.out.ref.Slot, 1, []byte("message"), 1)
	})
	if got := string(f.read(13)); got != "reply message" {
		t.Fatalf("got %q", got)
	}
}

func TestAFullSocketKeepsOrderAndLosesNothing(t *testing.T) {
	f := setup(t, 64<<20)
	var want bytes.Buffer
	for round := range 50 {
		f.do(func() {
			for i := range 20 {
				b := bytes.Repeat([]byte{byte(round), byte(i)}, 700)
				want.Write(b)
				if i%2 == 0 {
					f.writer.Deliver(f.owner.out.ref.Slot, 1, b, 1)
				} else {
					f.writer.Send(&f.owner.out, b)
				}
			}
		})
	}
	if got := f.read(want.Len()); !bytes.Equal(got, want.Bytes()) {
		t.Fatal("bytes differ")
	}
	f.do(func() {
		if f.owner.out.Pending() != 0 || f.owner.out.queue != nil || f.counts.QueuedBytes.Load() != 0 {
			t.Errorf("%d bytes pending, gauge %d", f.owner.out.Pending(), f.counts.QueuedBytes.Load())
		}
		if f.owner.drained == 0 {
			t.Error("the owner was not told")
		}
	})
}

func TestASlowReaderLosesWholeMessagesAndIsTold(t *testing.T) {
	const bound, size = 16 << 10, 1000
	f := setup(t, bound)
	message := func(i int) []byte { return append(fmt.Appendf(nil, "<%03d", i), bytes.Repeat([]byte{'.'}, size-4)...) }
	for i := range 100 {
		f.do(func() { f.writer.Deliver(f.owner.out.ref.Slot, 7, message(i), 1) })
	}
	var dropped uint64
	f.do(func() {
		if p := f.owner.out.Pending(); p > bound {
			t.Errorf("%d bytes wait: the bound is %d", p, bound)
		}
		f.counts.Drops.Each(func(reason string, n uint64) {
			if reason == "slow" {
				dropped = n
			}
		})
	})
	if dropped == 0 || dropped == 100 {
		t.Fatalf("%d of 100 dropped", dropped)
	}
	// The messages before the gap come whole and in order, then the notice,
	// and after it messages again.
	for i := range 100 - int(dropped) {
		if got := f.read(size); !bytes.Equal(got, message(i)) {
			t.Fatalf("message %d is %q…", i, got[:8])
		}
	}
	if got := string(f.read(3)); got != "GAP" {
		t.Fatalf("got %q", got)
	}
	f.do(func() {
		if len(f.owner.gaps) != 1 || f.owner.gaps[0] != 7 {
			t.Errorf("gaps %v", f.owner.gaps)
		}
		f.writer.Deliver(f.owner.out.ref.Slot, 7, message(500), 1)
	})
	if got := f.read(size); !bytes.Equal(got, message(500)) {
		t.Fatalf("after the gap: %q…", got[:8])
	}
}

func TestARoomThatMustNotDropReportsASlowReader(t *testing.T) {
	f := setup(t, 16<<10)
	for range 100 {
		f.do(func() { f.writer.Deliver(f.owner.out.ref.Slot, 100, make([]byte, 1000), 1) })
	}
	f.do(func() {
		if !f.owner.slow {
			t.Error("the owner was not told")
		}
		f.writer.GiveUp(&f.owner.out)
		f.writer.Send(&f.owner.out, []byte("bye"))
	})
	f.do(func() {
		if p := f.owner.out.Pending(); p > 2000 {
			t.Errorf("%d bytes wait after giving up", p)
		}
	})
}

func TestARoomWithHistoryLagsAndLosesNoReader(t *testing.T) {
	const bound = 16 << 10
	f := setup(t, bound)
	for range 100 {
		f.do(func() { f.writer.Deliver(f.owner.out.ref.Slot, 200, make([]byte, 1000), 1) })
	}
	f.do(func() {
		if len(f.owner.lags) == 0 || f.owner.lags[0] != 200 || f.owner.slow || f.owner.failed != nil {
			t.Errorf("lags %v, slow %v, failed %v", f.owner.lags, f.owner.slow, f.owner.failed)
		}
		if p := f.owner.out.Pending(); p == 0 || p > bound {
			t.Errorf("%d bytes wait: the bound is %d", p, bound)
		}
		if f.owner.gaps != nil {
			t.Errorf("gaps %v", f.owner.gaps)
		}
	})
}

func TestADeadPeerIsReportedOnce(t *testing.T) {
	f := setup(t, 1<<20)
	_ = f.peer.Close()
	f.do(func() { f.writer.Deliver(f.owner.out.ref.Slot, 1, []byte("x"), 1) })
	f.do(func() {
		if f.owner.failed == nil {
			t.Error("the owner was not told")
		}
		f.owner.failed = nil
		f.writer.Deliver(f.owner.out.ref.Slot, 1, []byte("x"), 1)
	})
	f.do(func() {
		if f.owner.failed != nil {
			t.Error("told twice")
		}
	})
}

func TestDeliveriesAllocateNothing(t *testing.T) {
	f := setup(t, 1<<20)
	message := []byte("0123456789")
	f.do(func() {
		n := testing.AllocsPerRun(50, func() {
			f.writer.Deliver(f.owner.out.ref.Slot, 1, message, 1)
			f.writer.Queue(f.owner.out.ref.Slot, 1, message, 1)
			f.writer.Queue(f.owner.out.ref.Slot, 2, message, 1)
			f.writer.Flush()
		})
		if n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}
