package edge

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// Without its mirror the stream itself says where rooms stand and what was
// missed: it costs clients nothing, and the node says that something is wrong.
func TestWithoutTheMirrorTheStreamIsRead(t *testing.T) {
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
	a.wantConnected(`{"room":"a","epoch":"k1","offset":1,"recovered":true}`)
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
	a.want(message("a", c.store("a", "2"), 2))
	c.mirrored(3)
	until(t, "it is well again", func() bool { return e.Degraded() == nil })
	r := dial(t, e, "/ws")
	r.send(resumeFrom("a", "k1", 2))
	r.wantConnected(`{"room":"a","epoch":"k1","offset":2,"recovered":true}`)
	r.want(message("a", 3, 2))
}
