package presence

import (
	"container/heap"
	"fmt"
	"strconv"
)

// Kind names what happened.
type Kind string

// The kinds of events.
const (
	Connect    Kind = "connect"
	Disconnect Kind = "disconnect"
	Join       Kind = "join"     // the first connection of a user came into a room
	Leave      Kind = "leave"    // the last one is gone, and was not back within the grace
	Occupied   Kind = "occupied" // somebody came into an empty room
	Vacated    Kind = "vacated"  // the last one left

	NodeStarted Kind = "node_started" // an edge reports for the first time, or again after it was lost
	NodeStopped Kind = "node_stopped" // it said so, was lost, or was started anew
)

// NodeLost is the reason for what ended with its node.
const NodeLost = "node_lost"

// cause is what made something happen, as every replica sees it: an event of a
// loop or, where none was heard, what became of a connection.
type cause struct {
	node       string
	epoch      uint64
	loop       uint32
	number     uint64 // of the event, of the snapshot that showed it, or of the last event heard
	derived    bool   // there is no event
	ended      bool   // with its node
	fall       uint32 // how often this run of the node had ended before, and was heard of again
	connection uint64
	reason     string
	at         int64
}

// Event is something to tell.
type Event struct {
	Kind       Kind
	Room, User string
	Node       string
	Epoch      uint64
	Loop       uint32
	Number     uint64
	Derived    bool // no event has that number: a snapshot showed it, or
	Ended      bool // it ended with its node
	Connection uint64
	Fall       uint32 // how often this run of the node had ended before, and was heard of again
	Reason     string
	At         int64  // unix milliseconds
	Users      uint32 // in the room after it
	Anonymous  uint32
}

// ID is the same at every replica that saw the same: the Nats-Msg-Id.
func (e *Event) ID() string {
	id := strconv.FormatUint(e.Epoch, 16) + "." + strconv.FormatUint(uint64(e.Loop), 10) + "." + strconv.FormatUint(e.Number, 10)
	if e.Derived {
		mark := "c"
		if e.Ended {
			mark = "e"
		}
		id += mark + strconv.FormatUint(e.Connection, 16)
		if e.Fall > 0 {
			id += "f" + strconv.FormatUint(uint64(e.Fall), 10)
		}
	}
	id += "." + string(e.Kind)
	if e.Room != "" {
		id += "." + e.Room // one event can end a connection's places in many rooms
	}
	return id
}

func (t *teller) tell(k Kind, room, user uint32, c *cause) {
	if t.silent {
		return
	}
	e := Event{Kind: k, Room: t.rooms.texts[room], User: t.users.texts[user], Node: c.node, Epoch: c.epoch, Loop: c.loop,
		Number: c.number, Derived: c.derived, Connection: c.connection, Fall: c.fall, Ended: c.ended, Reason: c.reason, At: c.at}
	if room != 0 {
		e.Users, e.Anonymous = uint32(t.room[room].list.size), t.room[room].anonymous
	}
	t.events = append(t.events, e)
}

// Events returns what there is to tell, in order, once.
func (t *teller) Events() []Event {
	list := t.events
	t.events = nil
	return list
}

// stay is a user in a room; user 0 stands for the room itself, which is vacated
// when nobody came back.
type stay struct{ room, user uint32 }

type departure struct {
	due int64
	cause
	info string // what the token of the last connection told
}

type dueAt struct {
	due int64
	stay
}

