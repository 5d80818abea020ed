// Package session is the protocol state behind one client connection: a pure
// machine that turns inbound objects and answers into outbound objects. It has
// no I/O, no clock and no goroutine; what it decides, its Host carries out.
package session

import (
	"fmt"
	"slices"

	"nabat/proto/grant"
	"nabat/proto/policy"
	"nabat/proto/subject"
	"nabat/proto/wire"
)

// Identity is who a session speaks for. Immutable, and shared by the sessions
// of one token.
type Identity struct {
	User    string
	TokenID string
	Grant   *grant.Grant // nil allows nothing
	Expires uint32       // unix seconds, 0 never
	Issued  uint32       // unix seconds, 0 when the token does not say
}

// Ref names a connection to the Host: its slot on the loop and the slot's
// generation.
type Ref struct{ Slot, Generation uint32 }

// Host carries out what a session decides; the edge implements it once for each
// loop. Calls come on the loop and never block. A done function is called on
// the loop exactly once, possibly before the call returns, and never after the
// connection has closed.
type Host interface {
	// Now is the loop's clock in unix seconds.
	Now() int64
	// Elapsed is nanoseconds on a clock that never goes back.
	Elapsed() int64
	// Policy is the policy of a room, nil when none matches.
	Policy(room string) *policy.Policy
	// Verify checks a token. Without one it says who an anonymous client is, which
	// may be nobody (nil); see Limits.AsksConnect.
	Verify(ref Ref, token string, done func(*Identity, *wire.Error))
	// Seat counts the connection for a user, instead of the one before. It fails
	// when the user has as many as one may have.
	Seat(ref Ref, user string) *wire.Error
	// Join makes the connection a subscriber and says where it stands; joined is
	// false if it was one before. Where the room has history, no message comes
	// before Start.
	Join(ref Ref, want Want, done func(at wire.Position, joined bool, err *wire.Error))
	// Start lets the messages come that Join held back in these rooms, now that
	// the client knows where it stands in them.
	Start(ref Ref, rooms []wire.Position)
	// Leave ends a membership and reports whether there was one.
	Leave(ref Ref, room string) bool
	// Present says for whom a connection speaks: when it has connected, and when a
	// new token shows others something else. nil is an anonymous client.
	Present(ref Ref, id *Identity)
	// Presence asks who is in a room.
	Presence(ref Ref, q wire.PresenceRequest, done func(*wire.PresencePage, *wire.Error))
	// Rooms lists the rooms that the connection is in, in no order, without those
	// that it watches.
	Rooms(ref Ref) []string
	// RoomCount is the number of those rooms.
	RoomCount(ref Ref) int
	// Publish sends to NATS and says where the message stands in its room. p is
	// valid during the call only.
	Publish(ref Ref, id *Identity, p *wire.Publication, done func(wire.Position, *wire.Error))
	// History reads stored messages; h.Limit is within bounds.
	History(ref Ref, h wire.HistoryRequest, done func(*wire.Page, *wire.Error))
	// Call asks a backend.
	Call(ref Ref, id *Identity, c *wire.Call, done func(*wire.Result, *wire.Error))
	// Name is the connection's id and the node's name.
	Name(ref Ref) (session, node string)
	// Send queues an answer or a notice, in the client's encoding.
	Send(ref Ref, object wire.Object)
	// Within takes n from the rates that the client shares with others. Where it is
	// over one, it says which, and for how many nanoseconds.
	Within(ref Ref, id *Identity, use Use, n int) (reason string, wait int64)
	// Refused counts an error that was sent.
	Refused(code wire.Code)
	// WakeAt asks for Wake at a unix time in seconds, or earlier.
	WakeAt(ref Ref, unix int64)
	// Close ends the connection.
	Close(ref Ref, c wire.Close)
}

// Want is one room that a client wants to be in, and from where on.
type Want struct {
	Room   string
	Epoch  string // empty: the client gave no position
	Offset uint64
	Latest bool  // the newest message first
	Since  int64 // unix milliseconds: everything since; 0 for none
	AwayMS uint64
	// Presence asks for the comings and goings of members, too.
	Presence bool
	// Previous is the connection that the client had before: what was not meant
	// for that one is not meant for it.
	Previous string
}

