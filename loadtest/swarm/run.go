package swarm

// begin starts run number n: messages of other runs are strays from now on.
// It returns how many clients take part, counted once for each of their rooms.
func (l *loop) begin(n uint32) int {
	histogram := l.totals.histogram
	if histogram == nil {
		histogram = newHistogram()
	}
	histogram.Reset()
	l.number, l.fresh = n, 0
	l.totals = Totals{histogram: histogram}
	for i := range l.clients {
		c := &l.clients[i]
		c.order = Order{}
		clear(c.orders)
		if c.member = c.state == open && !l.plan.slow(c); c.member {
			l.totals.Clients++
		}
	}
	return l.totals.Clients * l.plan.Spread.Each
}

// finish completes the counts of a run in which total messages were sent.
// The result is the caller's; its histogram is a copy.
func (l *loop) finish(total uint64) Totals {
	result := l.totals
	for i := range l.clients {
		c := &l.clients[i]
		if !c.member && !l.plan.slow(c) {
			continue
		}
		missing := uint64(0)
		for slot := range l.plan.Spread.Each {
			missing += c.in(slot).Missing(total)
		}
		if c.member {
			result.Missing += missing
		} else {
			result.SlowMissing += missing
		}
	}
	result.histogram = newHistogram()
	if l.totals.histogram != nil {
		result.histogram.Merge(l.totals.histogram)
	}
	return result
}

// slow reports whether c is one of those that stall when they are told to.
func (p *Plan) slow(c *client) bool {
	return p.SlowEvery > 0 && int(c.number)%p.SlowEvery == p.SlowEvery-1
}

// stall lets the slow clients read no more, or go on.
func (l *loop) stall(yes bool) {
	l.stalling = yes
	for i := range l.clients {
		if c := &l.clients[i]; !yes && c.state == open && l.plan.slow(c) {
			l.handle(c, 0) // the events were missed meanwhile
		}
	}
}

// redial connects all clients whose connection has ended to another address.
func (l *loop) redial(r *Redial) {
	l.aim(r.Host, r.IP, r.Port)
	connected := 0
	for i := range l.clients {
		switch c := &l.clients[i]; c.state {
		case open:
			connected++
		case ended:
			c.state = idle
		}
	}
	l.next, l.oldest, l.pending, l.pace.start = 0, 0, 0, 0
	l.stand = Progress{Dials: l.stand.Dials + 1, Connected: connected, Started: connected, Bytes: l.stand.Bytes,
		Recovered: l.stand.Recovered, Unrecovered: l.stand.Unrecovered, Reasons: make(map[string]int)}
}
