// Package order is what control tells edges to do, and what they answer: JSON in
// requests over NATS. BUS.md says what each order does.
package order

import (
	"encoding/json"
	"time"

	"nabat/proto/grant"
)

// The verbs: nabat.order.all.<verb>, and nabat.order.node.<node>.<verb>.
const (
	Disconnect  = "disconnect"
	Subscribe   = "subscribe"
	Unsubscribe = "unsubscribe"
	Status      = "status"
	Drain       = "drain"
	Move        = "move"
	Tap         = "tap"
)

// Verbs lists them.
var Verbs = []string{Disconnect, Subscribe, Unsubscribe, Status, Drain, Move, Tap}

// Target is whose connections are meant: all of a user, or one session.
type Target struct {
	User    string `json:"user,omitempty"`
	Session string `json:"session,omitempty"`
}

// DisconnectRequest ends connections.
type DisconnectRequest struct {
	Target
	Reason  string `json:"reason,omitempty"`  // for people, in the close
	Returns bool   `json:"returns,omitempty"` // the client should come back: 4201 instead of 4003
}

// RoomsRequest adds or ends subscriptions.
type RoomsRequest struct {
	Target
	Rooms []string `json:"rooms"`
}

// StatusRequest asks for a node's figures, or for the connections of a target.
type StatusRequest struct {
	Target
	Grants bool `json:"grants,omitempty"` // say what each connection's token grants
}

// DrainRequest takes a node out of service for good.
type DrainRequest struct {
	OverMS int64 `json:"over_ms,omitempty"` // 0: the node's setting
}

// MoveRequest sends some connections elsewhere.
type MoveRequest struct {
	Connections int   `json:"connections"`
	OverMS      int64 `json:"over_ms,omitempty"` // and their return is spread over it, too
}

// TapRequest asks for a copy of what clients get, on a subject. Exactly one of
// room, user and session.
type TapRequest struct {
	Target
	Room  string `json:"room,omitempty"`
	ForMS int64  `json:"for_ms"`
	Reply string `json:"reply"`
	Stop  bool   `json:"stop,omitempty"` // end those that send to reply; nothing else is needed then
}

// MaxTap bounds the time of a tap.
const MaxTap = 10 * time.Minute

// Answer is what every edge answers.
type Answer struct {
	Node     string   `json:"node"`
	Affected int      `json:"affected"` // connections
	Error    *Error   `json:"error,omitempty"`
	Status   *Figures `json:"status,omitempty"` // to status without a target
	// To status with a target.
	Connections []Connection `json:"connections,omitempty"`
}

// Error is why an edge did not obey.
type Error struct {
	Code   string `json:"code"`
	Reason string `json:"reason"`
}

// Figures are of one node.
type Figures struct {
	Connections int    `json:"connections"`
	Rooms       int    `json:"rooms"`
	State       string `json:"state"` // ready, degraded, draining or why it is not ready
	Address     string `json:"address,omitempty"`
}

// Connection is one client's link.
type Connection struct {
	Session   string       `json:"session"`
	User      string       `json:"user,omitempty"`
	Transport string       `json:"transport"`
	Rooms     []string     `json:"rooms"`
	Queued    int          `json:"queued"` // bytes that wait for the client
	Expires   int64        `json:"expires,omitempty"`
	TokenID   string       `json:"jti,omitempty"`
	Grant     *grant.Grant `json:"grant,omitempty"`
}

// Kinds of what a tap tells.
const (
	TapMessage = "message" // a message was handed out
	TapNotice  = "notice"  // an answer or a notice was sent
	TapDrop    = "drop"    // messages were lost on the way to the client
	TapLag     = "lag"     // the client reads too slowly, and catches up later
	TapSkipped = "skipped" // the tap itself could not keep up
	TapEnd     = "end"     // the time is over
)

// TapEvent is one thing that a tapped client or room got.
type TapEvent struct {
	Node    string          `json:"node"`
	At      int64           `json:"at"` // unix milliseconds
	Kind    string          `json:"kind"`
	Room    string          `json:"room,omitempty"`
	Session string          `json:"session,omitempty"`
	User    string          `json:"user,omitempty"`
	Offset  uint64          `json:"offset,omitempty"`
	Members int             `json:"members,omitempty"` // of the room on this loop, in taps of rooms
	Queued  int             `json:"queued,omitempty"`  // bytes that still wait for the client
	Count   int             `json:"count,omitempty"`   // of drops, and of what was skipped
	Frame   json.RawMessage `json:"frame,omitempty"`   // what the client got, in JSON; left out above 8 KiB
	Bytes   int             `json:"bytes,omitempty"`   // of the frame
}
