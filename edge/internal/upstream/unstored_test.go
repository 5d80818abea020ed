package upstream

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"nabat/proto/wire"
)

// Here the stream is deleted; one that has no leader answers and republishes as
// little.
func TestAStreamThatStoresNothingDoesNotSilenceItsRooms(t *testing.T) {
	n := startNode(t, func(o *server.Options) { o.JetStream, o.StoreDir = true, t.TempDir() })
	history := withHistory(t, n)
	r := start(t, n.ClientURL(), func(s *settings) {
		history(s)
		s.opts.Patience = time.Second
	})
	r.acquire("a", 0)
	r.acquire("b", 0)
	r.publish("room.a", "1", nil)
	r.want(0, "a", `{"room":"a","offset":1,"data":1}`)

	js, err := jetstream.New(r.pub)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "NABAT_all_k1")
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	if err := js.DeleteStream(t.Context(), cfg.Name); err != nil {
		t.Fatal(err)
	}
	gap := notice("a", wire.GapNotStored)
	r.want(0, "a", `{"room":"a","offset":1,"data":1}`, gap)
	r.want(0, "b", notice("b", wire.GapNotStored))
	if err := r.up.Degraded(); err == nil || !strings.Contains(err.Error(), "NABAT_all_k1 has no leader") {
		t.Errorf("degraded: %v", err)
	}
	r.publish("room.a", "2", nil) // after the notice nothing is missed
	r.publish("room.a", "3", nats.Header{"Nats-Msg-Id": {"x"}})
	r.publish("room.a", "3", nats.Header{"Nats-Msg-Id": {"x"}}) // somebody who got no acknowledgement
	r.publish("room.a", "3", nil)
	without := func(data int) string { return fmt.Sprintf(`{"room":"a","data":%d}`, data) }
	r.want(0, "a", `{"room":"a","offset":1,"data":1}`, gap, without(2), without(3), without(3))
	r.acquire("late", 0) // opened though nobody says where it stands

	// The stream is there again. What is published now is heard and stored, and
	// shown once.
	cfg.FirstSeq = 2 // it goes on counting
	if _, err := js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		r.publish("room.a", fmt.Sprint(100+i), nil)
	}
	until(t, "all is well", func() bool { return r.up.Degraded() == nil })
	r.publish("room.a", `"end"`, nil)
	until(t, "the end", func() bool {
		got := r.inboxes[0].of("a")
		return strings.HasSuffix(got[len(got)-1], `"data":"end"}`)
	})
	got := r.inboxes[0].of("a")[5:]
	if len(got) != 21 || !strings.Contains(got[20], `"offset":`) {
		t.Fatalf("%d of 21 messages: %v", len(got), got)
	}
	for i := range 20 {
		if !strings.HasSuffix(got[i], fmt.Sprintf(`"data":%d}`, 100+i)) {
			t.Fatalf("message %d is %s: not each once, in order: %v", i, got[i], got)
		}
	}
	until(t, "the subject is heard no more", func() bool { return n.subscriptions("room.a") == 0 })
}

func TestWhatARoomRemembersWithoutItsStreamIsBounded(t *testing.T) {
	e := &ear{now: newTwins(), older: newTwins()}
	const many = 20 * maxTwins
	for i := range uint64(many) {
		e.count(i, -1)
		if e.retried(fmt.Sprint(i)) {
			t.Fatalf("%d is no retry", i)
		}
	}
	if n := len(e.now.heard) + len(e.older.heard); n > 2*maxTwins+2 {
		t.Errorf("%d digests are kept", n)
	}
	if n := len(e.now.ids) + len(e.older.ids); n > 2*maxTwins+2 {
		t.Errorf("%d ids are kept", n)
	}
	for i := uint64(many - 500); i < many; i++ { // the newest meet their twins
		if e.count(i, 1) != -1 || e.count(i, 0) != 0 || !e.retried(fmt.Sprint(i)) {
			t.Fatalf("%d of %d is forgotten", i, many)
		}
	}
}
