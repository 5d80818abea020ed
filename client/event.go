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
	Expiring     time.Duration // the token ends in so much time: call Auth, unless there is a TokenSource
	Unsubscribed []string      // the server ended these subscriptions
	Reason       wire.Code     // why, with Unsubscribed
	// The server made this connection join rooms, from these positions on. The
	// next connection is not in them unless the server wants it, too.
	Subscribed []wire.Position
	Error      *wire.Error // about no command in particular

	// These come from a Keeper only.
	Connected *wire.Connected // a connection began
	Recovered *Recovery       // for every room, when a connection continues another
	Down      *Down           // the connection ended, or could not be made

	// Raw is the whole JSON object. It is nil where it is the Keeper that speaks, and
	// with Options.Protobuf, where there is no JSON.
	Raw json.RawMessage
}

// Recovery says what became of a room's subscription on a new connection.
type Recovery struct {
	Room   string
	OK     bool   // everything behind the last message follows
	Reason string // why not: wire.NoHistory, wire.EpochChanged, wire.HistoryCut …
}

func recoveryOf(p wire.Position) *Recovery {
	r := &Recovery{Room: p.Room, OK: p.Recovered != nil && *p.Recovered, Reason: p.Reason}
	if p.Recovered == nil {
		r.Reason = wire.NoHistory // no position was given: there was none
	}
	return r
}

// Down is why a Keeper has no connection, and how long it waits for the next.
type Down struct {
	Err  error
	Wait time.Duration
}

func (in *inbound) event() (Event, bool) {
	var e Event
	switch {
	case in.Message != nil:
		e.Message = in.Message
	case in.Presence != nil:
		e.Presence = &in.Presence.change
	case in.Gap != nil:
		e.Gap = in.Gap
	case in.Lagging != nil:
		e.Lagging = in.Lagging
	case in.Reset != nil:
		e.Reset = in.Reset
	case in.Expiring != nil:
		e.Expiring = time.Duration(in.Expiring.Seconds) * time.Second
	case in.Unsubscribed != nil:
		e.Unsubscribed, e.Reason = in.Unsubscribed.Rooms, in.Unsubscribed.Reason
	case in.Subscribed != nil:
		e.Subscribed = in.Subscribed.Rooms
	case in.Error != nil:
		e.Error = in.Error
	default:
		return e, false
	}
	return e, true
}
