// Package hub knows which connections of one loop are in which rooms, and
// hands a turn's messages to them, each room's joined into one buffer.
package hub

import (
	"runtime"

	"nabat/edge/internal/frame"
)

// Sink takes what the hub hands out. Called on the loop, within Flush.
type Sink interface {
	// Deliver writes now if nothing else waits for the member, else queues.
	Deliver(member, room uint32, bytes []byte, messages int)
	// Queue collects what belongs to one member until the end of the turn.
	Queue(member, room uint32, bytes []byte, messages int)
	// Events is Queue for members whose bytes differ: those of an event stream
	// in a room with history, where each message carries the member's positions.
	Events(member, room uint32, list []*frame.Message)
}

// yieldEvery is the number of recipients after which a flush lets the
// scheduler run others: about half a millisecond of sends.
const yieldEvery = 256

// Hub is the membership of one loop. A member is the slot of its connection. A
// held member is in the room and gets none of its messages: it is behind, and
// catches up from elsewhere. All methods must be called on the owning loop.
type Hub struct {
	rooms  []room
	free   []uint32
	byName map[string]uint32
	subs   [][]sub // by member; nil for a connection that is in no room
	dirty  []uint32
}

type room struct {
	name    string
	members [frame.Encodings][]uint32
	pending []*frame.Message // of this turn
	special bool             // one of pending is for some members only
	held    int              // members that are behind
	place   Place
	before  uint64 // place.Offset as it was before the turn's messages
}

// Place is where a room's members on this loop stand: they have, or are being
// handed, everything up to Offset. Epoch is empty where the room has no history
// or its place is not known.
type Place struct {
	Epoch  string
	Offset uint64
}

// sub is one membership seen from the member: 12 bytes, no pointer.
type sub struct {
	room     uint32
	position uint32 // in the room's members, or held
	encoding frame.Encoding
}

const held = ^uint32(0)

// New returns an empty hub.
func New() *Hub { return &Hub{byName: make(map[string]uint32)} }

// Join makes member a member of room. It reports whether the room was not on
// this loop before, and whether the member was not in it before.
func (h *Hub) Join(member uint32, e frame.Encoding, name string) (first, joined bool) {
	id, ok := h.byName[name]
	if ok && h.position(member, id) >= 0 {
		return false, false
	}
	if !ok {
		id = h.open(name)
	}
	r := &h.rooms[id]
	for int(member) >= len(h.subs) {
		h.subs = append(h.subs, nil)
	}
	h.subs[member] = append(h.subs[member], sub{id, uint32(len(r.members[e])), e})
	r.members[e] = append(r.members[e], member)
	return !ok, true
}

// Hold keeps the room's messages from member from now on, also those of this
// turn that are not handed out yet. It reports false when it is no member or
// held already.
func (h *Hub) Hold(member, id uint32) bool {
	i := h.position(member, id)
	if i < 0 || h.subs[member][i].position == held {
		return false
	}
	s := &h.subs[member][i]
	h.remove(*s)
	s.position = held
	h.rooms[id].held++
	return true
}

// Unhold undoes Hold: member has everything up to the room's place.
func (h *Hub) Unhold(member, id uint32) bool {
	i := h.position(member, id)
	if i < 0 || h.subs[member][i].position != held {
		return false
	}
	s, r := &h.subs[member][i], &h.rooms[id]
	r.held--
	s.position = uint32(len(r.members[s.encoding]))
	r.members[s.encoding] = append(r.members[s.encoding], member)
	return true
}

// HoldAll holds every member of a room, calling fn for each.
func (h *Hub) HoldAll(id uint32, fn func(member uint32)) {
	r := &h.rooms[id]
	for e := range r.members {
		for len(r.members[e]) > 0 {
			member := r.members[e][len(r.members[e])-1]
			h.Hold(member, id)
			fn(member)
		}
	}
}

// Members is the number of members of a room, held or not.
func (h *Hub) Members(id uint32) int { return h.rooms[id].size() }

// EachMember calls fn for every member of a room, held or not.
func (h *Hub) EachMember(id uint32, fn func(member uint32)) {
	for member := range h.subs {
		if h.position(uint32(member), id) >= 0 {
			fn(uint32(member))
		}
	}
}

// Place is where the room's members stand.
func (h *Hub) Place(id uint32) Place { return h.rooms[id].place }

// Before is the offset at which the room stood before this turn's messages.
func (h *Hub) Before(id uint32) uint64 { return h.rooms[id].before }

