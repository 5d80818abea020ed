package upstream

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"nabat/proto/wire"
)

func TestAFullQueueIsAnnouncedAndNeverStopsTheReader(t *testing.T) {
	n := startNode(t, nil)
	gate := make(chan struct{})
	r := start(t, n.ClientURL(), func(s *settings) { s.opts.Live, s.opts.Queue, s.gate = 1, 8, gate })
	for _, room := range []string{"busy", "quiet", "idle"} {
		r.acquire(room, 0)
	}
	lost := func() uint64 { return r.up.State().Lost[wire.GapOverload] }
	// The dispatcher stalls at the first message that it hands over.
	r.publish("room.quiet", "1", nil)
	const published = 1000
	for i := range published {
		r.publish("room.busy", fmt.Sprint(i), nil)
	}
	// The reader still reads.
	read := func(n uint64) func() bool { return func() bool { return r.up.live[0].nc.Stats().InMsgs >= n } }
	until(t, "all of it has been read", read(1+published))
	// What is lost from now on nats.go does not report.
	for i := range published {
		r.publish("room.busy", fmt.Sprint(published+i), nil)
	}
	until(t, "all of it has been read", read(1+2*published))
	close(gate)
	last := notice("busy", wire.GapOverload)
	until(t, "all of the loss is counted, and announced", func() bool {
		got := r.inboxes[0].of("busy")
		received := uint64(0)
		for _, text := range got {
			if text != last {
				received++
			}
		}
		// About where it happened: what waits in the queue may come behind the notice.
		return received > 0 && received+lost() == 2*published && slices.Contains(got, last)
	})
	r.want(0, "quiet", message("quiet", 1))
	for _, room := range []string{"idle"} {
		if got := r.inboxes[0].of(room); len(got) != 0 {
			t.Errorf("%s lost nothing, but got %v", room, got)
		}
	}
	// Then all is as before.
	before := lost()
	r.publish("room.busy", `"end"`, nil)
	until(t, "messages come again", func() bool {
		got := r.inboxes[0].of("busy")
		return got[len(got)-1] == message("busy", `"end"`)
	})
	if lost() != before {
		t.Fatal("a loss was counted twice")
	}
}

func TestAnOutageIsAnnouncedAndOver(t *testing.T) {
	n := startNode(t, nil)
	r := start(t, n.ClientURL(), func(s *settings) { s.loops, s.opts.Confirm = 2, 300*time.Millisecond })
	r.acquire("a", 0)
	r.acquire("b", 1)
	r.acquire("lingering", 0)
	r.up.Release("lingering", 0)
	if s := r.up.State(); r.up.Ready() != nil || !s.Connected || s.Reconnects != 0 {
		t.Fatalf("%v %+v", r.up.Ready(), s)
	}
	if err := r.send("room.a", "1"); err != nil {
		t.Fatal(err)
	}
	n.stop()
	until(t, "the edge says so", func() bool { return r.up.Ready() != nil && !r.up.State().Connected })
	until(t, "every connection is down", func() bool {
		return !r.up.live[0].nc.IsConnected() && !r.up.live[1].nc.IsConnected() && !r.up.publish.nc.IsConnected()
	})
	if err := r.up.Ready(); !strings.Contains(err.Error(), "NATS connection live-0 is RECONNECTING") {
		t.Error(err)
	}
	if err := r.send("room.a", "lost"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a publish while NATS is down: %v", err)
	}
	for range 2 {
		if err := r.try("new", 0); !errors.Is(err, ErrUnavailable) {
			t.Errorf("a room while NATS is down: %v", err)
		}
	}
	n.start()
	r.want(0, "a", message("a", 1), notice("a", wire.GapReconnected))
	r.want(1, "b", notice("b", wire.GapReconnected))
	until(t, "the edge is ready", func() bool { return r.up.Ready() == nil && r.up.State().Connected })
	if s := r.up.State(); s.Reconnects != 2 {
		t.Errorf("%d reconnects of live connections", s.Reconnects)
	}
	// "new" failed, and is still wanted: the loop has not released it yet.
	if got := r.inboxes[0].of("lingering"); len(got) != 0 {
		t.Errorf("nobody is in the room, but it got %v", got)
	}
	r.acquire("new", 1)
	r.acquire("newer", 1)
	until(t, "the publisher is back", r.pub.IsConnected)
	for _, room := range []string{"a", "b", "new", "newer"} {
		if got := n.subscriptions("room." + room); got != 1 {
			t.Errorf("%d subscriptions for %s", got, room)
		}
		if err := r.send("room."+room, "2"); err != nil {
			t.Errorf("a publish after the outage: %v", err)
		}
	}
	r.want(0, "a", message("a", 1), notice("a", wire.GapReconnected), message("a", 2))
	r.want(1, "b", notice("b", wire.GapReconnected), message("b", 2))
	r.want(1, "newer", message("newer", 2))
}

func allow(subscribe ...string) func(*server.Options) {
	return func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "edge", Password: "e", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"room.>"}},
				Subscribe: &server.SubjectPermission{Allow: subscribe}}},
			{Username: "admin", Password: "a"},
		}
		o.NoAuthUser = "admin"
	}
}

func asEdge(s *settings) { s.extra = []nats.Option{nats.UserInfo("edge", "e")} }

