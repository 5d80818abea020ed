package wire

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"strconv"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Verb is what a command asks for.
type Verb uint8

// The verbs.
const (
	NoVerb Verb = iota
	Connect
	Subscribe
	Unsubscribe
	Publish
	Auth
	History
	Presence
	RPC
	Ping
	Pong
)

var verbs = map[string]Verb{"connect": Connect, "subscribe": Subscribe, "unsubscribe": Unsubscribe, "publish": Publish,
	"auth": Auth, "history": History, "presence": Presence, "rpc": RPC, "ping": Ping, "pong": Pong}

// String is the verb's name.
func (v Verb) String() string {
	for name, verb := range verbs {
		if verb == v {
			return name
		}
	}
	return "none"
}

// RoomRequest is one room of a connect or subscribe. At most one of a position
// (Epoch and Offset), Since and Latest is set.
type RoomRequest struct {
	Room   string
	Epoch  string // with Offset: everything behind that position is wanted
	Offset uint64
	Since  string // a duration such as 10m, or a time (RFC 3339): everything since
	Latest bool   // the newest message first

	Presence bool // who comes and leaves is wanted, too
}

// HistoryRequest is what a history command asks for: the messages before or
// after an offset, the newest when neither is set.
type HistoryRequest struct {
	Room          string
	Limit         uint64
	Before, After uint64
	IsAfter       bool // After was given: 0 means from the beginning
}

// Publication is what a client publishes. Body aliases the Command.
type Publication struct {
	Room      string
	Kind      Kind
	Body      []byte
	Event     string
	Key       string
	MessageID string // the client's own id of the message, for deduplication
}

// Command is one parsed command. It may be used again for the next Parse.
type Command struct {
	ID       uint64
	HasID    bool
	Verb     Verb
	Token    string
	Previous string
	Rooms    []RoomRequest // connect, subscribe and unsubscribe
	AwayMS   uint64        // connect and subscribe: how long the client was away, 0 when it does not say
	Publish  Publication
	History  HistoryRequest
	Call     Call
	Presence PresenceRequest

	body []byte
}

// MaxID is the largest id of a command: what a JavaScript number holds exactly.
const MaxID = 1<<53 - 1

// Parse reads one command. It is strict: one object, exactly one verb, no
// unknown and no repeated field. Nothing of text is kept. When it fails, c has
// the id if it was read before the fault.
func Parse(text []byte, c *Command) *Error {
	*c = Command{Rooms: c.Rooms[:0], body: c.body[:0]}
	if !utf8.Valid(text) {
		return bad("the frame is not valid UTF-8")
	}
	p := parsers.Get().(*parser)
	defer parsers.Put(p)
	p.reader.Reset(text)
	p.Reset(&p.reader)
	err := p.command(c)
	if err != nil {
		return err
	}
	if _, end := p.ReadToken(); end != io.EOF {
		return bad("a frame holds one JSON object: there is more behind it")
	}
	if c.Verb == NoVerb {
		return bad("the object has no verb: connect, subscribe, unsubscribe, publish, auth, ping …")
	}
	return nil
}

type parser struct {
	jsontext.Decoder
	reader bytes.Reader
}

var parsers = sync.Pool{New: func() any { return new(parser) }}

func bad(format string, args ...any) *Error {
	return &Error{Code: BadCommand, Reason: fmt.Sprintf(format, args...)}
}

// each reads an object, calling fn with the decoder before each value.
func (p *parser) each(what string, fn func(key string) *Error) *Error {
	if k := p.PeekKind(); k != '{' {
		return p.wrong(what, "an object")
	}
	if _, err := p.ReadToken(); err != nil {
		return p.syntax(err)
	}
	for p.PeekKind() == '"' {
		key, err := p.ReadToken()
		if err != nil {
			return p.syntax(err)
		}
		if err := fn(key.String()); err != nil {
			return err
		}
	}
	if _, err := p.ReadToken(); err != nil {
		return p.syntax(err)
	}
	return nil
}

func (p *parser) syntax(err error) *Error { return bad("not JSON: %v", err) }

// wrong explains a value of the wrong kind, or the syntax error in its place.
func (p *parser) wrong(what, want string) *Error {
	if _, err := p.ReadValue(); err != nil {
		return p.syntax(err)
	}
	return bad("%s must be %s", what, want)
}

