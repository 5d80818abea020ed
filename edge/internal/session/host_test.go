package session

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"nabat/proto/policy"
	"nabat/proto/subject"
	"nabat/proto/wire"
)

// host records what a session asks for, and answers when the test says so.
type host struct {
	session  *Session
	limits   Limits
	policies policy.Set
	tokens   map[string]*Identity

	now, wakeAt int64
	elapsed     int64           // nanoseconds
	full        map[string]bool // users who have all their seats
	shared      [Uses]bool      // over a rate that it shares with others
	seated      bool            // the session is open
	seat        string          // the user for whom the connection is counted
	members     map[string]bool
	pending     []*pending
	atOnce      map[string]bool // verbs answered within the call
	ended       bool            // the session has closed the connection
	sent        func(object []byte)
	refused     wire.Code // counted, and not sent yet
	shown       bool      // Present was called
	shownAs     *Identity // with that
	out         strings.Builder
	faults      []string // calls that break the contract
}

// pending is one question without an answer yet. answer takes an error code,
// empty when all is well.
type pending struct {
	verb, what string
	answer     func(code string)
}

var _ Host = (*host)(nil)

func newHost() *host {
	return &host{session: new(Session), now: 1000, members: make(map[string]bool), full: make(map[string]bool), tokens: make(map[string]*Identity), atOnce: make(map[string]bool),
		limits: Limits{MaxRooms: 8, MaxBadCommands: 3, MaxInFlight: 4, MaxPublishBytes: 16, MaxHistory: 100, MaxCalls: 2, ConnectTimeout: 10, ExpiryWarning: 60}}
}

func (h *host) fault(format string, args ...any) {
	h.faults = append(h.faults, fmt.Sprintf(format, args...))
}

// asked records a call that has an effect: none may come after Close.
func (h *host) asked(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if h.ended {
		h.fault("after close: %s", text)
	}
	h.out.WriteString(text + "\n")
}

func (h *host) ask(verb, what string, answer func(code string)) {
	if h.atOnce[verb] {
		answer("")
		return
	}
	h.pending = append(h.pending, &pending{verb, what, answer})
}

// reply answers the oldest question that fits.
func (h *host) reply(verb, what, code string) bool {
	for i, p := range h.pending {
		if p.verb == verb && p.what == what {
			h.pending = slices.Delete(h.pending, i, i+1)
			p.answer(code)
			return true
		}
	}
	return false
}

func refusal(code string) *wire.Error {
	if code == "" {
		return nil
	}
	e := &wire.Error{Code: wire.Code(code), Reason: "the host says so"}
	if code == string(wire.Unavailable) {
		e.RetryMS = 1000
	}
	return e
}

func (h *host) Elapsed() int64                    { return h.elapsed }
func (h *host) Now() int64                        { return h.now }
func (h *host) Policy(room string) *policy.Policy { return h.policies.For(room) }
func (h *host) Name(Ref) (string, string)         { return "c1", "edge-0" }
func (h *host) RoomCount(Ref) int                 { return len(h.Rooms(Ref{})) }
func (h *host) Rooms(Ref) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(h.members)), isWatch)
}

// Present is in scripts whose tokens have information; check holds all others.
func (h *host) Present(_ Ref, id *Identity) {
	if h.ended {
		h.fault("present after close")
	}
	h.shown, h.shownAs = true, id
	if info := id.info(); len(info) > 0 {
		h.asked("present %s %s", id.User, info)
	}
}

func (h *host) Presence(_ Ref, q wire.PresenceRequest, done func(*wire.PresencePage, *wire.Error)) {
	h.asked("presence %s limit %d after %q", q.Room, q.Size(), q.After)
	h.ask("presence", q.Room, func(code string) {
		if code != "" {
			done(nil, refusal(code))
			return
		}
		done(&wire.PresencePage{Room: q.Room, Users: 1, Connections: 2, Members: []wire.Member{{User: "alice", Connections: 2}}}, nil)
	})
}

func (h *host) Verify(_ Ref, token string, done func(*Identity, *wire.Error)) {
	if token == "" {
		token = "nobody"
	}
	h.asked("verify %s", token)
	h.ask("verify", token, func(code string) {
		if code == "" && h.tokens[token] == nil && token != "nobody" {
			code = string(wire.TokenSignature)
		}
		if code != "" {
			done(nil, refusal(code))
			return
		}
		done(h.tokens[token], nil)
	})
}

func (h *host) Join(_ Ref, want Want, done func(wire.Position, bool, *wire.Error)) {
	room, from := want.Room, ""
	switch {
	case want.Epoch != "":
		from = fmt.Sprintf(" from %s:%d", want.Epoch, want.Offset)
	case want.Since != 0:
		from = fmt.Sprintf(" since %d", want.Since)
	case want.Latest:
		from = " latest"
	}
	if want.AwayMS != 0 {
		from += fmt.Sprintf(" away %d", want.AwayMS)
	}
	h.asked("join %s%s", room, from)
	h.ask("join", room, func(code string) {
		if code != "" {
			done(wire.Position{}, false, refusal(code))
			return
		}
		joined := !h.members[room] && !h.ended
		if joined {
			h.members[room] = true
		}
		at := wire.Position{Room: room}
		if want.Epoch != "" {
			at = wire.Position{Room: room, Epoch: "e", Offset: want.Offset}.WithRecovery("")
		}
		done(at, joined, nil)
	})
}

// Start is not recorded: that it follows every answer is checked by the edge's
// tests.
func (h *host) Start(Ref, []wire.Position) {
	if h.ended {
		h.fault("start after close")
	}
}

