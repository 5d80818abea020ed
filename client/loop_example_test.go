package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"nabat/client"
	"nabat/proto/wire"
)

// A loop over the messages of a room, which goes on over the ends of connections.
func ExampleKeeper_Follow() {
	address, end := exampleEdge()
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	k, err := client.Keep(ctx, address, client.Options{Protobuf: true})
	if err != nil {
		log.Fatal(err)
	}
	defer k.Close()
	for _, body := range []string{"one", "two", "three"} {
		// Send does not wait: not for a connection, and not for the answer.
		if _, err := k.Send(ctx, wire.Publication{Room: "log", Kind: wire.Text, Body: []byte(body)}); err != nil {
			log.Fatal(err) // client.ErrQueueFull: too many wait
		}
	}
	for m, err := range k.Follow(ctx, "log", client.Since(time.Hour)) {
		var gap *client.GapError
		switch {
		case errors.As(err, &gap):
			fmt.Println("load the present state anew:", gap.Reason)
			continue
		case err != nil:
			log.Fatal(err)
		}
		fmt.Printf("%d: %s\n", m.Offset, m.Body)
		if m.Offset == 3 {
			break // leaves the room
		}
	}
	// Output:
	// 1: one
	// 2: two
	// 3: three
}

// All that happens, as a loop. Commands wait for answers, so they are for another
// goroutine, or for Send.
func ExampleKeeper_All() {
	address, end := exampleEdge()
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	k, err := client.Keep(ctx, address, client.Options{Rooms: []string{"chat.42"}})
	if err != nil {
		log.Fatal(err)
	}
	defer k.Close()
	for e, err := range k.All(ctx) {
		switch {
		case err != nil:
			log.Fatal(err)
		case e.Connected != nil:
			if _, err := k.Send(ctx, wire.Publication{Room: "chat.42", Kind: wire.Text, Body: []byte("hello")}); err != nil {
				log.Fatal(err)
			}
		case e.Message != nil:
			fmt.Printf("%s: %s\n", e.Message.Room, e.Message.Body)
			k.Close() // ends the loop
		case e.Down != nil:
			log.Printf("%v: again in %s", e.Down.Err, e.Down.Wait)
		}
	}
	// Output: chat.42: hello
}

// What becomes of each publication, and of all of them before the end.
func ExampleKeeper_Send() {
	address, end := exampleEdge()
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	k, err := client.Keep(ctx, address, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer k.Close()
	var receipt *client.Receipt
	for n := range 3 {
		if receipt, err = k.Send(ctx, wire.Publication{Room: "telemetry.7", Body: fmt.Append(nil, n)}); err != nil {
			log.Fatal(err)
		}
	}
	if err := k.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	at, err := receipt.Wait(ctx)
	fmt.Println(at.Room, at.Offset, err)
	// Output: telemetry.7 3 <nil>
}

// The list of who is in a room, which stays up to date.
func ExampleKeeper_Watch() {
	address, issue, end := exampleSystem()
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	alice, err := client.Keep(ctx, address, client.Options{Token: issue("alice")})
	if err != nil {
		log.Fatal(err)
	}
	defer alice.Close()
	members, err := alice.Watch(ctx, "chat.42")
	if err != nil {
		log.Fatal(err)
	}
	defer members.Close()
	bob, err := client.Dial(ctx, address, client.Options{Token: issue("bob"), Rooms: []string{"chat.42"}})
	if err != nil {
		log.Fatal(err)
	}
	defer bob.Close()
	for range members.Changed() {
		if members.Complete() && members.Users() == 2 {
			break
		}
	}
	for _, member := range members.List() {
		fmt.Println(member.User)
	}
	// Output:
	// alice
	// bob
}
