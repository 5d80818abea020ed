package presence

import (
	"slices"

	"nabat/proto/buspb"
)

// node is one running edge.
type node struct {
	name     string
	epoch    uint64
	old      []uint64 // earlier epochs, newest last
	loops    uint32   // how many it has, 0 while not known
	sources  []*source
	heard    int64 // when it last reported
	stats    *buspb.NodeStats
	statsAt  int64
	previous *buspb.NodeStats // and the stats before
	prevAt   int64
}

// source is one loop of one node, which numbers its events.
type source struct {
	number uint32 // of the source here
	node   *node
	epoch  uint64
	loop   uint32
	fall   uint32 // how often the node was lost, and came back, before

	started bool   // what is known of it is so after event known
	fresh   bool   // it was never started
	known   uint64 // the last event applied
	ahead   uint64 // the last event heard of

	slots   map[uint32]*[pageSlots]uint32 // connections by slot, in pages
	count   int
	mark    uint32
	waiting []*buspb.Segment // by After, behind what is missing
	events  int              // in waiting
	parts   []*buspb.Snapshot
}

const pageSlots = 256

// whole reports whether nothing is missing.
func (s *source) whole() bool { return s.started && s.known >= s.ahead }

func (s *source) get(ref uint64) uint32 {
	slot := uint32(ref >> 32)
	if page := s.slots[slot/pageSlots]; page != nil {
		return page[slot%pageSlots]
	}
	return 0
}

func (s *source) put(ref uint64, conn uint32) {
	slot := uint32(ref >> 32)
	page := s.slots[slot/pageSlots]
	if page == nil {
		page = new([pageSlots]uint32)
		s.slots[slot/pageSlots] = page
	}
	if page[slot%pageSlots] == 0 {
		s.count++
	}
	if page[slot%pageSlots] = conn; conn == 0 {
		s.count--
	}
}

// all returns the connections, in the order of their slots.
func (s *source) all() []uint32 {
	pages := make([]uint32, 0, len(s.slots))
	for k := range s.slots {
		pages = append(pages, k)
	}
	slices.Sort(pages)
	list := make([]uint32, 0, s.count)
	for _, k := range pages {
		for _, c := range s.slots[k] {
			if c != 0 {
				list = append(list, c)
			}
		}
	}
	return list
}

// source returns a loop of a node, which it may see for the first time.
func (p *Picture) source(n *node, loop uint32) *source {
	for _, s := range n.sources {
		if s.loop == loop {
			return s
		}
	}
	s := &source{node: n, epoch: n.epoch, loop: loop, fall: p.falls[n.epoch], fresh: true, slots: make(map[uint32]*[pageSlots]uint32)}
	if last := len(p.unused) - 1; last >= 0 {
		s.number, p.unused = p.unused[last], p.unused[:last]
		p.sources[s.number] = s
	} else {
		s.number = uint32(len(p.sources))
		p.sources = append(p.sources, s)
	}
	n.sources = append(n.sources, s)
	return s
}

// node returns the node that speaks, nil when it is an earlier run of it. What
// was taken for one, because a report of the other was late, may speak again once
// the other is silent.
func (p *Picture) node(name string, epoch uint64) *node {
	n := p.nodes[name]
	if n == nil {
		n = &node{name: name, epoch: epoch}
		p.nodes[name] = n
		p.tellNode(NodeStarted, n, "")
		return n
	}
	if n.epoch == epoch {
		return n
	}
	if slices.Contains(n.old, epoch) && p.now-n.heard < silence {
		return nil
	}
	// It was started again. Its clients come back as after any loss.
	p.clear(n, "restarted", p.now)
	old := append(slices.DeleteFunc(n.old, func(e uint64) bool { return e == epoch }), n.epoch)
	*n = node{name: name, epoch: epoch, old: old[max(0, len(old)-oldEpochs):]}
	p.tellNode(NodeStarted, n, "")
	return n
}

// tellNode tells of a node. One that turns up soon after this replica began may
// have been there before.
func (p *Picture) tellNode(k Kind, n *node, reason string) {
	if n.epoch == 0 || k == NodeStarted && p.quiet {
		return
	}
	p.tell(k, 0, 0, &cause{node: n.name, epoch: n.epoch, number: uint64(p.falls[n.epoch]), reason: reason, at: p.now})
}

// clear ends everything at a node.
func (p *Picture) clear(n *node, reason string, since int64) {
	for _, s := range n.sources {
		for _, i := range s.all() {
			c := s.shown(s.known, p.conns[i].ref, p.now)
			c.reason, c.ended = reason, true
			p.end(s, i, c, since)
		}
		p.sources[s.number] = nil
		p.unused = append(p.unused, s.number)
	}
	n.sources = nil
	for id := range p.room {
		p.count(uint32(id), n, 0, 0)
	}
	p.tellNode(NodeStopped, n, reason)
	// A run that ended may be heard of again, if only by a report that was late.
	if len(p.falls) >= maxFalls {
		clear(p.falls)
	}
	p.falls[n.epoch]++
}

// end ends one connection.
func (p *Picture) end(s *source, i uint32, c *cause, since int64) {
	p.leaveAll(i, c, since)
	p.tell(Disconnect, 0, p.conns[i].user, c)
	p.remove(s, i)
}

// Lost forgets a node that has died. Its members had their grace while nobody
// heard of it.
func (p *Picture) Lost(name string, now int64) {
	p.advance(now)
	if n := p.nodes[name]; n != nil {
		p.clear(n, NodeLost, n.heard)
		delete(p.nodes, name)
	}
}

// Want is a loop whose snapshot is needed.
type Want struct {
	Node  string
	Epoch uint64
	Loop  uint32
}

// Wants returns the loops of which something is missing.
func (p *Picture) Wants() (list []Want) {
	for _, s := range p.sources {
		if s != nil && !s.whole() {
			list = append(list, Want{s.node.name, s.epoch, s.loop})
		}
	}
	return list
}

// Whole reports whether everything that a node says is known.
func (p *Picture) Whole(name string) bool {
	n := p.nodes[name]
	if n == nil || n.loops == 0 || len(n.sources) < int(n.loops) {
		return false
	}
	for _, s := range n.sources {
		if !s.whole() {
			return false
		}
	}
	return true
}

// Knows reports whether the event of that number, and all before it, are in the
// picture.
func (p *Picture) Knows(epoch uint64, loop uint32, number uint64) bool {
	for _, n := range p.nodes {
		if n.epoch != epoch {
			continue
		}
		for _, s := range n.sources {
			if s.loop == loop {
				return s.started && s.known >= number
			}
		}
	}
	return false
}
