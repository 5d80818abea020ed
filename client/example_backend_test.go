package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"nabat/client"
	"nabat/internal/bus"
	"nabat/proto/grant"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

// A backend that answers what clients call, and decides what they may publish. It
// needs NATS and nothing of Nabat's.
func ExampleConn_Call_backend() {
	address, natsURL, token, end := exampleHooks()
	defer end()

	nc, err := nats.Connect(natsURL)
	if err != nil {
		log.Panic(err)
	}
	defer nc.Close()
	// Calls: a micro service, of which several instances share the work.
	orders, err := micro.AddService(nc, micro.Config{Name: "orders", Version: "1.0.0"})
	if err != nil {
		log.Panic(err)
	}
	err = orders.AddEndpoint("create", micro.HandlerFunc(func(r micro.Request) {
		var order struct{ Item int }
		if json.Unmarshal(r.Data(), &order) != nil || order.Item == 0 {
			_ = r.Error("bad_order", "an order needs an item", nil) // a caller that is gone
			return
		}
		_ = r.RespondJSON(map[string]any{"order": 4711, "item": order.Item})
	}), micro.WithEndpointSubject("rpc.orders.create"))
	if err != nil {
		log.Panic(err)
	}
	// Hooks: requests in JSON, answered in JSON; a queue group shares the work.
	_, err = nc.QueueSubscribe("hook.publish", "moderators", func(m *nats.Msg) {
		var question struct{ User, Room, Text string }
		answer := map[string]any{"allow": true}
		if json.Unmarshal(m.Data, &question) != nil || question.Text == "spam" {
			answer = map[string]any{"allow": false, "reason": "no spam in " + question.Room}
		}
		body, err := json.Marshal(answer)
		if err != nil {
			log.Print(err)
			return
		}
		_ = m.Respond(body)
	})
	if err != nil {
		log.Panic(err)
	}
	if err := nc.Flush(); err != nil {
		log.Panic(err)
	}

	// What a client sees of it.
	ctx := context.Background()
	c, err := client.Dial(ctx, address, client.Options{Token: token, Rooms: []string{"chat.1"}})
	if err != nil {
		log.Panic(err)
	}
	defer c.Close()
	result, err := c.Call(ctx, "orders.create", map[string]int{"item": 12})
	fmt.Printf("%s %v\n", result.Body, err)
	_, err = c.Call(ctx, "orders.create", nil)
	var refused *wire.Error
	if errors.As(err, &refused) {
		fmt.Println(refused.Code, refused.Backend, refused.Reason)
	}
	for _, text := range []string{"hello", "spam"} {
		_, err = c.Publish(ctx, wire.Publication{Room: "chat.1", Kind: wire.Text, Body: []byte(text)})
		fmt.Println(text, err)
	}
	// Output:
	// {"item":12,"order":4711} <nil>
	// rpc_failed bad_order an order needs an item
	// hello <nil>
	// spam not_allowed: no spam in chat.1
}

// exampleHooks is an edge that asks backends about what is published in chat.>, and
// a token that may call and publish.
func exampleHooks() (address, natsURL, token string, end func()) {
	r := &exampleRig{}
	edges := newEdges(r, nil)
	kv, err := edges.js.KeyValue(r.Context(), bus.BucketConfig)
	if err != nil {
		r.Fatal(err)
	}
	set := &policy.Set{Version: 9, Rooms: []policy.Policy{{Match: "chat.>", Publish: true, Hooks: &policy.Hooks{Publish: true}}}}
	if _, err := kv.Put(r.Context(), bus.KeyPolicies, set.Encode()); err != nil {
		r.Fatal(err)
	}
	address, _ = edges.start("127.0.0.1:0")
	token = edges.token(time.Hour, &grant.Grant{Subscribe: []string{"chat.*"}, Publish: []string{"chat.*"}, RPC: []string{"orders.*"}})
	return address, edges.nats.URL(), token, func() {
		for _, f := range slices.Backward(r.cleanups) {
			f()
		}
	}
}
