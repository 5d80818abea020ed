package edge

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// Without its mirror no history can be read: clients are served all the same,
// are told so, and get a position once there is one.
func TestWithoutTheMirrorLiveMessagesGoOn(t *testing.T) {
	c := newHistory(t, kept100())
	e := c.readyForHistory(c.edge(nil))
	js, err := jetstream.New(c.nc)
	if err != nil {
		t.Fatal(err)
	}
	mirror, err := js.Stream(t.Context(), c.set.Rooms[0].Stream.Mirror)
	if err != nil {
		t.Fatal(err)
	}
	again := mirror.CachedInfo().Config
	if err := js.DeleteStream(t.Context(), again.Name); err != nil {
		t.Fatal(err)
	}
	c.store("a", "0")
	a := dial(t, e, "/ws")
	a.send(resumeFrom("a", "k1", 1))
	a.wantConnected(`{"room":"a","recovered":false,"reason":"history_unavailable"}`)
	if err := e.Degraded(); err == nil || !strings.HasPrefix(err.Error(), "history can not be read: ") {
		t.Errorf("degraded: %v", err)
	}
	if err := e.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	a.send(`{"id":2,"history":{"room":"a"}}`)
	a.wantPrefix(`{"id":2,"error":{"code":"unavailable","reason":"history can not be read now: `)
	a.want(message("a", c.store("a", "1"), 1))
	if _, err := js.CreateStream(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	a.want(`{"reset":{"room":"a","epoch":"k1","offset":2}}`)
	a.want(message("a", c.store("a", "2"), 2))
	if err := e.Degraded(); err != nil {
		t.Errorf("still degraded: %v", err)
	}
	r := dial(t, e, "/ws")
	r.send(resumeFrom("a", "k1", 2))
	r.wantConnected(`{"room":"a","epoch":"k1","offset":2,"recovered":true}`)
	r.want(message("a", 3, 2))
}

// Commands under way at once: the answer to one must not let the messages of
// another's rooms come before that one's own answer.
func TestARoomsMessagesWaitForItsOwnAnswer(t *testing.T) {
	c := newHistory(t, kept100())
	c.mirrored(c.store("a", "0"))
	e := c.readyForHistory(c.edge(func(cfg *Config) { cfg.Loops = 1 }))
	other := dial(t, e, "/ws?room=a&room=b")
	other.wantPrefix(`{"connected"`)
	r := dial(t, e, "/ws?room=c")
	r.wantPrefix(`{"connected"`)
	// A position that the room never reached is waited for.
	r.send(`{"id":1,"subscribe":{"rooms":[{"room":"a","latest":true},{"room":"b","epoch":"k1","offset":4000}]}}`)
	r.send(`{"id":2,"subscribe":{"rooms":[{"room":"d"}]}}`)
	r.want(`{"id":2,"subscribed":{"rooms":[{"room":"d","epoch":"k1","offset":0}]}}`)
	r.want(`{"id":1,"subscribed":{"rooms":[{"room":"a","epoch":"k1","offset":1},{"room":"b","epoch":"k1","offset":0,"recovered":false,"reason":"ahead_of_history"}]}}`)
	r.want(message("a", 1, 0))
}
