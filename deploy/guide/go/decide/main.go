// Decide allows or forbids what clients publish to rooms whose policy has hooks.
// Run several: they share the work.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/nats-io/nats.go"
)

func main() {
	nc, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.QueueSubscribe("hook.publish", "moderators", decide); err != nil {
		log.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	if err := nc.Drain(); err != nil { // answers what it has begun
		log.Print(err)
	}
}

func decide(m *nats.Msg) {
	var question struct {
		Room, User, Text string          // no user: a client without a token
		Data             json.RawMessage // where it published JSON
	}
	answer := `{"allow":true}`
	if err := json.Unmarshal(m.Data, &question); err != nil {
		log.Print(err)
		answer = `{"allow":false,"reason":"nobody understands that"}`
	} else if strings.Contains(question.Text, "spam") || strings.Contains(string(question.Data), "spam") {
		answer = `{"allow":false,"reason":"no spam, please"}`
	}
	if err := m.Respond([]byte(answer)); err != nil {
		log.Print(err)
	}
}
