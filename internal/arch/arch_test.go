package arch_test

import (
	"os"
	"testing"

	"nabat/internal/arch"
)

// table says what each package is and which packages of this module it may
// import. Arrows point down: mains, then the wiring of edge and control, then
// transports, hub and upstream, then loop, outq and session, then resume and
// frame, then proto. A new package is a new line here.
var table = []arch.Package{
	// The contract. It imports nothing but itself.
	{Path: "proto", Why: "the texts of the contract, as files"},
	{Path: "proto/subject", Why: "room names and patterns: the ground everything stands on"},
	{Path: "proto/grant", Imports: []string{"proto/subject"}, Why: "grants are patterns over rooms"},
	{Path: "proto/policy", Imports: []string{"proto/subject"}, Why: "policies are patterns over rooms"},
	{Path: "proto/block", Why: "what revokes tokens and blocks users"},
	{Path: "proto/order", Imports: []string{"proto/grant"}, Why: "what control tells edges, and what they answer"},
	{Path: "proto/clientpb", Why: "client.proto, generated: for clients, and for the tests of proto/wire"},
	{Path: "proto/buspb", Why: "bus.proto, generated: what edges report to control"},
	{Path: "proto/wire", Imports: []string{"proto/grant", "proto/subject"}, Why: "the client protocol names rooms"},

	// Shared leaves. They know the contract and never a program.
	{Path: "internal/arch", Why: "reads the repository, not the program"},
	{Path: "internal/config", Why: "flags, environment and file; knows no program's settings"},
	{Path: "internal/natsdev", Why: "an embedded NATS server: for dev, for tests, and by a file of its own"},
	{Path: "internal/bus", Imports: []string{"proto/subject"}, Why: "names on the bus and how to connect to it"},
	{Path: "internal/auth", Imports: []string{"proto/grant", "proto/wire"}, Why: "verifies tokens; refusals are wire errors"},
	{Path: "internal/history", Why: "stored messages out of JetStream; knows no rooms and no frames"},
	{Path: "internal/ops", Why: "the operations port; told by the caller what is ready"},

	// The edge, bottom up.
	{Path: "edge/internal/outq", Why: "a bounded queue; what it holds is the caller's"},
	{Path: "edge/internal/loop", Why: "who runs: epoll, wheel, table; knows no protocol"},
	{Path: "edge/internal/metrics", Why: "counters; everybody above may count"},
	{Path: "edge/internal/frame", Imports: []string{"proto/wire"}, Why: "a message encoded once"},
	{Path: "edge/internal/resume", Why: "the continuity of a room, as pure code"},
	{Path: "edge/internal/tracing", Why: "spans for a collector; knows no frames"},
	{Path: "edge/internal/rate", Why: "a token bucket; the caller has the clock"},
	{Path: "edge/internal/quota", Imports: []string{"edge/internal/rate"}, Why: "buckets by whose they are, over all loops"},
	{Path: "edge/internal/seats", Why: "counts connections by whose they are, over all loops"},
	{Path: "edge/internal/session", Imports: []string{"edge/internal/rate", "proto/grant", "proto/policy", "proto/subject", "proto/wire"}, Why: "the protocol as a pure machine"},
	{Path: "edge/internal/blocks", Imports: []string{"edge/internal/session", "proto/block", "proto/wire"}, Why: "who may not be here though the token is good"},
	{Path: "edge/internal/hub", Imports: []string{"edge/internal/frame"}, Why: "membership: which connection is in which room"},
	{Path: "edge/internal/conflate", Imports: []string{"edge/internal/frame"}, Why: "the newest message of each key"},
	{Path: "edge/internal/ask", Why: "requests to backends and their replies; knows no rooms and no clients"},
	{Path: "edge/internal/hook", Imports: []string{"edge/internal/ask", "internal/bus", "proto/grant"}, Why: "what backends decide, and for how long; knows no loops and no clients"},
	{Path: "edge/internal/upstream", Imports: []string{"edge/internal/frame", "edge/internal/metrics", "edge/internal/resume", "internal/bus", "internal/history", "proto/buspb", "proto/policy", "proto/subject", "proto/wire"}, Why: "the NATS side: bodies become frames"},
	{Path: "edge/internal/report", Imports: []string{"internal/bus", "proto/buspb"}, Why: "what control is told; knows no loop and no session"},
	{Path: "edge/internal/tlsconn", Imports: []string{"edge/internal/metrics"}, Why: "TLS without a socket: bytes in, bytes out; alone knows crypto/tls"},
	{Path: "edge/internal/listen", Imports: []string{"edge/internal/loop", "edge/internal/metrics", "edge/internal/rate", "edge/internal/seats", "edge/internal/tlsconn", "proto/wire"}, Why: "sockets and request heads, before there is a transport"},
	{Path: "edge/internal/transport", Imports: []string{"edge/internal/frame", "edge/internal/loop", "edge/internal/metrics", "edge/internal/outq", "edge/internal/session", "edge/internal/tlsconn", "proto/wire"}, Why: "what all transports share: queue and writer behind a session"},
	{Path: "edge/internal/transport/ws", Imports: []string{"edge/internal/frame", "edge/internal/loop", "edge/internal/transport", "proto/wire"}, Why: "WebSocket bytes"},
	{Path: "edge/internal/transport/sse", Imports: []string{"edge/internal/frame", "edge/internal/loop", "edge/internal/transport", "proto/wire"}, Why: "event-stream bytes"},
	{Path: "edge", Imports: []string{
		"edge/internal/ask", "edge/internal/blocks", "edge/internal/conflate", "edge/internal/frame", "edge/internal/hook", "edge/internal/hub",
		"edge/internal/listen", "edge/internal/loop", "edge/internal/metrics", "edge/internal/outq", "edge/internal/quota", "edge/internal/rate",
		"edge/internal/report", "edge/internal/resume", "edge/internal/seats", "edge/internal/session", "edge/internal/tlsconn", "edge/internal/tracing",
		"edge/internal/transport", "edge/internal/transport/sse", "edge/internal/transport/ws", "edge/internal/upstream", "internal/auth", "internal/bus",
		"internal/config", "internal/history", "proto/buspb", "proto/grant", "proto/order", "proto/policy", "proto/subject", "proto/wire",
	}, Why: "wires the edge: the only place where its parts meet"},

	// Control, bottom up.
	{Path: "control/internal/metrics", Why: "counters"},
	{Path: "control/internal/apikeys", Imports: []string{"internal/bus", "proto/subject"}, Why: "the keys of the HTTP API, as digests"},
	{Path: "control/internal/orders", Imports: []string{"internal/bus", "proto/order"}, Why: "orders to edges, and who has answered"},
	{Path: "control/internal/balance", Imports: []string{"control/internal/orders", "internal/bus", "proto/order"}, Why: "connections of edges, evened out by orders"},
	{Path: "control/internal/archive", Imports: []string{"internal/bus", "internal/history", "proto/policy", "proto/subject", "proto/wire"}, Why: "stored messages of rooms as the API shows them"},
	{Path: "control/internal/tokens", Imports: []string{"internal/auth", "internal/bus", "proto/grant", "proto/wire"}, Why: "keys and what is signed with them"},
	{Path: "control/internal/blocks", Imports: []string{"internal/auth", "internal/bus", "proto/block"}, Why: "revoked tokens and blocked users, on the bus"},
	{Path: "control/internal/issuers", Imports: []string{"control/internal/metrics", "internal/auth", "internal/bus", "proto/grant"}, Why: "keys of others, from their servers to the bus"},
	{Path: "control/internal/policies", Imports: []string{"internal/bus", "proto/policy"}, Why: "policies from file to bus"},
	{Path: "control/internal/streams", Imports: []string{"control/internal/metrics", "internal/bus", "proto/policy", "proto/subject"}, Why: "streams of the policies in force, which it asks a caller's interface for"},
	{Path: "control/internal/presence", Imports: []string{"proto/buspb"}, Why: "who is where, as pure code"},
	{Path: "control/internal/nodes", Imports: []string{"control/internal/metrics", "control/internal/presence", "internal/bus", "proto/buspb"}, Why: "the picture of presence, kept by reports and leases; asks a caller's interface to announce"},
	{Path: "control/internal/events", Imports: []string{"control/internal/metrics", "control/internal/presence", "internal/bus", "proto/buspb", "proto/subject"}, Why: "what presence has to tell, in JetStream and to edges"},
	{Path: "control/internal/console", Why: "pages: files and nothing else"},
	{Path: "control/internal/api", Imports: []string{
		"control/internal/apikeys", "control/internal/archive", "control/internal/balance", "control/internal/blocks", "control/internal/metrics",
		"control/internal/nodes", "control/internal/orders", "control/internal/policies", "control/internal/presence", "control/internal/streams",
		"control/internal/tokens", "internal/auth", "internal/bus", "internal/history", "proto", "proto/block", "proto/grant", "proto/order", "proto/policy",
		"proto/subject", "proto/wire",
	}, Why: "the verbs, over HTTP and NATS"},
	{Path: "control", Imports: []string{
		"control/internal/api", "control/internal/apikeys", "control/internal/archive", "control/internal/balance", "control/internal/blocks",
		"control/internal/console", "control/internal/events", "control/internal/issuers", "control/internal/metrics", "control/internal/nodes",
		"control/internal/orders", "control/internal/policies", "control/internal/presence", "control/internal/streams", "control/internal/tokens",
		"internal/bus", "internal/history", "proto", "proto/grant", "proto/policy", "proto/subject",
	}, Why: "wires control: the only place where its parts meet"},

	// What people import, and the programs.
	{Path: "client", Imports: []string{"proto/clientpb", "proto/wire"}, Why: "the Go client: the contract and a socket"},
	{Path: "deploy/nabat", Imports: []string{"client", "control", "edge", "internal/auth", "internal/bus", "internal/config", "internal/natsdev", "internal/ops", "proto/grant", "proto/order", "proto/policy", "proto/subject", "proto/wire"}, Why: "the binary: parses, wires, runs"},

	// The guide's programs, as backends have them: nothing of ours but the bus.
	{Path: "deploy/guide/chat", Why: "the backend of a chat"},
	{Path: "deploy/guide/go/publish", Why: "a message that is stored once"},
	{Path: "deploy/guide/go/token", Why: "a token for a user"},
	{Path: "deploy/guide/go/answer", Why: "what clients call"},
	{Path: "deploy/guide/go/presence", Why: "who is in a room, page by page"},
	{Path: "deploy/guide/go/events", Why: "what happens, by a durable consumer"},
	{Path: "deploy/guide/go/decide", Why: "what clients may publish"},
	{Path: "deploy/guide/go/revoke", Why: "the end of a user's tokens"},

	// The load test. It drives programs from outside and imports neither.
	{Path: "loadtest/account", Why: "processor time and memory of another process"},
	{Path: "loadtest/report", Why: "results as tables"},
	{Path: "loadtest/certificate", Why: "a certificate for one run"},
	{Path: "loadtest/swarm", Imports: []string{"loadtest/account"}, Why: "the clients"},
	{Path: "loadtest/checker", Why: "clients that hold an edge to its promises; nothing is shared with what it checks"},
	{Path: "loadtest/chat", Why: "clients that chat; nothing is shared with what they talk to"},
	{Path: "loadtest/floor", Imports: []string{"loadtest/account", "loadtest/certificate", "loadtest/swarm"}, Why: "the same system calls and no logic"},
	{Path: "loadtest/target", Imports: []string{"internal/natsdev", "loadtest/certificate", "loadtest/floor", "loadtest/swarm"}, Why: "what is driven: ours, a peer, the floor"},
	{Path: "loadtest/scenario", Imports: []string{"loadtest/account", "loadtest/chat", "loadtest/report", "loadtest/swarm", "loadtest/target"}, Why: "what is measured"},
	{Path: "loadtest/remote", Why: "pipes to workers on other machines, over NATS; knows no clients"},
	{Path: "loadtest", Imports: []string{"internal/natsdev", "loadtest/account", "loadtest/checker", "loadtest/floor", "loadtest/remote", "loadtest/report", "loadtest/scenario", "loadtest/swarm", "loadtest/target"}, Why: "the program: parses, wires, runs; and starts a bus where the user has none"},
}

