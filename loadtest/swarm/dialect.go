package swarm

import (
	"strconv"
	"strings"
)

// Dialect is how a server wants to be spoken to. The zero value is a plain
// WebSocket server that sends messages as text.
//
// Path, Open and Headers are templates: <<text|separator>> stands for the text
// once for each room of the client, {room} in it for the room's name and {n}
// for its number.
type Dialect struct {
	Headers []string `json:"headers,omitempty"` // of the request: "Name: value"
	Open    []string `json:"open,omitempty"`    // messages that a client sends behind the 101; a NUL divides one into frames
	Binary  bool     `json:"binary,omitempty"`  // those, and Pong, are binary frames
	// Await is what a client waits for before it sends the opening message of the
	// same number: text in a message of the server. Missing or empty: nothing.
	Await []string `json:"await,omitempty"`
	// Greeting is text in the first message of an open connection. Empty: a
	// connection is open with the 101.
	Greeting string `json:"greeting,omitempty"`
	Every    bool   `json:"every,omitempty"`   // the greeting comes once for each room of the client
	Patient  bool   `json:"patient,omitempty"` // other messages may come before the greeting and what is awaited
	// Refusals are texts in messages before the connection is open that say that
	// it will not be.
	Refusals []string `json:"refusals,omitempty"`
	Ping     string   `json:"ping,omitempty"` // the message that asks for a sign of life; "": none does
	Pong     string   `json:"pong,omitempty"` // the answer to it
	// Lines says that a frame may hold several messages, a line each, and that
	// Ping may be one of them.
	Lines bool `json:"lines,omitempty"`
	// Events says that messages come as server-sent events, not over WebSocket.
	Events bool `json:"events,omitempty"`
}

// Spread says which rooms a client is in: Each out of Rooms, which begin with
// number First, so that all rooms have about equally many members.
type Spread struct {
	First int `json:"first"`
	Rooms int `json:"rooms"` // 0: 1
	Each  int `json:"each"`  // 0: 1
}

func (s Spread) complete() Spread {
	s.Rooms = max(s.Rooms, 1)
	s.Each = min(max(s.Each, 1), s.Rooms)
	return s
}

// stride is how far two rooms of a client are apart.
func (s Spread) stride() int { return s.Rooms / s.Each }

// room is number slot of the rooms of a client.
func (s Spread) room(client, slot int) int { return s.First + (client+slot*s.stride())%s.Rooms }

// slot is where the client has a room, −1 when it is not in it.
func (s Spread) slot(client, room int) int {
	room -= s.First
	if room < 0 || room >= s.Rooms {
		return -1
	}
	distance := (room - client%s.Rooms + s.Rooms) % s.Rooms
	if slot := distance / s.stride(); distance%s.stride() == 0 && slot < s.Each {
		return slot
	}
	return -1
}

// same reports whether all clients are in the same rooms.
func (s Spread) same() bool { return s.Rooms == s.Each }

// RoomName is the name of room n of a swarm.
func RoomName(n int) string { return "loadtest." + strconv.Itoa(n) }

// expand fills a template for one client.
func (s Spread) expand(template string, client int) string {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(template, "<<")
		out.WriteString(before)
		body, after, closed := strings.Cut(rest, ">>")
		if !found || !closed {
			return out.String()
		}
		text, separator, _ := strings.Cut(body, "|")
		for slot := range s.Each {
			if slot > 0 {
				out.WriteString(separator)
			}
			n := s.room(client, slot)
			out.WriteString(strings.ReplaceAll(strings.ReplaceAll(text, "{room}", RoomName(n)), "{n}", strconv.Itoa(n)))
		}
		template = after
	}
}
