package presence

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"nabat/proto/buspb"
)

// masses is a snapshot of users with one connection each, each in so many rooms,
// of 100 connections a room.
func masses(connections, rooms int) *buspb.Snapshot {
	s := &buspb.Snapshot{Node: "edge-0", Epoch: 1, Loops: 1, Number: 1, Last: true}
	for i := range connections * rooms / 100 {
		s.Rooms = append(s.Rooms, fmt.Sprintf("chat.%07d", i))
	}
	for i := range connections {
		c := &buspb.Connection{Connection: uint64(i)<<32 | 1, User: fmt.Sprintf("user-%08d", i), At: 1_790_000_000_000}
		for k := range rooms {
			c.Rooms = append(c.Rooms, uint32((i*rooms+k*len(s.Rooms)/rooms)%len(s.Rooms)))
		}
		s.Connections = append(s.Connections, c)
	}
	return s
}

func bench() *Picture {
	return New(func(string) Rule { return Rule{Grace: 5 * time.Second, Full: 500} })
}

// processor is the time that this process has had of processors: what a
// benchmark takes on a machine that others use, too.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func live() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkRebuild builds the picture of 1,000,000 members out of a snapshot. It
// tells bytes for each member, the texts of users among them.
func BenchmarkRebuild(b *testing.B) {
	const members = 1_000_000
	for _, rooms := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("rooms=%d", rooms), func(b *testing.B) {
			var p *Picture
			for b.Loop() {
				b.StopTimer()
				p = nil
				before := live() // the snapshot is made, and dropped, outside of what is counted
				s := masses(members/rooms, rooms)
				b.StartTimer()
				p = bench()
				p.Snapshot(s, 1)
				b.StopTimer()
				s = nil
				b.ReportMetric(float64(live()-before)/members, "B/member")
				b.StartTimer()
			}
			if p.totals.Members != members {
				b.Fatal(p.totals.Members)
			}
		})
	}
}

// BenchmarkOneRoom is the same with all in one room.
func BenchmarkOneRoom(b *testing.B) {
	const members = 1_000_000
	for b.Loop() {
		b.StopTimer()
		before := live()
		s := masses(members, 1)
		s.Rooms = []string{"all"}
		for _, c := range s.Connections {
			c.Rooms[0] = 0
		}
		b.StartTimer()
		used := processor()
		p := bench()
		p.Snapshot(s, 1)
		b.StopTimer()
		b.ReportMetric((processor() - used).Seconds(), "cpu-s/rebuild")
		s = nil
		b.ReportMetric(float64(live()-before)/members, "B/member")
		if page := p.Members("all", 1000, "user-00500000"); len(page.Members) != 1000 {
			b.Fatal(len(page.Members))
		}
		b.StartTimer()
	}
}

// BenchmarkJoinLeave is one join and one leave among 1,000,000 members.
func BenchmarkJoinLeave(b *testing.B) {
	p := bench()
	p.Snapshot(masses(1_000_000, 1), 1)
	p.Speak()
	seg := &buspb.Segment{After: 1, Events: []*buspb.Event{{Kind: buspb.Event_JOIN}, {Kind: buspb.Event_LEAVE}}}
	r := &buspb.Report{Node: "edge-0", Epoch: 1, Segments: []*buspb.Segment{seg}}
	i := 0
	used := processor()
	defer func() { b.ReportMetric(float64(processor()-used)/float64(2*b.N), "cpu-ns/event") }()
	for b.Loop() {
		i++
		for _, e := range seg.Events {
			e.Connection, e.Room = uint64(i*7919%1_000_000)<<32|1, fmt.Sprintf("chat.%07d", i%10_000)
		}
		p.Report(r, int64(i))
		seg.After += 2
		if i%50 == 0 {
			p.Pushes(int64(i))
		}
		p.Events()
	}
}

// BenchmarkPage reads 1000 members out of the middle of 1,000,000.
func BenchmarkPage(b *testing.B) {
	p := bench()
	s := masses(1_000_000, 1)
	s.Rooms = []string{"all"}
	for _, c := range s.Connections {
		c.Rooms[0] = 0
	}
	p.Snapshot(s, 1)
	for b.Loop() {
		p.Members("all", 1000, "user-00500000")
	}
}

// BenchmarkRooms reads a page of 100 out of 100,000 rooms.
func BenchmarkRooms(b *testing.B) {
	p := bench()
	p.Snapshot(masses(1_000_000, 10), 1)
	for _, q := range []RoomQuery{{Limit: 100, After: "chat.0050000"}, {Limit: 100, Prefix: "chat.005"}, {Limit: 100, Sort: ByMembers}, {Limit: 100, Sort: ByRate}, {Limit: 100, Search: "99999"}} {
		b.Run(fmt.Sprintf("sort=%d,search=%s,prefix=%s", q.Sort, q.Search, q.Prefix), func(b *testing.B) {
			for b.Loop() {
				p.Rooms(q)
			}
		})
	}
}