// Limits bound what one session may ask for.
type Limits struct {
	MaxRooms        int      // rooms of one connection
	MaxBadCommands  int      // before the connection is closed with 4010
	MaxInFlight     int      // commands without an answer yet
	MaxPublishBytes int      // body of one publish
	ConnectTimeout  int64    // seconds from the handshake to connect
	ExpiryWarning   int64    // seconds before a token ends
	MaxHistory      int      // messages of one history reply
	MaxCalls        int      // of those in flight, the ones that wait for a backend; at most 255
	AnonymousRPC    []string // patterns: methods open to clients without a token
	AsksConnect     bool     // Host.Verify has to hear of clients without a token, too
	Rates           Rates
}

type state uint8

const (
	fresh      state = iota // waits for connect
	checking                // connect's token is being checked
	connecting              // connect's rooms are being joined
	connected
	closed
)

// Session is one connection's protocol state. The zero value waits for connect.
// All methods must be called on the owning loop.
type Session struct {
	identity *Identity // nil: anonymous
	wait     *waiting  // nil while nothing is in flight and nothing is metered
	deadline int64     // of connect, unix seconds; 0 once connected
	state    state
	Encoding wire.Encoding // of what Handle takes; set before Open
	warned   bool          // the expiry warning was sent
	calls    uint8         // of inFlight, those that wait for a backend
	bad      uint16        // Limits stay within both
	inFlight uint16
}

// waiting is what a session needs only while answers are outstanding, and where
// it has rates to keep.
type waiting struct {
	held    [][]byte // commands that came before connect was answered
	joining claims
	meter   *meter // nil where there are no rates
}

// call is a session with what every method needs beside it, for one event.
type call struct {
	*Session
	host   Host
	ref    Ref
	limits *Limits
}

// Identity is who the session speaks for; nil for an anonymous client.
func (s *Session) Identity() *Identity { return s.identity }

// Admit checks what a request asks for before it is answered: the refusal then
// is an HTTP status.
func (s *Session) Admit(h Host, l *Limits, id *Identity, rooms []Want) *wire.Error {
	c := call{s, h, Ref{}, l}
	return c.checkRooms(id, withGranted(rooms, id), 0)
}

// Open starts the session once the transport can carry objects. Rooms of the
// URL or of the token connect at once; without any it waits for connect.
func (s *Session) Open(h Host, ref Ref, l *Limits, id *Identity, rooms []Want) {
	c := call{s, h, ref, l}
	s.identity = id
	if id != nil {
		c.watchExpiry()
	}
	if s.state == closed {
		return
	}
	if rooms = withGranted(rooms, id); len(rooms) == 0 {
		s.deadline = h.Now() + l.ConnectTimeout
		h.WakeAt(ref, s.deadline)
		return
	}
	c.enter(nil, rooms)
}

// Wake reports that a time asked for with Host.WakeAt has come.
func (s *Session) Wake(h Host, ref Ref, l *Limits) {
	c := call{s, h, ref, l}
	if s.state == closed {
		return
	}
	now := h.Now()
	if s.deadline != 0 {
		if now >= s.deadline {
			c.end(wire.CloseConnectTimeout)
			return
		}
		h.WakeAt(ref, s.deadline)
	}
	if s.identity != nil {
		c.watchExpiry()
	}
}

// watchExpiry warns, closes, or asks to be woken for one of them.
func (c call) watchExpiry() {
	at := int64(c.identity.Expires)
	if at == 0 {
		return
	}
	now := c.host.Now()
	switch left := at - now; {
	case left <= 0:
		c.end(wire.CloseExpired)
	case left > c.limits.ExpiryWarning:
		c.host.WakeAt(c.ref, at-c.limits.ExpiryWarning)
	default:
		if !c.warned && c.state == connected {
			c.warned = true
			c.say(nil, wire.Expiring{Seconds: left})
		}
		c.host.WakeAt(c.ref, at)
	}
}

