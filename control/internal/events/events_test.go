package events

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"nabat/control/internal/metrics"
	"nabat/control/internal/presence"
	"nabat/internal/bus"
	"nabat/internal/natsdev"
)

const patience = 60 * time.Second

// owner is a picture in which a replica owns what a test says.
type owner struct {
	mu  sync.Mutex
	own bool
}

func (o *owner) Owns(string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.own
}

func (o *owner) set(own bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.own = own
}

func (o *owner) Shown(room string, came, left []string) presence.Push {
	push := presence.Push{Room: room, Users: 7}
	for _, name := range came {
		push.Join = append(push.Join, presence.Member{User: name})
	}
	return push
}

type rig struct {
	t    *testing.T
	nats *natsdev.Server
	nc   *nats.Conn
	js   jetstream.JetStream
}

func setup(t *testing.T) *rig {
	t.Helper()
	s, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	nc, err := bus.Connect(t.Context(), bus.Options{URL: s.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t, s, nc, js}
}

func (r *rig) speaker(o *owner) *Speaker {
	r.t.Helper()
	s := New(Options{NATS: r.nc, JetStream: r.js, Rooms: o, MaxAge: time.Hour, MaxBytes: 1 << 24, Counts: metrics.New(), Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	r.t.Cleanup(func() { cancel(); <-done })
	until(r.t, "the stream is there", func() bool { return s.Ready() == nil })
	return s
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in %s: %s", patience, what)
		}
	}
}

// stored is the ids in the stream, in order.
func (r *rig) stored() (ids []string) {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), bus.StreamEvents)
	if err != nil {
		return nil
	}
	info, err := s.Info(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		m, err := s.GetMsg(r.t.Context(), seq)
		if err != nil {
			r.t.Fatal(err)
		}
		ids = append(ids, m.Header.Get(nats.MsgIdHdr))
	}
	return ids
}

func joins(from, to int) (list []presence.Event) {
	for i := from; i < to; i++ {
		list = append(list, presence.Event{Kind: presence.Join, Room: "chat", User: fmt.Sprint("u", i), Node: "edge-0", Epoch: 1, Number: uint64(i), Connection: uint64(i)})
	}
	return list
}

func (s *Speaker) left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending.size()
}

func TestWhatOthersSaidIsForgottenAndWhatTheyDidNotIsTakenOver(t *testing.T) {
	r := setup(t)
	shown, err := r.nc.SubscribeSync("nabat.presence.chat")
	if err != nil {
		t.Fatal(err)
	}
	speaks, listens := &owner{own: true}, &owner{}
	first, second := r.speaker(speaks), r.speaker(listens)
	before := len(r.stored())
	second.Announce(joins(0, 50))
	first.Announce(joins(0, 40))
	until(t, "what the first said is forgotten", func() bool { return second.left() <= 10 && len(r.stored()) >= before+40 })
	listens.set(true) // the first is dead
	until(t, "the rest is said", func() bool { return second.left() == 0 && len(r.stored()) >= before+50 })
	seen := make(map[string]bool)
	for i, id := range r.stored() {
		if seen[id] {
			t.Errorf("%s is stored twice", id)
		}
		seen[id] = true
		if i >= before && i < before+50 && id != fmt.Sprintf("1.0.%d.join.chat", i-before) {
			t.Errorf("at %d is %s", i, id)
		}
	}
	if _, err := shown.NextMsg(patience); err != nil {
		t.Error("the room's clients were not shown what was taken over")
	}
}

func TestWhatTheStreamHasBeforeTheReportComesIsNotPending(t *testing.T) {
	l := newLedger()
	e := joins(1, 2)[0]
	l.seen(e.ID(), nil)
	if l.add(said{e, e.ID(), time.Now()}, 10); l.size() != 0 {
		t.Fatal("it is pending")
	}
	if l.add(said{e, e.ID(), time.Now()}, 10); l.size() != 1 {
		t.Fatal("one sight of it was counted twice")
	}
	for i := range 3 * maxEarly {
		l.seen(fmt.Sprint(i), nil)
	}
	if len(l.early)+len(l.older) > 2*maxEarly {
		t.Fatal("there is no bound")
	}
}

