// Events prints who comes into the rooms of orders, and who leaves them. It goes
// on where it was when it is started again, and several of it share the work.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	nc, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	consumer, err := js.CreateOrUpdateConsumer(ctx, "NABAT_EVENTS", jetstream.ConsumerConfig{
		Durable:       "shop", // NATS remembers under this name what was done
		FilterSubject: "nabat.event.*.orders.>",
	})
	if err != nil {
		log.Fatal(err)
	}
	events, err := consumer.Messages()
	if err != nil {
		log.Fatal(err)
	}
	context.AfterFunc(ctx, events.Stop)
	fmt.Println("ready")
	for {
		m, err := events.Next()
		if errors.Is(err, jetstream.ErrMsgIteratorClosed) {
			break
		} else if err != nil {
			log.Fatal(err)
		}
		var event struct{ Kind, Room, User string }
		if err := json.Unmarshal(m.Data(), &event); err != nil {
			log.Print(err)
		}
		fmt.Println(event.Kind, event.Room, event.User)
		if err := m.Ack(); err != nil { // done: without it the event comes again
			log.Print(err)
		}
	}
	if err := nc.Flush(); err != nil { // the last acknowledgement
		log.Print(err)
	}
}
