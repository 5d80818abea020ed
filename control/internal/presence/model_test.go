package presence

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"nabat/proto/buspb"
)

// edge is a node that tells the truth, over a bus that may lose it.
type edge struct {
	name  string
	epoch uint64
	loops []*truth
}

// truth is one loop, naively.
type truth struct {
	number uint64
	conns  map[uint64]*link
	unsent []*buspb.Event
	after  uint64
	next   uint64
}

type link struct {
	user, info string
	at         int64
	rooms      map[string]bool
}

func newEdge(name string, epoch uint64, loops int) *edge {
	e := &edge{name: name, epoch: epoch}
	for range loops {
		e.loops = append(e.loops, &truth{conns: make(map[uint64]*link)})
	}
	return e
}

func (l *truth) add(e *buspb.Event) { l.number++; l.unsent = append(l.unsent, e) }

// act does something random on one loop.
func (l *truth) act(r *rand.Rand, now int64) {
	refs := slices.Sorted(maps.Keys(l.conns))
	user := []string{"", "", "ann", "bob", "cid", "dan", "eve"}[r.IntN(7)]
	room := fmt.Sprintf("room.%d", r.IntN(4))
	switch pick := r.IntN(10); {
	case pick < 3 || len(refs) == 0:
		l.next++
		ref := uint64(r.IntN(3000))<<32 | l.next // sometimes a slot in use: then the next generation
		for _, old := range refs {
			if old>>32 == ref>>32 {
				return
			}
		}
		l.conns[ref] = &link{user: user, info: `{"n":"` + user + `"}`, at: now, rooms: make(map[string]bool)}
		l.add(&buspb.Event{Kind: buspb.Event_CONNECT, Connection: ref, User: user, Info: []byte(l.conns[ref].info), At: now})
	case pick < 4:
		ref := refs[r.IntN(len(refs))]
		delete(l.conns, ref)
		l.add(&buspb.Event{Kind: buspb.Event_DISCONNECT, Connection: ref, Reason: "closed", At: now})
	case pick < 5:
		ref := refs[r.IntN(len(refs))]
		l.conns[ref].user, l.conns[ref].info = user, ""
		l.add(&buspb.Event{Kind: buspb.Event_IDENTITY, Connection: ref, User: user, At: now})
	case pick < 8:
		ref := refs[r.IntN(len(refs))]
		if !l.conns[ref].rooms[room] {
			l.conns[ref].rooms[room] = true
			l.add(&buspb.Event{Kind: buspb.Event_JOIN, Connection: ref, Room: room, At: now})
		}
	default:
		ref := refs[r.IntN(len(refs))]
		if l.conns[ref].rooms[room] {
			delete(l.conns[ref].rooms, room)
			l.add(&buspb.Event{Kind: buspb.Event_LEAVE, Connection: ref, Room: room, At: now})
		}
	}
}

// report takes what was not sent yet out of the loops.
func (e *edge) report(heartbeat bool) *buspb.Report {
	r := &buspb.Report{Node: e.name, Epoch: e.epoch}
	if heartbeat {
		r.Stats = &buspb.NodeStats{State: "ready"}
	}
	for i, l := range e.loops {
		if len(l.unsent) > 0 || heartbeat {
			r.Segments = append(r.Segments, &buspb.Segment{Loop: uint32(i), After: l.after, Events: l.unsent})
			l.after, l.unsent = l.number, nil
		}
	}
	return r
}

// snapshot is what a loop answers, in parts of a few connections.
func (e *edge) snapshot(loop uint32) (parts []*buspb.Snapshot) {
	l := e.loops[loop]
	part := func() *buspb.Snapshot {
		s := &buspb.Snapshot{Node: e.name, Epoch: e.epoch, Loop: loop, Loops: uint32(len(e.loops)), Number: l.number, Part: uint32(len(parts))}
		parts = append(parts, s)
		return s
	}
	s := part()
	for _, ref := range slices.Sorted(maps.Keys(l.conns)) {
		if len(s.Connections) == 3 {
			s = part()
		}
		c := l.conns[ref]
		one := &buspb.Connection{Connection: ref, User: c.user, Info: []byte(c.info), At: c.at}
		for _, room := range slices.Sorted(maps.Keys(c.rooms)) {
			i := slices.Index(s.Rooms, room)
			if i < 0 {
				i, s.Rooms = len(s.Rooms), append(s.Rooms, room)
			}
			one.Rooms = append(one.Rooms, uint32(i))
		}
		s.Connections = append(s.Connections, one)
	}
	s.Last = true
	return parts
}

