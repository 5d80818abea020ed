package control_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"nabat/control"
	"nabat/internal/natsdev"
	"nabat/proto/buspb"
)

// A backend reads lifecycle events with an ordinary durable consumer: it goes on
// where it stopped, and needs nothing of Nabat's.
func Example_events() {
	url, stop := cluster()
	defer stop()

	nc, err := nats.Connect(url)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	consumer, err := js.CreateOrUpdateConsumer(ctx, "NABAT_EVENTS", jetstream.ConsumerConfig{
		Durable:        "billing",
		FilterSubjects: []string{"nabat.event.join.chat.>", "nabat.event.leave.chat.>"},
	})
	if err != nil {
		log.Fatal(err)
	}
	somebodyComes(nc)
	for range 1 { // for ever, in a real one
		m, err := consumer.Next(jetstream.FetchMaxWait(30 * time.Second))
		if err != nil {
			log.Fatal(err)
		}
		var event struct{ Kind, Room, User string }
		if err := json.Unmarshal(m.Data(), &event); err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Kind, event.Room, event.User)
		if err := m.Ack(); err != nil { // done: it does not come again
			log.Fatal(err)
		}
	}
	// Output: join chat.42 alice
}

// cluster is NATS and a control, which you have already.
func cluster() (url string, stop func()) {
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		log.Fatal(err)
	}
	cfg := control.Defaults()
	cfg.Listen, cfg.NATSURL, cfg.Dev = "127.0.0.1:0", server.URL(), true
	c, err := control.New(cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			log.Print(err)
		}
	})
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for c.Ready() != nil {
		<-tick.C
	}
	return server.URL(), func() {
		cancel()
		running.Wait()
		server.Shutdown()
	}
}

// somebodyComes is what an edge reports when a client comes.
func somebodyComes(nc *nats.Conn) {
	report, err := proto.Marshal(&buspb.Report{Node: "edge-0", Epoch: 1, Segments: []*buspb.Segment{{Events: []*buspb.Event{
		{Kind: buspb.Event_CONNECT, Connection: 1, User: "alice"}, {Kind: buspb.Event_JOIN, Connection: 1, Room: "chat.42"},
	}}}})
	if err == nil {
		err = nc.Publish("nabat.report.edge-0", report)
	}
	if err != nil {
		log.Fatal(err)
	}
}
