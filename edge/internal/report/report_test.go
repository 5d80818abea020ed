package report

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"nabat/internal/bus"
	"nabat/internal/natsdev"
	"nabat/proto/buspb"
)

func TestEventsAreNumberedWithoutAHole(t *testing.T) {
	woken := 0
	l := NewLog(func() { woken++ })
	for i := range 3 {
		l.Add(&buspb.Event{Connection: uint64(i)})
	}
	if s := l.take(); s.After != 0 || len(s.Events) != 3 || woken != 1 || l.Number() != 3 {
		t.Fatalf("%v, woken %d, number %d", s, woken, l.Number())
	}
	if s := l.take(); s.After != 3 || len(s.Events) != 0 {
		t.Fatalf("an empty log: %v", s)
	}
	l.Add(&buspb.Event{})
	if s := l.take(); s.After != 3 || len(s.Events) != 1 || woken != 2 {
		t.Fatalf("%v", s)
	}
}

func TestWhatNobodyTakesIsDroppedAndItsNumbersStay(t *testing.T) {
	l := NewLog(func() {})
	for range maxEvents + 10 {
		l.Add(&buspb.Event{})
	}
	s := l.take()
	if s.After != maxEvents+1 || len(s.Events) != 9 || l.dropped() != maxEvents+1 {
		t.Fatalf("after %d, %d events, %d dropped", s.After, len(s.Events), l.dropped())
	}
}

// However large the events are, no report is, and together they say the same.
func TestPackKeepsOrderAndSize(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 1))
		var segments []*buspb.Segment
		var want []string
		for loop := range uint32(1 + random.IntN(4)) {
			s := &buspb.Segment{Loop: loop, After: random.Uint64N(100)}
			for i := range random.IntN(2000) {
				s.Events = append(s.Events, &buspb.Event{Kind: buspb.Event_JOIN, Connection: random.Uint64(), Room: "chat." + fmt.Sprint(i), User: "u", Info: make([]byte, random.IntN(1024)), At: 1790000000000})
				want = append(want, fmt.Sprint(loop, s.After+uint64(i), s.Events[i].Connection))
			}
			segments = append(segments, s)
		}
		var counts []*buspb.RoomCount
		for i := range random.IntN(5000) {
			counts = append(counts, &buspb.RoomCount{Room: fmt.Sprintf("room.%0100d", i), Members: 1, Messages: 1 << 60})
		}
		var got []string
		n := 0
		for _, r := range pack("edge-0", 1, segments, counts) {
			if size := proto.Size(r); size > maxBytes {
				t.Fatalf("a report of %d bytes", size)
			}
			for _, s := range r.Segments {
				for i, e := range s.Events {
					got = append(got, fmt.Sprint(s.Loop, s.After+uint64(i), e.Connection))
				}
			}
			n += len(r.Counts)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || n != len(counts) {
			t.Fatalf("seed %d: %d events of %d, %d counts of %d", seed, len(got), len(want), n, len(counts))
		}
	}
}

func TestPartsOfASnapshot(t *testing.T) {
	s := &State{Loop: 2, Number: 77}
	for i := range 500 {
		s.Rooms = append(s.Rooms, fmt.Sprintf("chat.%d", i))
	}
	for i := range 5000 {
		s.Members = append(s.Members, Member{Connection: uint64(i), User: fmt.Sprint("u", i), Info: make([]byte, 100), Rooms: []uint32{uint32(i % 500), uint32(i * 7 % 500)}})
	}
	var parts []*buspb.Snapshot
	if err := s.Parts("edge-0", 9, 4, func(b []byte) bool {
		if len(b) > maxBytes {
			t.Errorf("a part of %d bytes", len(b))
		}
		p := new(buspb.Snapshot)
		if err := proto.Unmarshal(b, p); err != nil {
			t.Fatal(err)
		}
		parts = append(parts, p)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if len(parts) < 3 {
		t.Fatalf("%d parts", len(parts))
	}
	next := 0
	for i, p := range parts {
		if p.Part != uint32(i) || p.Last != (i == len(parts)-1) || p.Number != 77 || p.Loop != 2 || p.Loops != 4 || p.Epoch != 9 {
			t.Fatalf("part %d: %d, last %v", i, p.Part, p.Last)
		}
		for _, c := range p.Connections {
			m := s.Members[next]
			if c.Connection != m.Connection || c.User != m.User || p.Rooms[c.Rooms[0]] != s.Rooms[m.Rooms[0]] || p.Rooms[c.Rooms[1]] != s.Rooms[m.Rooms[1]] {
				t.Fatalf("connection %d: %v", next, c)
			}
			next++
		}
	}
	if next != len(s.Members) {
		t.Fatalf("%d connections", next)
	}
	empty := 0
	if err := (&State{}).Parts("n", 1, 1, func(b []byte) bool { empty++; return true }); err != nil || empty != 1 {
		t.Errorf("an empty loop has %d parts, %v", empty, err)
	}
}

type source struct{ told, untold int }

func (s *source) Stats() *buspb.NodeStats { return &buspb.NodeStats{Connections: 7, State: "ready"} }
func (s *source) Counts(int) []*buspb.RoomCount {
	s.told++
	return []*buspb.RoomCount{{Room: "a", Members: 1}}
}
func (s *source) Untold([]*buspb.RoomCount) { s.untold++ }

func TestReportsOverNATS(t *testing.T) {
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	connect := func() *nats.Conn {
		nc, err := bus.Connect(t.Context(), bus.Options{URL: server.URL(), Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	nc := connect()
	sub, err := nc.SubscribeSync(bus.ReportPrefix + "*")
	if err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	src := new(source)
	r := New(Options{NATS: connect(), Node: "edge.0", Epoch: 5, Loops: 2, Interval: 10 * time.Millisecond, Heartbeat: time.Hour, Source: src, Log: slog.New(slog.DiscardHandler)})
	next := func() *buspb.Report {
		t.Helper()
		m, err := sub.NextMsg(20 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		one := new(buspb.Report)
		if m.Subject != "nabat.report.edge%2E0" || proto.Unmarshal(m.Data, one) != nil || one.Node != "edge.0" || one.Epoch != 5 {
			t.Fatalf("%s %v", m.Subject, one)
		}
		return one
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	first := next()
	if len(first.Segments) != 2 || first.Stats.GetConnections() != 7 || len(first.Counts) != 1 || first.Segments[1].Loop != 1 {
		t.Fatalf("heartbeat %v", first)
	}
	r.Loop(1).Add(&buspb.Event{Kind: buspb.Event_CONNECT, Connection: 1, User: "alice"})
	if one := next(); len(one.Segments) != 1 || one.Segments[0].Loop != 1 || one.Segments[0].After != 0 || len(one.Segments[0].Events) != 1 || one.Stats != nil {
		t.Fatalf("events %v", one)
	}
	cancel()
	<-done
	r.Loop(1).Add(&buspb.Event{Kind: buspb.Event_DISCONNECT, Connection: 1})
	end, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := r.Leave(end); err != nil {
		t.Fatal(err)
	}
	if one := next(); one.Segments[0].After != 1 || one.Leaving {
		t.Fatalf("last events %v", one)
	}
	if one := next(); !one.Leaving {
		t.Fatalf("leaving %v", one)
	}
	// Without NATS nothing waits, and what was not told is known.
	r.opts.NATS.Close()
	r.Loop(0).Add(&buspb.Event{})
	r.beat()
	if _, lost := r.Counts(); lost != 1 || src.untold != 1 || r.Loop(0).take().After != 1 {
		t.Errorf("%d lost, %d counts taken back", lost, src.untold)
	}
}
