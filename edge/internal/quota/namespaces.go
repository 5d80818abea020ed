package quota

import (
	"strings"
	"sync"
)

// Namespaces counts the rooms and the members of each namespace over all loops
// of a node: the rooms whose first token is the same. Safe from any goroutine.
type Namespaces struct {
	// Set at creation, never changed.
	maxRooms, maxMembers int // 0: not bounded
	free                 func(room string) bool

	// mu guards spaces.
	mu     sync.Mutex
	spaces map[string]*namespace // never empty ones
}

type namespace struct {
	rooms   map[string]int // by room, the loops that ask for it and the members
	members int
}

// NewNamespaces bounds the rooms and the members of each namespace; 0 is no bound.
// Rooms that are free, nil for none, are not counted. It returns nil where neither
// is bounded: nothing is counted.
func NewNamespaces(maxRooms, maxMembers int, free func(room string) bool) *Namespaces {
	if maxRooms == 0 && maxMembers == 0 {
		return nil
	}
	if free == nil {
		free = func(string) bool { return false }
	}
	return &Namespaces{maxRooms: maxRooms, maxMembers: maxMembers, free: free, spaces: make(map[string]*namespace)}
}

// Namespace is the first token of a room.
func Namespace(room string) string {
	first, _, _ := strings.Cut(room, ".")
	return first
}

// Open counts a room that a loop asks for before it has members there. It reports
// false when the namespace has as many rooms as it may have.
func (n *Namespaces) Open(room string) bool { return n.take(room, 0) }

// Close undoes Open.
func (n *Namespaces) Close(room string) { n.release(room, 0) }

// Enter counts a member of a room. It reports false when the namespace has as many
// members, or as many rooms, as it may have.
func (n *Namespaces) Enter(room string) bool { return n.take(room, 1) }

// Leave undoes Enter.
func (n *Namespaces) Leave(room string) { n.release(room, 1) }

func (n *Namespaces) take(room string, members int) bool {
	if n == nil || n.free(room) {
		return true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	name := Namespace(room)
	s := n.spaces[name]
	if s == nil {
		s = &namespace{rooms: make(map[string]int)}
	}
	switch {
	case n.maxRooms > 0 && s.rooms[room] == 0 && len(s.rooms) >= n.maxRooms:
		return false
	case n.maxMembers > 0 && s.members+members > n.maxMembers:
		return false
	}
	s.rooms[room]++
	s.members += members
	n.spaces[strings.Clone(name)] = s
	return true
}

func (n *Namespaces) release(room string, members int) {
	if n == nil || n.free(room) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.spaces[Namespace(room)]
	if s == nil || s.rooms[room] == 0 {
		panic("quota: room " + room + " was not counted")
	}
	s.members -= members
	if s.rooms[room]--; s.rooms[room] == 0 {
		delete(s.rooms, room)
	}
	if len(s.rooms) == 0 {
		delete(n.spaces, Namespace(room))
	}
}

// Count is how many rooms and members a namespace has.
func (n *Namespaces) Count(name string) (rooms, members int) {
	if n == nil {
		return 0, 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.spaces[name]; s != nil {
		rooms, members = len(s.rooms), s.members
	}
	return rooms, members
}
