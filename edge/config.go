package edge

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"nabat/edge/internal/tracing"
	"nabat/edge/internal/upstream"
	"nabat/internal/bus"
	"nabat/internal/config"
	"nabat/proto/subject"
)

// Config is everything that can be set for one edge node. Every field is a
// flag, an environment variable NABAT_… and a key of the configuration file.
type Config struct {
	// Listen is where clients connect. A host and a port; ":8080" for all addresses.
	// Empty with TLSListen set: TLS only.
	Listen string `config:"listen" help:"address for clients, host:port; empty for none beside tls_listen"`
	// TLSListen is where clients connect with TLS (wss, https).
	TLSListen string `config:"tls_listen" help:"address for clients with TLS (wss, https), host:port; empty for none"`
	// TLSCert and TLSKey are PEM files: the chain, the server's own certificate
	// first, and its key. New ones are taken as soon as they are there.
	TLSCert string `config:"tls_cert" help:"file with the certificate chain for tls_listen, PEM; read again when it changes"`
	TLSKey  string `config:"tls_key" help:"file with the certificate's key, PEM"`
	// TLSMinVersion is 1.2 or 1.3. Default 1.2.
	TLSMinVersion string `config:"tls_min_version" help:"least version of TLS, 1.2 or 1.3"`
	// OpsListen serves health, readiness, metrics and profiles. Empty: not served.
	OpsListen string `config:"ops_listen" help:"address of the operations port (health, metrics, pprof); empty for none"`
	// Node is the node's name in replies, logs and metrics. Default: the host name.
	Node string `config:"node" help:"name of this node; the host name when empty"`
	// Loops is the number of event loops. 0: one for each processor. Range 0–64.
	Loops int `config:"loops" help:"event loops; 0 for one per processor"`

	// NATSURL names the servers, separated by commas.
	NATSURL string `config:"nats_url" help:"NATS servers, comma separated"`
	// NATSCredentials is a credentials file (JWT and nkey seed).
	NATSCredentials string `config:"nats_credentials" help:"file with NATS credentials"`
	// NATSNKey is a file with the seed of an nkey, as nabat nkeys writes it.
	NATSNKey string `config:"nats_nkey" help:"file with the seed of a NATS nkey"`
	// NATSInbox stands before the subjects that replies come to: a permission of
	// this role alone. Default _INBOX_edge.
	NATSInbox string `config:"nats_inbox" help:"prefix of the subjects that NATS replies come to"`
	// NATSToken authenticates at NATS.
	NATSToken string `config:"nats_token" help:"NATS token" secret:"true"`
	// NATSConnections is how many connections rooms are spread over. Range 1–16.
	NATSConnections int `config:"nats_connections" help:"NATS connections that rooms are spread over"`
	// NATSQueue bounds the messages between a NATS connection and the loops.
	// Default 65536. Above it rooms lose messages, which is announced by gap.
	NATSQueue int `config:"nats_queue" help:"messages that may wait between a NATS connection and the loops"`
	// NATSTimeout is how long a subscription or a publish waits for NATS.
	NATSTimeout time.Duration `config:"nats_timeout" help:"wait for NATS to confirm a subscription or a publish"`
	// ReportInterval is how long control may wait for what happens at connections.
	// Default 100 ms. Range 10 ms–10 s.
	ReportInterval time.Duration `config:"report_interval" help:"longest wait before control is told who came and left"`
	// ReportHeartbeat is how often control is told at least, with the node's
	// figures. Default 2 s. Range 100 ms–3 s: control gives a node up after 6 s.
	ReportHeartbeat time.Duration `config:"report_heartbeat" help:"how often control is told the node's figures, and that it lives"`
	// LeaseInterval is how often the node renews its lease, which lasts 15 s.
	// Default 5 s. Range 100 ms–7 s.
	LeaseInterval time.Duration `config:"lease_interval" help:"how often the node renews its lease, which lasts 15s"`
	// SubjectPrefix stands before the room in subjects.
	SubjectPrefix string `config:"subject_prefix" help:"subject prefix of rooms"`
	// RPCPrefix stands before the method in subjects of calls.
	RPCPrefix string `config:"rpc_prefix" help:"subject prefix of the methods that clients call"`
	// RPCTimeout is how long a backend may take to answer a call. Default 10 s.
	RPCTimeout time.Duration `config:"rpc_timeout" help:"time for a backend to answer a call"`
	// AnonymousRPC are patterns of the methods that clients without a token may
	// call. Default: none.
	AnonymousRPC []string `config:"anonymous_rpc" help:"patterns of methods that clients without a token may call"`
	// MaxRPC bounds the unanswered calls of one connection; they are in flight,
	// too. Default 16. Range 1–255.
	MaxRPC int `config:"max_rpc" help:"unanswered calls of one connection"`
	// MaxNodeRPC bounds those of the node, also of clients that have gone. Default
	// 16384. Range 1–2^20.
	MaxNodeRPC int `config:"max_node_rpc" help:"unanswered calls of the node"`
	// MaxReplyBytes bounds what a backend answers to a call: in JSON a text may
	// need six times as much of max_queue_bytes. Default 128 KiB.
	MaxReplyBytes config.Bytes `config:"max_reply_bytes" help:"size of a backend's answer to a call"`
	// HookConnect asks a backend on HookPrefix+"connect" about every client that
	// connects or renews its token. Policies say which rooms are asked about.
	// Default: off.
	HookConnect bool `config:"hook_connect" help:"ask a backend about every client that connects; policies say which rooms are asked about"`
	// HookPrefix stands before connect, subscribe and publish in subjects of hooks.
	HookPrefix string `config:"hook_prefix" help:"subject prefix of hooks"`
	// HookTimeout is how long a backend may take to answer a hook. Default 2 s.
	HookTimeout time.Duration `config:"hook_timeout" help:"time for a backend to answer a hook"`
	// HookUnanswered is deny or allow: what counts when no backend answers a hook,
	// not in time, or not sensibly. Default deny.
	HookUnanswered string `config:"hook_unanswered" help:"when no backend answers a hook in time: deny or allow"`
	// MaxHooks bounds the unanswered hooks of the node. Default 4096. Range 1–2^20.
	MaxHooks int `config:"max_hooks" help:"unanswered hooks of the node"`
	// HookCache bounds the answers kept for as long as they say. Default 65536. Range
	// 0–2^24.
	HookCache int `config:"hook_cache" help:"answers of hooks kept for as long as they say"`
	// RoomLinger keeps the subscription of a room that its last member left.
	RoomLinger time.Duration `config:"room_linger" help:"how long a room without members keeps its NATS subscription"`

	// Origins lists the web origins that may connect, as scheme://host:port; a
	// port * allows any port, a single * any origin. Empty: the same host only.
	Origins []string `config:"origins" help:"web origins that may connect; * for all; empty for the same host only"`
	// Issuer and Audience, when set, must be those of every token.
	Issuer   string `config:"issuer" help:"required token issuer (iss)"`
	Audience string `config:"audience" help:"required token audience (aud)"`
	// TokenLeeway forgives clocks that differ, for exp and nbf.
	TokenLeeway time.Duration `config:"token_leeway" help:"clock difference forgiven when token times are checked"`
	// Echo serves /echo, a diagnostic that returns every message.
	Echo bool `config:"echo" help:"serve /echo, a diagnostic WebSocket that returns every message"`
	// Dev allows the origins of local pages (loopback addresses and files).
	Dev bool `config:"dev" help:"development: let pages of this machine connect"`

	// MaxConnections bounds open connections. 0: as many as descriptors allow.
	MaxConnections int `config:"max_connections" help:"open connections; 0 for as many as file descriptors allow"`
	// MaxConnectionsPerAddress bounds the open connections of one client address;
	// an IPv6 /64 is one. Default 0: not bounded. Range 0–2^26.
	MaxConnectionsPerAddress int `config:"max_connections_per_address" help:"open connections of one client address (IPv6: of one /64); 0 for no bound"`
	// MaxConnectionsPerUser bounds the open connections of the user of a token.
	// Default 0: not bounded. Range 0–2^26.
	MaxConnectionsPerUser int `config:"max_connections_per_user" help:"open connections of one user; 0 for no bound"`
	// AcceptRate is how many connections the node takes in a second; others wait
	// in the kernel. Default 10000, half of what a processor can do when each
	// brings a token. 0: not bounded. Range 0–10^7.
	AcceptRate int `config:"accept_rate" help:"connections taken in a second; 0 for no bound"`
	// AcceptBurst is how many are taken at once after a pause. Default 0: as many
	// as AcceptRate. Range 0–10^7.
	AcceptBurst int `config:"accept_burst" help:"connections taken at once after a pause; 0 for as many as accept_rate"`
	// AcceptWait is how long a connection may have to wait for AcceptRate; those
	// beyond are refused. Default 2 s. Range 0–24 h.
	AcceptWait time.Duration `config:"accept_wait" help:"wait for accept_rate, above which connections are refused"`
	// Backlog is what the kernel holds of connections not yet taken, for each
	// loop; net.core.somaxconn bounds it too. Default 4096. Range 1–65535.
	Backlog int `config:"backlog" help:"connections that may wait in the kernel, for each loop"`
	// MaxHandshakes bounds connections that have not finished their handshake;
	// above it the oldest is sent away. Default 4096.
	MaxHandshakes int `config:"max_handshakes" help:"unfinished handshakes; above it the oldest is sent away"`
	// MaxTLSHandshakes bounds TLS handshakes under way, each of which has a
	// goroutine; others wait. Default 1024.
	MaxTLSHandshakes int `config:"max_tls_handshakes" help:"TLS handshakes under way; others wait for their turn"`
	// HandshakeTimeout is the time for a complete request head, and its body where
	// it has one. Default 10 s.
	HandshakeTimeout time.Duration `config:"handshake_timeout" help:"time for a complete request head"`
	// MaxHeadBytes bounds the request head. Default 16 KiB.
	MaxHeadBytes config.Bytes `config:"max_head_bytes" help:"size of a request head"`
	// ConnectTimeout is the time for the connect command. Default 10 s.
	ConnectTimeout time.Duration `config:"connect_timeout" help:"time for the first connect command"`
	// MaxMessageBytes bounds one inbound message. Default 64 KiB.
	MaxMessageBytes config.Bytes `config:"max_message_bytes" help:"size of one message from a client"`
	// Compression is on or off: whether clients may negotiate permessage-deflate
	// (RFC 7692). What goes out is compressed in rooms whose policy says compress.
	// Default off.
	Compression string `config:"compression" help:"let clients negotiate compression (permessage-deflate): on or off; policies say which rooms are compressed"`
	// CompressMinBytes is the least message that is compressed. Default 256. Range
	// 0–64 MiB.
	CompressMinBytes config.Bytes `config:"compress_min_bytes" help:"least size of a message that is compressed"`
	// MaxQueueBytes bounds what waits for one connection. Default 1 MiB. Above
	// it the policy's slow rule applies.
	MaxQueueBytes config.Bytes `config:"max_queue_bytes" help:"bytes that may wait for one connection"`
	// LagQueueBytes is the same in rooms with history, whose slow readers catch up
	// from there. Default 128 KiB.
	LagQueueBytes config.Bytes `config:"lag_queue_bytes" help:"bytes that may wait for one connection in rooms with history, before it catches up from there"`
	// MaxHistory bounds the messages of one history reply. Default 100.
	MaxHistory int `config:"max_history" help:"messages of one history reply"`
	// RecentMessages and RecentBytes bound what a node keeps of the newest
	// messages of each of its rooms with history. Default 64, and 32 KiB.
	RecentMessages int          `config:"recent_messages" help:"newest messages kept in memory of each room with history"`
	RecentBytes    config.Bytes `config:"recent_bytes" help:"bytes of them"`
	// HistoryVerify is when a room that was joined is compared with its history
	// once more; HistoryAudit how often after that. Default 1.5 s, and 1 min.
	HistoryVerify time.Duration `config:"history_verify" help:"after a room is joined, when it is compared with its history again"`
	HistoryAudit  time.Duration `config:"history_audit" help:"how often rooms are compared with their history"`
	// HistoryPatience is how long clients that come back, and rooms that missed
	// something, wait for a history that can not be read or lags behind, as it
	// does for some seconds when NATS elects another leader. Default 20 s.
	HistoryPatience time.Duration `config:"history_patience" help:"wait for a history that can not be read or lags behind, before clients are told"`
	// HistoryRequests bounds the requests to the store under way. Default 8.
	HistoryRequests int `config:"history_requests" help:"requests to the history store under way at a time"`
	// TraceEndpoint is the URL of an OpenTelemetry collector that takes OTLP over
	// HTTP, such as http://collector:4318. Messages whose publisher sent a
	// traceparent with the sampled flag then make a span for each loop, from
	// their arrival to the last socket. Default empty: none.
	TraceEndpoint string `config:"trace_endpoint" help:"OpenTelemetry collector (OTLP over HTTP) that gets a span for each sampled message; empty for none"`
	// TraceRate bounds the messages traced in a second. Default 100.
	TraceRate int `config:"trace_rate" help:"messages traced in a second at most"`
	// MaxInboxBytes bounds what waits for one loop. Default 64 MiB. Above it
	// rooms lose messages, which is announced by gap.
	MaxInboxBytes config.Bytes `config:"max_inbox_bytes" help:"bytes of messages that may wait for one loop"`
	// MaxRooms bounds the rooms of one connection. Default 128.
	MaxRooms int `config:"max_rooms" help:"rooms of one connection"`
	// MaxBadCommands is how many a client may send before it is closed with 4010.
	MaxBadCommands int `config:"max_bad_commands" help:"bad commands before a connection is closed"`
	// MaxInFlight bounds the unanswered commands of one connection. Default 32.
	MaxInFlight int `config:"max_in_flight" help:"unanswered commands of one connection"`
	// MessageRate bounds the frames of one connection in a second, MessageBurst
	// those at once after a pause (0: as many as the rate). Default 0: not
	// bounded. Range of both 0–10^9.
	MessageRate  int `config:"message_rate" help:"frames of one connection in a second; 0 for no bound"`
	MessageBurst int `config:"message_burst" help:"frames of one connection at once; 0 for as many as message_rate"`
	// ByteRate and ByteBurst bound the bytes of those frames likewise. Default 0:
	// not bounded. Range of both 0–1 GiB.
	ByteRate  config.Bytes `config:"byte_rate" help:"bytes of one connection's frames in a second; 0 for no bound"`
	ByteBurst config.Bytes `config:"byte_burst" help:"bytes of one connection's frames at once; 0 for as many as byte_rate"`
	// SubscribeRate and SubscribeBurst bound the rooms that one connection
	// subscribes to likewise. Default 0: not bounded. Range of both 0–10^9.
	SubscribeRate  int `config:"subscribe_rate" help:"rooms that one connection subscribes to in a second; 0 for no bound"`
	SubscribeBurst int `config:"subscribe_burst" help:"rooms that one connection subscribes to at once; 0 for as many as subscribe_rate"`
	// RPCRate and RPCBurst bound the calls of one connection likewise. Default 0:
	// not bounded. Range of both 0–10^9.
	RPCRate  int `config:"rpc_rate" help:"calls of one connection in a second; 0 for no bound"`
	RPCBurst int `config:"rpc_burst" help:"calls of one connection at once; 0 for as many as rpc_rate"`
	// UserMessageRate and UserByteRate bound the frames of all connections of one
	// user to this node together, AddressMessageRate and AddressByteRate those of
	// one address (IPv6: of one /64), in a second; at once, as many. Default 0: not
	// bounded. Range 0–10^9, bytes 0–1 GiB.
	UserMessageRate    int          `config:"user_message_rate" help:"frames of one user's connections in a second; 0 for no bound"`
	UserByteRate       config.Bytes `config:"user_byte_rate" help:"bytes of those frames in a second; 0 for no bound"`
	AddressMessageRate int          `config:"address_message_rate" help:"frames of one address's connections in a second; 0 for no bound"`
	AddressByteRate    config.Bytes `config:"address_byte_rate" help:"bytes of those frames in a second; 0 for no bound"`
	// UserSubscribeRate and AddressSubscribeRate bound the rooms that those
	// connections subscribe to likewise, UserRPCRate and AddressRPCRate their calls.
	UserSubscribeRate    int `config:"user_subscribe_rate" help:"rooms that one user's connections subscribe to in a second; 0 for no bound"`
	AddressSubscribeRate int `config:"address_subscribe_rate" help:"rooms that one address's connections subscribe to in a second; 0 for no bound"`
	UserRPCRate          int `config:"user_rpc_rate" help:"calls of one user's connections in a second; 0 for no bound"`
	AddressRPCRate       int `config:"address_rpc_rate" help:"calls of one address's connections in a second; 0 for no bound"`
	// NamespaceRooms and NamespaceMembers bound the rooms of this node whose first
	// token is the same, and the members of all of these: a connection counts in each
	// of its rooms. Default 0: not bounded. Range 0–2^30.
	NamespaceRooms   int `config:"namespace_rooms" help:"rooms of the node with the same first token; 0 for no bound"`
	NamespaceMembers int `config:"namespace_members" help:"members of all rooms of the node with the same first token; 0 for no bound"`
	// NamespacePublishRate bounds what clients of this node publish in a second to
	// all rooms whose first token is the same; at once, as many. Default 0: not
	// bounded. Range 0–10^9.
	NamespacePublishRate int `config:"namespace_publish_rate" help:"messages that clients publish in a second to rooms with the same first token; 0 for no bound"`
	// MaxRateRefusals is how many commands these rates may refuse, less those that
	// pass, before a connection is closed with 4103. Default 100. Range 1–65535.
	MaxRateRefusals int `config:"max_rate_refusals" help:"commands refused by a rate before a connection is closed"`

	// ProxyProtocol is off, optional or required: whether connections begin with
	// a PROXY protocol header (version 1 or 2). It is taken from TrustedProxies
	// only; when required, nobody else may connect. Default off.
	ProxyProtocol string `config:"proxy_protocol" help:"PROXY protocol header from trusted proxies: off, optional or required"`
	// TrustedProxies are the networks of proxies that say who the client is.
	// Default: none.
	TrustedProxies []string `config:"trusted_proxies" help:"networks of proxies that are believed about the client's address, such as 10.0.0.0/8"`
	// ForwardedHeader is the header in which trusted proxies name the client:
	// X-Forwarded-For, Forwarded, or empty for neither. The other is not read,
	// because proxies pass it on as the client wrote it.
	ForwardedHeader string `config:"forwarded_header" help:"header in which trusted proxies name the client: X-Forwarded-For or Forwarded; empty for none"`

	// SendBuffer is SO_SNDBUF: what a stalled reader may hold in the kernel.
	// Default 32 KiB. Range 0–64 MiB; 0: the kernel's own.
	SendBuffer config.Bytes `config:"send_buffer" help:"socket send buffer (SO_SNDBUF); 0 for the kernel's own"`
	// TCPNotSentLowat is TCP_NOTSENT_LOWAT: what of the send buffer may wait to be
	// sent before the edge keeps the rest itself, where it can be dropped by
	// policy. Default 16 KiB. Range 0–64 MiB; 0: the kernel's own.
	TCPNotSentLowat config.Bytes `config:"tcp_not_sent_lowat" help:"unsent bytes that the kernel takes of one connection (TCP_NOTSENT_LOWAT); 0 for the kernel's own"`
	// TCPUserTimeout is TCP_USER_TIMEOUT: how long sent data may go without an
	// acknowledgement. Default 0: PingInterval and PongTimeout together. Range
	// 0–24 h.
	TCPUserTimeout time.Duration `config:"tcp_user_timeout" help:"unacknowledged data older than this ends a connection (TCP_USER_TIMEOUT); 0 for ping_interval and pong_timeout together"`
	// TCPKeepAlive is the silence after which the kernel asks whether a peer is
	// there: four times over as long again, or until TCPUserTimeout. It finds the
	// dead where nothing is sent; the kernel's own is two hours. Default 1 min. Range 0 (off)–9 h, in
	// whole seconds.
	TCPKeepAlive time.Duration `config:"tcp_keepalive" help:"silence after which the kernel asks whether a peer is there (SO_KEEPALIVE, TCP_KEEPIDLE); 0 for never"`
	// PingInterval is the silence after which a client is pinged. Default 25 s.
	PingInterval time.Duration `config:"ping_interval" help:"silence after which a client is pinged"`
	// PongTimeout is how long an answer to a ping may take. Default 10 s.
	PongTimeout time.Duration `config:"pong_timeout" help:"time for the answer to a ping"`
	// CloseTimeout is how long the client's half of a close is awaited.
	CloseTimeout time.Duration `config:"close_timeout" help:"time for a client to end its half of a close"`
	// ExpiryWarning is sent that long before a token expires. Default 1 min.
	ExpiryWarning time.Duration `config:"expiry_warning" help:"warning before a token expires"`
	// Drain is the time over which a stopping node moves its clients elsewhere.
	Drain time.Duration `config:"drain" help:"time over which a stopping node closes its connections"`

	// LogLevel is debug, info, warn or error; LogFormat is text or json.
	LogLevel  string `config:"log_level" help:"debug, info, warn or error"`
	LogFormat string `config:"log_format" help:"text or json"`
}

