// Package wire is the client protocol, version 1, in JSON: commands in, replies
// and messages out, and the one table of error and close codes. PROTOCOL.md is
// the same in prose.
package wire

import (
	"net/http"
	"strconv"
	"time"
)

// Code names an error or a close. It is also the metric label.
type Code string

// The codes. Table says what each means.
const (
	BadCommand       Code = "bad_command"
	UnknownCommand   Code = "unknown_command"
	BadRoom          Code = "bad_room"
	BadData          Code = "bad_data"
	TooLarge         Code = "too_large"
	TooManyRooms     Code = "too_many_rooms"
	NotConnected     Code = "not_connected"
	AlreadyConnected Code = "already_connected"
	NotSubscribed    Code = "not_subscribed"
	NotAllowed       Code = "not_allowed"
	NoHistoryKept    Code = "no_history"
	RateLimited      Code = "rate_limited"
	Unavailable      Code = "unavailable"
	Overloaded       Code = "overloaded"

	TooManyConnections Code = "too_many_connections"

	NoResponders Code = "no_responders"
	RPCTimeout   Code = "rpc_timeout"
	RPCFailed    Code = "rpc_failed"

	HookUnavailable Code = "hook_unavailable"
	NamespaceFull   Code = "namespace_full"

	TokenMalformed   Code = "token_malformed"
	TokenAlgorithm   Code = "token_algorithm"
	TokenUnknownKey  Code = "token_unknown_key"
	TokenSignature   Code = "token_signature"
	TokenExpired     Code = "token_expired"
	TokenNotYetValid Code = "token_not_yet_valid"
	TokenAudience    Code = "token_audience"
	TokenIssuer      Code = "token_issuer"
	TokenClaims      Code = "token_claims"
	TokenRevoked     Code = "token_revoked"
	UserBlocked      Code = "user_blocked"

	BadRequest       Code = "bad_request"
	NotFound         Code = "not_found"
	MethodNotAllowed Code = "method_not_allowed"
	OriginNotAllowed Code = "origin_not_allowed"
	HeadTooLarge     Code = "head_too_large"
	HeadTimeout      Code = "head_timeout"
	LengthRequired   Code = "length_required"
	BodyTimeout      Code = "body_timeout"
	HTTPVersion      Code = "http_version"
	TLSOnPlainPort   Code = "tls_on_plain_port"
	PlainOnTLSPort   Code = "plain_on_tls_port"
	BadProxyHeader   Code = "bad_proxy_header"
	ProxyNotTrusted  Code = "proxy_not_trusted"
	UpgradeRequired  Code = "upgrade_required"
	BadSubprotocol   Code = "bad_subprotocol"
	Draining         Code = "draining"

	Protocol       Code = "protocol"
	ConnectTimeout Code = "connect_timeout"
	SlowConsumer   Code = "slow"
	Drain          Code = "drain"
	Kicked         Code = "kicked"
	Moved          Code = "moved"
	Removed        Code = "removed"
)

// Entry is one row of the table of codes.
type Entry struct {
	Code    Code
	Status  int    // HTTP status when a request is refused with it
	Close   uint16 // WebSocket close status, 0 when it never closes
	Returns bool   // the client should come back, after retry_ms
	Meaning string
}

