package edge

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/bus"
	"nabat/proto/policy"
)

// What is lost, hidden or cannot be read, and what clients are told of it.

func (c *cluster) jetstream() jetstream.JetStream {
	c.t.Helper()
	js, err := jetstream.New(c.nc)
	if err != nil {
		c.t.Fatal(err)
	}
	return js
}

// purge removes a room's messages up to an offset from stream and mirror.
func (c *cluster) purge(room string, upTo uint64) {
	c.t.Helper()
	c.mirrored(upTo)
	for _, name := range []string{c.set.Rooms[0].Stream.Name, c.set.Rooms[0].Stream.Mirror} {
		s, err := c.jetstream().Stream(c.t.Context(), name)
		if err != nil {
			c.t.Fatal(err)
		}
		if err := s.Purge(c.t.Context(), jetstream.WithPurgeSubject("room."+room), jetstream.WithPurgeSequence(upTo+1)); err != nil {
			c.t.Fatal(err)
		}
	}
}

// quiet makes sure that nothing else has come: a pong would be behind it.
func (c *client) quiet() {
	c.t.Helper()
	c.send(`{"id":99,"ping":{}}`)
	c.want(`{"id":99,"pong":{}}`)
}

func (c *cluster) resumed(e *Edge, connect, rooms string, messages ...string) *client {
	c.t.Helper()
	r := dial(c.t, e, "/ws")
	r.send(connect)
	r.wantConnected(rooms)
	for _, m := range messages {
		r.want(m)
	}
	r.quiet()
	return r
}

// Those who have a room's messages do not notice that it is purged; those who
// come back from before it are told.
func TestAPurge(t *testing.T) {
	c := newHistory(t, kept100())
	e := c.readyForHistory(c.edge(nil))
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	for n := range 4 { // offsets 1 to 4
		a.want(message("a", c.store("a", fmt.Sprint(n)), n))
	}
	c.purge("a", 4)
	a.want(message("a", c.store("a", "4"), 4)) // 5, with nothing before it
	a.want(message("a", c.store("a", "5"), 5))
	a.quiet()
	fresh := c.readyForHistory(c.edge(nil))
	c.mirrored(6)
	c.resumed(fresh, resumeFrom("a", "k1", 2), `{"room":"a","epoch":"k1","offset":4,"recovered":false,"reason":"history_cut"}`, message("a", 5, 4), message("a", 6, 5))
	c.resumed(fresh, resumeFrom("a", "k1", 5), `{"room":"a","epoch":"k1","offset":5,"recovered":true}`, message("a", 6, 5))
	c.resumed(fresh, resumeFrom("a", "k1", 6), `{"room":"a","epoch":"k1","offset":6,"recovered":true}`)
	// The node that was there has what was purged in memory: nothing is lost.
	c.resumed(e, resumeFrom("a", "k1", 3), `{"room":"a","epoch":"k1","offset":3,"recovered":true}`, message("a", 4, 3), message("a", 5, 4), message("a", 6, 5))

	// Everything is gone: who has the newest of the whole stream has all of it, and
	// nobody else can be told so.
	c.purge("a", 6)
	empty := c.readyForHistory(c.edge(nil))
	whole := c.resumed(empty, resumeFrom("a", "k1", 6), `{"room":"a","epoch":"k1","offset":6,"recovered":true}`)
	lost := c.resumed(empty, resumeFrom("a", "k1", 5), `{"room":"a","epoch":"k1","offset":0,"recovered":false,"reason":"history_cut"}`)
	m := message("a", c.store("a", "6"), 6)
	for _, r := range []*client{whole, lost, a} {
		r.want(m)
	}
}

// A node that opened the room when it was purged has all that came since in
// memory, and does not know what was purged.
func TestAPurgeBeforeTheNodeOpenedTheRoom(t *testing.T) {
	c := newHistory(t, kept100())
	for n := range 4 {
		c.store("a", fmt.Sprint(n))
	}
	c.purge("a", 4)
	e := c.readyForHistory(c.edge(nil))
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	// One comes back before there is anything new, the other after.
	early := c.resumed(e, resumeFrom("a", "k1", 2), `{"room":"a","epoch":"k1","offset":0,"recovered":false,"reason":"history_cut"}`)
	a.want(message("a", c.store("a", "4"), 4))
	c.mirrored(5)
	const lost = `{"room":"a","epoch":"k1","offset":4,"recovered":false,"reason":"history_cut"}`
	early.want(message("a", 5, 4))
	early.quiet()
	c.resumed(e, resumeFrom("a", "k1", 2), lost, message("a", 5, 4))
	c.resumed(e, resumeFrom("a", "k1", 5), `{"room":"a","epoch":"k1","offset":5,"recovered":true}`)
	a.want(message("a", c.store("a", "5"), 5))
	c.resumed(e, resumeFrom("a", "k1", 5), `{"room":"a","epoch":"k1","offset":5,"recovered":true}`, message("a", 6, 5))
}