func TestTheSameSaidUnderAnotherNumberIsForgottenToo(t *testing.T) {
	l := newLedger()
	now := time.Now()
	e := joins(1, 2)[0]
	l.add(said{e, e.ID(), now}, 10)
	other := e
	other.Number, other.Derived = 9, true
	m, err := message(&said{other, other.ID(), now})
	if err != nil {
		t.Fatal(err)
	}
	l.seen(other.ID(), m.Data)
	if l.size() != 0 {
		t.Fatal("it is still pending")
	}
	l.add(said{e, e.ID(), now}, 10)
	l.seen("x", []byte(`{"kind":"leave","room":"chat","user":"u1"}`))
	l.seen("x", []byte(`not JSON`))
	if l.size() != 1 {
		t.Fatal("another event was taken for it")
	}
	for i := range 20 {
		if full := l.add(said{joins(100+i, 101+i)[0], fmt.Sprint(i), now}, 10); full != (i > 8) {
			t.Fatal(i, full)
		}
	}
	if l.size() != 10 || len(l.list) != 10 {
		t.Fatal(l.size(), len(l.list))
	}
	if old := l.take(now.Add(time.Second), func(*said) bool { return true }); len(old) != 0 || l.size() != 0 {
		t.Fatal("what is too old was said", old)
	}
}

func TestEventsWaitForNATSAndForAStreamThatWasDeleted(t *testing.T) {
	r := setup(t)
	s := r.speaker(&owner{own: true})
	s.Announce(joins(0, 600)) // more than a batch
	until(t, "all are stored", func() bool { return len(r.stored()) == 600 })
	r.nats.Stop()
	s.Announce(joins(600, 610))
	if err := r.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	until(t, "those of the outage are stored", func() bool { return r.nc.IsConnected() && len(r.stored()) == 610 })
	if err := r.js.DeleteStream(t.Context(), bus.StreamEvents); err != nil {
		t.Fatal(err)
	}
	s.Announce(joins(610, 620))
	until(t, "the stream is made again", func() bool { return len(r.stored()) == 10 })
	for i, id := range r.stored() {
		if id != fmt.Sprintf("1.0.%d.join.chat", 610+i) {
			t.Errorf("at %d is %s", i, id)
		}
	}
}

func TestTheBodyOfAnEvent(t *testing.T) {
	for _, c := range []struct {
		event         presence.Event
		subject, body string
	}{
		{presence.Event{Kind: presence.Join, Room: "team chat", User: "bob", Node: "edge-0", Epoch: 0xab, Loop: 1, Number: 7, Connection: 2<<32 | 1, At: 5, Users: 3},
			"nabat.event.join.team%20chat", `{"kind":"join","room":"team chat","user":"bob","session":"c00000000000000ab010000000200000001","node":"edge-0","epoch":"00000000000000ab","number":7,"at":5,"users":3}`},
		{presence.Event{Kind: presence.Vacated, Room: "a", Node: "edge-0", Epoch: 1, Number: 7, Reason: "node_lost", Derived: true, At: 5},
			"nabat.event.vacated.a", `{"kind":"vacated","room":"a","session":"c0000000000000001000000000000000000","node":"edge-0","epoch":"0000000000000001","number":7,"reason":"node_lost","at":5,"users":0}`},
		{presence.Event{Kind: presence.Disconnect, User: "bob", Node: "edge.0", Epoch: 1, Number: 7, Reason: "drain", At: 5},
			"nabat.event.disconnect.edge%2E0", `{"kind":"disconnect","user":"bob","session":"c0000000000000001000000000000000000","node":"edge.0","epoch":"0000000000000001","number":7,"reason":"drain","at":5}`},
	} {
		m, err := message(&said{c.event, c.event.ID(), time.Time{}})
		if err != nil || m.Subject != c.subject || string(m.Data) != c.body {
			t.Errorf("got  %s %s %v\nwant %s %s", m.Subject, m.Data, err, c.subject, c.body)
		}
		var back Event
		if err := json.Unmarshal(m.Data, &back); err != nil || back.Kind != c.event.Kind {
			t.Errorf("%s: %v", m.Data, err)
		}
	}
}

func TestAnEventOfANodeIsAboutNoConnection(t *testing.T) {
	m, err := message(&said{Event: presence.Event{Kind: presence.NodeStarted, Node: "edge.0", Epoch: 7, At: 5}})
	if err != nil || m.Subject != "nabat.event.node_started.edge%2E0" || string(m.Data) != `{"kind":"node_started","node":"edge.0","epoch":"0000000000000007","number":0,"at":5}` {
		t.Errorf("%s %s %v", m.Subject, m.Data, err)
	}
}