// Defaults returns the configuration of an edge that was told nothing.
func Defaults() Config {
	return Config{
		Listen: "127.0.0.1:8080", OpsListen: "127.0.0.1:9090",
		NATSURL: "nats://127.0.0.1:4222", NATSInbox: bus.InboxEdge, NATSConnections: 2, NATSQueue: 65536, NATSTimeout: 5 * time.Second,
		RPCPrefix: "rpc.", RPCTimeout: 10 * time.Second, MaxRPC: 16, MaxNodeRPC: 16384, MaxReplyBytes: 128 << 10,
		ReportInterval: 100 * time.Millisecond, ReportHeartbeat: bus.ReportHeartbeat, LeaseInterval: bus.LeaseEvery,
		HookPrefix: "hook.", HookTimeout: 2 * time.Second, HookUnanswered: unansweredDeny, MaxHooks: 4096, HookCache: 65536,
		SubjectPrefix: "room.", RoomLinger: 60 * time.Second, TokenLeeway: 5 * time.Second,
		TLSMinVersion: "1.2", AcceptRate: 10000, AcceptWait: 2 * time.Second, Backlog: 4096,
		MaxHandshakes: 4096, MaxTLSHandshakes: 1024, HandshakeTimeout: 10 * time.Second, MaxHeadBytes: 16 << 10,
		ConnectTimeout: 10 * time.Second, MaxMessageBytes: 64 << 10, MaxQueueBytes: 1 << 20,
		LagQueueBytes: 128 << 10, MaxHistory: 100, RecentMessages: 64, RecentBytes: 32 << 10,
		HistoryVerify: 1500 * time.Millisecond, HistoryAudit: time.Minute, HistoryPatience: 20 * time.Second, HistoryRequests: 8, MaxInboxBytes: 64 << 20,
		MaxRooms: 128, MaxBadCommands: 10, MaxInFlight: 32, MaxRateRefusals: 100,
		Compression: "off", CompressMinBytes: 256,
		ProxyProtocol: "off", ForwardedHeader: "X-Forwarded-For",
		SendBuffer: 32 << 10, TCPNotSentLowat: 16 << 10, TCPKeepAlive: time.Minute,
		PingInterval: 25 * time.Second, PongTimeout: 10 * time.Second, CloseTimeout: 5 * time.Second,
		ExpiryWarning: time.Minute, Drain: 10 * time.Second,
		TraceRate: 100, LogLevel: "info", LogFormat: "text",
	}
}

