package checker

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// client is one client: it joins its rooms, notes everything it is told, and
// comes, goes, stalls and moves between edges by the numbers of its generator.
type client struct {
	// Set at creation, never changed.
	run   *Run
	id    int
	rooms []string
	rng   *rand.Rand

	// Owned by live.
	link      *link
	edge      int // of the plan's
	nextID    int
	at        map[string]place
	log       map[string][]event
	in        map[string]bool // rooms that the client is in
	asked     map[string]bool // rooms that it has asked for
	awaySince time.Time       // when the last connection ended; zero at first
	patience  int             // messages until the next act
	leftUntil int             // messages stored until it joins again the room that it left
	leftSince time.Time
	leftRoom  string
	pinged    bool // all is there, and the edge was asked for a sign behind it
	acts      map[string]int
	errors    map[string]int
	dials     int
	backoff   time.Duration
}

func newClient(r *Run, id int) *client {
	c := &client{run: r, id: id, rng: rand.New(rand.NewPCG(r.plan.Seed, uint64(id))), at: make(map[string]place), log: make(map[string][]event),
		in: make(map[string]bool), asked: make(map[string]bool), acts: make(map[string]int), errors: make(map[string]int)}
	for k := range r.plan.RoomsEach {
		c.rooms = append(c.rooms, r.plan.Rooms[(id+k*(1+len(r.plan.Rooms)/r.plan.RoomsEach))%len(r.plan.Rooms)])
	}
	slices.Sort(c.rooms)
	c.rooms = slices.Compact(c.rooms)
	if !r.plan.Together {
		c.edge = id % len(r.plan.Edges)
	}
	return c
}

const (
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = time.Second
)

// live runs until the run is over.
func (c *client) live(ctx context.Context) {
	defer c.gone()
	for ctx.Err() == nil {
		if !c.come(ctx) {
			c.edge = (c.edge + 1) % len(c.run.plan.Edges)
			c.backoff = min(max(2*c.backoff, firstBackoff), lastBackoff)
			c.pause(ctx, c.backoff/2+rand.N(c.backoff))
			continue
		}
		c.stay(ctx)
		c.gone()
	}
}

func (c *client) pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// come connects and asks for all rooms.
func (c *client) come(ctx context.Context) bool {
	l, err := dialEdge(ctx, c.run.plan.Edges[c.edge])
	if err != nil {
		return false
	}
	c.link = l
	body := map[string]any{"rooms": c.asks(c.rooms)}
	if !c.awaySince.IsZero() {
		body["away_ms"] = time.Since(c.awaySince).Milliseconds() + 1
	}
	c.nextID++
	if err := l.send(c.nextID, "connect", body); err != nil {
		c.gone()
		return false
	}
	for _, room := range c.rooms {
		c.asked[room] = true
	}
	return true
}

// asks are rooms with the client's positions in them.
func (c *client) asks(rooms []string) (list []ask) {
	for _, room := range rooms {
		a := ask{Room: room}
		if at := c.at[room]; at.epoch != "" {
			a.Epoch, a.Offset = at.epoch, &at.offset
		}
		list = append(list, a)
	}
	return list
}

// gone ends the connection, if there is one.
func (c *client) gone() {
	if c.link == nil {
		return
	}
	c.link.close()
	c.link = nil
	c.awaySince = time.Now()
	for room := range c.in {
		if c.run.ctx.Err() == nil { // else it is there at the end
			c.note(room, event{kind: left})
		}
	}
	clear(c.in)
	clear(c.asked)
	c.leftRoom, c.pinged = "", false
	c.run.here(c, false)
}

// tick is how often a client looks whether it is time for something.
const tick = 50 * time.Millisecond

// stay reads until the connection ends or the client goes.
func (c *client) stay(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	c.again()
	for {
		select {
		case <-ctx.Done():
			return
		case o, ok := <-c.link.objects:
			if !ok {
				return
			}
			if c.take(o); c.whole() {
				c.backoff = 0
				c.run.here(c, true)
			}
			if c.patience--; c.patience < 0 && c.leftRoom == "" && c.restless() && c.whole() && !c.act(ctx) {
				return
			}
		case <-ticker.C:
			c.settle()
			if size, _ := c.run.ledger.size(); c.leftRoom != "" && (size >= c.leftUntil || c.run.finishing()) {
				c.rejoin()
			}
		}
	}
}

func (c *client) restless() bool { return c.run.plan.Restless && !c.run.finishing() }

// whole reports whether the client is in all of its rooms.
func (c *client) whole() bool { return len(c.in) == len(c.rooms) }

func (c *client) again() { c.patience = 10 + c.rng.IntN(2*c.run.plan.Patience) }

