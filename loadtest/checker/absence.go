package checker

import (
	"slices"
	"time"
)

// absences are the times for which clients that had been in all of their rooms
// were not. The zero value is ready. Its user guards it.
type absences struct {
	since map[int]time.Time // by client, of those that are absent now
	over  []time.Duration
}

// begin notes that a client is absent from now on.
func (a *absences) begin(client int) {
	if a.since == nil {
		a.since = make(map[int]time.Time)
	}
	a.since[client] = time.Now()
}

// end notes that a client is back, if it was absent.
func (a *absences) end(client int) {
	if since, absent := a.since[client]; absent {
		a.over = append(a.over, time.Since(since))
		delete(a.since, client)
	}
}

// Absences returns how long clients were not in all of their rooms after they had
// been, shortest first, and forgets it: each absence that ended since the last
// call is one.
func (r *Run) Absences() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	over := r.absences.over
	r.absences.over = nil
	slices.Sort(over)
	return over
}