// SetPlace says where the room stands.
func (h *Hub) SetPlace(id uint32, p Place) {
	r := &h.rooms[id]
	r.place, r.before = p, p.Offset
}

func (h *Hub) open(name string) uint32 {
	var id uint32
	if n := len(h.free); n > 0 {
		id = h.free[n-1]
		h.free = h.free[:n-1]
	} else {
		id = uint32(len(h.rooms))
		h.rooms = append(h.rooms, room{})
	}
	h.rooms[id].name = name
	h.byName[name] = id
	return id
}

func (h *Hub) position(member, id uint32) int {
	if int(member) < len(h.subs) {
		for i := range h.subs[member] {
			if h.subs[member][i].room == id {
				return i
			}
		}
	}
	return -1
}

// Leave ends a membership. It reports whether there was one, and whether it
// was the room's last on this loop; the room is then forgotten.
func (h *Hub) Leave(member uint32, name string) (left, last bool) {
	id, ok := h.byName[name]
	if !ok {
		return false, false
	}
	i := h.position(member, id)
	if i < 0 {
		return false, false
	}
	s := h.subs[member][i]
	n := len(h.subs[member]) - 1
	h.subs[member][i] = h.subs[member][n]
	h.subs[member] = h.subs[member][:n]
	if n == 0 {
		h.subs[member] = nil
	}
	return true, h.take(s)
}

// LeaveAll ends every membership of member, calling emptied for each room that
// has no members on this loop any more.
func (h *Hub) LeaveAll(member uint32, emptied func(name string, id uint32)) {
	if int(member) >= len(h.subs) {
		return
	}
	list := h.subs[member]
	h.subs[member] = nil
	for _, s := range list {
		name := h.rooms[s.room].name
		if h.take(s) {
			emptied(name, s.room)
		}
	}
}

// remove takes s out of its room's members by moving the last one into its
// place.
func (h *Hub) remove(s sub) {
	r := &h.rooms[s.room]
	list := r.members[s.encoding]
	n := len(list) - 1
	moved := list[n]
	list[s.position] = moved
	r.members[s.encoding] = list[:n]
	if int(s.position) != n {
		h.subs[moved][h.position(moved, s.room)].position = s.position
	}
}

// take ends a membership that its member's list has no more.
func (h *Hub) take(s sub) (last bool) {
	r := &h.rooms[s.room]
	if s.position == held {
		r.held--
	} else {
		h.remove(s)
	}
	if r.size() > 0 {
		return false
	}
	delete(h.byName, r.name)
	if len(r.pending) == 0 {
		*r = room{}
		h.free = append(h.free, s.room)
	} // else Flush frees it: the dirty list still names it
	return true
}

func (r *room) size() (n int) {
	n = r.held
	for e := range r.members {
		n += len(r.members[e])
	}
	return n
}

// RoomsOf lists the rooms that member is in.
func (h *Hub) RoomsOf(member uint32) []string {
	list := make([]string, 0, h.Count(member))
	if int(member) < len(h.subs) {
		for _, s := range h.subs[member] {
			list = append(list, h.rooms[s.room].name)
		}
	}
	return list
}

// Each calls fn for each room that member is in.
func (h *Hub) Each(member uint32, fn func(room uint32)) {
	if int(member) < len(h.subs) {
		for _, s := range h.subs[member] {
			fn(s.room)
		}
	}
}

// Count is the number of rooms that member is in.
func (h *Hub) Count(member uint32) int {
	if int(member) >= len(h.subs) {
		return 0
	}
	return len(h.subs[member])
}

// Rooms calls fn for every room on this loop.
func (h *Hub) Rooms(fn func(id uint32)) {
	for _, id := range h.byName {
		fn(id)
	}
}

// Member reports whether member is in the room.
func (h *Hub) Member(member uint32, name string) bool {
	id, ok := h.byName[name]
	return ok && h.position(member, id) >= 0
}

// Has reports whether the room has members on this loop.
func (h *Hub) Has(name string) bool { _, ok := h.byName[name]; return ok }

// Name is the name of a room by the number that Sink was given; empty when the
// room is no longer on this loop.
func (h *Hub) Name(id uint32) string {
	if int(id) >= len(h.rooms) {
		return ""
	}
	return h.rooms[id].name
}

// Number is the number of a room on this loop.
func (h *Hub) Number(name string) (uint32, bool) { id, ok := h.byName[name]; return id, ok }

// Size is the number of rooms on this loop.
func (h *Hub) Size() int { return len(h.byName) }

