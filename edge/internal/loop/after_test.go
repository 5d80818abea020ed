package loop

import (
	"testing"
	"time"
)

func TestAfterComesOnceItsTimeHas(t *testing.T) {
	l := start(t, nil)
	done := make(chan [2]time.Time, 4)
	const wait = 2 * Tick
	if err := l.Do(func() {
		asked := l.Now()
		l.After(wait, func() {
			first := l.Now()
			l.After(0, func() { done <- [2]time.Time{asked.Add(wait), first} })
		})
	}); err != nil {
		t.Fatal(err)
	}
	if at := await(t, done); at[1].Before(at[0]) {
		t.Fatalf("came %s early", at[0].Sub(at[1]))
	}
	if err := l.Do(func() {
		if len(l.later) != 0 {
			t.Errorf("%d appointments are left", len(l.later))
		}
	}); err != nil {
		t.Fatal(err)
	}
}

func TestEveryRemovalIsHeardOnce(t *testing.T) {
	l := start(t, nil)
	var heard []Ref
	if err := l.Do(func() { l.OnRemove(func(ref Ref) { heard = append(heard, ref) }) }); err != nil {
		t.Fatal(err)
	}
	a, _ := pair(t)
	b, _ := pair(t)
	first, second := add(t, l, a, newRecorder()), add(t, l, b, newRecorder())
	if err := l.Do(func() { l.Remove(first); l.Remove(first) }); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if len(heard) != 2 || heard[0] != first || heard[1] != second {
		t.Fatalf("heard %v, want %v and %v", heard, first, second)
	}
}
