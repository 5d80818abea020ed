package resume

import (
	"fmt"
	"testing"
)

// show is a step, and what is known of the recovery after it, as text.
func show(c *Cursor[uint64], s Step[uint64]) string {
	text := [...]string{"live", "deliver", "read", "wait"}[s.Do]
	if s.Do == DoRead {
		text += fmt.Sprint(" ", s.From)
	}
	if s.Cut != nil {
		text += fmt.Sprintf(" cut %d-%d", s.Cut.From, s.Cut.To)
	}
	for _, o := range offsets(s.Entries) {
		text += fmt.Sprint(" ", o)
	}
	if recovered, known := c.Recovered(); known {
		text += fmt.Sprintf(" (recovered %v)", recovered)
	}
	return text
}

func TestCursorRules(t *testing.T) {
	type cursor = Cursor[uint64]
	type view = View[uint64]
	next := func(provable bool) func(*cursor, view) Step[uint64] {
		return func(c *cursor, v view) Step[uint64] { return c.Next(v, provable) }
	}
	replay := func(more, provable bool, offsets string) func(*cursor, view) Step[uint64] {
		return func(c *cursor, v view) Step[uint64] { return c.Replay(v, list(offsets), more, provable) }
	}
	giveUp := func(provable bool) func(*cursor, view) Step[uint64] {
		return func(c *cursor, v view) Step[uint64] { return c.GiveUp(v, provable) }
	}
	resume, lag := Resume[uint64], Lag[uint64]
	// The ring has 12 15 20 22 behind 10; the loop is at 20.
	cases := []struct {
		rule   string
		cursor cursor
		view   view
		steps  []func(*cursor, view) Step[uint64]
		want   []string
	}{
		{"where the loop is, it is live", resume("e", 20), view{}, s(next(false)), w("live (recovered true)")},
		{"the ring serves up to the loop", resume("e", 12), view{}, s(next(false)), w("live 15 20 (recovered true)")},
		{"in pieces", resume("e", 10), view{Limit: 2}, s(next(false), next(false)), w("deliver 12 15 (recovered true)", "live 20 (recovered true)")},
		{"below the ring it reads from the position on", resume("e", 9), view{}, s(next(false)), w("read 9")},
		{"the position itself proves", resume("e", 6), view{}, s(next(false), replay(false, false, "6 8 12 20 21")), w("read 6", "live 8 12 20 (recovered true)")},
		{"the ring takes over from a read", resume("e", 6), view{}, s(next(false), replay(true, false, "6 8 10"), next(false)), w("read 6", "deliver 8 10 (recovered true)", "live 12 15 20 (recovered true)")},
		{"batch after batch", resume("e", 4), view{}, s(next(false), replay(true, false, "4 6"), replay(false, false, "6 20")), w("read 4", "read 6 6 (recovered true)", "live 20 (recovered true)")},
		{"a position that is gone is a cut", resume("e", 6), view{}, s(next(false), replay(false, false, "8 12 20")), w("read 6", "live cut 6-8 8 12 20 (recovered false)")},
		{"unless nothing can have been taken", resume("e", 6), view{}, s(next(false), replay(false, true, "8 12 20")), w("read 6", "live 8 12 20 (recovered true)")},
		{"all up to the loop is gone", resume("e", 6), view{}, s(next(false), replay(false, false, "22")), w("read 6", "live cut 6-21 (recovered false)")},
		{"a store that is behind is read again", resume("e", 6), view{}, s(next(false), replay(false, false, ""), next(false), replay(false, false, "6 8"), next(false)), w("read 6", "wait", "read 6", "wait 8 (recovered true)", "read 8 (recovered true)")},
		{"a batch that leads nowhere is not read on", resume("e", 6), view{}, s(next(false), replay(true, false, "6")), w("read 6", "wait")},
		{"giving up cuts and serves what the ring has", resume("e", 6), view{}, s(next(false), giveUp(false)), w("read 6", "live cut 6-11 12 15 20 (recovered false)")},
		{"giving up without a ring cuts up to the loop", resume("e", 6), view{Ring: new(Ring[uint64])}, s(next(false), giveUp(false)), w("read 6", "live cut 6-21 (recovered false)")},
		{"a loop that is behind is waited for", resume("e", 22), view{}, s(next(true)), w("wait")},
		{"but not for ever", resume("e", 22), view{}, s(next(false), giveUp(false)), w("wait", "live cut 0-0 (recovered false)")},
		{"and may be right all the same", resume("e", 22), view{}, s(next(false), giveUp(true)), w("wait", "live (recovered true)")},
		{"another epoch starts over", resume("d", 12), view{}, s(next(true), next(false)), w("live cut 0-0 (recovered false)", "live (recovered false)")},
		{"offset 0 needs proof", resume("e", 0), view{}, s(next(false), replay(false, false, "4 20")), w("read 1", "live cut 0-4 4 20 (recovered false)")},
		{"offset 0 with the stream's first message has it", resume("e", 0), view{}, s(next(false), replay(false, false, "1 20")), w("read 1", "live 1 20 (recovered true)")},
		{"offset 0 in a lag is an ordinary place", lag("e", 0), view{}, s(next(false), replay(false, false, "4 20")), w("read 1 (recovered true)", "live cut 0-4 4 20 (recovered true)")},
		{"lagging is caught up like resuming", lag("e", 12), view{}, s(next(false)), w("live 15 20 (recovered true)")},
	}
	for _, c := range cases {
		t.Run(c.rule, func(t *testing.T) {
			var r Ring[uint64]
			r.Bound(5, 100)
			r.Reset(10)
			push(&r, 1, 12, 15, 20, 22)
			c.view.Epoch, c.view.Position = "e", 20
			if c.view.Ring == nil {
				c.view.Ring = &r
			}
			for i, step := range c.steps {
				if got := show(&c.cursor, step(&c.cursor, c.view)); got != c.want[i] {
					t.Fatalf("step %d: %s; want %s", i, got, c.want[i])
				}
			}
		})
	}
}

