package client

import (
	"encoding/json"

	"github.com/gobwas/ws"

	"nabat/proto/wire"
)

// jsonCodec is nabat.v1.json.
type jsonCodec struct{}

func (jsonCodec) subprotocol() string     { return "nabat.v1.json" }
func (jsonCodec) encoding() wire.Encoding { return wire.JSON }
func (jsonCodec) op() ws.OpCode           { return ws.OpText }

func (jsonCodec) write(c *wire.Command) ([]byte, error) {
	command := map[string]any{c.Verb.String(): jsonFields(c)}
	if c.HasID {
		command["id"] = c.ID
	}
	return json.Marshal(command)
}

// fields are those of a verb. What is empty is left out.
type fields map[string]any

func (f fields) text(key, value string) {
	if value != "" {
		f[key] = value
	}
}

func (f fields) number(key string, value uint64) {
	if value != 0 {
		f[key] = value
	}
}

func (f fields) body(kind wire.Kind, body []byte) {
	switch kind {
	case wire.Data:
		f["data"] = json.RawMessage(body)
	case wire.Text:
		f["text"] = string(body)
	case wire.Binary:
		f["base64"] = append([]byte{}, body...) // a nil slice would be null
	}
}

func jsonFields(c *wire.Command) fields {
	f := fields{}
	switch c.Verb {
	case wire.Connect, wire.Subscribe:
		f.text("token", c.Token)
		f.text("previous", c.Previous)
		f.number("away_ms", c.AwayMS)
		if len(c.Rooms) > 0 {
			f["rooms"] = jsonRooms(c.Rooms)
		}
	case wire.Unsubscribe:
		names := make([]string, len(c.Rooms))
		for i := range c.Rooms {
			names[i] = c.Rooms[i].Room
		}
		f["rooms"] = names
	case wire.Publish:
		p := &c.Publish
		f["room"] = p.Room
		f.body(p.Kind, p.Body)
		f.text("event", p.Event)
		f.text("key", p.Key)
		f.text("message_id", p.MessageID)
	case wire.Auth:
		f["token"] = c.Token
	case wire.History:
		h := &c.History
		f["room"] = h.Room
		f.number("limit", h.Limit)
		f.number("before", h.Before)
		if h.IsAfter {
			f["after"] = h.After
		}
	case wire.Presence:
		f["room"] = c.Presence.Room
		if c.Presence.HasLimit {
			f["limit"] = c.Presence.Limit
		}
		f.text("after", c.Presence.After)
	case wire.RPC:
		f["method"] = c.Call.Method
		if c.Call.Kind != wire.Text || len(c.Call.Body) > 0 {
			f.body(c.Call.Kind, c.Call.Body)
		}
	}
	return f
}

// jsonRoom is one room of a connect or subscribe as it goes out. A position has
// its offset even when that is 0.
type jsonRoom struct {
	Room   string  `json:"room"`
	Epoch  string  `json:"epoch,omitempty"`
	Offset *uint64 `json:"offset,omitempty"`
	Since  string  `json:"since,omitempty"`
	Latest bool    `json:"latest,omitempty"`

	Presence bool `json:"presence,omitempty"`
}

func jsonRooms(rooms []wire.RoomRequest) []jsonRoom {
	out := make([]jsonRoom, len(rooms))
	for i := range rooms {
		r := &rooms[i]
		out[i] = jsonRoom{Room: r.Room, Epoch: r.Epoch, Since: r.Since, Latest: r.Latest, Presence: r.Presence}
		if r.Epoch != "" {
			out[i].Offset = &r.Offset
		}
	}
	return out
}

// jsonObject is any object that the server sends.
type jsonObject struct {
	jsonMessage
	ID           *uint64
	Error        *jsonError
	Connected    *wire.Connected
	Subscribed   *wire.Subscribed
	Unsubscribed *wire.Unsubscribed
	Published    *wire.Position
	History      *jsonPage
	Result       *jsonMessage
	Presence     *jsonPresence
	Gap          *wire.Gap
	Lagging      *wire.Position
	Reset        *wire.Position
	Expiring     *struct{ In int64 }
	Ping         *struct{}
}

type jsonMessage struct {
	Room   string
	Epoch  string
	Offset uint64
	Data   json.RawMessage
	Text   *string
	Base64 []byte
	Event  string
	User   string
}

type jsonPage struct {
	Room, Epoch string
	Messages    []jsonMessage
	More        bool
}

type jsonPresence struct {
	Room, Next                    string
	Users, Anonymous, Connections uint64
	Members, Join, Leave          []jsonMember
	Lost                          bool
}

type jsonMember struct {
	User        string
	Connections uint64
	Info        json.RawMessage
}

// jsonError is what an error holds, and the reason of a close frame.
type jsonError struct {
	Code    wire.Code
	Reason  string
	RetryMS int `json:"retry_ms"`
	Backend string
}

func (jsonCodec) read(object []byte) (*inbound, error) {
	var o jsonObject
	if err := json.Unmarshal(object, &o); err != nil {
		return nil, err
	}
	in := &inbound{
		ID: o.ID, Connected: o.Connected, Subscribed: o.Subscribed, Unsubscribed: o.Unsubscribed, Published: o.Published,
		Gap: o.Gap, Lagging: o.Lagging, Reset: o.Reset, Ping: o.Ping != nil, raw: object,
	}
	if o.Room != "" {
		in.Message = o.message()
	}
	if o.Error != nil {
		in.Error = o.Error.wire()
	}
	if o.History != nil {
		in.History = o.History.wire()
	}
	if o.Result != nil {
		m := o.Result.message()
		in.Result = &wire.Result{Kind: m.Kind, Body: m.Body}
	}
	if o.Presence != nil {
		in.Presence = o.Presence.wire()
	}
	if o.Expiring != nil {
		in.Expiring = &wire.Expiring{Seconds: o.Expiring.In}
	}
	return in, nil
}

func (m *jsonMessage) message() *wire.Message {
	out := &wire.Message{Room: m.Room, Epoch: m.Epoch, Offset: m.Offset, Kind: wire.Data, Body: m.Data, Event: m.Event, User: m.User}
	switch {
	case m.Text != nil:
		out.Kind, out.Body = wire.Text, []byte(*m.Text)
	case m.Base64 != nil:
		out.Kind, out.Body = wire.Binary, m.Base64
	}
	return out
}

func (e *jsonError) wire() *wire.Error {
	return &wire.Error{Code: e.Code, Reason: e.Reason, RetryMS: e.RetryMS, Backend: e.Backend}
}

func (p *jsonPage) wire() *wire.Page {
	page := &wire.Page{Room: p.Room, Epoch: p.Epoch, More: p.More}
	for i := range p.Messages {
		page.Messages = append(page.Messages, p.Messages[i].message())
	}
	return page
}

func (p *jsonPresence) wire() *presenceState {
	return &presenceState{
		wire.PresencePage{Room: p.Room, Users: p.Users, Anonymous: p.Anonymous, Connections: p.Connections, Members: jsonMembers(p.Members), Next: p.Next},
		wire.PresenceChange{Room: p.Room, Join: jsonMembers(p.Join), Leave: jsonMembers(p.Leave), Users: p.Users, Anonymous: p.Anonymous, Lost: p.Lost},
	}
}

func jsonMembers(list []jsonMember) []wire.Member {
	var out []wire.Member
	for _, m := range list {
		out = append(out, wire.Member{User: m.User, Connections: m.Connections, Info: m.Info})
	}
	return out
}