// Messages that are too old leave the store: who comes back from before them is
// told, and who has seen the last of them in time loses nothing.
func TestAgeEndsMessages(t *testing.T) {
	c := newHistory(t, policy.History{Age: time.Second})
	e := c.readyForHistory(c.edge(nil))
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	for n := range 3 {
		a.want(message("a", c.store("a", fmt.Sprint(n)), n))
	}
	c.emptied()
	a.want(message("a", c.store("a", "3"), 3)) // nothing is before it in the store
	a.quiet()
	fresh := c.readyForHistory(c.edge(nil))
	r := dial(t, fresh, "/ws")
	r.send(resumeFrom("a", "k1", 2))
	if hello := r.wantPrefix(`{"id":1,"connected":`); !strings.Contains(hello, `"recovered":false,"reason":"`) {
		t.Fatal(hello)
	}
}

// A tombstone that the store leaves is no message, and breaks nothing.
func TestMarkersAreNotShown(t *testing.T) {
	c := newHistory(t, kept100())
	e := c.readyForHistory(c.edge(nil))
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	a.want(message("a", c.store("a", "0"), 0))
	marker := &nats.Msg{Subject: "room.a", Header: nats.Header{"Nats-Marker-Reason": {"MaxAge"}}}
	if _, err := c.jetstream().PublishMsg(t.Context(), marker); err != nil {
		t.Fatal(err)
	}
	a.want(message("a", c.store("a", "2"), 2)) // offset 3
	a.quiet()
	c.mirrored(3)
	fresh := c.readyForHistory(c.edge(nil))
	for _, on := range []*Edge{e, fresh} {
		c.resumed(on, resumeFrom("a", "k1", 1), `{"room":"a","epoch":"k1","offset":1,"recovered":true}`, message("a", 3, 2))
		c.resumed(on, resumeFrom("a", "k1", 2), `{"room":"a","epoch":"k1","offset":2,"recovered":true}`, message("a", 3, 2))
	}
	a.send(`{"id":1,"history":{"room":"a"}}`)
	a.want(`{"id":1,"history":{"room":"a","epoch":"k1","messages":[` + message("a", 1, 0) + `,` + message("a", 3, 2) + `],"more":false}}`)
}

// Who is excluded from a message does not get it, live or later, and everybody
// else does.
func TestExcludedFromAReplay(t *testing.T) {
	c := newHistory(t, kept100())
	e := c.readyForHistory(c.edge(nil))
	a, b := dial(t, e, "/ws?room=a"), dial(t, e, "/ws?room=a")
	first := a.connected("a")
	b.connected("a")
	exclude := func(session, body string) uint64 {
		t.Helper()
		ack, err := c.jetstream().PublishMsg(t.Context(), &nats.Msg{Subject: "room.a", Data: []byte(body), Header: nats.Header{bus.HeaderExclude: {session}}})
		if err != nil {
			t.Fatal(err)
		}
		return ack.Sequence
	}
	exclude(first, "0") // 1
	b.want(message("a", 1, 0))
	m := message("a", c.store("a", "1"), 1)
	a.want(m) // and not 1
	b.want(m)

	// The same connection leaves and comes back to the room: it is excluded still.
	a.send(`{"id":1,"unsubscribe":{"rooms":["a"]}}`)
	a.wantPrefix(`{"id":1,"unsubscribed"`)
	exclude(first, "2") // 3
	b.want(message("a", 3, 2))
	c.store("a", "3")
	b.want(message("a", 4, 3))
	a.send(`{"id":2,"subscribe":{"rooms":[{"room":"a","epoch":"k1","offset":2}]}}`)
	a.want(`{"id":2,"subscribed":{"rooms":[{"room":"a","epoch":"k1","offset":2,"recovered":true}]}}`)
	a.want(message("a", 4, 3))
	a.quiet()
	// To another connection it is a message like others.
	c.resumed(e, resumeFrom("a", "k1", 2), `{"room":"a","epoch":"k1","offset":2,"recovered":true}`, message("a", 3, 2), message("a", 4, 3))
}

