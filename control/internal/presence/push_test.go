package presence

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"nabat/proto/buspb"
)

// shown is pushes as text.
func shown(list []Push) (out []string) {
	for _, p := range list {
		text := fmt.Sprintf("%s users %d anonymous %d", p.Room, p.Users, p.Anonymous)
		for _, m := range p.Join {
			text += " +" + m.User
		}
		for _, m := range p.Leave {
			text += " -" + m.User
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return out
}

// script tells a picture what one loop says.
type script struct {
	p      *Picture
	number uint64
}

func (s *script) happen(now int64, events ...*buspb.Event) {
	s.p.Report(&buspb.Report{Node: "edge-0", Epoch: 1, Segments: []*buspb.Segment{{After: s.number, Events: events}}}, now)
	s.number += uint64(len(events))
}

func (s *script) arrive(now int64, conn uint64, user, room string) {
	s.happen(now, &buspb.Event{Kind: buspb.Event_CONNECT, Connection: conn << 32, User: user}, &buspb.Event{Kind: buspb.Event_JOIN, Connection: conn << 32, Room: room})
}

func (s *script) depart(now int64, conn uint64) {
	s.happen(now, &buspb.Event{Kind: buspb.Event_DISCONNECT, Connection: conn << 32})
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s: %q, want %q", what, got, want)
	}
}

func TestClientsAreShownMergedChangesAndCountsWhereThereAreMany(t *testing.T) {
	p := New(func(string) Rule { return Rule{Grace: time.Second, Full: 3} })
	p.Speak()
	s := &script{p: p}
	s.arrive(10_000, 1, "ann", "a")
	s.arrive(10_000, 2, "", "a")
	expect(t, "the first at once, together", shown(p.Pushes(10_000)), "a users 1 anonymous 1 +ann")
	s.arrive(10_010, 3, "bob", "a")
	expect(t, "a moment later", shown(p.Pushes(10_010)))
	s.arrive(10_020, 4, "ann", "a") // another connection of hers
	expect(t, "not before its time", shown(p.Pushes(10_099)))
	expect(t, "what came meanwhile", shown(p.Pushes(10_100)), "a users 2 anonymous 1 +bob")
	s.depart(10_200, 3)
	s.arrive(10_900, 5, "bob", "a")
	expect(t, "a flap within the grace is nothing", shown(p.Pushes(10_950)))
	p.Tick(20_000)
	expect(t, "nor later", shown(p.Pushes(20_000)))
	s.depart(20_000, 5)
	p.Tick(20_999)
	expect(t, "within the grace", shown(p.Pushes(20_999)))
	p.Tick(21_000)
	expect(t, "behind it", shown(p.Pushes(21_000)), "a users 1 anonymous 1 -bob")
	for i := range uint64(4) {
		s.arrive(30_000, 10+i, fmt.Sprint("u", i), "a")
	}
	expect(t, "too many to list", shown(p.Pushes(30_000)), "a users 5 anonymous 1")
	s.arrive(30_100, 20, "eve", "a")
	expect(t, "at most once a second", shown(p.Pushes(30_999)))
	expect(t, "then the count", shown(p.Pushes(31_000)), "a users 6 anonymous 1")
	s.depart(32_000, 2)
	expect(t, "an anonymous one", shown(p.Pushes(32_000)), "a users 6 anonymous 0")
}

func TestWhoHasDiedWithTheNodeLeavesAtOnce(t *testing.T) {
	p := New(func(string) Rule { return Rule{Grace: 5 * time.Second, Full: 10} })
	p.Speak()
	s := &script{p: p}
	s.arrive(10_000, 1, "ann", "a")
	p.Events()
	p.Lost("edge-0", 26_000)
	var got []string
	for _, e := range p.Events() {
		got = append(got, fmt.Sprint(e.Kind, " ", e.Room, " ", e.User, " ", e.Reason, " ", e.Users))
	}
	expect(t, "in order", got, "leave a ann node_lost 0", "vacated a  node_lost 0", "disconnect  ann node_lost 0", "node_stopped   node_lost 0")
}

func TestRatesAndRoomsOfPolicysWithoutPresence(t *testing.T) {
	p := New(func(string) Rule { return Rule{} })
	count := func(now int64, node string, rooms ...*buspb.RoomCount) {
		p.Report(&buspb.Report{Node: node, Epoch: 1, Counts: rooms}, now)
	}
	count(1000, "edge-0", &buspb.RoomCount{Room: "a", Members: 5, Messages: 100}, &buspb.RoomCount{Room: "b", Members: 9})
	count(1000, "edge-1", &buspb.RoomCount{Room: "a", Members: 6, Messages: 50})
	count(3000, "edge-0", &buspb.RoomCount{Room: "a", Members: 5, Messages: 140})
	count(3000, "edge-1", &buspb.RoomCount{Room: "a", Members: 6, Messages: 88})
	list := func(q RoomQuery) (out []string) {
		q.Limit = max(q.Limit, 10)
		for _, r := range p.Rooms(q).Rooms {
			out = append(out, fmt.Sprintf("%s %d %.0f %d", r.Room, r.Members, r.Rate, r.Nodes))
		}
		return out
	}
	expect(t, "a message is one though two nodes have it", list(RoomQuery{Sort: ByMembers}), "a 11 20 2", "b 9 0 1")
	p.Tick(20_000)
	expect(t, "a rate ends", list(RoomQuery{}), "a 11 0 2", "b 9 0 1")
	count(20_000, "edge-0", &buspb.RoomCount{Room: "b"})
	p.Lost("edge-1", 20_000)
	expect(t, "with the members the room is gone", list(RoomQuery{}), "a 5 0 1")
	p.Lost("edge-0", 20_000)
	expect(t, "and with the node", list(RoomQuery{}))
	if p.rooms.used != 0 {
		t.Error("rooms are left behind")
	}
}

func TestPagesOfRoomsByMembers(t *testing.T) {
	p := New(func(string) Rule { return Rule{} })
	r := &buspb.Report{Node: "edge-0", Epoch: 1}
	for i := range 50 {
		r.Counts = append(r.Counts, &buspb.RoomCount{Room: fmt.Sprintf("r%02d", i), Members: uint32(1 + i%7)})
	}
	p.Report(r, 1)
	var got []ranked
	after := ""
	for {
		page := p.Rooms(RoomQuery{Sort: ByMembers, Limit: 8, After: after})
		for _, r := range page.Rooms {
			got = append(got, ranked{name: r.Room, score: float64(r.Members)})
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if len(got) != 50 || !slices.IsSortedFunc(got, rank) {
		t.Fatal(got)
	}
}

// A list that is read while somebody changes connections must be whole: that they
// are back within the grace is told to nobody.
func TestWhoIsAboutToComeBackIsStillWhoTheyAre(t *testing.T) {
	p := New(func(string) Rule { return Rule{Grace: time.Second, Full: 3} })
	p.Speak()
	s := &script{p: p}
	come := func(conn uint64, info string) {
		s.happen(10_000, &buspb.Event{Kind: buspb.Event_CONNECT, Connection: conn << 32, User: "ann", Info: []byte(info)},
			&buspb.Event{Kind: buspb.Event_JOIN, Connection: conn << 32, Room: "a"})
	}
	members := func() string { return fmt.Sprintf("%+v", p.Members("a", 10, "").Members) }
	come(1, `{"name":"Ann"}`)
	s.depart(10_000, 1)
	if got := members(); got != `[{User:ann Connections:0 Info:{"name":"Ann"}}]` {
		t.Errorf("within the grace: %s", got)
	}
	come(2, `{"name":"Anna"}`)
	if got := members(); got != `[{User:ann Connections:1 Info:{"name":"Anna"}}]` {
		t.Errorf("back: %s", got)
	}
	// Who becomes somebody else leaves as who they were.
	s.happen(10_000, &buspb.Event{Kind: buspb.Event_IDENTITY, Connection: 2 << 32, User: "bob", Info: []byte(`{"name":"Bob"}`)})
	if got := members(); got != `[{User:ann Connections:0 Info:{"name":"Anna"}} {User:bob Connections:1 Info:{"name":"Bob"}}]` {
		t.Errorf("renamed: %s", got)
	}
	p.Tick(12_000)
	if got := members(); got != `[{User:bob Connections:1 Info:{"name":"Bob"}}]` {
		t.Errorf("after the grace: %s", got)
	}
}

// A loop that turns up late may have been there before: nobody is told who came,
// but those who watch learn how many there are, and ask.
func TestALoopThatIsTakenOverWithoutAWordIsCounted(t *testing.T) {
	part := func() *buspb.Snapshot {
		return &buspb.Snapshot{Node: "edge-0", Epoch: 1, Loops: 1, Number: 2, Last: true, Rooms: []string{"a"},
			Connections: []*buspb.Connection{{Connection: 1 << 32, User: "ann", Rooms: []uint32{0}}}}
	}
	for _, spoken := range []bool{false, true} {
		p := New(func(string) Rule { return Rule{Full: 3} })
		if spoken {
			p.Speak()
		}
		p.Quiet(true)
		p.Snapshot(part(), 10_000)
		var want []string
		if spoken {
			want = []string{"a users 1 anonymous 0"}
		}
		expect(t, fmt.Sprintf("spoken %v", spoken), shown(p.Pushes(10_000)), want...)
		if events := p.Events(); len(events) != 0 {
			t.Errorf("spoken %v: %+v", spoken, events)
		}
	}
}

func TestPagesOfRoomsByRate(t *testing.T) {
	p := New(func(string) Rule { return Rule{} })
	for round := range uint64(2) {
		r := &buspb.Report{Node: "edge-0", Epoch: 1}
		for i := range 50 {
			// Thirds: a cursor must bring back the very rate.
			r.Counts = append(r.Counts, &buspb.RoomCount{Room: fmt.Sprintf("r%02d", i), Members: uint32(1 + i), Messages: round * uint64(i%7)})
		}
		p.Report(r, 1+3000*int64(round))
	}
	var got []ranked
	after := ""
	for {
		page := p.Rooms(RoomQuery{Sort: ByRate, Limit: 8, After: after})
		for _, r := range page.Rooms {
			got = append(got, ranked{name: r.Room, score: float64(r.Rate)})
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if len(got) != 50 || !slices.IsSortedFunc(got, rank) || got[0].score != 2 || got[0].name != "r06" {
		t.Fatal(got)
	}
}

func TestNodesComeAndGo(t *testing.T) {
	p := New(func(string) Rule { return Rule{} })
	report := func(epoch uint64, leaving bool) {
		p.Report(&buspb.Report{Node: "edge-0", Epoch: epoch, Leaving: leaving}, 10_000)
	}
	told := func() (list []string) {
		for _, e := range p.Events() {
			list = append(list, fmt.Sprint(e.ID(), " ", e.Node, " ", e.Reason))
		}
		return list
	}
	report(1, false)
	expect(t, "before anybody is told anything", told())
	p.Speak()
	p.Quiet(true)
	p.Report(&buspb.Report{Node: "edge-1", Epoch: 7}, 10_000)
	expect(t, "one that may have been there before", told())
	p.Quiet(false)
	report(2, false)
	expect(t, "started anew", told(), "1.0.0.node_stopped edge-0 restarted", "2.0.0.node_started edge-0 ")
	report(2, true)
	expect(t, "it leaves", told(), "2.0.0.node_stopped edge-0 stopped")
	p.Lost("edge-0", 10_000)
	expect(t, "it is gone already", told())
	report(3, false)
	p.Lost("edge-0", 10_000)
	report(3, false)
	expect(t, "lost, and back", told(), "3.0.0.node_started edge-0 ", "3.0.0.node_stopped edge-0 node_lost", "3.0.1.node_started edge-0 ")
}
