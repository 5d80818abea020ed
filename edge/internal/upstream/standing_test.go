package upstream

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

// What a room's newest message is says little without how far its stream has
// come, and an answer from before somebody came says nothing of him.
func TestWhereARoomAndItsStreamStand(t *testing.T) {
	n := startNode(t, func(o *server.Options) { o.JetStream, o.StoreDir = true, t.TempDir() })
	kept := withHistory(t, n)
	r := start(t, n.ClientURL(), func(s *settings) { kept(s); s.opts.Patience = patience })
	r.publish("room.a", "1", nil)
	r.publish("room.b", "2", nil)
	r.acquire("a", 0)
	r.acquire("empty", 0)
	stands := func(room string, first, head, newest uint64) {
		t.Helper()
		came := time.Now()
		r.up.Verify(room)
		var s Standing
		until(t, room+" was compared", func() bool {
			var ok bool
			s, ok = r.up.Standing(room, "k1", came)
			return ok
		})
		if s.First != first || s.Head != head || s.Newest != newest {
			t.Errorf("%s: %+v, want first %d, head %d, newest %d", room, s, first, head, newest)
		}
	}
	stands("a", 1, 2, 1)
	stands("empty", 1, 2, 0)

	// All of a room is gone, and the stream has come as far as it has.
	js, err := jetstream.New(r.pub)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"NABAT_all_k1", "NABAT_all_k1_H"} {
		until(t, name+" has both messages", func() bool {
			s, err := js.Stream(t.Context(), name)
			return err == nil && s.CachedInfo().State.LastSeq == 2
		})
	}
	for _, name := range []string{"NABAT_all_k1", "NABAT_all_k1_H"} {
		s, err := js.Stream(t.Context(), name)
		if err == nil {
			err = s.Purge(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	stands("a", 3, 2, 0)
	if s, ok := r.up.Standing("a", "k0", time.Time{}); ok {
		t.Errorf("of another epoch: %+v", s)
	}
	if s, ok := r.up.Standing("a", "k1", time.Now()); ok {
		t.Errorf("of a comparison that is yet to come: %+v", s)
	}
}
