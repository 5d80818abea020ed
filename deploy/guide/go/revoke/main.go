// Revoke ends all that is open with the tokens that a user has got until now.
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
	if len(os.Args) != 2 {
		log.Fatal("usage: revoke USER")
	}
	nc, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	request, err := json.Marshal(map[string]string{"user": os.Args[1], "reason": "logged out everywhere"})
	if err != nil {
		log.Fatal(err)
	}
	reply, err := nc.Request("nabat.api.user.revoke", request, 10*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	if code := reply.Header.Get("Nats-Service-Error-Code"); code != "" {
		log.Fatalf("%s: %s", code, reply.Header.Get("Nats-Service-Error"))
	}
	fmt.Printf("%s\n", reply.Data)
}
