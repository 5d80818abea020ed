package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"nabat/edge/internal/frame"
	"nabat/internal/bus"
	"nabat/proto/policy"
)

const patience = 60 * time.Second

// until polls a condition.
func until(t testing.TB, what string, ok func() bool) {
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

// node is a NATS server whose own counts a test can read.
type node struct {
	t    testing.TB
	opts server.Options
	*server.Server
}

func startNode(t testing.TB, change func(*server.Options)) *node {
	t.Helper()
	n := &node{t: t, opts: server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true}}
	if change != nil {
		change(&n.opts)
	}
	n.start()
	t.Cleanup(n.stop)
	return n
}

func (n *node) start() {
	n.t.Helper()
	opts := n.opts.Clone()
	s, err := server.NewServer(opts)
	if err != nil {
		n.t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		n.t.Fatal("NATS did not start")
	}
	n.Server = s
	var port string
	if _, err := fmt.Sscanf(s.Addr().String(), "127.0.0.1:%s", &port); err != nil {
		n.t.Fatal(err)
	}
	if _, err := fmt.Sscan(port, &n.opts.Port); err != nil { // a restart takes the same port
		n.t.Fatal(err)
	}
}

func (n *node) stop() {
	n.Shutdown()
	n.WaitForShutdown()
}

// subscriptions is the number of subscriptions that NATS holds for a subject.
func (n *node) subscriptions(subj string) (count int) {
	n.t.Helper()
	z, err := n.Subsz(&server.SubszOptions{Subscriptions: true, Limit: 100000})
	if err != nil {
		n.t.Fatal(err)
	}
	for _, s := range z.Subs {
		if s.Subject == subj {
			count++
		}
	}
	return count
}

// inbox keeps what it is given. A gate, when there is one, stalls messages but
// not notices.
type inbox struct {
	gate chan struct{}

	// mu guards the fields below.
	mu    sync.Mutex
	list  []*frame.Message
	asked map[string][]func(error) // who waits for a room's mark; told with mu held
}

func (in *inbox) Put(list []*frame.Message) {
	if len(list) == 0 {
		return
	}
	if in.gate != nil && !list[0].MustArrive() {
		<-in.gate
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, m := range list {
		if m.Mark == nil {
			in.list = append(in.list, m)
			continue
		}
		for _, answer := range in.asked[m.Room] {
			answer(m.Mark.Err)
		}
		delete(in.asked, m.Room)
	}
}

// of returns what came for a room, as clients get it.
func (in *inbox) of(room string) (texts []string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, m := range in.list {
		if m.Room == room && !m.Hidden {
			texts = append(texts, text(m))
		}
	}
	return texts
}

func text(m *frame.Message) string {
	b := m.Bytes(frame.WebSocketJSON)
	for i := range b {
		if b[i] == '{' && json.Valid(b[i:]) {
			return string(b[i:])
		}
	}
	return "not JSON: " + string(b)
}

// rig is an upstream that runs, and a publisher beside it.
type rig struct {
	t       testing.TB
	up      *Upstream
	inboxes []*inbox
	pub     *nats.Conn
	stop    func() // ends Run and waits for it
}

type settings struct {
	url   string
	loops int
	opts  Options
	gate  chan struct{}
	extra []nats.Option
}

func start(t testing.TB, url string, change func(*settings)) *rig {
	t.Helper()
	s := settings{url: url, loops: 1, opts: Options{Prefix: "room.", Live: 2, Queue: 4096, PublishWait: 64,
		Linger: time.Hour, Confirm: patience, Log: slog.New(slog.DiscardHandler),
		Policy: func(string) *policy.Policy { return nil }}}
	if change != nil {
		change(&s)
	}
	r := &rig{t: t}
	var list []Inbox
	for range s.loops {
		in := &inbox{gate: s.gate}
		r.inboxes = append(r.inboxes, in)
		list = append(list, in)
	}
	connect := func(name string, options ...nats.Option) (*nats.Conn, error) {
		return bus.Connect(t.Context(), bus.Options{URL: s.url, Name: name}, append(options, s.extra...)...)
	}
	var err error
	if r.pub, err = bus.Connect(t.Context(), bus.Options{URL: url, Name: "test"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.pub.Close)
	if r.up, err = New(s.opts, connect, list); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { r.up.Run(ctx); close(done) }()
	r.stop = func() { cancel(); <-done }
	t.Cleanup(r.stop)
	return r
}

// ask acquires a room; answer, which must not block, is told once.
func (r *rig) ask(room string, loop int, answer func(error)) {
	in := r.inboxes[loop]
	in.mu.Lock()
	if in.asked == nil {
		in.asked = make(map[string][]func(error))
	}
	in.asked[room] = append(in.asked[room], answer)
	in.mu.Unlock()
	r.up.Acquire(room, loop)
}

// try acquires a room and returns the answer.
func (r *rig) try(room string, loop int) error {
	r.t.Helper()
	answer := make(chan error, 1)
	r.ask(room, loop, func(err error) { answer <- err })
	select {
	case err := <-answer:
		return err
	case <-time.After(patience):
		r.t.Fatalf("no answer about %s in %s", room, patience)
		return nil
	}
}

// expire ends what lingered long enough at a time.
func (r *rig) expire(now time.Time) {
	for _, l := range r.up.live {
		done := make(chan struct{})
		l.post(func() {
			l.nextSweep = time.Time{}
			l.due(now)
			l.nextSweep = time.Time{}
			close(done)
		})
		<-done
	}
}

func (r *rig) acquire(room string, loop int) {
	r.t.Helper()
	if err := r.try(room, loop); err != nil {
		r.t.Fatalf("acquire %s: %v", room, err)
	}
}

func (r *rig) publish(subj, body string, header nats.Header) {
	r.t.Helper()
	if err := r.pub.PublishMsg(&nats.Msg{Subject: subj, Data: []byte(body), Header: header}); err != nil {
		r.t.Fatal(err)
	}
	if err := r.pub.FlushTimeout(patience); err != nil {
		r.t.Fatal(err)
	}
}

// want waits until a loop has got exactly these for a room.
func (r *rig) want(loop int, room string, texts ...string) {
	r.t.Helper()
	until(r.t, fmt.Sprintf("loop %d has %d of %s", loop, len(texts), room), func() bool { return len(r.inboxes[loop].of(room)) >= len(texts) })
	if got := r.inboxes[loop].of(room); fmt.Sprint(got) != fmt.Sprint(texts) {
		r.t.Fatalf("loop %d got for %s\n%v\nwant\n%v", loop, room, got, texts)
	}
}

// send publishes as a client does and returns what the client is told.
func (r *rig) send(subj, body string) error {
	r.t.Helper()
	answer := make(chan error, 2)
	if !r.up.Publish(Publication{Message: &nats.Msg{Subject: subj, Data: []byte(body)}, Done: func(_ uint64, err error) { answer <- err }}) {
		r.t.Fatal("too many publishes wait")
	}
	select {
	case err := <-answer:
		return err
	case <-time.After(patience):
		r.t.Fatalf("no answer to a publish in %s", patience)
		return nil
	}
}
