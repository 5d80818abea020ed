package client_test

import (
	"context"
	"fmt"
	"log"
	"slices"
	"time"

	"nabat/client"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

// exampleRig lets an example have an edge as tests do.
type exampleRig struct{ cleanups []func() }

func (*exampleRig) Helper()                        {}
func (*exampleRig) Fatal(args ...any)              { log.Panic(args...) }
func (*exampleRig) Fatalf(format string, a ...any) { log.Panicf(format, a...) }
func (r *exampleRig) Cleanup(f func())             { r.cleanups = append(r.cleanups, f) }
func (*exampleRig) Context() context.Context       { return context.Background() }

func exampleEdge() (address string, end func()) {
	r := &exampleRig{}
	address, _ = newEdges(r, &policy.History{Messages: 100, Age: time.Hour}).start("127.0.0.1:0")
	return address, func() {
		for _, f := range slices.Backward(r.cleanups) {
			f()
		}
	}
}

// A client that stays: it comes back by itself, and goes on where it was.
func Example() {
	address, end := exampleEdge()
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	k, err := client.Keep(ctx, address, client.Options{Rooms: []string{"chat.42"}})
	if err != nil {
		log.Fatal(err)
	}
	defer k.Close()
	for e := range k.Events() {
		switch {
		case e.Connected != nil:
			go func() { // commands wait for answers, and Events must be read meanwhile
				if _, err := k.Publish(ctx, wire.Publication{Room: "chat.42", Kind: wire.Text, Body: []byte("hello")}); err != nil {
					log.Print(err)
				}
			}()
		case e.Message != nil:
			fmt.Printf("%s %d: %s\n", e.Message.Room, e.Message.Offset, e.Message.Body)
			return
		case e.Recovered != nil && !e.Recovered.OK:
			fmt.Println("messages were missed: load the room anew")
		case e.Down != nil:
			log.Printf("%v: again in %s", e.Down.Err, e.Down.Wait)
		}
	}
	fmt.Println(k.Err())
	// Output: chat.42 1: hello
}

// A position that was kept somewhere, such as in a database with what the
// messages led to, is where another run of the program goes on.
func ExampleFrom() {
	address, end := exampleEdge()
	defer end()
	ctx := context.Background()

	c, err := client.Dial(ctx, address, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	var kept wire.Position
	for n := range 3 {
		at, err := c.Publish(ctx, wire.Publication{Room: "orders", Body: fmt.Append(nil, n)})
		if err != nil {
			log.Fatal(err)
		}
		if n == 0 {
			kept = at
		}
	}
	positions, err := c.Subscribe(ctx, []string{"orders"}, client.From(kept))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("all of it:", *positions[0].Recovered)
	for range 2 {
		fmt.Printf("%s\n", (<-c.Events()).Message.Body)
	}
	// Output:
	// all of it: true
	// 1
	// 2
}

func ExampleConn_Messages() {
	address, end := exampleEdge()
	defer end()
	ctx := context.Background()

	c, err := client.Dial(ctx, address, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	var newest wire.Position
	for _, body := range []string{"one", "two", "three"} {
		if newest, err = c.Publish(ctx, wire.Publication{Room: "log", Kind: wire.Text, Body: []byte(body)}); err != nil {
			log.Fatal(err)
		}
	}
	for { // what is published is there to be read a moment later
		page, err := c.History(ctx, "log", client.Limit(1))
		if err == nil && len(page.Messages) == 1 && page.Messages[0].Offset == newest.Offset {
			break
		}
	}
	for m, err := range c.Messages(ctx, "log", client.Before(newest.Offset+1)) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", m.Body)
	}
	// Output:
	// three
	// two
	// one
}