// A policy that gets history, loses it and gets it again changes what the
// members of its rooms are told, and drops none of them.
func TestHistoryComesAndGoesWithThePolicy(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	c.publish("a", "0", nil)
	a.want(`{"room":"a","data":0}`)

	h := kept100()
	s := c.kept("k1", h)
	set := policy.Dev()
	set.Version, set.Rooms[0].History, set.Rooms[0].Stream = 2, &h, &s
	c.set = set
	c.put(bus.BucketConfig, bus.KeyPolicies, set.Encode())
	a.want(`{"reset":{"room":"a","epoch":"k1","offset":0}}`)
	a.want(message("a", c.store("a", "1"), 1))
	c.mirrored(1)
	c.resumed(e, resumeFrom("a", "k1", 1), `{"room":"a","epoch":"k1","offset":1,"recovered":true}`)

	plain := policy.Dev()
	plain.Version, plain.Rooms[0].History = 3, nil
	c.put(bus.BucketConfig, bus.KeyPolicies, plain.Encode())
	until(t, "the edge has it", func() bool { return e.policy("a").History == nil })
	until(t, "the room is plain", func() bool {
		r := dial(t, e, "/ws")
		r.send(resumeFrom("a", "k1", 1))
		hello, err := r.next()
		return err == nil && strings.HasSuffix(hello, `"rooms":[{"room":"a","recovered":false,"reason":"no_history"}]}}`)
	})
	c.publish("a", "2", nil) // stored, too, and it comes once
	a.wantPrefix(`{"reset":{"room":"a","epoch":""`)
	a.want(`{"room":"a","data":2}`)
	a.quiet()

	set.Version = 4
	c.put(bus.BucketConfig, bus.KeyPolicies, set.Encode())
	a.wantPrefix(`{"reset":{"room":"a","epoch":"k1","offset":`)
	last := c.store("a", "3")
	a.want(message("a", last, 3))
	a.quiet()
}

// Without its mirror history is still read from the stream: nobody is told
// anything.
func TestAMirrorThatIsBehindCostsNobodyAnything(t *testing.T) {
	c := newHistory(t, kept100())
	for n := range 5 {
		c.store("a", fmt.Sprint(n))
	}
	c.mirrored(5)
	// The mirror stands still: what has its name follows nobody.
	s := c.set.Rooms[0].Stream
	if err := c.jetstream().DeleteStream(t.Context(), s.Mirror); err != nil {
		t.Fatal(err)
	}
	if _, err := c.jetstream().CreateStream(t.Context(), jetstream.StreamConfig{Name: s.Mirror, Subjects: []string{"nothing"}, AllowDirect: true}); err != nil {
		t.Fatal(err)
	}
	e := c.readyForHistory(c.edge(nil))
	r := c.resumed(e, resumeFrom("a", "k1", 2), `{"room":"a","epoch":"k1","offset":2,"recovered":true}`,
		message("a", 3, 2), message("a", 4, 3), message("a", 5, 4))
	r.want(message("a", c.store("a", "5"), 5))
	c.resumed(e, resumeFrom("a", "k1", 6), `{"room":"a","epoch":"k1","offset":6,"recovered":true}`)
}

// History cannot be read at all: messages flow, who comes back is told, and when
// it is there again positions are, too.
func TestHistoryThatCannotBeRead(t *testing.T) {
	c := newHistory(t, kept100())
	e := c.readyForHistory(c.edge(func(cfg *Config) { cfg.HistoryPatience = 300 * time.Millisecond }))
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	a.want(message("a", c.store("a", "0"), 0))
	c.mirrored(1)
	// Both refuse direct reads, and the subject of the live copies stays.
	s := c.set.Rooms[0].Stream
	direct := func(allow bool) {
		t.Helper()
		origin, err := c.jetstream().Stream(t.Context(), s.Name)
		if err != nil {
			t.Fatal(err)
		}
		cfg := origin.CachedInfo().Config
		cfg.AllowDirect = allow
		if _, err := c.jetstream().UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.jetstream().DeleteStream(t.Context(), s.Mirror); err != nil {
		t.Fatal(err)
	}
	direct(false)
	b := dial(t, e, "/ws?room=b") // a room that has to be looked up
	b.connected("b")
	until(t, "the edge says so", func() bool { return e.Degraded() != nil })
	if e.Ready() != nil {
		t.Errorf("clients can be served: %v", e.Ready())
	}
	a.want(message("a", c.store("a", "1"), 1))
	b.wantPrefix(message("b", c.store("b", "2"), 2))
	r := dial(t, e, "/ws")
	r.send(resumeFrom("d", "k1", 1))
	if hello := r.wantPrefix(`{"id":1,"connected":`); !strings.Contains(hello, `{"room":"d","recovered":false,"reason":"history_unavailable"}`) {
		t.Fatal(hello)
	}
	direct(true)
	cfg := jetstream.StreamConfig{Name: s.Mirror, AllowDirect: true, MaxMsgsPerSubject: 100, MaxAge: time.Hour, Mirror: &jetstream.StreamSource{Name: s.Name}}
	if _, err := c.jetstream().CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	c.mirrored(3)
	r.wantPrefix(`{"reset":{"room":"d","epoch":"k1","offset":`)
	b.wantPrefix(`{"reset":{"room":"b","epoch":"k1","offset":3}}`)
	until(t, "all is well", func() bool { return e.Degraded() == nil })
	a.want(message("a", c.store("a", "3"), 3))
	b.want(message("b", c.store("b", "4"), 4))
	c.mirrored(5)
	c.resumed(e, resumeFrom("b", "k1", 3), `{"room":"b","epoch":"k1","offset":3,"recovered":true}`, message("b", 5, 4))
	c.resumed(e, resumeFrom("a", "k1", 1), `{"room":"a","epoch":"k1","offset":1,"recovered":true}`, message("a", 2, 1), message("a", 4, 3))
}
