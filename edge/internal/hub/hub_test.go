package hub

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"nabat/edge/internal/frame"
	"nabat/proto/wire"
)

// sink records what each member gets.
type sink struct {
	got      map[uint32][]string
	directly int
}

func (s *sink) Deliver(member, room uint32, b []byte, n int) {
	s.directly++
	s.Queue(member, room, b, n)
}

func (s *sink) Queue(member, _ uint32, b []byte, _ int) {
	if s.got == nil {
		s.got = make(map[uint32][]string)
	}
	for _, line := range strings.SplitAfter(string(b), "\n\n") {
		if line != "" {
			s.got[member] = append(s.got[member], line)
		}
	}
}

func (s *sink) Events(member, room uint32, list []*frame.Message) {
	s.Queue(member, room, frame.Join(list, frame.EventStream), len(list))
}

func nobody(string) (uint32, bool) { return 0, false }

func message(room, text, exclude string) *frame.Message {
	return frame.New(wire.Message{Room: room, Kind: wire.Text, Body: []byte(text)}, exclude)
}

func line(room, text string) string {
	return fmt.Sprintf("data: {\"room\":%q,\"text\":%q}\n\n", room, text)
}

func TestMembersOfARoomGetItsMessagesInOrder(t *testing.T) {
	h := New()
	h.Join(1, frame.EventStream, "a")
	h.Join(2, frame.EventStream, "a")
	h.Join(3, frame.EventStream, "b")
	h.Push(message("a", "1", ""))
	h.Push(message("a", "2", ""))
	h.Push(message("nobody", "3", ""))
	var s sink
	h.Flush(&s, nobody)
	h.EndTurn()
	want := []string{line("a", "1"), line("a", "2")}
	if !slices.Equal(s.got[1], want) || !slices.Equal(s.got[2], want) || s.got[3] != nil {
		t.Fatalf("got %v", s.got)
	}
	if s.directly != 2 {
		t.Fatalf("%d direct deliveries: a single busy room is written at once", s.directly)
	}
}

func TestSeveralBusyRoomsAreCollectedForEachMember(t *testing.T) {
	h := New()
	for _, room := range []string{"a", "b"} {
		h.Join(1, frame.EventStream, room)
	}
	h.Push(message("a", "1", ""))
	h.Push(message("b", "2", ""))
	var s sink
	h.Flush(&s, nobody)
	h.EndTurn()
	if s.directly != 0 || len(s.got[1]) != 2 {
		t.Fatalf("direct %d, got %v", s.directly, s.got)
	}
}

func TestAnExcludedConnectionGetsAllButTheMessagesThatExcludeIt(t *testing.T) {
	h := New()
	h.Join(1, frame.EventStream, "a")
	h.Join(2, frame.EventStream, "a")
	h.Push(message("a", "1", ""))
	h.Push(message("a", "2", "c-two"))
	h.Push(message("a", "3", ""))
	var s sink
	h.Flush(&s, func(id string) (uint32, bool) { return 2, id == "c-two" })
	if !slices.Equal(s.got[1], []string{line("a", "1"), line("a", "2"), line("a", "3")}) {
		t.Errorf("member 1: %q", s.got[1])
	}
	if !slices.Equal(s.got[2], []string{line("a", "1"), line("a", "3")}) {
		t.Errorf("member 2: %q", s.got[2])
	}
}

func TestLeavingWhileMessagesWait(t *testing.T) {
	h := New()
	h.Join(1, frame.EventStream, "a")
	h.Push(message("a", "1", ""))
	if left, last := h.Leave(1, "a"); !left || !last {
		t.Fatal("was the last member")
	}
	h.Join(2, frame.EventStream, "b") // must not take over a's slot and messages
	var s sink
	h.Flush(&s, nobody)
	h.EndTurn()
	if len(s.got) != 0 {
		t.Fatalf("got %v", s.got)
	}
	h.Push(message("b", "2", ""))
	h.Flush(&s, nobody)
	h.EndTurn()
	if !slices.Equal(s.got[2], []string{line("b", "2")}) {
		t.Fatalf("got %v", s.got)
	}
}

func TestJoinTwiceIsOneMembership(t *testing.T) {
	h := New()
	if first, joined := h.Join(1, frame.EventStream, "a"); !first || !joined {
		t.Fatal("first join")
	}
	if first, joined := h.Join(1, frame.EventStream, "a"); first || joined {
		t.Fatal("second join")
	}
	if left, _ := h.Leave(2, "a"); left {
		t.Fatal("a stranger left")
	}
}