func (p *parser) text(what string, to *string) *Error {
	if p.PeekKind() != '"' {
		return p.wrong(what, "a text")
	}
	t, err := p.ReadToken()
	if err != nil {
		return p.syntax(err)
	}
	*to = t.String()
	return nil
}

func (p *parser) flag(what string, to *bool) *Error {
	if k := p.PeekKind(); k != 't' && k != 'f' {
		return p.wrong(what, "true or false")
	}
	t, err := p.ReadToken()
	if err != nil {
		return p.syntax(err)
	}
	*to = t.Bool()
	return nil
}

func (p *parser) number(what string, limit uint64, to *uint64) *Error {
	want := fmt.Sprintf("a whole number from 0 to %d", limit)
	if p.PeekKind() != '0' {
		return p.wrong(what, want)
	}
	v, err := p.ReadValue()
	if err != nil {
		return p.syntax(err)
	}
	n, perr := strconv.ParseUint(string(v), 10, 64)
	if perr != nil || n > limit {
		return bad("%s must be %s", what, want)
	}
	*to = n
	return nil
}

func (p *parser) command(c *Command) *Error {
	return p.each("the frame", func(key string) *Error {
		if key == "id" {
			c.HasID = true
			err := p.number("id", MaxID, &c.ID)
			c.HasID = err == nil
			return err
		}
		verb, ok := verbs[key]
		if !ok {
			return &Error{Code: UnknownCommand, Reason: fmt.Sprintf("there is no verb %q", clip(key))}
		}
		if c.Verb != NoVerb {
			return bad("an object has exactly one verb: %q is a second one", key)
		}
		c.Verb = verb
		return p.verb(c, key)
	})
}

func (p *parser) verb(c *Command, name string) *Error {
	unknown := func(key string) *Error { return bad("%s has no field %q", name, clip(key)) }
	switch c.Verb {
	case Connect:
		return p.each(name, func(key string) *Error {
			switch key {
			case "token":
				return p.text("connect.token", &c.Token)
			case "previous":
				return p.text("connect.previous", &c.Previous)
			case "away_ms":
				return p.number("connect.away_ms", MaxID, &c.AwayMS)
			case "rooms":
				return p.rooms(c, name)
			}
			return unknown(key)
		})
	case Subscribe, Unsubscribe:
		return p.each(name, func(key string) *Error {
			switch {
			case key == "away_ms" && c.Verb == Subscribe:
				return p.number("subscribe.away_ms", MaxID, &c.AwayMS)
			case key == "rooms" && c.Verb == Subscribe:
				return p.rooms(c, name)
			case key == "rooms":
				return p.names(c, name)
			}
			return unknown(key)
		})
	case Publish:
		return p.publish(c)
	case Auth:
		return p.each(name, func(key string) *Error {
			if key == "token" {
				return p.text("auth.token", &c.Token)
			}
			return unknown(key)
		})
	case Ping, Pong:
		return p.each(name, unknown)
	case History:
		return p.history(c)
	case RPC:
		return p.call(c)
	case Presence:
		return p.presence(&c.Presence)
	}
	return bad("%s is no verb", name) // the table of verbs has no other
}

func (p *parser) list(what string, element func() *Error) *Error {
	if p.PeekKind() != '[' {
		return p.wrong(what, "a list")
	}
	if _, err := p.ReadToken(); err != nil {
		return p.syntax(err)
	}
	for {
		switch p.PeekKind() {
		case ']':
			_, _ = p.ReadToken()
			return nil
		case 0:
			_, err := p.ReadToken()
			return p.syntax(err)
		}
		if err := element(); err != nil {
			return err
		}
	}
}

func (p *parser) rooms(c *Command, verb string) *Error {
	return p.list(verb+".rooms", func() *Error {
		var r RoomRequest
		err := p.each("an entry of "+verb+".rooms", func(key string) *Error {
			what := verb + ".rooms." + key
			switch key {
			case "room":
				return p.text(what, &r.Room)
			case "epoch":
				return p.text(what, &r.Epoch)
			case "offset":
				return p.number(what, MaxID, &r.Offset)
			case "since":
				return p.text(what, &r.Since)
			case "latest":
				return p.flag(what, &r.Latest)
			case "presence":
				return p.flag(what, &r.Presence)
			}
			return bad("an entry of %s.rooms has no field %q", verb, clip(key))
		})
		if err == nil {
			err = r.check(verb)
		}
		c.Rooms = append(c.Rooms, r)
		return err
	})
}