// lines describes rooms and users as they truly are.
func lines(edges map[string]*edge) (list []string) {
	type count struct {
		users map[string]int
		anon  int
		all   int
	}
	rooms := make(map[string]*count)
	users := make(map[string]int)
	for _, e := range edges {
		for _, l := range e.loops {
			for _, c := range l.conns {
				if c.user != "" {
					users[c.user]++
				}
				for room := range c.rooms {
					if rooms[room] == nil {
						rooms[room] = &count{users: make(map[string]int)}
					}
					if rooms[room].all++; c.user == "" {
						rooms[room].anon++
					} else {
						rooms[room].users[c.user]++
					}
				}
			}
		}
	}
	for name, c := range rooms {
		list = append(list, fmt.Sprintf("%s users %v anonymous %d connections %d", name, c.users, c.anon, c.all))
	}
	for name, n := range users {
		list = append(list, fmt.Sprintf("user %s %d", name, n))
	}
	slices.Sort(list)
	return list
}

// picture describes the same as p has it, read in pages of two.
func picture(p *Picture) (list []string) {
	names := make(map[string]bool)
	after := ""
	for {
		page := p.Rooms(RoomQuery{Limit: 2, After: after})
		for _, r := range page.Rooms {
			users, anon, all := make(map[string]int), uint32(0), uint32(0)
			next := ""
			for {
				m := p.Members(r.Room, 2, next)
				anon, all = m.Anonymous, m.Connections
				for _, one := range m.Members {
					users[one.User] = int(one.Connections)
				}
				if next = m.Next; next == "" {
					break
				}
			}
			list = append(list, fmt.Sprintf("%s users %v anonymous %d connections %d", r.Room, users, anon, all))
		}
		if after = page.Next; after == "" {
			break
		}
	}
	for i, name := range p.users.texts {
		if i > 0 && p.users.holds[i] > 0 {
			names[name] = true
		}
	}
	for name := range names {
		n, _ := p.User(name, 10)
		list = append(list, fmt.Sprintf("user %s %d", name, n))
	}
	slices.Sort(list)
	return list
}

// audience holds what is told against what it must mean: a room's users, as one
// who hears only joins and leaves knows them.
type audience struct {
	rooms    map[string]map[string]bool
	occupied map[string]bool
	conns    map[string]bool
	ids      map[string]bool
	nodes    map[string]bool
}

func newAudience() *audience {
	return &audience{make(map[string]map[string]bool), make(map[string]bool), make(map[string]bool), make(map[string]bool), make(map[string]bool)}
}

func (a *audience) hear(events []Event) error {
	for i := range events {
		e := &events[i]
		if a.ids[e.ID()] {
			return fmt.Errorf("the id of %s was told before", e)
		}
		a.ids[e.ID()] = true
		conn := fmt.Sprint(e.Epoch, e.Loop, e.Connection)
		users := a.rooms[e.Room]
		if users == nil {
			users = make(map[string]bool)
			a.rooms[e.Room] = users
		}
		var was, is bool
		switch e.Kind {
		case Connect, Disconnect:
			was, is = a.conns[conn], e.Kind == Connect
			a.conns[conn] = is
		case Join, Leave:
			was, is = users[e.User], e.Kind == Join
			if users[e.User] = is; !is {
				delete(users, e.User)
			}
			if int(e.Users) != len(users) {
				return fmt.Errorf("%s says %d users, it is %d", e, e.Users, len(users))
			}
		case NodeStarted, NodeStopped:
			node := fmt.Sprint(e.Node, e.Epoch)
			was, is = a.nodes[node], e.Kind == NodeStarted
			a.nodes[node] = is
		case Occupied, Vacated:
			was, is = a.occupied[e.Room], e.Kind == Occupied
			a.occupied[e.Room] = is
		}
		if was == is {
			return fmt.Errorf("%s was so before", e)
		}
	}
	return nil
}

// world is edges, a bus that loses, reorders and repeats, and a picture.
type world struct {
	r        *rand.Rand
	p        *Picture
	now      int64
	edges    map[string]*edge
	epochs   uint64
	air      []func() // on its way
	audience *audience
	err      error
}

func (w *world) send(r *buspb.Report) {
	if w.r.IntN(8) == 0 {
		return // lost
	}
	for range 1 + w.r.IntN(6)/5 {
		w.air = append(w.air, func() { w.p.Report(r, w.now) })
	}
}