// act does one of the things that clients do. It reports false when the
// connection has to end.
func (c *client) act(ctx context.Context) bool {
	c.again()
	size, _ := c.run.ledger.size()
	until := size + c.rng.IntN(c.run.plan.Absence)
	switch c.rng.IntN(4) {
	case 0:
		c.acts["moved"]++
		c.edge = (c.edge + 1) % len(c.run.plan.Edges)
		return false
	case 1:
		c.acts["away"]++
		c.gone()
		c.run.grown(ctx, until)
		c.link = nil
		return false
	case 2:
		c.acts["stalled"]++
		c.run.grown(ctx, until)
	case 3:
		c.acts["left"]++
		room := c.rooms[c.rng.IntN(len(c.rooms))]
		c.nextID++
		if c.link.send(c.nextID, "unsubscribe", map[string]any{"rooms": []string{room}}) != nil {
			return false
		}
		c.leftRoom, c.leftUntil, c.leftSince = room, until, time.Now()
	}
	return true
}

// rejoin asks for the room that the client left.
func (c *client) rejoin() {
	if c.in[c.leftRoom] {
		return // the answer to unsubscribe is still to come
	}
	c.nextID++
	c.asked[c.leftRoom] = true
	// A failure shows as the end of the connection.
	_ = c.link.send(c.nextID, "subscribe", map[string]any{"rooms": c.asks([]string{c.leftRoom}), "away_ms": time.Since(c.leftSince).Milliseconds() + 1})
	c.leftRoom = ""
}

func (c *client) note(room string, e event) {
	e.then = c.run.ledger.count(room)
	c.log[room] = append(c.log[room], e)
}

// take notes what an edge said.
func (c *client) take(o *object) {
	switch {
	case o.Connected != nil:
		c.dials++
		c.join(o.Connected.Rooms)
	case o.Subscribed != nil:
		c.join(o.Subscribed.Rooms)
	case o.Unsubscribed != nil:
		for _, room := range o.Unsubscribed.Rooms {
			if room != c.leftRoom {
				c.errors["unsubscribed"]++ // by the edge
			}
			c.note(room, event{kind: left})
			delete(c.in, room)
			delete(c.asked, room)
		}
	case o.Gap != nil:
		c.note(o.Gap.Room, event{kind: gap, to: o.Gap.To, place: place{offset: o.Gap.From}, reason: o.Gap.Reason})
		c.move(o.Gap.Room, max(o.Gap.To, 1)-1)
	case o.Lagging != nil:
		c.note(o.Lagging.Room, event{kind: lagging, place: place{o.Lagging.Epoch, o.Lagging.Offset}})
	case o.Reset != nil:
		c.at[o.Reset.Room] = place{o.Reset.Epoch, o.Reset.Offset}
		c.note(o.Reset.Room, event{kind: reset, place: c.at[o.Reset.Room]})
	case o.Error != nil:
		c.errors[o.Error.Code]++
		_ = c.link.conn.Close() // begin anew: the reader ends
	case o.Pong != nil:
		c.run.finished(c)
	case o.Room != "" && o.Data != nil:
		e := event{kind: message, place: place{offset: o.Offset}, number: o.Data.Number}
		if !c.in[o.Room] {
			e.kind = stranger
		}
		c.note(o.Room, e)
		c.move(o.Room, o.Offset)
	}
}

// move is what a client does with an offset: it keeps the newest.
func (c *client) move(room string, offset uint64) {
	at := c.at[room]
	at.offset = max(at.offset, offset)
	c.at[room] = at
}

// join notes where the client stands in rooms that it asked for.
func (c *client) join(rooms []position) {
	for _, p := range rooms {
		before, now := c.at[p.Room], place{p.Epoch, p.Offset}
		e := event{kind: joined, place: now}
		if before.epoch != "" {
			e.kind, e.before, e.reason = resumed, before, p.Reason
			e.recovered = p.Recovered != nil && *p.Recovered
			if p.Recovered == nil {
				e.reason = "not_answered"
			}
		}
		if !c.asked[p.Room] {
			c.errors["not_asked"]++
		}
		c.in[p.Room] = true
		if now.epoch != "" {
			c.at[p.Room] = now
		}
		c.note(p.Room, e)
	}
}

// settle asks for a last sign of life when the run ends and the client has
// everything: what was on its way comes before it.
func (c *client) settle() {
	if c.pinged || !c.run.finishing() || !c.caughtUp() {
		return
	}
	c.pinged = true
	c.nextID++
	// A failure shows as the end of the connection.
	_ = c.link.send(c.nextID, "ping", struct{}{})
}

func (c *client) caughtUp() bool {
	for _, room := range c.rooms {
		if !c.in[room] || !c.run.ledger.reached(room, c.at[room]) {
			return false
		}
	}
	return true
}
