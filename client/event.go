package client

import (
	"encoding/json"
	"time"

	"nabat/proto/wire"
)

// Event is what the server says unasked. One of the pointers or lists is set.
type Event struct {
	Message *wire.Message  // with the epoch and offset of its room, if that has history
	Gap     *wire.Gap      // messages were lost
	Lagging *wire.Position // this client reads too slowly: what is behind it follows from history
	Reset   *wire.Position // the room's history began anew, here
	// Presence is who came into a room and left it, in rooms joined with Presence. With
	// Lost, or where its Users differ from the list that was kept, read it anew.
	Presence     *wire.PresenceChange
	Expiring     time.Duration // the token ends in so much time: call Auth
	Unsubscribed []string      // the server ended these subscriptions
	// The server made this connection join rooms, from these positions on. The
	// next connection is not in them unless the server wants it, too.
	Subscribed []wire.Position
	Error      *wire.Error // about no command in particular

	// These come from a Keeper only.
	Connected *wire.Connected // a connection began
	Recovered *Recovery       // for every room, when a connection continues another
	Down      *Down           // the connection ended, or could not be made

	// Raw is the whole JSON object, nil where it is the Keeper that speaks.
	Raw json.RawMessage
}

// Recovery says what became of a room's subscription on a new connection.
type Recovery struct {
	Room   string
	OK     bool   // everything behind the last message follows
	Reason string // why not: wire.NoHistory, wire.EpochChanged, wire.HistoryCut …
}

// Down is why a Keeper has no connection, and how long it waits for the next.
type Down struct {
	Err  error
	Wait time.Duration
}

// inbound is any object that the server sends.
type inbound struct {
	ID           *uint64
	Error        *inboundError
	Connected    *wire.Connected
	Subscribed   *struct{ Rooms []wire.Position }
	Unsubscribed *struct{ Rooms []string }
	Published    *wire.Position
	History      *inboundPage
	Result       *inbound
	Presence     *inboundPresence
	Gap          *wire.Gap
	Lagging      *wire.Position
	Reset        *wire.Position
	Expiring     *struct{ In int64 }
	Ping         *struct{}

	Room   string
	Epoch  string
	Offset uint64
	Data   json.RawMessage
	Text   *string
	Base64 []byte
	Event  string
	User   string

	raw []byte
}

type inboundPage struct {
	Room, Epoch string
	Messages    []inbound
	More        bool
}

type inboundError struct {
	Code    wire.Code
	Reason  string
	RetryMS int `json:"retry_ms"`
	Backend string
}

func (e *inboundError) wire() *wire.Error {
	return &wire.Error{Code: e.Code, Reason: e.Reason, RetryMS: e.RetryMS, Backend: e.Backend}
}

func (in *inbound) message() *wire.Message {
	m := &wire.Message{Room: in.Room, Epoch: in.Epoch, Offset: in.Offset, Kind: wire.Data, Body: in.Data, Event: in.Event, User: in.User}
	switch {
	case in.Text != nil:
		m.Kind, m.Body = wire.Text, []byte(*in.Text)
	case in.Base64 != nil:
		m.Kind, m.Body = wire.Binary, in.Base64
	}
	return m
}

func (in *inbound) event() (Event, bool) {
	e := Event{Raw: in.raw}
	switch {
	case in.Room != "":
		e.Message = in.message()
	case in.Presence != nil:
		e.Presence = in.Presence.change()
	case in.Gap != nil:
		e.Gap = in.Gap
	case in.Lagging != nil:
		e.Lagging = in.Lagging
	case in.Reset != nil:
		e.Reset = in.Reset
	case in.Expiring != nil:
		e.Expiring = time.Duration(in.Expiring.In) * time.Second
	case in.Unsubscribed != nil:
		e.Unsubscribed = in.Unsubscribed.Rooms
	case in.Subscribed != nil:
		e.Subscribed = in.Subscribed.Rooms
	case in.Error != nil:
		e.Error = in.Error.wire()
	default:
		return e, false
	}
	return e, true
}
