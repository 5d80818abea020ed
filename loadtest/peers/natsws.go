package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// natsReady is how long the server may take to listen.
const natsReady = 10 * time.Second

// runNATS is nats-server's own WebSocket listener: clients speak the NATS
// protocol, and messages are published to the very server.
func runNATS(args []string) error {
	flags := flag.NewFlagSet("nats", flag.ContinueOnError)
	flags.String("listen", "", "not used: the server chooses free ports")
	flags.String("ops", "", "not used: the server has no operations port")
	flags.String("nats", "", "not used: messages are published to this server")
	if err := flags.Parse(args); err != nil {
		return err
	}
	options := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, MaxPending: 256 << 20,
		Websocket: server.WebsocketOpts{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoTLS: true}}
	s, err := server.NewServer(options)
	if err != nil {
		return fmt.Errorf("nats-server: %w", err)
	}
	s.Start()
	defer s.Shutdown()
	if !s.ReadyForConnections(natsReady) {
		return fmt.Errorf("nats-server is not ready after %s", natsReady)
	}
	ports := s.PortsInfo(natsReady)
	if ports == nil || len(ports.WebSocket) == 0 || len(ports.Nats) == 0 {
		return fmt.Errorf("nats-server tells no ports: %+v", ports)
	}
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{"websocket": ports.WebSocket[0], "nats": ports.Nats[0]}); err != nil {
		return fmt.Errorf("standard output: %w", err)
	}
	return untilStopped()
}
