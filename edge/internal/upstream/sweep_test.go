package upstream

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/history"
	"nabat/proto/policy"
)

// withHistory makes all rooms of a rig have history.
func withHistory(t *testing.T, n *node) func(*settings) {
	t.Helper()
	nc, err := nats.Connect(n.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream := policy.Stream{Name: "NABAT_all_k1", Mirror: "NABAT_all_k1_H", Epoch: "k1"}
	for _, cfg := range []jetstream.StreamConfig{
		{Name: stream.Name, Subjects: []string{"room.>"}, AllowDirect: true,
			RePublish: &jetstream.RePublish{Source: "room.>", Destination: "live.{{partition(1024)}}.>"}},
		{Name: stream.Mirror, AllowDirect: true, Mirror: &jetstream.StreamSource{Name: stream.Name}},
	} {
		if _, err := js.CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	reader, err := history.New(nc, history.Options{Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { reader.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	p := &policy.Policy{Match: ">", History: &policy.History{Messages: 100}, Stream: &stream}
	return func(s *settings) {
		s.opts.Live, s.opts.LivePrefix, s.opts.Store = 1, "live.", reader
		s.opts.RingCount, s.opts.RingBytes = 16, 64<<10
		s.opts.Verify, s.opts.Audit = 50*time.Millisecond, 200*time.Millisecond
		s.opts.Policy = func(string) *policy.Policy { return p }
	}
}

// NATS may lose interest in subjects for good while everything looks well. The
// audit finds it, and many rooms that missed something cost one read.
func TestManyRoomsThatMissedSomethingAreReadTogether(t *testing.T) {
	t.Run("from the mirror", func(t *testing.T) { missTogether(t, false) })
	t.Run("from the stream, when the mirror is gone", func(t *testing.T) { missTogether(t, true) })
}

func missTogether(t *testing.T, gone bool) {
	n := startNode(t, func(o *server.Options) { o.JetStream, o.StoreDir = true, t.TempDir() })
	r := start(t, n.ClientURL(), withHistory(t, n))
	const rooms = 300
	room := func(i int) string { return fmt.Sprintf("r%d", i) }
	want := func(i, offset int) string {
		return fmt.Sprintf(`{"room":%q,"offset":%d,"data":%d}`, room(i), offset, offset)
	}
	for i := range rooms {
		r.publish("room."+room(i), fmt.Sprint(i+1), nil) // offset i+1
	}
	for i := range rooms {
		r.acquire(room(i), 0)
	}
	l := r.up.live[0]
	lost := make(chan struct{})
	l.post(func() {
		for _, x := range l.byName {
			_ = x.sub.Unsubscribe()
		}
		close(lost)
	})
	<-lost
	if gone {
		js, err := jetstream.New(r.pub)
		if err == nil {
			err = js.DeleteStream(t.Context(), "NABAT_all_k1_H")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range rooms {
		r.publish("room."+room(i), fmt.Sprint(rooms+i+1), nil)
	}
	for i := range rooms {
		until(t, "what was missed", func() bool {
			got := r.inboxes[0].of(room(i)) // before it, what a late mirror lacked when the room was joined
			return len(got) > 0 && got[len(got)-1] == want(i, rooms+i+1)
		})
	}
	if r.up.sweeps.Load() == 0 {
		t.Error("the rooms were read one by one")
	}
}
