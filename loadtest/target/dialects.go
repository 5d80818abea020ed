package target

import (
	"context"
	"os/exec"

	"nabat/loadtest/swarm"
)

// Peers are the servers of the nested module loadtest/peers.
var Peers = []string{"naive", "gorilla", "gws", "nbio", "nats", "centrifuge", "mercure"}

// dialects of those that do not just send messages over WebSocket.
var dialects = map[string]swarm.Dialect{
	// The NATS protocol in binary frames. INFO comes first; the PONG says that
	// the subscriptions are in force.
	"nats": {
		Open: []string{"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"loadtest\",\"version\":\"1\",\"protocol\":1}\r\n" +
			"<<SUB room.{room} {n}\r\n>>PING\r\n"},
		Binary: true, Greeting: "PONG\r\n", Patient: true, Ping: "PING\r\n", Pong: "PONG\r\n",
	},
	// Centrifugo's bidirectional protocol in JSON. Several commands go in one
	// frame; a reply to a subscription says that it is in force.
	"centrifuge": {
		Open:     []string{`{"id":1,"connect":{}}` + "\n" + `<<{"id":1{n},"subscribe":{"channel":"{room}"}}|` + "\n" + `>>`},
		Greeting: `"subscribe":{`, Patient: true, Ping: "{}", Pong: "{}",
	},
	// Server-sent events. The head of the answer comes when the subscription is
	// in force.
	"mercure": {Events: true},
}

// peer starts NATS and a server of loadtest/peers.
func (l *Launcher) peer(ctx context.Context, t *Target) error {
	binary, err := l.build(ctx, "loadtest/peers", ".", "peers")
	if err != nil {
		return err
	}
	t.Dialect = dialects[t.Name]
	if t.Name == "nats" {
		return l.natsPeer(ctx, t, binary)
	}
	nats, err := l.broker(ctx, t)
	if err != nil {
		return err
	}
	p, err := l.add(t, "peer "+t.Name, exec.Command(binary, t.Name, "-nats", nats))
	if err != nil {
		return err
	}
	var told struct{ Listening, Ops string }
	if err := p.first(ctx, &told); err != nil {
		return err
	}
	t.URL, t.Ops, t.PID = "ws://"+told.Listening+"/ws", "http://"+told.Ops, p.command.Process.Pid
	switch t.Name {
	case "centrifuge":
		t.NoQuery = true
	case "mercure":
		t.URL, t.NoQuery = t.URL+"?<<topic={room}|&>>", true
	}
	return nil
}

// natsPeer starts nats-server with its WebSocket listener; messages are
// published to it.
func (l *Launcher) natsPeer(ctx context.Context, t *Target, binary string) error {
	p, err := l.add(t, "peer nats", exec.Command(binary, t.Name))
	if err != nil {
		return err
	}
	var told struct{ WebSocket, NATS string }
	if err := p.first(ctx, &told); err != nil {
		return err
	}
	t.URL, t.NoQuery, t.PID = told.WebSocket+"/", true, p.command.Process.Pid
	return t.connect(told.NATS, "room.")
}