func s[T any](list ...T) []T    { return list }
func w(list ...string) []string { return list }

func TestAnEmptyRoomProvesNothingToOffsetZero(t *testing.T) {
	for _, provable := range []bool{false, true} {
		var r Ring[uint64]
		c := Resume[uint64]("e", 0)
		step := c.Next(View[uint64]{Epoch: "e", Ring: &r}, provable)
		if recovered, known := c.Recovered(); step.Do != DoLive || recovered != provable || !known || (step.Cut == nil) != provable {
			t.Errorf("provable %v: %s", provable, show(&c, step))
		}
		r.Bound(5, 100)
		push(&r, 1, 4)
		c = Resume[uint64]("e", 0)
		step = c.Next(View[uint64]{Epoch: "e", Position: 4, Ring: &r}, provable)
		if got, want := show(&c, step), map[bool]string{false: "live cut 0-4 4 (recovered false)", true: "live 4 (recovered true)"}[provable]; got != want {
			t.Errorf("provable %v: %s; want %s", provable, got, want)
		}
	}
}

// A ring that began when nothing was stored does not know what had been taken
// before: a client that comes back has to find its own message in it.
func TestARingFromTheBeginningOfTimeProvesOnlyWhatItHas(t *testing.T) {
	var r Ring[uint64]
	r.Bound(5, 100)
	push(&r, 1, 12, 15)
	view := View[uint64]{Epoch: "e", Position: 15, Ring: &r}
	for _, c := range []struct {
		from uint64
		want []string
	}{
		{12, []string{"live 15 (recovered true)"}},
		{8, []string{"read 8", "live cut 8-12 12 15 (recovered false)"}},
		{13, []string{"read 13", "live cut 13-15 15 (recovered false)"}},
	} {
		cursor := Resume[uint64]("e", c.from)
		for i, want := range c.want {
			step := cursor.Next
			if i > 0 {
				step = func(v View[uint64], _ bool) Step[uint64] {
					return cursor.Replay(v, list(map[uint64]string{8: "12 15", 13: "15"}[c.from]), false, false)
				}
			}
			if got := show(&cursor, step(view, false)); got != want {
				t.Errorf("from %d: %s; want %s", c.from, got, want)
			}
		}
	}
	// Without the store it is told of a loss, and still gets what the ring has.
	cursor := Resume[uint64]("e", 8)
	if got, want := show(&cursor, cursor.GiveUp(view, false)), "live cut 8-9 12 15 (recovered false)"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
}
