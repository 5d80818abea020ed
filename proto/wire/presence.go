package wire

import (
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// MaxPresence and DefaultPresence are the users of one presence page.
const (
	MaxPresence     = 1000
	DefaultPresence = 100
)

// PresenceRequest is what a presence command asks for: the users of a room
// behind After, bytewise, at most Limit of them.
type PresenceRequest struct {
	Room     string
	Limit    uint64
	HasLimit bool // Limit was given: 0 means counts only
	After    string
}

// Size is how many users are wanted at most.
func (r *PresenceRequest) Size() int {
	if !r.HasLimit {
		return DefaultPresence
	}
	return int(min(r.Limit, MaxPresence))
}

// Member is one user in a room.
type Member struct {
	User        string
	Connections uint64 // in the room; 0 where it is not told
	Info        []byte // compact JSON, of the connection that came first; empty for none
}

// PresencePage answers a presence command.
type PresencePage struct {
	Room        string
	Users       uint64 // different ones
	Anonymous   uint64 // connections without a user
	Connections uint64 // all
	Members     []Member
	Next        string // the page behind begins after it; empty at the end
}

// PresenceChange tells who came into a room and who left it. With Lost it tells
// nothing but that such changes may have been missed.
type PresenceChange struct {
	Room             string
	Join, Leave      []Member
	Users, Anonymous uint64 // after the change
	Lost             bool
}

var kindPresence = kind{"presence", 9}

func (*PresencePage) kind() kind   { return kindPresence }
func (*PresenceChange) kind() kind { return kindPresence }

func appendCounts(dst []byte, users, anonymous uint64) []byte {
	dst = strconv.AppendUint(append(dst, `,"users":`...), users, 10)
	return strconv.AppendUint(append(dst, `,"anonymous":`...), anonymous, 10)
}

func appendMembers(dst []byte, name string, list []Member) []byte {
	dst = append(append(append(dst, `,"`...), name...), `":[`...)
	for i, m := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendText(append(dst, `{"user":`...), m.User)
		if m.Connections != 0 {
			dst = strconv.AppendUint(append(dst, `,"connections":`...), m.Connections, 10)
		}
		if len(m.Info) > 0 {
			dst = append(append(dst, `,"info":`...), m.Info...)
		}
		dst = append(dst, '}')
	}
	return append(dst, ']')
}

func (p *PresencePage) appendJSON(dst []byte) []byte {
	dst = appendText(append(dst, `{"room":`...), p.Room)
	dst = appendCounts(dst, p.Users, p.Anonymous)
	dst = strconv.AppendUint(append(dst, `,"connections":`...), p.Connections, 10)
	dst = appendMembers(dst, "members", p.Members)
	if p.Next != "" {
		dst = appendText(append(dst, `,"next":`...), p.Next)
	}
	return append(dst, '}')
}

func (p *PresenceChange) appendJSON(dst []byte) []byte {
	dst = appendText(append(dst, `{"room":`...), p.Room)
	if p.Lost {
		return append(dst, `,"lost":true}`...)
	}
	if len(p.Join) > 0 {
		dst = appendMembers(dst, "join", p.Join)
	}
	if len(p.Leave) > 0 {
		dst = appendMembers(dst, "leave", p.Leave)
	}
	return append(appendCounts(dst, p.Users, p.Anonymous), '}')
}

// Both are the message PresenceState of client.proto.

func putMembers(dst []byte, n protowire.Number, list []Member) []byte {
	for _, m := range list {
		var start int
		dst, start = begin(dst, n)
		dst = putText(dst, 1, m.User)
		dst = putNumber(dst, 2, m.Connections)
		if len(m.Info) > 0 {
			dst = protowire.AppendBytes(protowire.AppendTag(dst, 3, protowire.BytesType), m.Info)
		}
		dst = end(dst, start)
	}
	return dst
}

func (p *PresencePage) appendProto(dst []byte) []byte {
	dst = putText(dst, 1, p.Room)
	dst = putNumber(dst, 2, p.Users)
	dst = putNumber(dst, 3, p.Anonymous)
	dst = putNumber(dst, 4, p.Connections)
	dst = putMembers(dst, 5, p.Members)
	return putText(dst, 6, p.Next)
}

func (p *PresenceChange) appendProto(dst []byte) []byte {
	dst = putText(dst, 1, p.Room)
	if p.Lost {
		return putBool(dst, 9, true)
	}
	dst = putNumber(dst, 2, p.Users)
	dst = putNumber(dst, 3, p.Anonymous)
	dst = putMembers(dst, 7, p.Join)
	return putMembers(dst, 8, p.Leave)
}

func (p *parser) presence(r *PresenceRequest) *Error {
	return p.each("presence", func(key string) *Error {
		switch key {
		case "room":
			return p.text("presence.room", &r.Room)
		case "limit":
			r.HasLimit = true
			return p.number("presence.limit", MaxID, &r.Limit)
		case "after":
			return p.text("presence.after", &r.After)
		}
		return bad("presence has no field %q", clip(key))
	})
}

func (f field) presence(r *PresenceRequest) *Error {
	return f.message("presence", 0, func(f field) *Error {
		switch f.number {
		case 1:
			return f.text("presence.room", &r.Room)
		case 2:
			r.HasLimit = true
			return f.into("presence.limit", MaxID, &r.Limit)
		case 3:
			return f.text("presence.after", &r.After)
		}
		return f.unknown("presence")
	})
}
