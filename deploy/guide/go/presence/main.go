// Presence prints who is in a room, page by page.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

// page is an answer of nabat.api.presence.
type page struct {
	Users, Anonymous int
	Members          []struct {
		User        string
		Connections int // 0: gone, and may be back in a moment
		Info        json.RawMessage
	}
	Next  string
	Error struct{ Code, Reason string }
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: presence ROOM")
	}
	nc, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	var here page
	for after, more := "", true; more; after, more = here.Next, here.Next != "" {
		request, err := json.Marshal(map[string]any{"room": os.Args[1], "limit": 1000, "after": after})
		if err != nil {
			log.Fatal(err)
		}
		reply, err := nc.Request("nabat.api.presence", request, 10*time.Second)
		if err != nil {
			log.Fatal(err)
		}
		here = page{}
		if err := json.Unmarshal(reply.Data, &here); err != nil {
			log.Fatal(err)
		}
		if here.Error.Code != "" {
			log.Fatalf("%s: %s", here.Error.Code, here.Error.Reason)
		}
		for _, member := range here.Members {
			fmt.Println(member.User)
		}
	}
	fmt.Printf("%d users and %d without a name\n", here.Users, here.Anonymous)
}
