// Peers are plain broadcast servers to compare with, each the way its library
// is commonly used: clients join rooms by /ws?room=NAME, messages come from
// the NATS subjects room.NAME.
//
// It is a module of its own, so that what it needs is not what Nabat needs.
// loadtest builds and starts it; by hand it is
//
//	go run -C loadtest/peers . gorilla -listen 127.0.0.1:8081 -nats nats://127.0.0.1:4222
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/nats-io/nats.go"
)

// peer is one way to write a broadcast server. ServeHTTP upgrades and joins;
// Broadcast is called from one goroutine for all rooms.
type peer interface {
	http.Handler
	Broadcast(room string, body []byte)
}

var peers = map[string]func() peer{
	"naive":   func() peer { return newNaive() },
	"gorilla": func() peer { return newGorilla() },
	"gws":     func() peer { return newGws() },
	"nbio":    func() peer { return newNbio() },
	// Those who speak a protocol of their own.
	"centrifuge": func() peer { return newCentrifuge() },
	"mercure":    func() peer { return newMercure() },
}

// natsName is the peer that is no such server; see runNATS.
const natsName = "nats"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range peers {
			if !yield(name) {
				return
			}
		}
	})
	if len(args) > 0 && args[0] == natsName {
		return runNATS(args[1:])
	}
	if len(args) == 0 || peers[args[0]] == nil {
		return fmt.Errorf("say which peer: %s, %s", strings.Join(names, ", "), natsName)
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:0", "address for clients")
	ops := flags.String("ops", "127.0.0.1:0", "address for /metrics and /debug/pprof/")
	url := flags.String("nats", nats.DefaultURL, "NATS server")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	p := peers[args[0]]()
	conn, err := nats.Connect(*url, nats.MaxReconnects(-1))
	if err != nil {
		return fmt.Errorf("NATS at %s: %w", *url, err)
	}
	defer conn.Close()
	if _, err := conn.Subscribe("room.>", func(m *nats.Msg) {
		p.Broadcast(strings.TrimPrefix(m.Subject, "room."), m.Data)
	}); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	return serve(p, *listen, *ops)
}

// serve tells its addresses on standard output and runs until a signal or the
// end of standard input, if that is a pipe from a parent.
func serve(p peer, listen, ops string) error {
	clients, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	operations, err := net.Listen("tcp", ops)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", p)
	ended := make(chan error, 3)
	go func() {
		if own, ok := p.(interface {
			Serve(net.Listener, http.Handler) error
		}); ok {
			ended <- own.Serve(clients, mux)
			return
		}
		ended <- http.Serve(clients, mux)
	}()
	go func() { ended <- http.Serve(operations, operationsHandler()) }()
	go func() { ended <- untilStopped() }()
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{
		"listening": clients.Addr().String(), "ops": operations.Addr().String(),
	}); err != nil {
		return fmt.Errorf("standard output: %w", err)
	}
	if err := <-ended; err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func untilStopped() error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if info, err := os.Stdin.Stat(); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
		go func() {
			var b [1]byte
			for {
				if _, err := os.Stdin.Read(b[:]); err != nil {
					signals <- syscall.SIGTERM
					return
				}
			}
		}()
	}
	<-signals
	return nil
}
