package upstream

import (
	"container/heap"
	"time"
)

// timer is a time at which a room wants attention. A room's own field says
// whether it is still meant.
type timer struct {
	at   time.Time
	room *room
	read bool // a read is to be tried again; else the room is to be verified
}

// timers is a heap of timers, the earliest first.
type timers []timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(x any)        { *t = append(*t, x.(timer)) }
func (t *timers) Pop() any {
	old := *t
	last := old[len(old)-1]
	old[len(old)-1] = timer{}
	*t = old[:len(old)-1]
	return last
}

// verifyAt makes r be compared with the store at a time.
func (c *continuity) verifyAt(r *room, at time.Time) {
	r.verifyAt = at
	heap.Push(&c.timers, timer{at: at, room: r})
}

// retryAt makes r's read be tried again at a time.
func (c *continuity) retryAt(r *room, at time.Time) {
	r.retryAt = at
	heap.Push(&c.timers, timer{at: at, room: r, read: true})
}

// dueTimers serves what is due: reads that are to be tried again, and rooms to
// be verified, many with one question.
func (c *continuity) dueTimers(now time.Time) {
	var list []*room
	for len(c.timers) > 0 && !now.Before(c.timers[0].at) {
		t := heap.Pop(&c.timers).(timer)
		r := t.room
		switch {
		case r.chain == nil || c.link.byName[r.name] != r:
		case t.read && r.retryAt.Equal(t.at):
			r.retryAt = time.Time{}
			c.attend(r)
		case !t.read && r.verifyAt.Equal(t.at):
			r.verifyAt = time.Time{}
			list = append(list, r)
		}
	}
	if len(list) > 0 {
		c.newest(list, c.verified)
	}
}