// check refuses requests that contradict themselves.
func (r *RoomRequest) check(verb string) *Error {
	asked := 0
	for _, given := range []bool{r.Epoch != "", r.Since != "", r.Latest} {
		if given {
			asked++
		}
	}
	switch {
	case r.Offset != 0 && r.Epoch == "":
		return bad("an entry of %s.rooms has an offset without its epoch", verb)
	case asked > 1:
		return bad("an entry of %s.rooms has more than one of a position, since and latest", verb)
	}
	return nil
}

func (p *parser) history(c *Command) *Error {
	h := &c.History
	err := p.each("history", func(key string) *Error {
		switch key {
		case "room":
			return p.text("history.room", &h.Room)
		case "limit":
			return p.number("history.limit", MaxID, &h.Limit)
		case "before":
			return p.number("history.before", MaxID, &h.Before)
		case "after":
			h.IsAfter = true
			return p.number("history.after", MaxID, &h.After)
		}
		return bad("history has no field %q", clip(key))
	})
	if err != nil {
		return err
	}
	return h.check()
}

// check refuses a request that contradicts itself.
func (h *HistoryRequest) check() *Error {
	if h.IsAfter && h.Before != 0 {
		return bad("history takes before or after, not both")
	}
	return nil
}

func (p *parser) names(c *Command, verb string) *Error {
	return p.list(verb+".rooms", func() *Error {
		var r RoomRequest
		err := p.text("an entry of "+verb+".rooms", &r.Room)
		c.Rooms = append(c.Rooms, r)
		return err
	})
}

func (p *parser) publish(c *Command) *Error {
	bodies := 0
	err := p.each("publish", func(key string) (err *Error) {
		switch key {
		case "room":
			return p.text("publish.room", &c.Publish.Room)
		case "event":
			return p.header("publish.event", &c.Publish.Event)
		case "key":
			return p.header("publish.key", &c.Publish.Key)
		case "message_id":
			return p.header("publish.message_id", &c.Publish.MessageID)
		case "data", "text", "base64":
			bodies++
			c.Publish.Kind, c.Publish.Body, err = p.body(c, "publish", key)
			return err
		}
		return bad("publish has no field %q", clip(key))
	})
	if err == nil && bodies != 1 {
		return &Error{Code: BadData, Reason: "publish needs exactly one of data, text and base64"}
	}
	return err
}

// header reads a text that becomes a NATS header.
func (p *parser) header(what string, to *string) *Error {
	if err := p.text(what, to); err != nil {
		return err
	}
	return checkHeader(what, *to)
}

func checkHeader(what, value string) *Error {
	const limit = 256
	if len(value) > limit {
		return bad("%s has at most %d bytes", what, limit)
	}
	for _, r := range value {
		if r < ' ' || r == 0x7f {
			return bad("%s must not contain control characters", what)
		}
	}
	return nil
}

// body reads the body of a publish or an rpc, which the command keeps.
func (p *parser) body(c *Command, verb, key string) (Kind, []byte, *Error) {
	if key == "data" {
		v, err := p.ReadValue()
		if err != nil {
			return 0, nil, p.syntax(err)
		}
		value := jsontext.Value(append(c.body[:0], v...))
		if err := value.Compact(); err != nil {
			return 0, nil, p.syntax(err)
		}
		c.body = value
		return Data, value, nil
	}
	var s string
	if err := p.text(verb+"."+key, &s); err != nil {
		return 0, nil, err
	}
	if key == "base64" {
		raw, err := base64.StdEncoding.Strict().DecodeString(s)
		if err != nil {
			return 0, nil, &Error{Code: BadData, Reason: verb + ".base64 is not standard base64 (RFC 4648 §4, with padding)"}
		}
		return Binary, raw, nil
	}
	c.body = append(c.body[:0], s...)
	return Text, c.body, nil
}

func clip(s string) string {
	const limit = 40
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
