package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/client"
	"nabat/control"
	"nabat/edge"
	"nabat/internal/natsdev"
	"nabat/proto/wire"
)

// Who is in a room, over the whole cluster, and who comes and leaves.
func ExampleConn_Members() {
	address, issue, end := exampleSystem()
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	alice, err := client.Dial(ctx, address, client.Options{Token: issue("alice")})
	if err != nil {
		log.Fatal(err)
	}
	defer alice.Close()
	if _, err := alice.Subscribe(ctx, []string{"chat.42"}, client.Presence()); err != nil {
		log.Fatal(err)
	}
	bob, err := client.Dial(ctx, address, client.Options{Token: issue("bob"), Rooms: []string{"chat.42"}})
	if err != nil {
		log.Fatal(err)
	}
	defer bob.Close()

	for e := range alice.Events() { // another list is read when its length is not Users
		if e.Presence != nil && slices.ContainsFunc(e.Presence.Join, func(m wire.Member) bool { return m.User == "bob" }) {
			fmt.Println("bob has come:", e.Presence.Users, "users")
			break
		}
	}
	for member, err := range alice.Members(ctx, "chat.42") { // page by page
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(member.User, member.Connections)
	}
	// Output:
	// bob has come: 2 users
	// alice 1
	// bob 1
}

// exampleSystem is nabat dev: NATS, control and an edge, which you have already.
func exampleSystem() (address string, issue func(user string) string, end func()) {
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		log.Fatal(err)
	}
	ec := edge.Defaults()
	// One loop: control, which starts at the same time, does not tell of who was there
	// when it first heard of a loop.
	ec.Loops = 1
	ec.Listen, ec.NATSURL, ec.Node, ec.Dev, ec.Drain = "127.0.0.1:0", server.URL(), "edge-0", true, 50*time.Millisecond
	e, err := edge.New(ec, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		log.Fatal(err)
	}
	cc := control.Defaults()
	cc.Listen, cc.NATSURL, cc.Dev = "127.0.0.1:0", server.URL(), true
	c, err := control.New(cc, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{e.Run, c.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				log.Print(err)
			}
		})
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for e.Ready() != nil || c.Ready() != nil {
		<-tick.C
	}
	nc, err := nats.Connect(server.URL())
	if err != nil {
		log.Fatal(err)
	}
	issue = func(user string) string {
		reply, err := nc.Request("nabat.api.token.issue", fmt.Appendf(nil, `{"sub":%q,"subscribe":["chat.>"],"presence":["chat.>"]}`, user), time.Minute)
		var issued struct{ Token string }
		if err == nil {
			err = json.Unmarshal(reply.Data, &issued)
		}
		if err != nil {
			log.Fatal(err)
		}
		return issued.Token
	}
	return "http://" + e.Addr(), issue, func() {
		nc.Close()
		cancel()
		running.Wait()
		server.Shutdown()
	}
}
