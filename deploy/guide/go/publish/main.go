// Publish sends one message to a room that keeps history, waits until it is
// stored, and may be repeated without harm.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	nc, err := nats.Connect(os.Getenv("NATS_URL")) // empty: nats://127.0.0.1:4222
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	message := nats.NewMsg("room.orders.17")
	message.Data = []byte(`{"state":"paid"}`)
	message.Header.Set("Nabat-Event", "state")        // handlers of clients go by it
	message.Header.Set("Nabat-User", "shop")          // who says so
	message.Header.Set("Nats-Msg-Id", "orders.17-p1") // of this fact: sent twice it is stored once

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stored, err := js.PublishMsg(ctx, message)
	if err != nil {
		log.Fatal(err) // it may or may not be stored: publish it again
	}
	fmt.Printf("offset %d, duplicate %t\n", stored.Sequence, stored.Duplicate)
}
