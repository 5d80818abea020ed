package session

import (
	"bytes"
	"slices"
	"time"

	"nabat/edge/internal/rate"
	"nabat/proto/subject"
	"nabat/proto/wire"
)

// Handle takes one inbound object. text is not kept.
func (s *Session) Handle(h Host, ref Ref, l *Limits, text []byte) {
	c := call{s, h, ref, l}
	if s.state == closed {
		return
	}
	if c.withinRates(text) {
		c.take(text)
	}
}

// take is Handle for what the rates let pass.
func (c call) take(text []byte) {
	if c.state == closed {
		return
	}
	if c.state == checking || c.state == connecting {
		c.hold(text)
		return
	}
	var cmd wire.Command
	if err := c.Encoding.Parse(text, &cmd); err != nil {
		c.complain(&cmd, err)
		return
	}
	c.run(&cmd)
}

// Complain takes the fault of a frame that holds several objects, where there is
// no object to Handle.
func (s *Session) Complain(h Host, ref Ref, l *Limits, err *wire.Error) {
	c := call{s, h, ref, l}
	if s.state != closed {
		c.complain(&wire.Command{}, err)
	}
}

// hold keeps a command until connect has been answered.
func (c call) hold(text []byte) {
	if c.wait == nil {
		c.wait = new(waiting)
	}
	if len(c.wait.held) >= c.limits.MaxInFlight {
		var cmd wire.Command
		_ = c.Encoding.Parse(text, &cmd) // only for its id
		c.refuse(&cmd, tooMany)
		return
	}
	c.wait.held = append(c.wait.held, bytes.Clone(text))
}

var tooMany = &wire.Error{Code: wire.RateLimited, Reason: "too many commands wait for an answer", RetryMS: 100}

// complain answers what is no command, and ends a client that keeps on.
func (c call) complain(cmd *wire.Command, err *wire.Error) {
	c.bad++
	c.refuse(cmd, err)
	if int(c.bad) >= c.limits.MaxBadCommands {
		c.end(wire.CloseProtocol)
	}
}

func (c call) refuse(cmd *wire.Command, err *wire.Error) { c.fail(id(cmd), err) }

func (c call) fail(id *uint64, err *wire.Error) {
	c.host.Refused(err.Code)
	c.say(id, err)
}

func (c call) say(id *uint64, v wire.Value) { c.host.Send(c.ref, wire.Object{ID: id, Value: v}) }

// id is the command's id as replies want it: a copy, nil when it has none.
func id(cmd *wire.Command) *uint64 {
	if !cmd.HasID {
		return nil
	}
	n := cmd.ID
	return &n
}

func (c call) run(cmd *wire.Command) {
	if cmd.Verb != wire.Subscribe && cmd.Verb != wire.RPC {
		c.forgive() // those two have rates of their own to pass
	}
	switch cmd.Verb {
	case wire.Ping:
		c.say(id(cmd), wire.Ponged{})
		return
	case wire.Pong:
		return
	case wire.Connect:
		c.connect(cmd)
		return
	}
	if c.state != connected {
		c.refuse(cmd, &wire.Error{Code: wire.NotConnected, Reason: "send connect first"})
		return
	}
	if int(c.inFlight) >= c.limits.MaxInFlight {
		c.refuse(cmd, tooMany)
		return
	}
	switch cmd.Verb {
	case wire.Subscribe:
		c.subscribe(cmd)
	case wire.Unsubscribe:
		c.unsubscribe(cmd)
	case wire.Publish:
		c.publish(cmd)
	case wire.Auth:
		c.auth(cmd)
	case wire.History:
		c.history(cmd)
	case wire.RPC:
		rpc(c, cmd)
	case wire.Presence:
		watching{c}.ask(cmd)
	default:
		c.refuse(cmd, &wire.Error{Code: wire.UnknownCommand, Reason: cmd.Verb.String() + " is not served here"})
	}
}

func (c call) connect(cmd *wire.Command) {
	if c.state != fresh {
		c.refuse(cmd, &wire.Error{Code: wire.AlreadyConnected, Reason: "this connection is connected already: use subscribe and auth"})
		return
	}
	number := id(cmd)
	rooms, err := c.wants(cmd)
	if err != nil {
		c.complain(cmd, err)
		return
	}
	if cmd.Token == "" && (c.identity != nil || !c.limits.AsksConnect) {
		c.admit(number, rooms, c.identity)
		return
	}
	c.state, c.deadline = checking, 0
	c.host.Verify(c.ref, cmd.Token, func(who *Identity, err *wire.Error) {
		if c.state == closed {
			return
		}
		if err != nil {
			c.fail(number, err)
			c.end(wire.CloseFor(err))
			return
		}
		c.admit(number, rooms, who)
	})
}