// Table holds every code that a client can see, in the order of PROTOCOL.md.
var Table = []Entry{
	{BadCommand, 400, 0, false, "The frame is not one JSON object with exactly one known verb and its fields."},
	{UnknownCommand, 400, 0, false, "The verb is not one of the protocol."},
	{BadRoom, 400, 0, false, "The room name breaks a rule; the reason says which."},
	{BadData, 400, 0, false, "The body of a publish or a call is missing, given twice, or not what its field says."},
	{TooLarge, 413, 0, false, "The message is larger than this server or NATS takes."},
	{TooManyRooms, 400, 0, false, "The connection is in as many rooms as it may be."},
	{NotConnected, 401, 0, false, "Commands need a connect first."},
	{AlreadyConnected, 400, 0, false, "A connection connects once."},
	{NotSubscribed, 400, 0, false, "The connection is not in that room."},
	{NotAllowed, 403, 4002, false, "The token or the room's policy does not allow it."},
	{NoHistoryKept, 404, 0, false, "The room's policy keeps no history."},
	{RateLimited, 429, 4103, true, "Too many commands at once, or in a time; try again after retry_ms."},
	{Unavailable, 503, 4101, true, "NATS can not be reached now; try again after retry_ms."},
	{Overloaded, 503, 4102, true, "The node has no room now; try again after retry_ms, or elsewhere."},
	{TooManyConnections, 429, 4104, true, "The user or the address has as many connections as one may have."},
	{NoResponders, 503, 0, true, "No backend answers calls of that method now."},
	{RPCTimeout, 504, 0, false, "The backend did not answer in time; it may have done what was asked."},
	{RPCFailed, 502, 0, false, "The backend answered the call with an error, which the reason and backend tell."},
	{HookUnavailable, 503, 4105, true, "The backend that decides this did not answer, or not in time."},
	{NamespaceFull, 429, 4106, true, "The rooms with the same first token have as many members on this node as they may have, or are as many as there may be."},
	{TokenMalformed, 401, 4000, false, "The token is not a JWT."},
	{TokenAlgorithm, 401, 4000, false, "The token's algorithm is not accepted for its key."},
	{TokenUnknownKey, 401, 4000, false, "No key with the token's key id is known."},
	{TokenSignature, 401, 4000, false, "The token's signature is wrong."},
	{TokenExpired, 401, 4001, true, "The token has expired; come back with a fresh one."},
	{TokenNotYetValid, 401, 4000, false, "The token is not valid yet (nbf)."},
	{TokenAudience, 401, 4000, false, "The token is for another audience (aud)."},
	{TokenIssuer, 401, 4000, false, "The token comes from another issuer (iss)."},
	{TokenClaims, 401, 4000, false, "A claim of the token has the wrong form."},
	{TokenRevoked, 401, 4003, false, "The token was revoked; another one may do."},
	{UserBlocked, 403, 4004, false, "The user is blocked, for a time or for good."},
	{BadRequest, 400, 0, false, "The HTTP request is not well formed; the reason says where."},
	{NotFound, 404, 0, false, "Nothing is served at that path."},
	{MethodNotAllowed, 405, 0, false, "The path takes another method."},
	{OriginNotAllowed, 403, 0, false, "The web page's origin is not on the allow-list."},
	{HeadTooLarge, 431, 0, false, "The request head is larger than this server takes."},
	{HeadTimeout, 408, 0, true, "The request head did not arrive in time."},
	{LengthRequired, 411, 0, false, "The request has a body, and does not say its length beforehand."},
	{BodyTimeout, 408, 0, true, "The request's body did not arrive in time."},
	{HTTPVersion, 505, 0, false, "Only HTTP/1.1 is spoken on this port."},
	{TLSOnPlainPort, 400, 0, false, "A TLS handshake arrived on a port without TLS."},
	{PlainOnTLSPort, 400, 0, false, "Plain HTTP arrived on a port that speaks TLS."},
	{BadProxyHeader, 400, 0, false, "The PROXY protocol header is malformed, or there is none where one must be."},
	{ProxyNotTrusted, 403, 0, false, "Only proxies that the node trusts may connect here, or send a PROXY protocol header."},
	{UpgradeRequired, 426, 0, false, "The request is not a WebSocket handshake."},
	{BadSubprotocol, 400, 0, false, "None of the offered sub-protocols is served."},
	{Draining, 503, 0, true, "The node is stopping; another one takes the connection."},
	{Protocol, 400, 4010, false, "Too many bad commands on one connection."},
	{ConnectTimeout, 408, 4011, false, "No connect command arrived in time."},
	{SlowConsumer, 503, 4100, true, "The client read too slowly for a room whose policy does not drop."},
	{Kicked, 403, 4005, false, "The server ended the connection for good."},
	{Removed, 403, 0, false, "The server took the client out of the room."},
	{Moved, 503, 4201, true, "The server sends the client to another node."},
	{Drain, 503, 4200, true, "The node is stopping; come back now, and reach another one."},
}

var byCode = func() map[Code]*Entry {
	m := make(map[Code]*Entry, len(Table))
	for i := range Table {
		m[Table[i].Code] = &Table[i]
	}
	return m
}()

// Known reports whether c is a code of the table.
func (c Code) Known() bool { return byCode[c] != nil }

// HTTPStatus is the status of a request refused with c.
func (c Code) HTTPStatus() int {
	if e := byCode[c]; e != nil {
		return e.Status
	}
	return http.StatusInternalServerError
}

// Error answers a command or refuses a request.
type Error struct {
	Code    Code
	Reason  string // for people
	RetryMS int    // milliseconds to wait before trying again; 0 when trying again is no use
	Backend string // the code that a backend gave, with RPCFailed
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Reason }

// Close ends a connection. Its status tells whether to come back: 4000–4099 do
// not, 4100–4199 after RetryMS, 4200–4299 at once, elsewhere.
type Close struct {
	Status  uint16
	Code    Code
	RetryMS int
	Text    string // for people; empty for none
}

// The closes that have no error before them.
var (
	CloseExpired        = Close{Status: 4001, Code: TokenExpired}
	CloseProtocol       = Close{Status: 4010, Code: Protocol}
	CloseConnectTimeout = Close{Status: 4011, Code: ConnectTimeout}
	CloseRateLimited    = Close{Status: 4103, Code: RateLimited, RetryMS: 5000}
	CloseSlow           = Close{Status: 4100, Code: SlowConsumer, RetryMS: 2000}
	CloseDrain          = Close{Status: 4200, Code: Drain, RetryMS: 200}
	CloseKicked         = Close{Status: 4005, Code: Kicked}
)

// CloseMoved sends a client elsewhere; of many, each after another time.
func CloseMoved(after time.Duration) Close {
	return Close{Status: 4201, Code: Moved, RetryMS: int(after.Milliseconds())}
}

// Returns reports whether the client should come back: not after 4000–4099, but
// for 4001, with a fresh token.
func (c Close) Returns() bool {
	return c.Status < 4000 || c.Status >= 4100 || c.Status == CloseExpired.Status
}

// CloseFor is the close that follows e where a connection cannot go on.
func CloseFor(e *Error) Close {
	c := Close{Status: 4000, Code: e.Code, RetryMS: e.RetryMS}
	if entry := byCode[e.Code]; entry != nil && entry.Close != 0 {
		c.Status = entry.Close
	}
	return c
}

// Reason is the close frame's reason: one small JSON object, at most 123 bytes
// (RFC 6455 §5.5).
func (c Close) Reason() string {
	const most = 123
	short := `{"code":"` + string(c.Code) + `","retry_ms":` + strconv.Itoa(c.RetryMS)
	if c.Text != "" {
		if long := append(appendText([]byte(short+`,"reason":`), c.Text), '}'); len(long) <= most {
			return string(long)
		}
	}
	return short + "}"
}