// Push adds a message to this turn's messages of its room. Messages of rooms
// without members here are ignored. Where the room has history, hole reports
// that messages before m did not come: nothing was pushed, and the members'
// place is still behind the hole.
func (h *Hub) Push(m *frame.Message) (hole bool) { return h.push(m, false) }

func (h *Hub) push(m *frame.Message, overtakes bool) (hole bool) {
	id, ok := h.byName[m.Room]
	if !ok {
		return false
	}
	r := &h.rooms[id]
	if m.Offset != 0 && r.place.Epoch != "" {
		switch {
		case m.Offset <= r.place.Offset:
			return false // it was there before the loop joined
		case m.Prev > r.place.Offset && !overtakes:
			return true
		}
		r.place.Offset = m.Offset
		if m.Hidden {
			if len(r.pending) == 0 {
				r.before = m.Offset
			}
			return false
		}
	}
	if len(r.pending) == 0 {
		h.dirty = append(h.dirty, id)
	}
	r.pending = append(r.pending, m)
	r.special = r.special || m.Exclude != ""
	return false
}

// PushNewest is Push for rooms that conflate: messages before m that did not
// come were overtaken.
func (h *Hub) PushNewest(m *frame.Message) { h.push(m, true) }

// Flush hands out the turn's messages. member resolves a connection id for
// exclusions. With one busy room each member without anything else pending is
// written at once; with several, members may be in more than one of them, so
// the sink collects first.
func (h *Hub) Flush(sink Sink, member func(id string) (uint32, bool)) {
	if len(h.dirty) == 0 {
		return
	}
	hand := sink.Queue
	if len(h.dirty) == 1 {
		hand = sink.Deliver
	}
	for _, id := range h.dirty {
		r := &h.rooms[id]
		if r.special {
			h.flushSpecial(id, r, sink, member)
		} else {
			flushRoom(id, r, sink, hand)
		}
		clear(r.pending)
		r.pending, r.special = r.pending[:0], false
		if cap(r.pending) > 1024 {
			r.pending = nil
		}
		if r.size() == 0 {
			*r = room{}
			h.free = append(h.free, id)
		}
	}
}

// EndTurn ends the turn once what Flush handed out was written or queued: what
// was handed out now is no longer "this turn's".
func (h *Hub) EndTurn() {
	for _, id := range h.dirty {
		r := &h.rooms[id]
		r.before = r.place.Offset
	}
	h.dirty = h.dirty[:0]
}

func flushRoom(id uint32, r *room, sink Sink, hand func(member, room uint32, bytes []byte, messages int)) {
	for e := range r.members {
		members := r.members[e]
		if len(members) == 0 {
			continue
		}
		if frame.Encoding(e) == frame.EventStream && r.place.Epoch != "" {
			for _, m := range members {
				sink.Events(m, id, r.pending)
			}
			continue
		}
		buf, n := frame.Join(r.pending, frame.Encoding(e)), len(r.pending)
		for i, m := range members {
			hand(m, id, buf, n)
			if i%yieldEvery == yieldEvery-1 {
				runtime.Gosched()
			}
		}
	}
}

// flushSpecial is flushRoom for a turn in which some messages exclude a
// connection: the excluded members get their own selection.
func (h *Hub) flushSpecial(id uint32, r *room, sink Sink, member func(string) (uint32, bool)) {
	excluded := make(map[uint32]bool)
	for _, m := range r.pending {
		if slot, ok := member(m.Exclude); ok && m.Exclude != "" {
			excluded[slot] = true
		}
	}
	flushRoom(id, r, others{sink, excluded}, func(to, room uint32, buf []byte, n int) {
		if !excluded[to] {
			sink.Queue(to, room, buf, n)
		}
	})
	for to := range excluded {
		i := h.position(to, id)
		if i < 0 || h.subs[to][i].position == held {
			continue
		}
		var list []*frame.Message
		for _, m := range r.pending {
			if slot, ok := member(m.Exclude); !ok || slot != to {
				list = append(list, m)
			}
		}
		switch e := h.subs[to][i].encoding; {
		case len(list) == 0:
		case e == frame.EventStream && r.place.Epoch != "":
			sink.Events(to, id, list)
		default:
			sink.Queue(to, id, frame.Join(list, e), len(list))
		}
	}
}

// others is a sink that leaves out the excluded.
type others struct {
	Sink
	excluded map[uint32]bool
}

func (o others) Events(member, room uint32, list []*frame.Message) {
	if !o.excluded[member] {
		o.Sink.Events(member, room, list)
	}
}
