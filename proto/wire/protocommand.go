package wire

import (
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/encoding/protowire"
)

// parseProto reads one Command of client.proto. It refuses what Parse refuses in
// JSON: unknown fields, and fields that stand twice, of which Protobuf would take
// the last. Nothing of object is kept.
func parseProto(object []byte, c *Command) *Error {
	*c = Command{Rooms: c.Rooms[:0], body: c.body[:0]}
	err := eachField("the frame", object, 0, func(f field) *Error {
		if f.number == 1 {
			err := f.into("id", MaxID, &c.ID)
			c.HasID = err == nil
			return err
		}
		verb := Verb(f.number - 1) // client.proto numbers them so
		if f.number < 1 || f.number > protowire.Number(Pong)+1 {
			return &Error{Code: UnknownCommand, Reason: fmt.Sprintf("there is no verb with the field number %d", f.number)}
		}
		if c.Verb != NoVerb {
			return bad("an object has exactly one verb: %q is a second one", verb)
		}
		c.Verb = verb
		return f.verb(c)
	})
	if err != nil {
		return err
	}
	if c.Verb == NoVerb {
		return bad("the object has no verb: connect, subscribe, unsubscribe, publish, auth, ping …")
	}
	return nil
}

// field is one field of a message. value is what stands behind its tag, without
// the length where it has one.
type field struct {
	number protowire.Number
	typ    protowire.Type
	value  []byte
}

