package ask

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/internal/natsdev"
)

type rig struct {
	t     *testing.T
	nc    *nats.Conn // of the backend
	asker *Asker
	stop  func()
}

func newRig(t *testing.T, max int, timeout time.Duration) *rig {
	t.Helper()
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	connect := func() *nats.Conn {
		nc, err := nats.Connect(server.URL(), nats.ReconnectBufSize(-1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	r := &rig{t: t, nc: connect()}
	if r.asker, err = New(connect(), max, timeout); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.asker.Run(ctx) }()
	r.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(r.stop)
	return r
}

func (r *rig) serve(subject string, fn nats.MsgHandler) {
	r.t.Helper()
	if _, err := r.nc.Subscribe(subject, fn); err != nil {
		r.t.Fatal(err)
	}
	if err := r.nc.Flush(); err != nil {
		r.t.Fatal(err)
	}
}

type outcome struct {
	body string
	err  error
}

func (r *rig) ask(subject string, to chan outcome) bool {
	return r.asker.Ask(&nats.Msg{Subject: subject}, func(m *nats.Msg, err error) {
		o := outcome{err: err}
		if m != nil {
			o.body = string(m.Data)
		}
		to <- o
	})
}

func TestRequestsEnd(t *testing.T) {
	r := newRig(t, 8, 100*time.Millisecond)
	late := make(chan *nats.Msg, 1)
	r.serve("answers", func(m *nats.Msg) { _ = m.Respond([]byte("yes")); _ = m.Respond([]byte("twice")) })
	r.serve("silent", func(m *nats.Msg) { late <- m })
	got := make(chan outcome, 8)
	for _, p := range []struct {
		subject, body string
		err           error
	}{{"answers", "yes", nil}, {"nobody", "", ErrNoResponders}, {"silent", "", ErrTimeout}, {"bad subject", "", nats.ErrBadSubject}} {
		if !r.ask(p.subject, got) {
			t.Fatal(p.subject, "was not asked")
		}
		if o := <-got; o.body != p.body || !errors.Is(o.err, p.err) {
			t.Errorf("%s: %q, %v; want %q, %v", p.subject, o.body, o.err, p.body, p.err)
		}
	}
	// A late reply and one of nobody end nothing.
	_ = (<-late).Respond([]byte("late"))
	_ = r.nc.Publish(r.asker.inbox+"guess", []byte("forged"))
	if r.ask("answers", got); (<-got).body != "yes" {
		t.Error("another reply was taken")
	}
}

func TestNoMoreWaitThanMay(t *testing.T) {
	r := newRig(t, 2, time.Minute)
	requests := make(chan *nats.Msg, 4)
	r.serve("slow", func(m *nats.Msg) { requests <- m })
	got := make(chan outcome, 4)
	for i, allowed := range []bool{true, true, false} {
		if r.ask("slow", got) != allowed {
			t.Fatalf("request %d: two may wait, and not a third", i+1)
		}
	}
	_ = (<-requests).Respond(nil)
	if o := <-got; o.err != nil {
		t.Fatal(o.err)
	}
	if !r.ask("slow", got) {
		t.Error("there is room for one again")
	}
	r.stop()
	for range 2 {
		if o := <-got; !errors.Is(o.err, nats.ErrConnectionClosed) {
			t.Error(o)
		}
	}
	if r.ask("slow", got) {
		t.Error("asked after the end")
	}
}

func TestWhatIsOverIsForgotten(t *testing.T) {
	r := newRig(t, 4, time.Minute)
	r.serve("answers", func(m *nats.Msg) { _ = m.Respond(nil) })
	r.serve("silent", func(*nats.Msg) {})
	got := make(chan outcome, 1)
	r.ask("silent", make(chan outcome, 1)) // stays at the head of the list
	for range 5000 {
		r.ask("answers", got)
		<-got
	}
	r.asker.mu.Lock()
	defer r.asker.mu.Unlock()
	if len(r.asker.order) > 1100 || len(r.asker.waiting) != 1 {
		t.Errorf("%d in the list, %d waiting", len(r.asker.order), len(r.asker.waiting))
	}
}