func TestARoomThatNATSDoesNotPermitIsRefused(t *testing.T) {
	n := startNode(t, allow("room.yes.>"))
	r := start(t, n.ClientURL(), asEdge)
	for range 3 { // each time, not only the first
		if err := r.try("no", 0); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "may not subscribe to room.no") {
			t.Fatal(err)
		}
	}
	// Others in the same breath are not touched.
	answers := make(map[string]chan error)
	for i := range 50 {
		for _, room := range []string{fmt.Sprintf("yes.%d", i), fmt.Sprintf("no.%d", i)} {
			answer := make(chan error, 1)
			answers[room] = answer
			r.ask(room, 0, func(err error) { answer <- err })
		}
	}
	for room, answer := range answers {
		if err := <-answer; (err == nil) != strings.HasPrefix(room, "yes.") {
			t.Errorf("%s: %v", room, err)
		}
	}
	r.publish("room.yes.7", "1", nil)
	r.want(0, "yes.7", message("yes.7", 1))
	if got := n.subscriptions("room.no"); got != 0 {
		t.Fatalf("%d subscriptions", got)
	}
}

func TestAPermissionThatChangesIsNoticed(t *testing.T) {
	n := startNode(t, allow("room.>"))
	r := start(t, n.ClientURL(), func(s *settings) { asEdge(s); s.loops = 2 })
	r.acquire("a", 0)
	for _, allowed := range []bool{false, true} {
		n.stop()
		if allowed {
			allow("room.>")(&n.opts)
		} else {
			allow("room.b")(&n.opts)
		}
		n.start()
		until(t, fmt.Sprintf("a second loop may join: %t", allowed), func() bool { return (r.try("a", 1) == nil) == allowed })
	}
	until(t, "the publisher is back", r.pub.IsConnected)
	r.publish("room.a", "1", nil)
	until(t, "messages come again", func() bool { return slices.Contains(r.inboxes[0].of("a"), message("a", 1)) })
}

func TestPublishes(t *testing.T) {
	n := startNode(t, func(o *server.Options) { o.MaxPayload = 1000 })
	r := start(t, n.ClientURL(), nil)
	if got := r.up.MaxPayload(); got != 1000 {
		t.Fatalf("NATS takes %d bytes", got)
	}
	r.acquire("a", 0)
	// An error of one message is its own.
	answers := make(chan error, 2)
	for _, body := range []string{strings.Repeat("x", 1001), "1"} {
		r.up.Publish(Publication{Message: &nats.Msg{Subject: "room.a", Data: []byte(body)}, Done: func(_ uint64, err error) { answers <- err }})
	}
	errs := []error{<-answers, <-answers}
	if !slices.Contains(errs, nil) || !(errors.Is(errs[0], nats.ErrMaxPayload) || errors.Is(errs[1], nats.ErrMaxPayload)) {
		t.Fatal(errs)
	}
	r.want(0, "a", message("a", 1))
}

func TestPublishesThatWaitAreBounded(t *testing.T) {
	n := startNode(t, nil)
	nc, err := nats.Connect(n.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	p3, err := newPublisher(nc, Options{PublishWait: 3})
	if err != nil {
		t.Fatal(err)
	}
	u := &Upstream{publish: p3} // nobody takes from the queue
	answers := make(chan error, 4)
	p := Publication{Message: nats.NewMsg("room.a"), Done: func(_ uint64, err error) { answers <- err }}
	for i := range 4 {
		if taken := u.Publish(p); taken != (i < 3) {
			t.Fatalf("publish %d: %t", i, taken)
		}
	}
	u.publish.close()
	for range 3 {
		if err := <-answers; !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if len(answers) != 0 {
		t.Fatal("a publish that was not taken was answered")
	}
}

// cluster starts three servers that know each other.
func cluster(t *testing.T) (nodes []*node) {
	var routes []*url.URL
	for i := range 3 {
		n := startNode(t, func(o *server.Options) {
			o.ServerName, o.Routes = fmt.Sprintf("n%d", i), routes
			o.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: server.RANDOM_PORT}
		})
		nodes = append(nodes, n)
		routes = append(routes, &url.URL{Scheme: "nats", Host: n.ClusterAddr().String()})
	}
	until(t, "the servers know each other", func() bool {
		return !slices.ContainsFunc(nodes, func(n *node) bool { return n.NumRoutes() < 2 })
	})
	return nodes
}

func TestAnotherServerOfTheClusterTakesOver(t *testing.T) {
	nodes := cluster(t)
	r := start(t, nodes[2].ClientURL(), func(s *settings) {
		s.url = nodes[0].ClientURL() + "," + nodes[1].ClientURL()
		s.extra = []nats.Option{nats.DontRandomize()}
	})
	for i := range 20 {
		r.acquire(fmt.Sprintf("r%d", i), 0)
	}
	r.acquire("lingering", 0)
	r.up.Release("lingering", 0)
	nodes[0].stop()
	for i := range 20 {
		room := fmt.Sprintf("r%d", i)
		r.want(0, room, notice(room, wire.GapReconnected))
	}
	if got := r.inboxes[0].of("lingering"); len(got) != 0 {
		t.Errorf("nobody is in the room, but it got %v", got)
	}
	until(t, "the edge is ready", func() bool { return r.up.Ready() == nil })
	for i := range 20 {
		room := fmt.Sprintf("r%d", i)
		// Interest travels between servers after the client was answered: what
		// is published just then is lost, and nobody can know.
		published := 0
		until(t, "messages of "+room+" come again", func() bool {
			published++
			r.publish("room."+room, fmt.Sprint(published), nil)
			return len(r.inboxes[0].of(room)) > 1
		})
		last := message(room, published+1)
		r.publish("room."+room, fmt.Sprint(published+1), nil)
		until(t, last, func() bool { return slices.Contains(r.inboxes[0].of(room), last) })
		got := r.inboxes[0].of(room)
		if got[0] != notice(room, wire.GapReconnected) {
			t.Errorf("%s: first %s", room, got[0])
		}
		first := published + 1 - (len(got) - 2) // and from then on each, once
		for j, text := range got[1:] {
			if text != message(room, first+j) {
				t.Fatalf("%v", got)
			}
		}
	}
}
