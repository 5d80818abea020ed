package edge

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/bus"
	"nabat/internal/natsdev"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

// One of three NATS servers is left: it carries every message, and can store
// none. Messages go on without offsets, and with them again afterwards.
func TestLiveGoesOnWithoutAQuorum(t *testing.T) {
	servers, err := natsdev.StartCluster(3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(servers.Shutdown)
	c := &cluster{t: t, nats: servers.Servers[0], set: policy.Dev()}
	if c.nc, err = bus.Connect(t.Context(), bus.Options{URL: c.nats.URL(), Name: "test"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.nc.Close)
	c.keys()
	js, err := jetstream.New(c.nc)
	if err != nil {
		t.Fatal(err)
	}
	h := kept100()
	s := c.keptBy("k1", h, 3)
	c.set.Version, c.set.Rooms[0].History, c.set.Rooms[0].Stream = 2, &h, &s
	c.put(bus.BucketConfig, bus.KeyPolicies, c.set.Encode())
	e := c.readyForHistory(c.edge(func(cfg *Config) { cfg.HistoryPatience, cfg.PingInterval = 4*time.Second, time.Hour }))
	a := dial(t, e, "/ws?room=a")
	a.wantPrefix(`{"connected":`)
	a.want(message("a", c.store("a", "1"), 1))

	for _, s := range servers.Servers[1:] {
		s.Stop()
	}
	until(t, "the edge is ready", func() bool { return e.Ready() == nil })
	a.want(`{"gap":{"room":"a","reason":"not_stored"}}`)
	if err := e.Degraded(); err == nil || !strings.HasPrefix(err.Error(), "messages are not stored: ") {
		t.Errorf("degraded: %v", err)
	}
	until(t, "the test is connected", c.nc.IsConnected)
	c.publish("a", "2", nil)
	a.want(`{"room":"a","data":2}`)

	for _, s := range servers.Servers[1:] {
		if err := s.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	// A cluster that starts again elects, and a mirror may stand still for a while.
	const recovery = 2 * time.Minute
	within(t, recovery, "it is stored again", func() bool { _, err := js.Publish(t.Context(), "room.other", nil); return err == nil })
	within(t, recovery, "all is well", func() bool { return e.Degraded() == nil })
	last := c.store("a", "9")
	// What was stored around the return may be new to the client; nothing is shown
	// twice, and the end has its offset.
	for {
		var m wire.Message
		text := a.wantPrefix(`{"room":"a",`)
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			t.Fatal(err)
		}
		if text == message("a", last, 9) {
			break
		}
		t.Errorf("%s: it was shown before", text)
	}
}
