package session

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"nabat/edge/internal/rate"
	"nabat/proto/grant"
	"nabat/proto/policy"
)

// client is what a client that believes every answer knows.
type client struct {
	t       *testing.T
	asked   map[uint64]bool // commands with an id; true once answered
	rooms   map[string]bool // where it was told that it is
	lastID  uint64
	opening bool // connected has not come
}

// take reads what the session sent.
func (c *client) take(object []byte) {
	var o struct {
		ID                    *uint64
		Connected, Subscribed *struct{ Rooms []struct{ Room string } }
		Unsubscribed          *struct{ Rooms []string }
	}
	if err := json.Unmarshal(object, &o); err != nil {
		c.t.Fatalf("%s: %v", object, err)
	}
	if o.ID != nil {
		if answered, asked := c.asked[*o.ID]; !asked || answered {
			c.t.Fatalf("%s: asked %v, answered before %v", object, asked, answered)
		}
		c.asked[*o.ID] = true
	}
	if o.Connected != nil {
		if !c.opening {
			c.t.Fatalf("connected twice: %s", object)
		}
		c.opening, o.Subscribed = false, o.Connected
	}
	if o.Subscribed != nil {
		for _, r := range o.Subscribed.Rooms {
			c.rooms[r.Room] = true
		}
	}
	if o.Unsubscribed != nil {
		for _, r := range o.Unsubscribed.Rooms {
			delete(c.rooms, r)
		}
	}
}

// command makes one with a new id. a and b choose what is in it.
func (c *client) command(verb, a, b byte) string {
	rooms := []string{"a", "b", "c", "d", "x.1", "x.2", "shut", "bad..room"}
	first, second := rooms[a%8], rooms[b%8]
	tokens := []string{"T1", "T2", "T3", "other", "forged"}
	token := tokens[int(a)%len(tokens)]
	body := []string{
		fmt.Sprintf(`"connect":{"token":%q,"rooms":[{"room":%q}]}`, token, second),
		fmt.Sprintf(`"connect":{"rooms":[{"room":%q},{"room":%q}]}`, first, second),
		fmt.Sprintf(`"subscribe":{"rooms":[{"room":%q},{"room":%q}]}`, first, second),
		fmt.Sprintf(`"subscribe":{"rooms":[{"room":%q}]}`, first),
		fmt.Sprintf(`"unsubscribe":{"rooms":[%q,%q]}`, first, second),
		fmt.Sprintf(`"unsubscribe":{"rooms":[%q]}`, first),
		fmt.Sprintf(`"publish":{"room":%q,"text":%q}`, first, strings.Repeat("x", int(b)%20)),
		fmt.Sprintf(`"auth":{"token":%q}`, token),
		`"ping":{}`,
		`"history":{}`,
		fmt.Sprintf(`"subscribe":{"rooms":[{"room":%q,"presence":true},{"room":%q}]}`, first, second),
		fmt.Sprintf(`"presence":{"room":%q}`, first),
		`"auth":{}`,
		`"nonsense":{}`,
	}
	c.lastID++
	c.asked[c.lastID] = false
	return fmt.Sprintf(`{"id":%d,%s}`, c.lastID, body[int(verb)%len(body)])
}

func fuzzHost() *host {
	h := newHost()
	h.limits = Limits{MaxRooms: 4, MaxBadCommands: 3, MaxInFlight: 5, MaxPublishBytes: 16, ConnectTimeout: 10, ExpiryWarning: 20}
	h.policies.Rooms = []policy.Policy{{Match: ">", Publish: true, Anonymous: policy.Anonymous{Subscribe: true, Publish: true}, Presence: &policy.Presence{Anonymous: true}}, {Match: "shut"}}
	h.tokens = map[string]*Identity{
		"T1":    {User: "alice", Expires: 1040, Grant: &grant.Grant{Subscribe: []string{">"}, Publish: []string{">"}, Presence: []string{">"}}},
		"T2":    {User: "alice", Expires: 1100, Grant: &grant.Grant{Subscribe: []string{"a", "x.*"}, Deny: []string{"x.2"}, Rooms: []string{"c"}}},
		"T3":    {User: "alice", Grant: &grant.Grant{Subscribe: []string{"a", "b"}, Rooms: []string{"d", "a"}}},
		"other": {User: "bob", Grant: &grant.Grant{Subscribe: []string{">"}}},
	}
	return h
}