func (c call) end(cl wire.Close) {
	if c.state != closed {
		c.state, c.wait = closed, nil
		c.host.Close(c.ref, cl)
	}
}

// enter joins the rooms of connect and then says connected. rooms is kept.
func (c call) enter(id *uint64, rooms []Want) {
	c.state, c.deadline = connecting, 0
	c.join(rooms, func(in []wire.Position, err *wire.Error) {
		if err != nil {
			if id != nil {
				c.fail(id, err)
			}
			c.end(wire.CloseFor(err))
			return
		}
		c.state = connected
		c.host.Present(c.ref, c.identity)
		hello := wire.Connected{Rooms: in}
		hello.Session, hello.Node = c.host.Name(c.ref)
		if c.identity != nil {
			hello.User, hello.Expires = c.identity.User, int64(c.identity.Expires)
		}
		c.say(id, &hello)
		c.host.Start(c.ref, in)
		if c.identity != nil {
			c.watchExpiry()
		}
		c.release()
	})
}

// release handles the commands that came while connect was under way.
func (c call) release() {
	for c.wait != nil && len(c.wait.held) > 0 && c.state == connected {
		text := c.wait.held[0]
		c.wait.held = c.wait.held[1:]
		c.take(text)
	}
	c.tidy()
}

func (c call) tidy() {
	if c.wait != nil && len(c.wait.held) == 0 && c.wait.joining.len() == 0 && c.wait.meter == nil {
		c.wait = nil
	}
}

// checkRooms reports the first room that id may not join. have is the number of
// other rooms that the connection is in, or is about to be.
func (c call) checkRooms(id *Identity, rooms []Want, have int) *wire.Error {
	if have+len(rooms) > c.limits.MaxRooms {
		return &wire.Error{Code: wire.TooManyRooms, Reason: fmt.Sprintf("a connection may be in %d rooms, and this would make %d", c.limits.MaxRooms, have+len(rooms))}
	}
	for _, want := range rooms {
		if err := subject.CheckRoom(want.Room); err != nil {
			return &wire.Error{Code: wire.BadRoom, Reason: err.Error()}
		}
		if err := maySubscribe(c.host, id, want.Room); err != nil {
			return err
		}
		if want.Presence {
			if err := maySeePresence(c.host, id, want.Room); err != nil {
				return err
			}
		}
	}
	return nil
}

// withGranted is rooms and those that id's token joins, none of them twice: the
// first request for a room counts.
func withGranted(rooms []Want, id *Identity) []Want {
	var granted []string
	if id != nil && id.Grant != nil {
		granted = id.Grant.Rooms
	}
	if len(granted) == 0 && len(rooms) <= few && differ(rooms) {
		return slices.Clip(rooms)
	}
	list := make([]Want, 0, len(rooms)+len(granted))
	var seen map[string]bool
	if cap(list) > few {
		seen = make(map[string]bool, cap(list))
	}
	add := func(w Want) {
		if seen[w.Room] || seen == nil && slices.ContainsFunc(list, func(have Want) bool { return have.Room == w.Room }) {
			return
		}
		if seen != nil {
			seen[w.Room] = true
		}
		list = append(list, w)
	}
	for _, w := range rooms {
		add(w)
	}
	for _, room := range granted {
		add(Want{Room: room})
	}
	return list
}

// differ reports whether no two of a few rooms are the same.
func differ(rooms []Want) bool {
	for i := range rooms {
		for _, before := range rooms[:i] {
			if before.Room == rooms[i].Room {
				return false
			}
		}
	}
	return true
}

// union appends to a copy of a what b has beside it, and drops repetitions.
func union(a, b []string) []string {
	seen := make(map[string]bool, len(a)+len(b))
	list := make([]string, 0, len(a)+len(b))
	for _, part := range [][]string{a, b} {
		for _, s := range part {
			if !seen[s] {
				seen[s] = true
				list = append(list, s)
			}
		}
	}
	return list
}