// Check reports the first setting that cannot work, by its key.
func (c *Config) Check() error {
	if err := c.checkNumbers(); err != nil {
		return err
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{
		{"nats_timeout", c.NATSTimeout}, {"rpc_timeout", c.RPCTimeout}, {"hook_timeout", c.HookTimeout}, {"history_verify", c.HistoryVerify}, {"history_audit", c.HistoryAudit}, {"history_patience", c.HistoryPatience}, {"handshake_timeout", c.HandshakeTimeout}, {"connect_timeout", c.ConnectTimeout},
		{"ping_interval", c.PingInterval}, {"pong_timeout", c.PongTimeout}, {"close_timeout", c.CloseTimeout},
	} {
		if d.value < 100*time.Millisecond || d.value > 24*time.Hour {
			return fmt.Errorf("%s is %s: must be 100ms to 24h", d.key, d.value)
		}
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"room_linger", c.RoomLinger}, {"token_leeway", c.TokenLeeway}, {"expiry_warning", c.ExpiryWarning}, {"drain", c.Drain},
		{"accept_wait", c.AcceptWait}, {"tcp_user_timeout", c.TCPUserTimeout}} {
		if d.value < 0 || d.value > 24*time.Hour {
			return fmt.Errorf("%s is %s: must be 0 to 24h", d.key, d.value)
		}
	}
	for _, d := range []struct {
		key             string
		value, min, max time.Duration
	}{{"report_interval", c.ReportInterval, 10 * time.Millisecond, 10 * time.Second},
		{"report_heartbeat", c.ReportHeartbeat, 100 * time.Millisecond, bus.NodeTimeout / 2},
		{"lease_interval", c.LeaseInterval, 100 * time.Millisecond, 7 * time.Second}} {
		if d.value < d.min || d.value > d.max {
			return fmt.Errorf("%s is %s: must be %s to %s", d.key, d.value, d.min, d.max)
		}
	}
	if c.Compression != "on" && c.Compression != "off" {
		return fmt.Errorf("compression is %q: must be on or off", c.Compression)
	}
	if c.Listen == "" && c.TLSListen == "" {
		return errors.New("listen is empty: give host:port, or :port for every address")
	}
	if c.NATSURL == "" {
		return errors.New("nats_url is empty: give at least one server, such as nats://127.0.0.1:4222")
	}
	for _, pattern := range c.AnonymousRPC {
		if err := subject.CheckPattern(pattern); err != nil {
			return fmt.Errorf("anonymous_rpc: %w", err)
		}
	}
	if _, err := c.proxies(); err != nil {
		return err
	}
	if err := c.checkHooks(); err != nil {
		return err
	}
	if c.TraceEndpoint != "" {
		if err := tracing.CheckEndpoint(c.TraceEndpoint); err != nil {
			return fmt.Errorf("trace_endpoint: %w", err)
		}
	}
	if err := c.checkTLS(); err != nil {
		return err
	}
	return c.checkOrigins()
}

