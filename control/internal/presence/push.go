package presence

// Clients are shown a room's changes at most so often, in milliseconds: a room
// whose members are listed, and one that has too many.
const (
	listedEvery = 100
	countsEvery = 1000
)

// Push is what a room's clients are shown.
type Push struct {
	Room             string
	Users, Anonymous uint32
	Join, Leave      []Member // empty where there are too many to list
}

// Member is a user in a room.
type Member struct {
	User        string
	Connections uint32 // 0 for one who is gone and has a grace to come back
	Info        string // JSON, of the connection that came first; empty for none
}

// delta is what has changed in a room since its clients were shown it.
type delta struct {
	users map[string]int8 // +1 came, -1 left, 0 both
	many  bool            // too many to list
}

// changed notes that clients should be shown a room; user 0 is a count only.
func (t *teller) changed(id, user uint32, came bool) {
	if t.silent && !t.counts {
		return
	}
	if t.silent {
		user = 0
	}
	d := t.dirty[id]
	if d == nil {
		d = &delta{}
		t.dirty[id] = d
		t.rooms.again(id)
	}
	if user == 0 || d.many {
		return
	}
	if d.users == nil {
		d.users = make(map[string]int8)
	}
	name := t.users.texts[user]
	if came {
		d.users[name]++
	} else {
		d.users[name]--
	}
	if full := t.rule(t.rooms.texts[id]).Full; t.room[id].list.size > full || len(d.users) > full {
		d.users, d.many = nil, true
	}
}

// Pushes returns what clients should be shown now. Call it often: a room that
// was shown a moment ago waits.
func (t *teller) Pushes(now int64) (list []Push) {
	t.advance(now)
	for id, d := range t.dirty {
		r := &t.room[id]
		pause := int64(listedEvery)
		if d.many || r.list.size > t.rule(t.rooms.texts[id]).Full {
			pause, d.users = countsEvery, nil
		}
		if t.now-r.pushed < pause {
			continue
		}
		r.pushed = t.now
		list = append(list, t.push(id, d))
		delete(t.dirty, id)
		t.releaseRoom(id)
	}
	return list
}

func (t *teller) push(id uint32, d *delta) Push {
	r := &t.room[id]
	push := Push{Room: t.rooms.texts[id], Users: uint32(r.list.size), Anonymous: r.anonymous}
	for name, n := range d.users {
		switch {
		case n > 0:
			if e := r.list.find(t.users.texts, name); e != nil {
				push.Join = append(push.Join, t.member(id, *e))
			}
		case n < 0:
			push.Leave = append(push.Leave, Member{User: name})
		}
	}
	return push
}

// Shown makes what clients should be shown of a room now by somebody who has
// heard of changes, but not who saw them: users came and left, the room is as
// it is.
func (t *teller) Shown(room string, came, left []string) Push {
	id, _ := t.rooms.find(room)
	d := &delta{users: make(map[string]int8)}
	for _, name := range came {
		d.users[name] = 1
	}
	for _, name := range left {
		d.users[name] = -1
	}
	if t.room[id].list.size > t.rule(room).Full {
		d.users = nil
	}
	push := t.push(id, d)
	push.Room = room
	return push
}