// FuzzSession plays events, three bytes each, and checks after each of them what
// host.check does, and at the end that every command was answered once and that
// the client is in the rooms that it was told.
func FuzzSession(f *testing.F) {
	f.Add([]byte{0, 0, 0})
	f.Add([]byte{1, 0, 0, 15, 2, 1, 32, 0, 0, 15, 3, 0, 48, 0, 0, 48, 1, 1})
	f.Add([]byte("\x00\x00\x00\x10\x00\x01\x20\x00\x00\x22\x01\x02\x24\x01\x00\x40\x01\x00\x30\x00\x00"))
	// Two commands name a room and the first fails; a room is left while it is
	// being joined; a token narrows while rooms are being joined.
	connected := []byte{0, 0, 0, 11, 0, 0, 40, 0, 0, 40, 0, 0}
	f.Add(append(slices.Clone(connected), 12, 1, 2, 40, 0, 0, 13, 1, 0, 40, 1, 0, 40, 0, 1))
	f.Add(append(slices.Clone(connected), 12, 1, 2, 15, 1, 0, 13, 1, 0, 40, 0, 0, 40, 0, 0, 40, 0, 0))
	f.Add([]byte{3, 0, 0, 11, 0, 0, 40, 0, 0, 40, 0, 0, 12, 0, 1, 12, 4, 5, 17, 1, 0, 40, 4, 0, 40, 0, 0, 40, 0, 0})
	// Rates, and a user without a seat.
	f.Add(append([]byte{20, 0, 0, 11, 0, 0, 40, 0, 0, 40, 0, 0}, slices.Repeat([]byte{12, 1, 2, 18, 0, 0, 40, 0, 0}, 6)...))
	f.Add([]byte{32, 0, 0, 10, 3, 0, 40, 0, 0, 17, 3, 0, 40, 0, 0})
	f.Fuzz(func(t *testing.T, events []byte) {
		h := fuzzHost()
		c := &client{t: t, asked: make(map[uint64]bool), rooms: make(map[string]bool), opening: true}
		h.sent = c.take
		first := byte(0)
		if len(events) > 0 {
			first = events[0]
		}
		id := []*Identity{nil, h.tokens["T1"], h.tokens["T2"], h.tokens["T1"]}[first%4]
		rooms := [][]string{nil, {"a", "c", "a"}, nil, {"a", "b"}}[first/4%4]
		if first/16%2 == 1 {
			h.limits.Rates = Rates{Messages: rate.Limit{PerSecond: 2, Burst: 6}, Bytes: rate.Limit{PerSecond: 100, Burst: 400}, Subscribes: rate.Limit{PerSecond: 1, Burst: 3}, MaxRefusals: 3}
		}
		h.full["bob"] = first/32%2 == 1
		if h.session.Admit(h, &h.limits, id, wanted(rooms)) != nil {
			return
		}
		h.open(id, rooms)
		h.verify(t)
		events = events[:min(len(events), 600)]
		for len(events) >= 3 {
			h.play(c, events[0], events[1], events[2])
			events = events[3:]
			h.verify(t)
		}
		for len(h.pending) > 0 {
			h.reply(h.pending[0].verb, h.pending[0].what, "")
			h.verify(t)
		}
		if h.ended {
			return
		}
		for id, answered := range c.asked {
			if !answered {
				t.Errorf("command %d was never answered", id)
			}
		}
		if told := slices.Sorted(maps.Keys(c.rooms)); !slices.Equal(told, h.Rooms(Ref{})) {
			t.Errorf("in %v, told %v\n%s", h.Rooms(Ref{}), told, &h.out)
		}
	})
}

func (h *host) verify(t *testing.T) {
	if faults := h.check(); len(faults) > 0 {
		t.Fatalf("%s\nbehind\n%s", strings.Join(faults, "\n"), &h.out)
	}
}

// play is one event. Most are commands, then answers in any order.
func (h *host) play(c *client, kind, a, b byte) {
	switch kind %= 64; {
	case kind < 2:
		clear(h.atOnce)
		for i, verb := range []string{"verify", "join", "publish"} {
			h.atOnce[verb] = a&(1<<i) != 0
		}
	case kind < 4:
		h.advance(int64(a % 32))
	case kind < 10:
		h.handle(string([]byte{'{', a, b}))
	case kind < 34:
		text := c.command(kind-10, a, b)
		h.out.WriteString("recv " + text + "\n")
		h.handle(text)
	case len(h.pending) > 0:
		p := h.pending[int(a)%len(h.pending)]
		code := ""
		if b%4 == 1 {
			code = "unavailable"
		}
		fmt.Fprintf(&h.out, "answer %s %s %s\n", p.verb, p.what, code)
		h.reply(p.verb, p.what, code)
	}
}
