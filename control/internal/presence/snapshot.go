package presence

import "nabat/proto/buspb"

// Snapshot takes in one part of a loop's snapshot. It reports false when the
// parts before it were lost, so that it should be asked for again. Strings of
// the part are kept, and the part until the last has come.
func (p *Picture) Snapshot(part *buspb.Snapshot, now int64) bool {
	p.advance(now)
	n := p.node(part.Node, part.Epoch)
	if n == nil {
		return true
	}
	n.loops = max(n.loops, part.Loops)
	if n.heard == 0 {
		n.heard = p.now
	}
	s := p.source(n, part.Loop)
	if part.Part == 0 {
		s.parts = nil
	}
	if int(part.Part) != len(s.parts) || len(s.parts) > 0 && s.parts[0].Number != part.Number {
		s.parts = nil
		return false
	}
	s.parts = append(s.parts, part)
	if !part.Last {
		return true
	}
	parts := s.parts
	s.parts = nil
	if !s.fresh && part.Number < s.known {
		return true // it took longer than the events: they are further
	}
	if s.whole() && part.Number == s.known {
		return true
	}
	// Nobody is told what was so before this replica looked.
	silent := p.silent
	p.replace(s, parts)
	p.silent, p.counts = silent, false
	p.drain(s)
	p.Tick(now)
	return true
}

// Quiet makes the first snapshot of a loop tell nothing, or tell what is new. It
// is for the time after Speak in which nodes may turn up that were there before.
func (p *Picture) Quiet(on bool) { p.quiet = on }

// replace makes a loop what its snapshot says, and tells the difference.
func (p *Picture) replace(s *source, parts []*buspb.Snapshot) {
	if s.fresh && p.quiet {
		// Who watches may have been told already, or may be among those who are new:
		// the numbers say whether to ask again.
		p.silent, p.counts = true, !p.silent
	}
	number := parts[0].Number
	s.mark++
	for _, part := range parts {
		for _, c := range part.Connections {
			p.take(s, part, c, number)
		}
	}
	for _, i := range s.all() {
		if c := &p.conns[i]; c.mark != s.mark {
			p.end(s, i, s.shown(number, c.ref, p.now), p.now)
		}
	}
	s.started, s.fresh, s.known = true, false, number
	s.ahead = max(s.ahead, number)
	p.totals.Rebuilds++
}

// shown is the cause of what only a snapshot showed.
func (s *source) shown(number, connection uint64, at int64) *cause {
	return &cause{node: s.node.name, epoch: s.epoch, loop: s.loop, number: number, fall: s.fall, derived: true, connection: connection, at: at}
}

// take makes one connection what a snapshot says of it.
func (p *Picture) take(s *source, part *buspb.Snapshot, c *buspb.Connection, number uint64) {
	why := s.shown(number, c.Connection, p.now)
	i := s.get(c.Connection)
	if i != 0 && p.conns[i].ref != c.Connection {
		p.end(s, i, s.shown(number, p.conns[i].ref, p.now), p.now)
		i = 0
	}
	if i == 0 {
		i = p.add(s, c.Connection, c.User, string(c.Info), c.At)
		p.tell(Connect, 0, p.conns[i].user, why)
	} else {
		p.keepOnly(i, part, c, why) // first, so that nobody is told to have left as two users
		p.rename(i, c.User, string(c.Info), why)
	}
	p.conns[i].mark = s.mark
	for _, place := range c.Rooms {
		if int(place) < len(part.Rooms) {
			p.join(i, part.Rooms[place], why)
		}
	}
}

// keepOnly takes connection i out of the rooms that a snapshot does not name.
func (p *Picture) keepOnly(i uint32, part *buspb.Snapshot, c *buspb.Connection, why *cause) {
	if p.conns[i].first == 0 {
		return
	}
	keep := make(map[uint32]bool, len(c.Rooms))
	for _, place := range c.Rooms {
		if int(place) < len(part.Rooms) {
			if id, ok := p.rooms.find(part.Rooms[place]); ok {
				keep[id] = true
			}
		}
	}
	for m := p.conns[i].first; m != 0; {
		id, next := p.memberOf[m].room, p.memberOf[m].next
		if !keep[id] {
			p.leave(i, id, why, p.now)
		}
		m = next
	}
}
