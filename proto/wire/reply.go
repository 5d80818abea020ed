package wire

import "strconv"

// Position is where a subscription stands: the messages behind Offset follow.
// Rooms without history have neither epoch nor offset.
type Position struct {
	Room   string
	Epoch  string
	Offset uint64
	// Recovered says what became of the position that a client gave: true when
	// everything behind it follows. Nil when the client gave none.
	Recovered *bool
	Reason    string // why Recovered is false
}

// Why a position could not be recovered, as PROTOCOL.md names it.
const (
	NoHistory          = "no_history"          // the room has none
	EpochChanged       = "epoch_changed"       // the room's history began anew
	HistoryCut         = "history_cut"         // messages behind the position are no longer kept, or may not be
	HistoryUnavailable = "history_unavailable" // history can not be read now
	AheadOfHistory     = "ahead_of_history"    // the room's history does not reach that far
)

// WithRecovery is p with the answer to a client that gave a position: reason is
// empty when everything behind it follows.
func (p Position) WithRecovery(reason string) Position {
	ok := reason == ""
	p.Recovered, p.Reason = &ok, reason
	return p
}

// Connected answers a connect.
type Connected struct {
	Session string
	Node    string
	User    string
	Expires int64 // unix seconds, 0 for never
	Rooms   []Position
}

// Gap tells that a room lost messages for this client. Reason is one of the Gap
// constants. Where the room has history, what is missing lies behind From and
// before To; To is 0 where nobody can say.
type Gap struct {
	Room     string
	Reason   string
	From, To uint64
}

// Why messages are missing.
const (
	GapSlow        = "slow"             // the client read too slowly for a room that drops
	GapReconnected = "bus_reconnected"  // the node was without NATS for a while
	GapOverload    = "edge_overload"    // the node could not keep up
	GapCut         = HistoryCut         // the room's history no longer has them
	GapUnavailable = HistoryUnavailable // the room's history can not be read now
)

// Page answers a history command: messages in order, oldest first. More says
// that there are others beyond them in the direction that was asked for.
type Page struct {
	Room     string
	Epoch    string
	Messages []*Message
	More     bool
}

// head opens an object: {"id":7,"verb":
func head(dst []byte, id *uint64, verb string) []byte {
	dst = append(dst, '{')
	if id != nil {
		dst = append(dst, `"id":`...)
		dst = strconv.AppendUint(dst, *id, 10)
		dst = append(dst, ',')
	}
	dst = append(dst, '"')
	dst = append(dst, verb...)
	return append(dst, `":`...)
}