var rules = arch.Rules{
	Module:   "nabat",
	Packages: table,
	External: []arch.External{
		{Module: "github.com/mailru/easygo", Users: []string{"edge/internal/loop"}, Why: "one package owns epoll"},
		{Module: "github.com/gobwas/ws", Users: []string{"edge/internal/transport/ws", "client", "loadtest/swarm", "loadtest/checker", "loadtest/chat"}, Why: "frames are bytes of one transport; what checks it brings its own"},
		{Module: "github.com/gobwas/httphead", Users: []string{"edge/internal/transport/ws", "client", "loadtest/swarm"}, Why: "as gobwas/ws"},
		{Module: "github.com/klauspost/compress", Users: []string{"edge/internal/frame", "edge/internal/transport/ws"}, Why: "out: once for all; in: before anything reads it"},
		{Module: "github.com/nats-io/nats-server", Users: []string{"internal/natsdev"}, Why: "one package runs the server"},
		{Module: "github.com/prometheus", Users: []string{
			"*/metrics", "internal/ops",
			"edge", "control", "deploy/nabat", // New takes the registry that main makes and ops serves
		}, Why: "who counts does not know who collects"},
		{Module: "crypto/tls", Users: []string{"edge/internal/tlsconn", "client", "control/internal/issuers", "loadtest/swarm", "loadtest/floor"}, Why: "one place knows how it must be driven on a loop; HTTP clients name whom they trust, and who loads it brings its own"},
		{Module: "github.com/golang-jwt", Users: []string{"internal/auth"}, Why: "one place verifies tokens"},
		{Module: "github.com/knadh/koanf", Users: []string{"internal/config"}, Why: "one place reads settings"},
		{Module: "github.com/spf13/cobra", Users: []string{"deploy/nabat", "loadtest"}, Why: "only mains have commands"},
		{Module: "github.com/chromedp", Users: nil, Why: "browsers are for tests"},
	},
	Pure:        []string{"edge/internal/rate", "edge/internal/session", "edge/internal/resume", "control/internal/presence"},
	PureImports: []string{"proto"},
	Strangers: [][]string{
		{"edge/internal/transport", "edge/internal/hub", "edge/internal/upstream"},
		{"edge/internal/transport/ws", "edge/internal/transport/sse", "edge/internal/transport/poll", "edge/internal/transport/wt"},
		{"edge", "control", "client"}, // they meet in proto and over NATS
		{"edge", "control", "loadtest"},
	},
	Folders: []string{".ci", "charts", "client", "control", "deploy", "edge", "internal", "loadtest", "proto"},
	Names:   []string{"util", "utils", "common", "helper", "helpers", "types", "pkg", "misc"},
	Machine: []string{"/" + "work/", "/" + "root/"},
	MaxFile: 500, MaxFunc: 70, MaxMethods: 30,
}

func TestTheRepositoryKeepsItsShape(t *testing.T) {
	findings, err := arch.Check(os.DirFS("../.."), rules)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		t.Error(f)
	}
}
