// Answer is a NATS micro service that answers what clients call as orders.create.
// Run several: they share the work.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

func main() {
	nc, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	service, err := micro.AddService(nc, micro.Config{Name: "orders", Version: "1.0.0"})
	if err != nil {
		log.Fatal(err)
	}
	err = service.AddEndpoint("create", micro.HandlerFunc(create), micro.WithEndpointSubject("rpc.orders.create"))
	if err != nil {
		log.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	if err := service.Stop(); err != nil { // answers what it has begun
		log.Print(err)
	}
}

func create(call micro.Request) {
	var order struct{ Item int }
	if err := json.Unmarshal(call.Data(), &order); err != nil || order.Item == 0 {
		respond(call.Error("400", "which item?", nil)) // the client gets rpc_failed with both
		return
	}
	user := call.Headers().Get("Nabat-User") // from the token: the client cannot choose it
	respond(call.RespondJSON(map[string]any{"order": 4711, "item": order.Item, "for": user}))
}

func respond(err error) {
	if err != nil {
		log.Print(err)
	}
}
