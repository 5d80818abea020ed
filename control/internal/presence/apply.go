package presence

import (
	"slices"

	"nabat/proto/buspb"
)

// Report takes in what a node says. Strings of r are kept, nothing else.
func (p *Picture) Report(r *buspb.Report, now int64) {
	p.advance(now)
	n := p.node(r.Node, r.Epoch)
	if n == nil {
		return
	}
	n.heard = p.now
	if r.Stats != nil {
		n.previous, n.prevAt, n.stats, n.statsAt = n.stats, n.statsAt, r.Stats, p.now
		n.loops = max(n.loops, uint32(len(r.Segments))) // a heartbeat names them all
	}
	for _, seg := range r.Segments {
		p.segment(p.source(n, seg.Loop), seg)
	}
	for _, c := range r.Counts {
		p.countRoom(n, c)
	}
	if r.Leaving {
		p.clear(n, "stopped", p.now)
		n.old = append(n.old, n.epoch) // late reports of it are not its return
		n.epoch, n.loops, n.stats = 0, 0, nil
	}
	p.Tick(now)
}

// Left reports whether a node has said that it leaves, and nothing since.
func (p *Picture) Left(name string) bool {
	n := p.nodes[name]
	return n != nil && n.epoch == 0
}

// segment applies what is next, and keeps what is behind a hole.
func (p *Picture) segment(s *source, seg *buspb.Segment) {
	if s.fresh && s.fall == 0 && seg.After == 0 {
		s.started, s.fresh = true, false // nothing was before its first event, and nothing was told of it
	}
	last := seg.After + uint64(len(seg.Events))
	if !s.started || seg.After > s.known {
		if was := s.whole(); last > s.ahead {
			if s.ahead = last; was {
				p.totals.Holes++
			}
		}
		if len(seg.Events) > 0 {
			s.keep(seg)
		}
		return
	}
	p.run(s, seg)
	p.drain(s)
}

// keep holds a segment back, in order. Beyond the bound the oldest are
// forgotten: a later snapshot makes up for them.
func (s *source) keep(seg *buspb.Segment) {
	at, _ := slices.BinarySearchFunc(s.waiting, seg.After, func(a *buspb.Segment, after uint64) int {
		if a.After < after {
			return -1
		}
		return 1
	})
	s.waiting = slices.Insert(s.waiting, at, seg)
	s.events += len(seg.Events)
	for s.events > maxWaiting && len(s.waiting) > 1 {
		s.events -= len(s.waiting[0].Events)
		s.waiting = slices.Delete(s.waiting, 0, 1)
	}
}

// drain applies the segments that wait for what has come.
func (p *Picture) drain(s *source) {
	for s.started && len(s.waiting) > 0 && s.waiting[0].After <= s.known {
		seg := s.waiting[0]
		s.events -= len(seg.Events)
		s.waiting = slices.Delete(s.waiting, 0, 1)
		p.run(s, seg)
	}
	if len(s.waiting) == 0 {
		s.waiting = nil
	}
}

// run applies the events of a segment that are new. s.known is not before them.
func (p *Picture) run(s *source, seg *buspb.Segment) {
	for i, e := range seg.Events {
		number := seg.After + uint64(i) + 1
		if number <= s.known {
			continue
		}
		if !p.event(s, e, number) {
			// What the event speaks of is not there: the picture of this loop
			// is wrong, and only a snapshot mends it.
			s.started = false
			s.ahead = max(s.ahead, seg.After+uint64(len(seg.Events)))
			p.totals.Holes++
			return
		}
		s.known = number
		s.ahead = max(s.ahead, number)
	}
}

// event applies one, and reports whether it made sense.
func (p *Picture) event(s *source, e *buspb.Event, number uint64) bool {
	c := &cause{node: s.node.name, epoch: s.epoch, loop: s.loop, number: number, connection: e.Connection, reason: e.Reason, at: e.At}
	i := s.get(e.Connection)
	here := i != 0 && p.conns[i].ref == e.Connection
	if e.Kind == buspb.Event_CONNECT {
		if i != 0 {
			return false
		}
		i = p.add(s, e.Connection, e.User, string(e.Info), e.At)
		p.tell(Connect, 0, p.conns[i].user, c)
		return true
	}
	if !here {
		return false
	}
	switch e.Kind {
	case buspb.Event_DISCONNECT:
		p.end(s, i, c, p.now)
	case buspb.Event_JOIN:
		p.join(i, e.Room, c)
	case buspb.Event_LEAVE:
		if id, ok := p.rooms.find(e.Room); ok {
			p.leave(i, id, c, p.now)
		}
	case buspb.Event_IDENTITY:
		p.rename(i, e.User, string(e.Info), c)
	}
	return true
}

// rename gives a connection another user, or the same with other information.
func (p *Picture) rename(i uint32, user, info string, c *cause) {
	if p.users.texts[p.conns[i].user] == user {
		id, _ := p.infos.hold(info)
		p.infos.release(p.conns[i].info)
		p.conns[i].info = id
		return
	}
	var rooms []uint32
	for m := p.conns[i].first; m != 0; m = p.memberOf[m].next {
		rooms = append(rooms, p.memberOf[m].room)
	}
	old := p.conns[i]
	p.users.again(old.user)
	p.infos.again(old.info)
	p.forget(i)
	p.identify(i, user, info)
	for _, id := range rooms {
		p.enter(id, p.conns[i].user, c)
		p.exit(id, &old, c, p.now)
	}
	p.infos.release(old.info)
	p.users.release(old.user)
}