type dueHeap []dueAt

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(dueAt)) }
func (h *dueHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

// join puts connection i into a room, unless it is there.
func (t *teller) join(i uint32, name string, c *cause) {
	if id, ok := t.rooms.find(name); ok && t.in(i, id) || name == "" {
		return
	}
	id := t.holdRoom(name)
	m := t.freeMember
	if m != 0 {
		t.freeMember = t.memberOf[m].next
	} else {
		m = uint32(len(t.memberOf))
		t.memberOf = append(t.memberOf, membership{})
	}
	t.memberOf[m] = membership{room: id, next: t.conns[i].first}
	t.conns[i].first = m
	t.totals.Members++
	t.enter(id, t.conns[i].user, c)
}

// leave takes connection i out of a room.
func (t *teller) leave(i, id uint32, c *cause, since int64) {
	link := &t.conns[i].first
	for *link != 0 && t.memberOf[*link].room != id {
		link = &t.memberOf[*link].next
	}
	m := *link
	if m == 0 {
		return
	}
	*link = t.memberOf[m].next
	t.memberOf[m] = membership{next: t.freeMember}
	t.freeMember = m
	t.totals.Members--
	t.exit(id, &t.conns[i], c, since)
	t.releaseRoom(id)
}

// leaveAll takes connection i out of all rooms.
func (t *teller) leaveAll(i uint32, c *cause, since int64) {
	for t.conns[i].first != 0 {
		t.leave(i, t.memberOf[t.conns[i].first].room, c, since)
	}
}

// enter counts one more connection of user in a room.
func (t *teller) enter(id, user uint32, c *cause) {
	r := &t.room[id]
	r.connections++
	delete(t.leaving, stay{id, 0})
	fresh := false
	if user == 0 {
		r.anonymous++
		t.changed(id, 0, false)
	} else {
		e := r.list.find(t.users.texts, t.users.texts[user])
		if e == nil {
			t.users.again(user) // the entry holds it, also over a grace
			e, fresh = r.list.insert(t.users.texts, user), true
		} else if e.count == 0 {
			delete(t.leaving, stay{id, user})
		}
		e.count++
	}
	t.show(id)
	if !r.occupied {
		r.occupied = true
		t.tell(Occupied, id, 0, c)
	}
	if fresh {
		t.tell(Join, id, user, c)
		t.changed(id, user, true)
	}
}

// exit counts one connection less of user in a room. Who is the last has from
// since on the grace to come back.
func (t *teller) exit(id uint32, who *conn, c *cause, since int64) {
	r, user := &t.room[id], who.user
	r.connections--
	if user == 0 {
		r.anonymous--
		t.changed(id, 0, false)
		if r.anonymous == 0 && r.list.size == 0 {
			t.depart(stay{id, 0}, "", c, since)
		}
		return
	}
	e := r.list.find(t.users.texts, t.users.texts[user])
	if e.count--; e.count == 0 {
		t.depart(stay{id, user}, t.infos.texts[who.info], c, since)
	}
}

func (t *teller) depart(s stay, info string, c *cause, since int64) {
	d := departure{since + t.rule(t.rooms.texts[s.room]).Grace.Milliseconds(), *c, info}
	if d.due <= t.now {
		t.departed(s, &d.cause)
		return
	}
	t.rooms.again(s.room) // until it is off the heap
	t.users.again(s.user)
	t.leaving[s] = d
	heap.Push(&t.due, dueAt{d.due, s})
}

// departed is the end of a grace.
func (t *teller) departed(s stay, c *cause) {
	r := &t.room[s.room]
	if s.user != 0 {
		r.list.remove(t.users.texts, t.users.texts[s.user])
		t.tell(Leave, s.room, s.user, c)
		t.changed(s.room, s.user, false)
		t.users.release(s.user)
	}
	if r.list.size == 0 && r.anonymous == 0 && r.occupied {
		r.occupied = false
		t.tell(Vacated, s.room, 0, c)
	}
	t.show(s.room)
}

// Tick ends the graces that are over.
func (t *teller) Tick(now int64) {
	t.advance(now)
	for len(t.due) > 0 && t.due[0].due <= t.now {
		next := heap.Pop(&t.due).(dueAt)
		if d, ok := t.leaving[next.stay]; ok && d.due == next.due {
			delete(t.leaving, next.stay)
			t.departed(next.stay, &d.cause)
		}
		t.users.release(next.user)
		t.releaseRoom(next.room)
	}
}

func (t *teller) advance(now int64) { t.now = max(t.now, now) }

// String is for logs.
func (e *Event) String() string { return fmt.Sprintf("%s %s %s (%s)", e.Kind, e.Room, e.User, e.ID()) }