func appendPositions(dst []byte, list []Position) []byte {
	dst = append(dst, '[')
	for i, p := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"room":`...)
		dst = appendText(dst, p.Room)
		if p.Epoch != "" {
			dst = append(dst, `,"epoch":`...)
			dst = appendText(dst, p.Epoch)
			dst = append(dst, `,"offset":`...)
			dst = strconv.AppendUint(dst, p.Offset, 10)
		}
		if p.Recovered != nil {
			dst = append(dst, `,"recovered":`...)
			dst = strconv.AppendBool(dst, *p.Recovered)
		}
		if p.Reason != "" {
			dst = append(dst, `,"reason":`...)
			dst = appendText(dst, p.Reason)
		}
		dst = append(dst, '}')
	}
	return append(dst, ']')
}

// AppendConnected appends the answer to connect; id is nil when the URL
// connected.
func AppendConnected(dst []byte, id *uint64, c *Connected) []byte {
	dst = head(dst, id, "connected")
	dst = append(dst, `{"session":`...)
	dst = appendText(dst, c.Session)
	dst = append(dst, `,"node":`...)
	dst = appendText(dst, c.Node)
	if c.User != "" {
		dst = append(dst, `,"user":`...)
		dst = appendText(dst, c.User)
	}
	dst = appendExpires(dst, c.Expires)
	dst = append(dst, `,"rooms":`...)
	dst = appendPositions(dst, c.Rooms)
	return append(dst, "}}"...)
}

func appendExpires(dst []byte, at int64) []byte {
	if at != 0 {
		dst = append(dst, `,"expires":`...)
		dst = strconv.AppendInt(dst, at, 10)
	}
	return dst
}

// AppendSubscribed appends the answer to subscribe.
func AppendSubscribed(dst []byte, id *uint64, rooms []Position) []byte {
	dst = append(head(dst, id, "subscribed"), `{"rooms":`...)
	return append(appendPositions(dst, rooms), "}}"...)
}

// AppendUnsubscribed appends the answer to unsubscribe or, with a reason and no
// id, the notice that the server ended subscriptions.
func AppendUnsubscribed(dst []byte, id *uint64, rooms []string, reason Code) []byte {
	dst = append(head(dst, id, "unsubscribed"), `{"rooms":[`...)
	for i, r := range rooms {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendText(dst, r)
	}
	dst = append(dst, ']')
	if reason != "" {
		dst = append(dst, `,"reason":`...)
		dst = appendText(dst, string(reason))
	}
	return append(dst, "}}"...)
}

// AppendPublished appends the answer to publish.
func AppendPublished(dst []byte, id *uint64, p Position) []byte {
	dst = append(head(dst, id, "published"), `{"room":`...)
	dst = appendText(dst, p.Room)
	if p.Epoch != "" {
		dst = append(dst, `,"epoch":`...)
		dst = appendText(dst, p.Epoch)
		dst = append(dst, `,"offset":`...)
		dst = strconv.AppendUint(dst, p.Offset, 10)
	}
	return append(dst, "}}"...)
}

// AppendAuthed appends the answer to auth.
func AppendAuthed(dst []byte, id *uint64, user string, expires int64) []byte {
	dst = append(head(dst, id, "authed"), `{"user":`...)
	dst = appendText(dst, user)
	return append(appendExpires(dst, expires), "}}"...)
}

// AppendError appends the refusal of a command, or of a request.
func AppendError(dst []byte, id *uint64, e *Error) []byte {
	dst = append(head(dst, id, "error"), `{"code":`...)
	dst = appendText(dst, string(e.Code))
	dst = append(dst, `,"reason":`...)
	dst = appendText(dst, e.Reason)
	dst = append(dst, `,"retry_ms":`...)
	dst = strconv.AppendInt(dst, int64(e.RetryMS), 10)
	return append(dst, "}}"...)
}

// AppendGap appends a gap notice.
func AppendGap(dst []byte, g Gap) []byte {
	dst = append(head(dst, nil, "gap"), `{"room":`...)
	dst = appendText(dst, g.Room)
	if g.From != 0 || g.To != 0 {
		dst = append(dst, `,"from":`...)
		dst = strconv.AppendUint(dst, g.From, 10)
	}
	if g.To != 0 {
		dst = append(dst, `,"to":`...)
		dst = strconv.AppendUint(dst, g.To, 10)
	}
	if g.Reason != "" {
		dst = append(dst, `,"reason":`...)
		dst = appendText(dst, g.Reason)
	}
	return append(dst, "}}"...)
}

// AppendReset appends the notice that a room's history began anew, or is known
// again after it was not: p is the position from now on.
func AppendReset(dst []byte, p Position) []byte { return appendPosition(dst, "reset", p) }

// AppendLagging appends the notice that the client reads too slowly: what is
// behind p follows from history as the client takes it.
func AppendLagging(dst []byte, p Position) []byte { return appendPosition(dst, "lagging", p) }

func appendPosition(dst []byte, verb string, p Position) []byte {
	dst = append(head(dst, nil, verb), `{"room":`...)
	dst = appendText(dst, p.Room)
	dst = append(dst, `,"epoch":`...)
	dst = appendText(dst, p.Epoch)
	dst = append(dst, `,"offset":`...)
	return append(strconv.AppendUint(dst, p.Offset, 10), "}}"...)
}

// AppendHistory appends the answer to history.
func AppendHistory(dst []byte, id *uint64, h *Page) []byte {
	dst = append(head(dst, id, "history"), `{"room":`...)
	dst = appendText(dst, h.Room)
	dst = append(dst, `,"epoch":`...)
	dst = appendText(dst, h.Epoch)
	dst = append(dst, `,"messages":[`...)
	for i, m := range h.Messages {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendMessage(dst, m)
	}
	dst = append(dst, `],"more":`...)
	return append(strconv.AppendBool(dst, h.More), "}}"...)
}

// AppendExpiring appends the warning that the token ends in so many seconds.
func AppendExpiring(dst []byte, seconds int64) []byte {
	dst = append(head(dst, nil, "expiring"), `{"in":`...)
	return append(strconv.AppendInt(dst, seconds, 10), "}}"...)
}

// AppendPong appends the answer to ping.
func AppendPong(dst []byte, id *uint64) []byte { return append(head(dst, id, "pong"), "{}}"...) }