func (w *world) step() {
	w.now += int64(w.r.IntN(400))
	names := slices.Sorted(maps.Keys(w.edges))
	e := w.edges[names[w.r.IntN(len(names))]]
	switch pick := w.r.IntN(40); {
	case pick < 22:
		l := e.loops[w.r.IntN(len(e.loops))]
		l.act(w.r, w.now)
	case pick < 30:
		w.send(e.report(w.r.IntN(3) == 0))
	case pick < 33: // snapshots of what is missing
		for _, want := range w.p.Wants() {
			if at := w.edges[want.Node]; at != nil && at.epoch == want.Epoch {
				for _, part := range at.snapshot(want.Loop) {
					if w.r.IntN(12) > 0 {
						w.air = append(w.air, func() { w.p.Snapshot(part, w.now) })
					}
				}
			}
		}
	case pick == 33: // it dies and comes back
		w.epochs++
		w.edges[e.name] = newEdge(e.name, w.epochs, len(e.loops))
		if w.r.IntN(2) == 0 {
			w.p.Lost(e.name, w.now)
		}
	case pick == 34: // it was only thought to be dead
		w.p.Lost(e.name, w.now)
	}
	for len(w.air) > 0 && w.r.IntN(3) > 0 {
		i := 0
		if w.r.IntN(6) == 0 {
			i = w.r.IntN(len(w.air))
		}
		one := w.air[i]
		w.air = slices.Delete(w.air, i, i+1)
		one()
	}
	w.p.Tick(w.now)
	w.p.Pushes(w.now)
	if err := w.audience.hear(w.p.Events()); err != nil && w.err == nil {
		w.err = err
	}
}

// settle lets everything arrive.
func (w *world) settle() {
	for _, one := range w.air {
		one()
	}
	w.air = nil
	w.now += 60_000 // whoever is dead is silent
	for _, e := range w.edges {
		w.p.Report(e.report(true), w.now)
	}
	for _, want := range w.p.Wants() {
		if at := w.edges[want.Node]; at != nil && at.epoch == want.Epoch {
			for _, part := range at.snapshot(want.Loop) {
				w.p.Snapshot(part, w.now)
			}
		}
	}
	w.now += 60_000
	w.p.Tick(w.now)
	w.p.Pushes(w.now)
	if err := w.audience.hear(w.p.Events()); err != nil && w.err == nil {
		w.err = err
	}
}

func run(seed uint64, steps int) error {
	w := &world{r: rand.New(rand.NewPCG(seed, 1)), edges: make(map[string]*edge), now: 1_000_000, epochs: 2, audience: newAudience()}
	w.p = New(func(string) Rule { return Rule{Grace: time.Duration(seed%3) * time.Second, Full: 2} })
	w.p.Speak()
	w.edges["edge-0"], w.edges["edge-1"] = newEdge("edge-0", 1, 2), newEdge("edge-1", 2, 1)
	for range 4 {
		for range steps {
			w.step()
		}
		w.settle()
		got, want := picture(w.p), lines(w.edges)
		if !slices.Equal(got, want) {
			return fmt.Errorf("seed %d: the picture is\n%s\nthe truth is\n%s", seed, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if w.err != nil {
			return fmt.Errorf("seed %d: %w", seed, w.err)
		}
		for name, users := range w.audience.rooms {
			if page := w.p.Members(name, 0, ""); name != "" && int(page.Users) != len(users) {
				return fmt.Errorf("seed %d: whoever listened has %v in %s, the picture %d", seed, users, name, page.Users)
			}
		}
		if wants := w.p.Wants(); len(wants) > 0 {
			return fmt.Errorf("seed %d: still wanted: %v", seed, wants)
		}
	}
	return w.empty(seed)
}

// empty takes all nodes away: nothing may be left.
func (w *world) empty(seed uint64) error {
	for name := range w.edges {
		w.p.Lost(name, w.now)
	}
	w.now += 60_000
	w.p.Tick(w.now)
	w.p.Pushes(w.now)
	for what, n := range map[string]int{"users": w.p.users.used, "rooms": w.p.rooms.used, "infos": w.p.infos.used, "listed rooms": w.p.byName.size,
		"members": w.p.totals.Members, "connections": w.p.totals.Connections, "leaving": len(w.p.leaving), "due": len(w.p.due), "dirty": len(w.p.dirty)} {
		if n != 0 {
			return fmt.Errorf("seed %d: %d %s are left behind", seed, n, what)
		}
	}
	return nil
}

func TestWhateverIsLostOrLateThePictureBecomesTheTruth(t *testing.T) {
	for seed := range uint64(300) {
		if err := run(seed, 60); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzThePictureBecomesTheTruth(f *testing.F) {
	f.Add(uint64(1), 50)
	f.Fuzz(func(t *testing.T, seed uint64, steps int) {
		if err := run(seed, steps&255); err != nil {
			t.Fatal(err)
		}
	})
}