// Random joins and leaves against a model of sets.
func TestAgainstAModel(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	h := New()
	model := map[string]map[uint32]bool{}
	for step := range 20000 {
		member, room := uint32(r.IntN(40)), fmt.Sprint("r", r.IntN(15))
		switch r.IntN(5) {
		case 0, 1:
			first, joined := h.Join(member, frame.Encoding(int(member)%frame.Encodings), room)
			if joined == model[room][member] || first != (len(model[room]) == 0) {
				t.Fatalf("step %d: join %v %v", step, first, joined)
			}
			if model[room] == nil {
				model[room] = map[uint32]bool{}
			}
			model[room][member] = true
		case 2, 3:
			left, last := h.Leave(member, room)
			if left != model[room][member] {
				t.Fatalf("step %d: left %v", step, left)
			}
			delete(model[room], member)
			if last != (left && len(model[room]) == 0) {
				t.Fatalf("step %d: last %v", step, last)
			}
		case 4:
			if r.IntN(10) > 0 {
				continue
			}
			h.LeaveAll(member, func(name string, _ uint32) {
				if len(model[name]) != 1 {
					t.Fatalf("step %d: %s is not empty", step, name)
				}
			})
			for _, members := range model {
				delete(members, member)
			}
		}
		if step%100 == 0 {
			check(t, h, model)
		}
	}
}

func check(t *testing.T, h *Hub, model map[string]map[uint32]bool) {
	t.Helper()
	rooms := 0
	for room, members := range model {
		if len(members) > 0 {
			rooms++
		}
		if h.Has(room) != (len(members) > 0) {
			t.Fatalf("room %s: has %v, model %d", room, h.Has(room), len(members))
		}
		h.Push(message(room, "x", ""))
		var s sink
		h.Flush(&s, nobody)
		h.EndTurn()
		if len(s.got) != len(members) {
			t.Fatalf("room %s: %d got it, model %d", room, len(s.got), len(members))
		}
	}
	if h.Size() != rooms {
		t.Fatalf("%d rooms, model %d", h.Size(), rooms)
	}
}

func TestInboxIsBoundedAndNamesWhatItLost(t *testing.T) {
	kicks := 0
	in := NewInbox(3*message("a", "", "").Size(), func() { kicks++ })
	in.Put([]*frame.Message{message("a", "", ""), message("a", "", ""), message("a", "", ""), message("b", "", ""), message("b", "", "")})
	list, lost := in.Take(nil)
	if len(list) != 3 || lost["b"].Messages != 2 || kicks != 1 {
		t.Fatalf("%d messages, lost %v, %d kicks", len(list), lost, kicks)
	}
	in.Put([]*frame.Message{message("b", "", "")})
	if list, lost = in.Take(list); len(list) != 1 || lost != nil {
		t.Fatalf("after Take: %d messages, lost %v", len(list), lost)
	}
}

type discard struct{ n int }

func (d *discard) Deliver(_, _ uint32, b []byte, _ int) { d.n += len(b) }
func (d *discard) Queue(_, _ uint32, b []byte, _ int)   { d.n += len(b) }

func (d *discard) Events(_, _ uint32, list []*frame.Message) { d.n += len(list) }

func BenchmarkFlush10k(b *testing.B) {
	h := New()
	for i := range uint32(10000) {
		h.Join(i, frame.WebSocketJSON, "a")
	}
	m := message("a", "hello", "")
	var d discard
	b.ReportAllocs()
	for b.Loop() {
		h.Push(m)
		h.Flush(&d, nobody)
		h.EndTurn()
	}
}

// A room's turn is encoded once for each encoding in it, whatever the number of
// members: all of an encoding share its bytes.
func TestMembersOfAnEncodingShareItsBytes(t *testing.T) {
	for _, members := range []int{1, 500} {
		h := New()
		for m := range uint32(members * frame.Encodings) {
			h.Join(m, frame.Encoding(m%uint32(frame.Encodings)), "a")
		}
		s := &shared{seen: make(map[*byte]int)}
		turn := func() {
			clear(s.seen)
			h.Push(message("a", "1", ""))
			h.Push(message("a", "2", ""))
			h.Flush(s, nobody)
			h.EndTurn()
		}
		turn()
		if len(s.seen) != frame.Encodings {
			t.Errorf("%d members: %d buffers for %d encodings", members, len(s.seen), frame.Encodings)
		}
		for _, n := range s.seen {
			if n != members {
				t.Errorf("%d of %d members share a buffer", n, members)
			}
		}
		// Two messages with their bodies, each in three encodings; a joined buffer
		// for each form, compressed or not. What others do with interfaces is
		// theirs.
		if got := testing.AllocsPerRun(50, turn); got > 2*(2+3)+float64(frame.Encodings) {
			t.Errorf("%d members: %v allocations", members, got)
		}
	}
}

// shared counts who gets which buffer.
type shared struct{ seen map[*byte]int }

func (s *shared) Deliver(_, _ uint32, b []byte, _ int)      { s.seen[&b[0]]++ }
func (s *shared) Queue(_, _ uint32, b []byte, _ int)        { s.seen[&b[0]]++ }
func (s *shared) Events(_, _ uint32, list []*frame.Message) {}
