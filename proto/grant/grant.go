// Package grant says what a token allows, as room patterns.
package grant

import (
	"encoding/json"
	"fmt"
	"slices"

	"nabat/proto/subject"
)

// Grant is the "nabat" claim of a token. Patterns are NATS wildcards over room
// names. A nil Grant allows nothing.
type Grant struct {
	Subscribe []string        `json:"subscribe,omitempty"`
	Publish   []string        `json:"publish,omitempty"`
	Presence  []string        `json:"presence,omitempty"`
	History   []string        `json:"history,omitempty"`
	RPC       []string        `json:"rpc,omitempty"`
	Deny      []string        `json:"deny,omitempty"`  // wins over all others
	Rooms     []string        `json:"rooms,omitempty"` // joined at connect
	Info      json.RawMessage `json:"info,omitempty"`  // shown to others beside the user
}

// Check reports the first list entry that is not a pattern, or not a room.
func (g *Grant) Check() error {
	for _, list := range []struct {
		name    string
		entries []string
	}{
		{"subscribe", g.Subscribe}, {"publish", g.Publish}, {"presence", g.Presence},
		{"history", g.History}, {"rpc", g.RPC}, {"deny", g.Deny},
	} {
		for _, p := range list.entries {
			if err := subject.CheckPattern(p); err != nil {
				return fmt.Errorf("%s: %w", list.name, err)
			}
		}
	}
	for _, r := range g.Rooms {
		if err := subject.CheckRoom(r); err != nil {
			return fmt.Errorf("rooms: %w", err)
		}
	}
	return nil
}

// MaySubscribe reports whether the grant lets its holder join room. Rooms that
// the token itself joins at connect are allowed. It allocates nothing.
func (g *Grant) MaySubscribe(room string) bool {
	return g != nil && !matches(g.Deny, room) && (matches(g.Subscribe, room) || slices.Contains(g.Rooms, room))
}

// MayPublish reports whether the grant lets its holder publish to room. It
// allocates nothing.
func (g *Grant) MayPublish(room string) bool {
	return g != nil && !matches(g.Deny, room) && matches(g.Publish, room)
}

// MayReadHistory reports whether the grant lets its holder read the stored
// messages of room. It allocates nothing.
func (g *Grant) MayReadHistory(room string) bool {
	return g != nil && !matches(g.Deny, room) && matches(g.History, room)
}

// MayCall reports whether the grant lets its holder call method. It allocates
// nothing.
func (g *Grant) MayCall(method string) bool {
	return g != nil && !matches(g.Deny, method) && matches(g.RPC, method)
}

// MaySeePresence reports whether the grant lets its holder see who is in room.
// It allocates nothing.
func (g *Grant) MaySeePresence(room string) bool {
	return g != nil && !matches(g.Deny, room) && matches(g.Presence, room)
}

func matches(patterns []string, room string) bool {
	for _, p := range patterns {
		if subject.Match(p, room) {
			return true
		}
	}
	return false
}
