package presence

import (
	"cmp"
	"container/heap"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"nabat/proto/buspb"
)

// nodeCount is what one node counts in one room, with presence or without.
type nodeCount struct {
	node     *node
	members  uint32
	rate     float32 // messages in a second, when last counted
	messages uint64
	at       int64
}

// rateLife is for how long a rate holds: nodes tell of a room when it changes.
const rateLife = 6000

// members is how many connections are in a room.
func (r *room) members() uint32 {
	if r.connections > 0 {
		return r.connections
	}
	var n uint32
	for i := range r.counts {
		n += r.counts[i].members
	}
	return n
}

// rate is how many messages a second the room has: each node with members gets
// all of them.
func (r *room) rate(now int64) float32 {
	var most float32
	for i := range r.counts {
		if c := &r.counts[i]; now-c.at <= rateLife {
			most = max(most, c.rate)
		}
	}
	return most
}

func (p *Picture) countRoom(n *node, c *buspb.RoomCount) {
	if c.Room == "" {
		return
	}
	id := p.holdRoom(c.Room)
	p.count(id, n, c.Members, c.Messages)
	p.releaseRoom(id)
}

// count takes what n counts in a room. Zero members end it.
func (w *crowd) count(id uint32, n *node, members uint32, messages uint64) {
	r := &w.room[id]
	i := slices.IndexFunc(r.counts, func(c nodeCount) bool { return c.node == n })
	switch {
	case members == 0 && i >= 0:
		r.counts = slices.Delete(r.counts, i, i+1)
		w.releaseRoom(id)
	case members == 0:
	case i < 0:
		w.rooms.again(id)
		r.counts = append(r.counts, nodeCount{node: n, members: members, messages: messages, at: w.now})
		w.show(id)
	default:
		c := &r.counts[i]
		if c.rate = 0; messages >= c.messages && w.now > c.at {
			// After a long silence all of it is of the last two seconds.
			passed := w.now - c.at
			if passed > rateLife {
				passed = 2000
			}
			c.rate = float32(messages-c.messages) * 1000 / float32(passed)
		}
		c.members, c.messages, c.at = members, messages, w.now
		w.show(id)
	}
}

// RoomQuery asks for a page of the list of rooms.
type RoomQuery struct {
	Prefix string // of the name
	Search string // anywhere in the name
	Sort   Sort
	Limit  int
	After  string // Next of the page before
}

// Sort is an order of rooms.
type Sort int

// Orders of rooms.
const (
	ByName    Sort = iota
	ByMembers      // the largest first
	ByRate         // those with the most messages first
)

// RoomInfo is one room in the list.
type RoomInfo struct {
	Room      string  `json:"room"`
	Members   uint32  `json:"members"`             // connections
	Users     uint32  `json:"users,omitempty"`     // different ones; only with presence
	Anonymous uint32  `json:"anonymous,omitempty"` // connections without a user; only with presence
	Rate      float32 `json:"rate"`                // messages in a second
	Nodes     int     `json:"nodes,omitempty"`     // that have members
}

// RoomPage is a page of the list of rooms.
type RoomPage struct {
	Rooms []RoomInfo `json:"rooms"`
	Total int        `json:"total"` // rooms there are, whatever was asked for
	Next  string     `json:"next,omitempty"`
}

// Rooms returns a page. By name it costs what the page holds, unless Search
// passes most over; by members or rate it looks at each room once and sorts none but the
// page.
func (w *crowd) Rooms(q RoomQuery) RoomPage {
	page := RoomPage{Rooms: []RoomInfo{}, Total: w.byName.size}
	texts := w.rooms.texts
	fits := func(e entry) bool { return q.Search == "" || strings.Contains(texts[e.id], q.Search) }
	if q.Sort != ByName {
		w.largest(q, fits, &page)
		return page
	}
	begin, after := q.Prefix, false
	if q.After != "" && q.After >= begin {
		begin, after = q.After, true
	}
	w.byName.from(texts, begin, after, func(e entry) bool {
		if !strings.HasPrefix(texts[e.id], q.Prefix) {
			return false
		}
		if !fits(e) {
			return true
		}
		if len(page.Rooms) == q.Limit {
			if q.Limit > 0 {
				page.Next = page.Rooms[q.Limit-1].Room
			}
			return false
		}
		page.Rooms = append(page.Rooms, w.info(e.id))
		return true
	})
	return page
}

// ranked is a room and what it is ranked by.
type ranked struct {
	name  string
	id    uint32
	score float64
}

func rank(a, b ranked) int {
	return cmp.Or(cmp.Compare(b.score, a.score), strings.Compare(a.name, b.name))
}

// topHeap has the last of the page on top.
type topHeap []ranked

func (h topHeap) Len() int           { return len(h) }
func (h topHeap) Less(i, j int) bool { return rank(h[i], h[j]) > 0 }
func (h topHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *topHeap) Push(x any)        { *h = append(*h, x.(ranked)) }
func (h *topHeap) Pop() any          { last := (*h)[len(*h)-1]; *h = (*h)[:len(*h)-1]; return last }

func (w *crowd) largest(q RoomQuery, fits func(entry) bool, page *RoomPage) {
	var last ranked
	if q.After != "" {
		count, name, _ := strings.Cut(q.After, ":")
		_, _ = fmt.Sscan(count, &last.score) // a cursor of somebody's own begins anywhere
		last.name = name
	}
	var top topHeap
	more := false
	w.byName.from(w.rooms.texts, q.Prefix, false, func(e entry) bool {
		name := w.rooms.texts[e.id]
		if !strings.HasPrefix(name, q.Prefix) {
			return false
		}
		r := ranked{name, e.id, w.score(e.id, q.Sort)}
		if q.After != "" && rank(r, last) <= 0 || !fits(e) {
			return true
		}
		switch {
		case len(top) < q.Limit:
			heap.Push(&top, r)
		case q.Limit > 0:
			if more = true; rank(r, top[0]) < 0 {
				top[0] = r
				heap.Fix(&top, 0)
			}
		}
		return true
	})
	slices.SortFunc(top, rank)
	for _, r := range top {
		page.Rooms = append(page.Rooms, w.info(r.id))
	}
	if more {
		r := top[len(top)-1]
		page.Next = strconv.FormatFloat(r.score, 'f', -1, 64) + ":" + r.name
	}
}

func (w *crowd) score(id uint32, by Sort) float64 {
	if by == ByRate {
		return float64(w.room[id].rate(w.now))
	}
	return float64(w.room[id].members())
}

func (w *crowd) info(id uint32) RoomInfo {
	r := &w.room[id]
	return RoomInfo{Room: w.rooms.texts[id], Members: r.members(), Users: uint32(r.list.size), Anonymous: r.anonymous,
		Rate: r.rate(w.now), Nodes: len(r.counts)}
}
