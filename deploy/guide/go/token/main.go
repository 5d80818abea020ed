// Token asks control for a token, as a backend does for a user who has logged in.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

func main() {
	nc, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	request := []byte(`{"sub":"alice","subscribe":["orders.*"],"rooms":["user.alice"],"rpc":["orders.>"],"ttl":"1h"}`)
	reply, err := nc.Request("nabat.api.token.issue", request, 10*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	var answer struct {
		Token string
		Error struct{ Code, Reason string }
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		log.Fatal(err)
	}
	if answer.Error.Code != "" {
		log.Fatalf("%s: %s", answer.Error.Code, answer.Error.Reason)
	}
	fmt.Println(answer.Token)
}