func (h *host) History(_ Ref, q wire.HistoryRequest, done func(*wire.Page, *wire.Error)) {
	h.asked("history %s limit %d before %d after %d", q.Room, q.Limit, q.Before, q.After)
	h.ask("history", q.Room, func(code string) {
		if code != "" {
			done(nil, refusal(code))
			return
		}
		done(&wire.Page{Room: q.Room, Epoch: "e"}, nil)
	})
}

func (h *host) Leave(_ Ref, room string) bool {
	in := h.members[room]
	if in {
		h.asked("leave %s", room)
		delete(h.members, room)
	}
	return in
}

func (h *host) Publish(_ Ref, id *Identity, p *wire.Publication, done func(wire.Position, *wire.Error)) {
	user, room := "nobody", p.Room
	if id != nil {
		user = id.User
	}
	h.asked("publish %s %s %s by %s", p.Room, p.Kind, p.Body, user)
	h.ask("publish", p.Room, func(code string) { done(wire.Position{Room: room}, refusal(code)) })
}

func (h *host) Call(_ Ref, id *Identity, c *wire.Call, done func(*wire.Result, *wire.Error)) {
	user, kind, body := "nobody", c.Kind, string(c.Body)
	if id != nil {
		user = id.User
	}
	h.asked("call %s %s %s by %s", c.Method, kind, body, user)
	h.ask("call", c.Method, func(code string) {
		if code != "" {
			done(nil, refusal(code))
			return
		}
		done(&wire.Result{Kind: kind, Body: []byte(body)}, nil)
	})
}

// Within lets everything pass until a script says otherwise.
func (h *host) Within(_ Ref, _ *Identity, use Use, _ int) (string, int64) {
	if !h.shared[use] {
		return "", 0
	}
	return "the host says so", 1e9
}

func (h *host) Seat(_ Ref, user string) *wire.Error {
	if h.ended {
		h.fault("after close: seat %s", user)
	}
	if h.full[user] {
		h.asked("no seat for %s", user)
		return refusal(string(wire.TooManyConnections))
	}
	h.seat = user
	return nil
}

// Refused notes what the next error that is sent must say.
func (h *host) Refused(code wire.Code) {
	if h.refused != "" {
		h.fault("%s counted, and not sent", h.refused)
	}
	h.refused = code
}

func (h *host) Send(_ Ref, said wire.Object) {
	object := said.AppendJSON(nil)
	h.asked("send %s", object)
	var o struct{ Error struct{ Code wire.Code } }
	if err := json.Unmarshal(object, &o); err != nil || o.Error.Code != h.refused {
		h.fault("%s: %q counted, %v", object, h.refused, err)
	}
	h.refused = ""
	if h.sent != nil {
		h.sent(object)
	}
}

func (h *host) WakeAt(_ Ref, unix int64) {
	h.asked("wake at %d", unix)
	if unix <= h.now {
		h.fault("wake at %d asked for at %d", unix, h.now)
	}
	if h.wakeAt == 0 || unix < h.wakeAt {
		h.wakeAt = unix
	}
}

func (h *host) Close(_ Ref, c wire.Close) {
	h.asked("close %d %s", c.Status, c.Reason())
	h.ended = true
	clear(h.members)
}

// open is told of a client whose user the edge has counted already.
func (h *host) open(id *Identity, rooms []string) {
	if h.seated = true; id != nil {
		h.seat = id.User
	}
	h.session.Open(h, Ref{}, &h.limits, id, wanted(rooms))
}

func wanted(rooms []string) []Want {
	list := make([]Want, len(rooms))
	for i, room := range rooms {
		list[i].Room = room
	}
	return list
}

func (h *host) handle(text string) { h.session.Handle(h, Ref{}, &h.limits, []byte(text)) }

// advance moves the clock, and wakes the session if its time has come.
func (h *host) advance(seconds int64) {
	h.now += seconds
	h.elapsed += seconds * 1e9
	if h.wakeAt != 0 && h.now >= h.wakeAt && !h.ended {
		h.wakeAt = 0
		h.session.Wake(h, Ref{}, &h.limits)
	}
}

// check adds what must be true between any two events.
func (h *host) check() []string {
	s := h.session
	if n := h.RoomCount(Ref{}); n > h.limits.MaxRooms {
		h.fault("%d rooms", n)
	}
	if s.state == connected && (!h.shown || !shownAs(h.shownAs, s.identity)) {
		h.fault("connected as %+v, shown as %+v (%v)", s.identity, h.shownAs, h.shown)
	}
	if who := s.identity; who != nil && h.seated && h.seat != who.User {
		h.fault("speaks for %s, and is counted for %q", who.User, h.seat)
	}
	if int(s.inFlight) > h.limits.MaxInFlight {
		h.fault("%d commands in flight", s.inFlight)
	}
	if (s.state == closed) != h.ended {
		h.fault("state %d, but the connection's end is %v", s.state, h.ended)
	}
	if s.state == closed && s.wait != nil {
		h.fault("a closed session keeps memory")
	}
	if s.state != closed && len(h.pending) == 0 && (s.inFlight != 0 || (s.wait != nil && (s.wait.meter == nil || len(s.wait.held)+s.wait.joining.len() > 0))) {
		h.fault("nothing is outstanding: %d in flight, waiting %+v", s.inFlight, s.wait)
	}
	c := call{s, h, Ref{}, &h.limits}
	for room := range h.members {
		if err := mayJoin(c.host, s.identity, room); err != nil && s.state == connected {
			h.fault("in %s: %v", room, err)
		}
		if watched, ok := subject.Watched(room); ok && !h.members[watched] && s.state == connected && len(h.pending) == 0 {
			h.fault("watches %s without being in it", watched)
		}
	}
	return h.faults
}