func (c *Config) checkNumbers() error {
	for _, r := range []struct {
		key      string
		value    int64
		min, max int64
	}{
		{"loops", int64(c.Loops), 0, upstream.MaxLoops},
		{"nats_connections", int64(c.NATSConnections), 1, 16},
		{"nats_queue", int64(c.NATSQueue), 1, 1 << 24},
		{"max_connections", int64(c.MaxConnections), 0, 1 << 26},
		{"max_handshakes", int64(c.MaxHandshakes), 1, 1 << 20},
		{"max_tls_handshakes", int64(c.MaxTLSHandshakes), 1, 1 << 20},
		{"max_head_bytes", int64(c.MaxHeadBytes), 1 << 10, 1 << 20},
		{"max_message_bytes", int64(c.MaxMessageBytes), 1 << 10, 64 << 20},
		{"compress_min_bytes", int64(c.CompressMinBytes), 0, 64 << 20},
		{"max_queue_bytes", int64(c.MaxQueueBytes), 16 << 10, 64 << 20},
		{"lag_queue_bytes", int64(c.LagQueueBytes), 16 << 10, 64 << 20},
		{"max_history", int64(c.MaxHistory), 1, 256},
		{"recent_messages", int64(c.RecentMessages), 1, 1 << 16},
		{"recent_bytes", int64(c.RecentBytes), 1 << 10, 64 << 20},
		{"history_requests", int64(c.HistoryRequests), 1, 256},
		{"max_inbox_bytes", int64(c.MaxInboxBytes), 1 << 20, 16 << 30},
		{"trace_rate", int64(c.TraceRate), 1, 1e6},
		{"max_rooms", int64(c.MaxRooms), 1, 1 << 16},
		{"max_bad_commands", int64(c.MaxBadCommands), 1, 1<<16 - 1},
		{"max_in_flight", int64(c.MaxInFlight), 1, 1<<16 - 1},
		{"max_connections_per_address", int64(c.MaxConnectionsPerAddress), 0, 1 << 26},
		{"max_connections_per_user", int64(c.MaxConnectionsPerUser), 0, 1 << 26},
		{"accept_rate", int64(c.AcceptRate), 0, 1e7},
		{"accept_burst", int64(c.AcceptBurst), 0, 1e7},
		{"backlog", int64(c.Backlog), 1, 1<<16 - 1},
		{"message_rate", int64(c.MessageRate), 0, 1e9},
		{"message_burst", int64(c.MessageBurst), 0, 1e9},
		{"byte_rate", int64(c.ByteRate), 0, 1 << 30},
		{"byte_burst", int64(c.ByteBurst), 0, 1 << 30},
		{"subscribe_rate", int64(c.SubscribeRate), 0, 1e9},
		{"subscribe_burst", int64(c.SubscribeBurst), 0, 1e9},
		{"user_message_rate", int64(c.UserMessageRate), 0, 1e9},
		{"user_byte_rate", int64(c.UserByteRate), 0, 1 << 30},
		{"address_message_rate", int64(c.AddressMessageRate), 0, 1e9},
		{"address_byte_rate", int64(c.AddressByteRate), 0, 1 << 30},
		{"user_subscribe_rate", int64(c.UserSubscribeRate), 0, 1e9},
		{"address_subscribe_rate", int64(c.AddressSubscribeRate), 0, 1e9},
		{"user_rpc_rate", int64(c.UserRPCRate), 0, 1e9},
		{"address_rpc_rate", int64(c.AddressRPCRate), 0, 1e9},
		{"namespace_rooms", int64(c.NamespaceRooms), 0, 1 << 30},
		{"namespace_members", int64(c.NamespaceMembers), 0, 1 << 30},
		{"max_hooks", int64(c.MaxHooks), 1, 1 << 20},
		{"hook_cache", int64(c.HookCache), 0, 1 << 24},
		{"namespace_publish_rate", int64(c.NamespacePublishRate), 0, 1e9},
		{"rpc_rate", int64(c.RPCRate), 0, 1e9},
		{"rpc_burst", int64(c.RPCBurst), 0, 1e9},
		{"max_rpc", int64(c.MaxRPC), 1, 1<<8 - 1},
		{"max_node_rpc", int64(c.MaxNodeRPC), 1, 1 << 20},
		{"max_reply_bytes", int64(c.MaxReplyBytes), 1 << 10, 64 << 20},
		{"max_rate_refusals", int64(c.MaxRateRefusals), 1, 1<<16 - 1},
		{"send_buffer", int64(c.SendBuffer), 0, 64 << 20},
		{"tcp_not_sent_lowat", int64(c.TCPNotSentLowat), 0, 64 << 20},
	} {
		if r.value < r.min || r.value > r.max {
			return fmt.Errorf("%s is %d: must be %d to %d", r.key, r.value, r.min, r.max)
		}
	}
	return nil
}

func (c *Config) checkOrigins() error {
	for _, o := range c.Origins {
		if o == "*" || o == "null" {
			continue
		}
		scheme, host, ok := splitOrigin(o)
		if u, err := url.Parse(scheme + "://" + host); !ok || err != nil || u.Host == "" {
			return fmt.Errorf("origins: %q is not an origin: write scheme://host or scheme://host:port, without a path", o)
		}
	}
	return nil
}

// complete fills what depends on the machine.
func (c *Config) complete() error {
	if c.Loops == 0 {
		c.Loops = min(runtime.GOMAXPROCS(0), upstream.MaxLoops)
	}
	if c.Node == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("node: no name given and the host has none: %w", err)
		}
		c.Node = name
	}
	if c.MaxConnections == 0 {
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return fmt.Errorf("getrlimit: %w", err)
		}
		const own = 256 // loops, listeners, NATS, files
		c.MaxConnections = int(min(limit.Cur, 1<<26)) - own
		if c.MaxConnections < 16 {
			return fmt.Errorf("only %d file descriptors: raise the limit (ulimit -n)", limit.Cur)
		}
	}
	return nil
}
