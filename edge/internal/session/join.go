package session

import (
	"slices"

	"nabat/proto/wire"
)

// joining is what a session knows about a room while commands that named it are
// not answered yet.
type joining struct {
	room      string
	claims    int         // those commands
	live      int         // those of them that no unsubscribe has overtaken
	cuts      int         // unsubscribes since the first claim
	tentative bool        // a member only because of claims that may still fail
	refused   *wire.Error // a new token does not allow the room
}

// claims are the rooms of a session that commands wait for. An index is made
// for many only: most sessions join a few.
type claims struct {
	list  []*joining
	index map[string]*joining
}

// few rooms are found sooner without an index.
const few = 16

func (c *claims) len() int { return len(c.list) }

func (c *claims) get(room string) *joining {
	if c.index != nil {
		return c.index[room]
	}
	for _, e := range c.list {
		if e.room == room {
			return e
		}
	}
	return nil
}

func (c *claims) add(e *joining) {
	c.list = append(c.list, e)
	switch {
	case c.index != nil:
		c.index[e.room] = e
	case len(c.list) > few:
		c.index = make(map[string]*joining)
		for _, one := range c.list {
			c.index[one.room] = one
		}
	}
}

// sweep drops those that nothing waits for any more.
func (c *claims) sweep() {
	c.list = slices.DeleteFunc(c.list, func(e *joining) bool {
		if e.claims == 0 {
			delete(c.index, e.room)
		}
		return e.claims == 0
	})
}

// cut ends the live claims: the room was left while they waited.
func (e *joining) cut(refused *wire.Error) {
	e.cuts++
	e.live, e.tentative, e.refused = 0, false, refused
}

// join is one command that waits for its rooms. It is all or nothing, and
// leaves alone what other commands joined meanwhile.
type join struct {
	call
	rooms  []Want
	places []wire.Position
	marks  []int // for each room its cuts when it was claimed
	left   int   // answers to wait for
	failed *wire.Error
	done   func(in []wire.Position, err *wire.Error)
}

// join joins every room and then calls done once, with where the connection
// stands in them: those that were unsubscribed meanwhile are left out. When one
// fails, those that this call newly joined are left again.
func (c call) join(rooms []Want, done func([]wire.Position, *wire.Error)) {
	if len(rooms) == 0 {
		done(nil, nil)
		return
	}
	rooms = withWatches(rooms)
	j := &join{call: c, rooms: rooms, places: make([]wire.Position, len(rooms)), marks: make([]int, len(rooms)), left: len(rooms), done: done}
	for i, want := range rooms {
		j.marks[i] = c.claim(want.Room)
	}
	for i, want := range rooms {
		c.host.Join(c.ref, want, func(at wire.Position, joined bool, err *wire.Error) {
			j.places[i] = at
			j.answer(want.Room, joined, err)
		})
	}
}

func (c call) claim(room string) (mark int) {
	if c.wait == nil {
		c.wait = new(waiting)
	}
	e := c.wait.joining.get(room)
	if e == nil {
		e = &joining{room: room}
		c.wait.joining.add(e)
	}
	e.claims++
	e.live++
	return e.cuts
}

func (j *join) answer(room string, joined bool, err *wire.Error) {
	if j.state == closed {
		return
	}
	switch e := j.wait.joining.get(room); {
	case err != nil:
		j.failed = err
	case joined && e.live == 0:
		j.host.Leave(j.ref, room)
	case joined:
		e.tentative = true
	}
	if j.left--; j.left == 0 {
		j.finish()
	}
}

func (j *join) finish() {
	for i, want := range j.rooms {
		if e := j.wait.joining.get(want.Room); e.cuts != j.marks[i] && e.refused != nil && j.failed == nil {
			j.failed = e.refused
		}
	}
	in := make([]wire.Position, 0, len(j.rooms))
	for i, want := range j.rooms {
		room := want.Room
		e := j.wait.joining.get(room)
		if e.cuts == j.marks[i] {
			e.live--
			if j.failed == nil {
				e.tentative = false
				if !isWatch(room) {
					in = append(in, j.places[i])
				}
			}
		}
		if e.tentative && e.live == 0 {
			e.tentative = false
			j.host.Leave(j.ref, room)
		}
		e.claims--
	}
	j.wait.joining.sweep()
	j.tidy()
	j.done(in, j.failed)
}
