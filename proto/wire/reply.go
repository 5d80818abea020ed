package wire

import (
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// Object is what the edge says beside messages: the answer to a command, or a
// notice, which has no ID.
type Object struct {
	ID    *uint64
	Value Value
}

// Value is what an object holds under its kind. The types of this package that
// have its methods are all there are: Connected, Subscribed, Unsubscribed,
// Published, Authed, Ponged, Error, Page, Result, PresencePage, PresenceChange, Gap,
// Reset, Lagging and Expiring.
type Value interface {
	kind() kind
	appendJSON(dst []byte) []byte  // the object under the kind
	appendProto(dst []byte) []byte // the fields of the kind's message
}

// kind is one row of the table that both encodings are written by.
type kind struct {
	name   string           // the key in JSON, and the field's name in client.proto
	number protowire.Number // the field's number there
}

// The kinds. A message, which has no kind in JSON, has a number like them.
var (
	kindMessage      = kind{"message", 2}
	kindConnected    = kind{"connected", 3}
	kindSubscribed   = kind{"subscribed", 4}
	kindUnsubscribed = kind{"unsubscribed", 5}
	kindPublished    = kind{"published", 6}
	kindAuthed       = kind{"authed", 7}
	kindHistory      = kind{"history", 8}
	kindPong         = kind{"pong", 11}
	kindError        = kind{"error", 12}
	kindGap          = kind{"gap", 13}
	kindReset        = kind{"reset", 14}
	kindLagging      = kind{"lagging", 15}
	kindExpiring     = kind{"expiring", 16}
)

func (*Connected) kind() kind   { return kindConnected }
func (Subscribed) kind() kind   { return kindSubscribed }
func (Unsubscribed) kind() kind { return kindUnsubscribed }
func (Published) kind() kind    { return kindPublished }
func (Authed) kind() kind       { return kindAuthed }
func (*Page) kind() kind        { return kindHistory }
func (Ponged) kind() kind       { return kindPong }
func (*Error) kind() kind       { return kindError }
func (Gap) kind() kind          { return kindGap }
func (Reset) kind() kind        { return kindReset }
func (Lagging) kind() kind      { return kindLagging }
func (Expiring) kind() kind     { return kindExpiring }

// Kind is the object's key in JSON.
func (o Object) Kind() string { return o.Value.kind().name }

// AppendJSON appends o as one JSON object in one line: {"id":7,"kind":{…}}.
func (o Object) AppendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	if o.ID != nil {
		dst = append(dst, `"id":`...)
		dst = strconv.AppendUint(dst, *o.ID, 10)
		dst = append(dst, ',')
	}
	dst = append(dst, '"')
	dst = append(dst, o.Kind()...)
	dst = append(dst, `":`...)
	return append(o.Value.appendJSON(dst), '}')
}

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
	AheadOfHistory     = "ahead_of_history"    // the room's stream has never stored so much
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

// Subscribed answers a subscribe.
type Subscribed struct{ Rooms []Position }

// Unsubscribed answers an unsubscribe or, with a Reason, tells that the server
// ended subscriptions.
type Unsubscribed struct {
	Rooms  []string
	Reason Code
}

// Published answers a publish: where the message stands.
type Published struct{ Position }

// Authed answers an auth.
type Authed struct {
	User    string
	Expires int64 // unix seconds, 0 for never
}

// Ponged answers a ping.
type Ponged struct{}

// Expiring warns that the token ends in so many seconds.
type Expiring struct{ Seconds int64 }

// Reset tells that a room's history began anew, or is known again after it was
// not: this is the position from now on.
type Reset struct{ Position }

// Lagging tells that the client reads too slowly: what is behind the position
// follows from history as the client takes it.
type Lagging struct{ Position }

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
	GapNotStored   = "not_stored"       // the room's history takes nothing now; what comes has no offset
)

// Page answers a history command: messages in order, oldest first. More says
// that there are others beyond them in the direction that was asked for.
type Page struct {
	Room     string
	Epoch    string
	Messages []*Message
	More     bool
}

func appendPositions(dst []byte, list []Position) []byte {
	dst = append(dst, '[')
	for i, p := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = p.appendJSON(dst)
	}
	return append(dst, ']')
}

// appendJSON is the form of a position in a list of them, and in published: the
// offset stands only with its epoch.
func (p Position) appendJSON(dst []byte) []byte {
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
	return append(dst, '}')
}

func (c *Connected) appendJSON(dst []byte) []byte {
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
	return append(appendPositions(dst, c.Rooms), '}')
}

func appendExpires(dst []byte, at int64) []byte {
	if at != 0 {
		dst = append(dst, `,"expires":`...)
		dst = strconv.AppendInt(dst, at, 10)
	}
	return dst
}

func (s Subscribed) appendJSON(dst []byte) []byte {
	return append(appendPositions(append(dst, `{"rooms":`...), s.Rooms), '}')
}

func (u Unsubscribed) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"rooms":[`...)
	for i, r := range u.Rooms {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendText(dst, r)
	}
	dst = append(dst, ']')
	if u.Reason != "" {
		dst = append(dst, `,"reason":`...)
		dst = appendText(dst, string(u.Reason))
	}
	return append(dst, '}')
}

func (a Authed) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"user":`...)
	dst = appendText(dst, a.User)
	return append(appendExpires(dst, a.Expires), '}')
}

func (Ponged) appendJSON(dst []byte) []byte { return append(dst, "{}"...) }

func (e *Error) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"code":`...)
	dst = appendText(dst, string(e.Code))
	dst = append(dst, `,"reason":`...)
	dst = appendText(dst, e.Reason)
	dst = append(dst, `,"retry_ms":`...)
	dst = strconv.AppendInt(dst, int64(e.RetryMS), 10)
	if e.Backend != "" {
		dst = append(dst, `,"backend":`...)
		dst = appendText(dst, e.Backend)
	}
	return append(dst, '}')
}

func (g Gap) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"room":`...)
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
	return append(dst, '}')
}

func (r Reset) appendJSON(dst []byte) []byte   { return appendPlace(dst, r.Position) }
func (l Lagging) appendJSON(dst []byte) []byte { return appendPlace(dst, l.Position) }

// appendPlace is the form of a position in a notice, which always has an offset.
func appendPlace(dst []byte, p Position) []byte {
	dst = append(dst, `{"room":`...)
	dst = appendText(dst, p.Room)
	dst = append(dst, `,"epoch":`...)
	dst = appendText(dst, p.Epoch)
	dst = append(dst, `,"offset":`...)
	return append(strconv.AppendUint(dst, p.Offset, 10), '}')
}

func (h *Page) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"room":`...)
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
	return append(strconv.AppendBool(dst, h.More), '}')
}

func (e Expiring) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"in":`...)
	return append(strconv.AppendInt(dst, e.Seconds, 10), '}')
}