// admit connects if every room is allowed. A refused connect may be tried again
// until its time is over.
func (c call) admit(number *uint64, rooms []Want, who *Identity) {
	rooms = withGranted(rooms, who)
	if err := c.checkRooms(who, rooms, 0); err != nil {
		c.state = fresh
		if c.deadline == 0 {
			c.deadline = c.host.Now() + c.limits.ConnectTimeout
			c.host.WakeAt(c.ref, c.deadline)
		}
		c.complain(&wire.Command{HasID: number != nil, ID: value(number)}, err)
		c.again()
		return
	}
	if who != nil {
		if err := c.host.Seat(c.ref, who.User); err != nil {
			c.fail(number, err)
			c.end(wire.CloseFor(err))
			return
		}
	}
	c.identity, c.warned = who, false
	if who != nil {
		c.watchExpiry()
	}
	if c.state != closed {
		c.enter(number, rooms)
	}
}

// again handles what was held for a connect that was refused.
func (c call) again() {
	if c.wait == nil {
		return
	}
	held := c.wait.held
	c.wait.held = nil
	c.tidy()
	for _, text := range held {
		c.take(text)
	}
}

func value(n *uint64) uint64 {
	if n == nil {
		return 0
	}
	return *n
}

// wants is what a connect or subscribe asks for, each room once.
func (c call) wants(cmd *wire.Command) ([]Want, *wire.Error) {
	list := make([]Want, len(cmd.Rooms))
	for i, r := range cmd.Rooms {
		list[i] = Want{Room: r.Room, Epoch: r.Epoch, Offset: r.Offset, Latest: r.Latest, Presence: r.Presence, AwayMS: cmd.AwayMS, Previous: cmd.Previous}
		if r.Since == "" {
			continue
		}
		if d, err := time.ParseDuration(r.Since); err == nil && d > 0 {
			list[i].Since = c.host.Now()*1000 - d.Milliseconds()
		} else if at, err := time.Parse(time.RFC3339Nano, r.Since); err == nil && at.Unix() > 0 {
			list[i].Since = at.UnixMilli()
		} else {
			return nil, &wire.Error{Code: wire.BadCommand, Reason: "since must be a duration such as 10m, or a time such as 2026-01-02T15:04:05Z (RFC 3339)"}
		}
	}
	return withGranted(list, nil), nil
}

func names(rooms []Want) []string {
	list := make([]string, len(rooms))
	for i, w := range rooms {
		list[i] = w.Room
	}
	return list
}

// subscribe is all or nothing: the first room that cannot be joined refuses the
// command by name.
func (c call) subscribe(cmd *wire.Command) {
	number := id(cmd)
	rooms, err := c.wants(cmd)
	if err == nil && len(rooms) == 0 {
		err = &wire.Error{Code: wire.BadCommand, Reason: "subscribe.rooms must name at least one room"}
	}
	if err != nil {
		c.complain(cmd, err)
		return
	}
	if err := c.checkRooms(c.identity, rooms, c.others(names(rooms))); err != nil {
		c.refuse(cmd, err)
		return
	}
	bucket := func(m *meter) *rate.Bucket { return &m.subscribes }
	if !c.withinRate(cmd, c.limits.Rates.Subscribes, bucket, int64(len(rooms)), "this connection subscribes to too many rooms in a second", OfSubscribes) {
		return
	}
	c.inFlight++
	c.join(rooms, func(in []wire.Position, err *wire.Error) {
		c.inFlight--
		if err != nil {
			c.fail(number, err)
			return
		}
		c.say(number, wire.Subscribed{Rooms: in})
		c.host.Start(c.ref, in)
	})
}

// others is the number of rooms beside these that the connection is in or joins.
func (c call) others(rooms []string) int {
	n := c.host.RoomCount(c.ref)
	if c.wait != nil {
		n += c.wait.joining.len()
	}
	if n+len(rooms) <= c.limits.MaxRooms {
		return n // enough, even if some were counted twice
	}
	in := c.host.Rooms(c.ref)
	if c.wait != nil {
		for _, e := range c.wait.joining.list {
			if e.live > 0 && !isWatch(e.room) {
				in = append(in, e.room)
			}
		}
	}
	return len(union(in, rooms)) - len(rooms)
}

