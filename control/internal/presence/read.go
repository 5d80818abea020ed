package presence

import (
	"cmp"
	"slices"

	"nabat/proto/buspb"
)

// Page is a page of who is in a room.
type Page struct {
	Users       uint32 // different ones in the room
	Anonymous   uint32 // connections without a user
	Connections uint32 // all
	Members     []Member
	Next        string // the page behind begins after it; empty at the end
}

// Members returns at most limit users of a room behind after, bytewise.
func (w *crowd) Members(room string, limit int, after string) (page Page) {
	id, ok := w.rooms.find(room)
	if !ok || id == 0 {
		return page
	}
	r := &w.room[id]
	page.Users, page.Anonymous, page.Connections = uint32(r.list.size), r.anonymous, r.connections
	r.list.from(w.users.texts, after, true, func(e entry) bool {
		if len(page.Members) == limit {
			if limit > 0 {
				page.Next = page.Members[limit-1].User
			}
			return false
		}
		page.Members = append(page.Members, w.member(id, e))
		return true
	})
	return page
}

// member is an entry with the information of the user's first connection there, or
// of the last one that has left: who comes back within the grace is told to nobody.
func (w *crowd) member(room uint32, e entry) Member {
	m := Member{User: w.users.texts[e.id], Connections: e.count}
	first := w.user[e.id]
	var best *conn
	for i, n := first, 0; i != 0 && n < maxSearched; n++ {
		c := &w.conns[i]
		if w.in(i, room) && (best == nil || cmp.Or(cmp.Compare(c.at, best.at), cmp.Compare(c.ref, best.ref)) < 0) {
			best = c
		}
		if i = c.next; i == first {
			break
		}
	}
	if best != nil {
		m.Info = w.infos.texts[best.info]
	} else {
		m.Info = w.leaving[stay{room, e.id}].info
	}
	return m
}

// Session is one connection of a user.
type Session struct {
	Node       string
	Epoch      uint64
	Loop       uint32
	Connection uint64
	At         int64 // unix milliseconds
	Info       string
	Rooms      []string // with presence
}

// User returns how many connections a user has, and at most limit of them.
func (w *crowd) User(name string, limit int) (connections int, list []Session) {
	id, ok := w.users.find(name)
	if !ok || id == 0 {
		return 0, nil
	}
	first := w.user[id]
	for i := first; i != 0; {
		c := &w.conns[i]
		if connections++; len(list) < limit {
			s := w.sources[c.source]
			one := Session{Node: s.node.name, Epoch: s.epoch, Loop: s.loop, Connection: c.ref, At: c.at, Info: w.infos.texts[c.info]}
			for m := c.first; m != 0; m = w.memberOf[m].next {
				one.Rooms = append(one.Rooms, w.rooms.texts[w.memberOf[m].room])
			}
			slices.Sort(one.Rooms)
			list = append(list, one)
		}
		if i = c.next; i == first {
			break
		}
	}
	return connections, list
}

// NodeInfo is one node as the picture knows it.
type NodeInfo struct {
	Node        string
	Epoch       uint64
	Loops       uint32
	Connections int              // in the picture
	Whole       bool             // nothing of it is missing
	Heard       int64            // unix milliseconds of its last report
	Stats       *buspb.NodeStats // the last ones; nil before the first
	Previous    *buspb.NodeStats // those before, to see what has changed
	Passed      int64            // milliseconds between both
}

// Nodes returns the nodes by name.
func (p *Picture) Nodes() (list []NodeInfo) {
	for name, n := range p.nodes {
		if n.epoch == 0 {
			continue
		}
		one := NodeInfo{Node: name, Epoch: n.epoch, Loops: n.loops, Whole: p.Whole(name), Heard: n.heard,
			Stats: n.stats, Previous: n.previous, Passed: n.statsAt - n.prevAt}
		for _, s := range n.sources {
			one.Connections += s.count
		}
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b NodeInfo) int { return cmp.Compare(a.Node, b.Node) })
	return list
}
