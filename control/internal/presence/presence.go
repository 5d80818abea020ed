// Package presence is the picture of who is connected, and who is in which room,
// over the whole cluster: what nodes report goes in, and what there is to tell
// comes out. It is pure: the caller has the clock, the bus and the lock.
//
// The picture is built of what each loop of each node says of itself: events,
// numbered without a hole, and snapshots where a number is missing. Nothing that
// is lost, late or said twice makes it wrong for longer than the next snapshot
// takes.
package presence

import "time"

// Rule is what a policy says of presence in a room.
type Rule struct {
	Grace time.Duration // a leave is told when the user is not back within it
	Full  int           // with more users than that clients get counts, not lists
}

// Bounds of what is kept beside the picture itself.
const (
	maxWaiting  = 1 << 17 // events of one loop that wait for what is missing before them
	oldEpochs   = 8       // earlier runs of a node that are remembered, to ignore what comes late
	silence     = 6_000   // milliseconds after which a run is not taken for the present one any more: bus.NodeTimeout
	maxFalls    = 1024    // runs of nodes of which it is remembered that they ended
	maxSearched = 64      // connections of a user that are looked at for the information about them
)

// Picture is who is where. Its methods are for one goroutine at a time. Times
// are unix milliseconds, and never go back.
type Picture struct {
	teller

	quiet  bool // loops that were never heard of are taken over without a word
	nodes  map[string]*node
	falls  map[uint64]uint32 // by epoch: how often it ended
	unused []uint32          // numbers of sources
}

// teller knows what is to be told of the crowd.
type teller struct {
	crowd

	rule   func(room string) Rule
	silent bool // nothing is told
	counts bool // but clients are shown how many there are
	due    dueHeap
	dirty  map[uint32]*delta // rooms with something to show
	events []Event
}

// crowd is the connections, users and rooms.
type crowd struct {
	now     int64
	sources []*source // by number

	users, rooms, infos names
	user                []uint32           // by user: the first of their connections
	room                []room             // by room
	byName              order              // the rooms
	leaving             map[stay]departure // who is gone and not told yet

	conns      []conn // by number; 0 is none
	freeConn   uint32
	memberOf   []membership // by number; 0 is none
	freeMember uint32
	totals     Totals
}

// Totals are sizes of the picture.
type Totals struct {
	Connections int // that have said connected
	Members     int // connections in rooms with presence
	Users       int // different ones that are connected
	Rooms       int // with members
	Nodes       int
	Holes       uint64 // numbers that were missing, so that a snapshot had to be asked for
	Rebuilds    uint64 // snapshots of a loop that were taken over
}

// conn is one connection. Connections of a user are a ring.
type conn struct {
	ref        uint64 // slot<<32 | generation
	at         int64
	user, info uint32
	source     uint32
	next, prev uint32 // of the user's; next alone links free ones
	first      uint32 // membership
	mark       uint32 // of the snapshot that named it last
}

// membership is a connection's place in one room.
type membership struct{ room, next uint32 }

// room is everything about one room.
type room struct {
	list        order // users; the count is that of their connections, 0 for who is leaving
	anonymous   uint32
	connections uint32
	occupied    bool // as told
	known       bool // it is in byName
	pushed      int64
	counts      []nodeCount
}

// New returns an empty picture, which tells nothing before Speak. rule says what
// holds for a room.
func New(rule func(room string) Rule) *Picture {
	return &Picture{
		nodes: make(map[string]*node), falls: make(map[uint64]uint32),
		teller: teller{rule: rule, silent: true, dirty: make(map[uint32]*delta), crowd: crowd{
			leaving: make(map[stay]departure),
			users:   newNames(), rooms: newNames(), infos: newNames(),
			user: make([]uint32, 1), room: make([]room, 1), conns: make([]conn, 1), memberOf: make([]membership, 1),
		}},
	}
}

// Speak makes the picture tell changes from now on: it is built.
func (p *Picture) Speak() { p.silent = false }

// Totals returns the sizes.
func (p *Picture) Totals() Totals {
	t := p.totals
	t.Users, t.Rooms, t.Nodes = p.users.used, p.byName.size, len(p.nodes)
	return t
}

// add makes a connection.
func (w *crowd) add(s *source, ref uint64, user, info string, at int64) uint32 {
	i := w.freeConn
	if i != 0 {
		w.freeConn = w.conns[i].next
	} else {
		i = uint32(len(w.conns))
		w.conns = append(w.conns, conn{})
	}
	w.conns[i] = conn{ref: ref, at: at, source: s.number}
	w.identify(i, user, info)
	s.put(ref, i)
	w.totals.Connections++
	return i
}

// identify gives a connection, which has none, a user.
func (w *crowd) identify(i uint32, user, info string) {
	c := &w.conns[i]
	c.info, _ = w.infos.hold(info)
	c.user, _ = w.users.hold(user)
	for int(c.user) >= len(w.user) {
		w.user = append(w.user, 0)
	}
	if c.user == 0 {
		return
	}
	first := w.user[c.user]
	if first == 0 {
		w.user[c.user], c.next, c.prev = i, i, i
		return
	}
	last := w.conns[first].prev
	c.next, c.prev = first, last
	w.conns[last].next, w.conns[first].prev = i, i
}

// forget takes a connection's user away.
func (w *crowd) forget(i uint32) {
	c := &w.conns[i]
	w.infos.release(c.info)
	if c.user != 0 {
		if w.user[c.user] == i {
			w.user[c.user] = c.next
		}
		if c.next == i {
			w.user[c.user] = 0
		}
		w.conns[c.next].prev, w.conns[c.prev].next = c.prev, c.next
		w.users.release(c.user)
	}
	c.user, c.info, c.next, c.prev = 0, 0, 0, 0
}

// remove ends a connection that is in no room.
func (w *crowd) remove(s *source, i uint32) {
	w.forget(i)
	s.put(w.conns[i].ref, 0)
	w.conns[i] = conn{next: w.freeConn}
	w.freeConn = i
	w.totals.Connections--
}

// holdRoom returns a room's number and holds it.
func (w *crowd) holdRoom(name string) uint32 {
	id, fresh := w.rooms.hold(name)
	if int(id) >= len(w.room) {
		w.room = append(w.room, room{})
	}
	if fresh {
		w.room[id] = room{}
	}
	return id
}

// releaseRoom is called when something that held the room is gone, or when it
// may have lost its last member.
func (w *crowd) releaseRoom(id uint32) {
	w.show(id)
	if w.rooms.holds[id] == 1 {
		w.room[id] = room{}
	}
	w.rooms.release(id)
}

// show keeps the list of rooms to those that have members.
func (w *crowd) show(id uint32) {
	r := &w.room[id]
	has := r.members() > 0 || r.list.size > 0
	switch {
	case has && !r.known:
		w.byName.insert(w.rooms.texts, id)
	case !has && r.known:
		w.byName.remove(w.rooms.texts, w.rooms.texts[id])
	}
	r.known = has
}

// in reports whether connection i is in a room.
func (w *crowd) in(i, room uint32) bool {
	for m := w.conns[i].first; m != 0; m = w.memberOf[m].next {
		if w.memberOf[m].room == room {
			return true
		}
	}
	return false
}