// eachField reads a message, calling fn for each of its fields. many is the one
// field that may stand more than once, 0 for none.
func eachField(what string, message []byte, many protowire.Number, fn func(f field) *Error) *Error {
	var seen uint64
	for len(message) > 0 {
		var f field
		var n int
		if f.number, f.typ, n = protowire.ConsumeTag(message); n < 0 {
			return bad("%s is not Protobuf: %v", what, protowire.ParseError(n))
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(f.number, f.typ, message); n < 0 {
			return bad("%s is not Protobuf: %v", what, protowire.ParseError(n))
		}
		f.value, message = message[:n], message[n:]
		if f.typ == protowire.BytesType {
			f.value, _ = protowire.ConsumeBytes(f.value)
		}
		bit := uint64(1) << min(uint(f.number), 63)
		if f.number < 63 && f.number != many && seen&bit != 0 {
			return bad("field %d of %s stands twice", f.number, what)
		}
		seen |= bit
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}

func (f field) unknown(what string) *Error {
	return bad("%s has no field with the number %d", what, f.number)
}

func (f field) wrong(what, want string) *Error { return bad("%s must be %s", what, want) }

// into reads a number.
func (f field) into(what string, limit uint64, to *uint64) *Error {
	want := "a whole number from 0 to %d"
	if f.typ != protowire.VarintType {
		return f.wrong(what, fmt.Sprintf(want, limit))
	}
	n, _ := protowire.ConsumeVarint(f.value)
	if n > limit {
		return f.wrong(what, fmt.Sprintf(want, limit))
	}
	*to = n
	return nil
}

func (f field) flag(what string, to *bool) *Error {
	if f.typ != protowire.VarintType {
		return f.wrong(what, "a bool")
	}
	n, _ := protowire.ConsumeVarint(f.value)
	*to = n != 0
	return nil
}

func (f field) text(what string, to *string) *Error {
	if f.typ != protowire.BytesType {
		return f.wrong(what, "a text")
	}
	if !utf8.Valid(f.value) {
		return bad("%s is not valid UTF-8", what)
	}
	*to = string(f.value)
	return nil
}

// header reads a text that becomes a NATS header.
func (f field) header(what string, to *string) *Error {
	if err := f.text(what, to); err != nil {
		return err
	}
	return checkHeader(what, *to)
}

// message reads a message.
func (f field) message(what string, many protowire.Number, fn func(f field) *Error) *Error {
	if f.typ != protowire.BytesType {
		return f.wrong(what, "a message")
	}
	return eachField(what, f.value, many, fn)
}

func (f field) verb(c *Command) *Error {
	switch c.Verb {
	case Connect:
		return f.message("connect", 2, func(f field) *Error {
			switch f.number {
			case 1:
				return f.text("connect.token", &c.Token)
			case 2:
				return f.room(c, "connect")
			case 3:
				return f.text("connect.previous", &c.Previous)
			case 4:
				return f.into("connect.away_ms", MaxID, &c.AwayMS)
			}
			return f.unknown("connect")
		})
	case Subscribe:
		return f.message("subscribe", 1, func(f field) *Error {
			switch f.number {
			case 1:
				return f.room(c, "subscribe")
			case 2:
				return f.into("subscribe.away_ms", MaxID, &c.AwayMS)
			}
			return f.unknown("subscribe")
		})
	case Unsubscribe:
		return f.message("unsubscribe", 1, func(f field) *Error {
			if f.number != 1 {
				return f.unknown("unsubscribe")
			}
			var r RoomRequest
			err := f.text("an entry of unsubscribe.rooms", &r.Room)
			c.Rooms = append(c.Rooms, r)
			return err
		})
	case Publish:
		return f.publish(c)
	case Auth:
		return f.message("auth", 0, func(f field) *Error {
			if f.number != 1 {
				return f.unknown("auth")
			}
			return f.text("auth.token", &c.Token)
		})
	case History:
		return f.history(&c.History)
	case RPC:
		return f.call(c)
	case Presence:
		return f.presence(&c.Presence)
	case Ping, Pong:
		return f.message(c.Verb.String(), 0, func(f field) *Error { return f.unknown(c.Verb.String()) })
	}
	return bad("%s is no verb", c.Verb) // there is no other number
}

func (f field) room(c *Command, verb string) *Error {
	var r RoomRequest
	what := "an entry of " + verb + ".rooms"
	err := f.message(what, 0, func(f field) *Error {
		switch f.number {
		case 1:
			return f.text(verb+".rooms.room", &r.Room)
		case 2:
			return f.text(verb+".rooms.epoch", &r.Epoch)
		case 3:
			return f.into(verb+".rooms.offset", MaxID, &r.Offset)
		case 4:
			return f.text(verb+".rooms.since", &r.Since)
		case 5:
			return f.flag(verb+".rooms.latest", &r.Latest)
		case 6:
			return f.flag(verb+".rooms.presence", &r.Presence)
		}
		return f.unknown(what)
	})
	if err == nil {
		err = r.check(verb)
	}
	c.Rooms = append(c.Rooms, r)
	return err
}

func (f field) history(h *HistoryRequest) *Error {
	err := f.message("history", 0, func(f field) *Error {
		switch f.number {
		case 1:
			return f.text("history.room", &h.Room)
		case 2:
			return f.into("history.limit", MaxID, &h.Limit)
		case 3:
			return f.into("history.before", MaxID, &h.Before)
		case 4:
			h.IsAfter = true
			return f.into("history.after", MaxID, &h.After)
		}
		return f.unknown("history")
	})
	if err != nil {
		return err
	}
	return h.check()
}

func (f field) publish(c *Command) *Error {
	bodies := 0
	err := f.message("publish", 0, func(f field) (err *Error) {
		switch f.number {
		case 1:
			return f.text("publish.room", &c.Publish.Room)
		case 2, 3, 4:
			bodies++
			c.Publish.Kind, c.Publish.Body, err = f.body(c, "publish", Kind(f.number-2))
			return err
		case 5:
			return f.header("publish.event", &c.Publish.Event)
		case 6:
			return f.header("publish.key", &c.Publish.Key)
		case 7:
			return f.header("publish.message_id", &c.Publish.MessageID)
		}
		return f.unknown("publish")
	})
	if err == nil && bodies != 1 {
		return &Error{Code: BadData, Reason: "publish needs exactly one of json, text and binary"}
	}
	return err
}

func (f field) body(c *Command, verb string, kind Kind) (Kind, []byte, *Error) {
	if f.typ != protowire.BytesType {
		return 0, nil, f.wrong(verb+"."+kind.String(), "bytes")
	}
	c.body = append(c.body[:0], f.value...)
	switch kind {
	case Text:
		if !utf8.Valid(c.body) {
			return 0, nil, &Error{Code: BadData, Reason: verb + ".text is not valid UTF-8"}
		}
	case Data:
		compact, err := compactJSON(f.value, c.body[:0])
		if err != nil {
			return 0, nil, &Error{Code: BadData, Reason: fmt.Sprintf("%s.json is not JSON: %v", verb, err)}
		}
		c.body = compact
	}
	return kind, c.body, nil
}

// compactJSON puts exactly one JSON value into dst, by the rules of Parse.
func compactJSON(text, dst []byte) ([]byte, error) {
	p := parsers.Get().(*parser)
	defer parsers.Put(p)
	p.reader.Reset(text)
	p.Reset(&p.reader)
	v, err := p.ReadValue()
	if err != nil {
		return dst, err
	}
	value := jsontext.Value(append(dst, v...))
	if _, err := p.ReadToken(); err != io.EOF {
		return dst, fmt.Errorf("there is more behind it")
	}
	return value, value.Compact()
}
