package target

import (
	"context"
	"os/exec"
	"slices"
	"strings"

	"nabat/loadtest/swarm"
)

// Peers are the servers of the nested module loadtest/peers.
var Peers = []string{"naive", "gorilla", "gws", "nbio", "nats", "centrifuge", "mercure"}

// dialect is how one kind of server wants to be spoken and published to.
type dialect struct {
	clients swarm.Dialect
	path    string // where the user names none
	query   string // what must stand behind the path, a template; its first parameter tells whether it does
	rooms   bool   // rooms stand in the query as Nabat has them
	subject string // where the server reads the messages of all rooms from NATS; "": each has its own
	nats    string // what is published over NATS, a template; "": the message
	post    string // what is posted, a template; "": that is the user's to say
	form    bool   // post is a form, not JSON
	failure string // text in an answer of HTTP 200 that says that nothing was published
}

// dialects by name. {prefix} stands for what is before a room in a subject.
var dialects = map[string]dialect{
	Plain: {path: "/ws", rooms: true, post: `{"room":"{room}","data":{data}}`},
	// The NATS protocol in binary frames. INFO comes first; the PONG says that
	// the subscriptions are in force.
	"nats": {path: "/", clients: swarm.Dialect{
		Open: []string{"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"loadtest\",\"version\":\"1\",\"protocol\":1}\r\n" +
			"<<SUB {prefix}{room} {n}\r\n>>PING\r\n"},
		Binary: true, Greeting: "PONG\r\n", Patient: true, Refusals: []string{"-ERR "}, Ping: "PING\r\n", Pong: "PONG\r\n", Lines: true,
	}},
	// Centrifugo's bidirectional protocol in JSON. Several commands go in one
	// frame; a reply to a subscription says that it is in force.
	"centrifugo": {path: "/connection/websocket", clients: swarm.Dialect{
		Open:     []string{`{"id":1,"connect":{}}` + "\n" + `<<{"id":1{n},"subscribe":{"channel":"{room}"}}|` + "\n" + `>>`},
		Greeting: `"subscribe":{`, Every: true, Patient: true, Refusals: []string{`"error":{`}, Ping: "{}", Pong: "{}", Lines: true,
	}, post: `{"channel":"{room}","data":{data}}`, failure: `"error":{`},
	// Server-sent events. The head of the answer comes when the subscription is
	// in force.
	"mercure": {path: "/.well-known/mercure", query: "<<topic={room}|&>>", clients: swarm.Dialect{Events: true},
		post: "topic={room}&data={form}", form: true},
	// Action Cable in JSON, with AnyCable's public streams: a command for each
	// room, in a frame of its own, after the welcome. Pings want no answer.
	"anycable": {path: "/cable", clients: swarm.Dialect{
		Headers:  []string{"Sec-WebSocket-Protocol: actioncable-v1-json"},
		Open:     []string{`<<{"command":"subscribe","identifier":"{\"channel\":\"$pubsub\",\"stream_name\":\"{room}\"}"}|` + "\x00" + `>>`},
		Await:    []string{`"type":"welcome"`},
		Greeting: `"type":"confirm_subscription"`, Every: true, Patient: true,
		Refusals: []string{`"type":"reject_subscription"`, `"type":"disconnect"`},
	}, subject: "__anycable__", nats: `{"stream":"{room}","data":{text}}`, post: `{"stream":"{room}","data":{text}}`},
	// Engine.IO 4 and Socket.IO: the server opens, the client connects to the
	// namespace, and only then may it send an event, whose acknowledgement says
	// that it has joined. 44 refuses the namespace.
	"socketio": {path: "/socket.io/", query: "EIO=4&transport=websocket", clients: swarm.Dialect{
		Open:     []string{"40", `420["join",[<<"{room}"|,>>]]`},
		Await:    []string{`0{"sid":`, `40{"sid":`},
		Greeting: "430[", Patient: true, Refusals: []string{`44{"message":`}, Ping: "2", Pong: "3",
	}, post: `{"room":"{room}","data":{data}}`},
}

// Plain is the dialect of a server that takes rooms from the URL and sends
// messages as they are.
const Plain = "plain"

// Dialects are the names of all dialects.
var Dialects = []string{Plain, "nats", "centrifugo", "mercure", "anycable", "socketio"}

// ofPeers are the dialects of the peers that have another name or none.
var ofPeers = map[string]string{"nats": "nats", "centrifuge": "centrifugo", "mercure": "mercure"}

// spoken is how clients speak to a server that takes messages from subjects with
// that prefix.
func (d *dialect) spoken(prefix string) swarm.Dialect {
	clients := d.clients
	clients.Open = slices.Clone(clients.Open)
	for i, text := range clients.Open {
		clients.Open[i] = strings.ReplaceAll(text, "{prefix}", prefix)
	}
	return clients
}

// peer starts NATS and a server of loadtest/peers.
func (l *Launcher) peer(ctx context.Context, t *Target) error {
	binary, err := l.build(ctx, "loadtest/peers", ".", "peers")
	if err != nil {
		return err
	}
	if name, has := ofPeers[t.Name]; has {
		d := dialects[name]
		t.Dialect = d.spoken(subjectPrefix)
	}
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
	return t.connect(told.NATS, subjectPrefix)
}