// unsubscribe is all or nothing, as subscribe is.
func (c call) unsubscribe(cmd *wire.Command) {
	asked, _ := c.wants(cmd) // its only error is about since
	rooms := names(asked)
	if len(rooms) == 0 {
		c.complain(cmd, &wire.Error{Code: wire.BadCommand, Reason: "unsubscribe.rooms must name at least one room"})
		return
	}
	for _, room := range rooms {
		if err := subject.CheckRoom(room); err != nil {
			c.refuse(cmd, &wire.Error{Code: wire.BadRoom, Reason: err.Error()})
			return
		}
	}
	in := c.host.Rooms(c.ref)
	for _, room := range rooms {
		if e := c.joining(room); (e == nil || e.live == 0) && !slices.Contains(in, room) {
			c.refuse(cmd, &wire.Error{Code: wire.NotSubscribed, Reason: "this connection is not in room " + room})
			return
		}
	}
	for _, room := range rooms {
		watching{c}.leave(room)
	}
	if cmd.HasID {
		c.say(id(cmd), wire.Unsubscribed{Rooms: rooms})
	}
}

func (c call) joining(room string) *joining {
	if c.wait == nil {
		return nil
	}
	return c.wait.joining.get(room)
}

func (c call) publish(cmd *wire.Command) {
	p := &cmd.Publish
	if err := CheckPublish(c.host, c.limits, c.identity, p.Room, int64(len(p.Body))); err != nil {
		c.refuse(cmd, err)
		return
	}
	number := id(cmd)
	c.inFlight++
	c.host.Publish(c.ref, c.identity, p, func(at wire.Position, err *wire.Error) {
		if c.state == closed {
			return
		}
		c.inFlight--
		switch {
		case err != nil:
			c.fail(number, err)
		case number != nil:
			c.say(number, wire.Published{Position: at})
		}
	})
}

func (c call) history(cmd *wire.Command) {
	h := cmd.History
	if err := subject.CheckRoom(h.Room); err != nil {
		c.refuse(cmd, &wire.Error{Code: wire.BadRoom, Reason: err.Error()})
		return
	}
	if err := mayReadHistory(c.host, c.identity, h.Room); err != nil {
		c.refuse(cmd, err)
		return
	}
	if h.Limit == 0 || h.Limit > uint64(c.limits.MaxHistory) {
		h.Limit = uint64(c.limits.MaxHistory)
	}
	number := id(cmd)
	c.inFlight++
	c.host.History(c.ref, h, func(page *wire.Page, err *wire.Error) {
		if c.state == closed {
			return
		}
		c.inFlight--
		if err != nil {
			c.fail(number, err)
			return
		}
		c.say(number, page)
	})
}

// auth renews or replaces the token. When it fails, the old one stays in force
// until it ends.
func (c call) auth(cmd *wire.Command) {
	number := id(cmd)
	if cmd.Token == "" {
		c.complain(cmd, &wire.Error{Code: wire.BadCommand, Reason: "auth.token is missing"})
		return
	}
	c.inFlight++
	c.host.Verify(c.ref, cmd.Token, func(who *Identity, err *wire.Error) {
		if c.state == closed {
			return
		}
		c.inFlight--
		if err == nil && c.identity != nil && c.identity.User != who.User {
			err = &wire.Error{Code: wire.NotAllowed, Reason: "the token is of another user: connect anew to change the user"}
		}
		if err == nil {
			err = c.host.Seat(c.ref, who.User)
		}
		if err != nil {
			c.fail(number, err)
			return
		}
		same := shownAs(c.identity, who)
		c.identity, c.warned = who, false
		if !same {
			c.host.Present(c.ref, who)
		}
		if number != nil {
			c.say(number, wire.Authed{User: who.User, Expires: int64(who.Expires)})
		}
		c.leaveForbidden()
		c.watchExpiry()
	})
}

// leaveForbidden ends the subscriptions that the new token does not allow.
// Those that wait are refused when their turn comes.
func (c call) leaveForbidden() {
	if c.wait != nil {
		for _, e := range c.wait.joining.list {
			if err := mayJoin(c.host, c.identity, e.room); err != nil {
				if e.tentative {
					c.host.Leave(c.ref, e.room)
				}
				e.cut(err)
			}
		}
	}
	var lost []string
	for _, room := range c.host.Rooms(c.ref) {
		if maySubscribe(c.host, c.identity, room) != nil {
			c.host.Leave(c.ref, room)
			c.host.Leave(c.ref, subject.Watch(room))
			lost = append(lost, room)
		} else if err := maySeePresence(c.host, c.identity, room); err != nil && c.host.Leave(c.ref, subject.Watch(room)) {
			c.fail(nil, err)
		}
	}
	if len(lost) > 0 {
		c.say(nil, wire.Unsubscribed{Rooms: lost, Reason: wire.NotAllowed})
	}
}
