package checker

import "testing"

func TestAnAbsenceIsBetweenTwoPresences(t *testing.T) {
	r := &Run{present: make(map[int]bool), done: make(map[int]bool)}
	a, b := &client{id: 1}, &client{id: 2}
	r.here(a, false) // it has not been there yet
	r.here(a, true)
	r.here(a, true)
	r.here(b, true)
	if got := r.Absences(); len(got) != 0 {
		t.Errorf("nobody was absent: %v", got)
	}
	r.here(a, false)
	r.here(b, false)
	r.here(b, false) // it tries again
	r.here(b, true)
	if got := r.Absences(); len(got) != 1 || got[0] <= 0 {
		t.Errorf("one came back: %v", got)
	}
	r.here(a, true)
	if got := r.Absences(); len(got) != 1 || len(r.Absences()) != 0 {
		t.Errorf("the other came back, once: %v", got)
	}
}
