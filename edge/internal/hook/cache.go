package hook

import (
	"sync"
	"time"
)

// key is what an answer counts for: nothing else of a question.
type key struct {
	event               Event
	user, tokenID, room string
	// Where the client connects from; without a user and a token id its connection:
	// nothing tells such clients apart.
	from string
}

// keyOf is the key of q, the zero key where answers are not kept.
func keyOf(q *Question) key {
	k := key{event: q.Event, user: q.User, tokenID: q.TokenID, room: q.Room}
	nobody := q.User == "" && q.TokenID == ""
	switch {
	case q.Event == Connect && nobody:
		return key{} // it asks once
	case q.Event == Connect:
		k.from = q.Address
	case nobody:
		k.from = q.Connection
	}
	return k
}

// sample is how many answers are looked at to find one to forget.
const sample = 8

// cache keeps answers, at most max. Safe from any goroutine.
type cache struct {
	max int

	// mu guards answers.
	mu      sync.Mutex
	answers map[key]kept
}

type kept struct {
	answer *Answer
	until  time.Time
}

func newCache(max int) *cache { return &cache{max: max, answers: make(map[key]kept)} }

func (c *cache) find(q *Question, now time.Time) *Answer {
	k := keyOf(q)
	if k == (key{}) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.answers[k]
	if ok && !now.Before(e.until) {
		delete(c.answers, k)
		return nil
	}
	return e.answer
}

func (c *cache) keep(k key, a *Answer, now time.Time) {
	if a.TTL <= 0 || k == (key{}) || c.max == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.answers[k]; !known && len(c.answers) >= c.max {
		c.makeRoom(now)
	}
	c.answers[k] = kept{a, now.Add(a.TTL)}
}

// makeRoom forgets what no longer counts among some answers, else one of them.
// The caller has mu.
func (c *cache) makeRoom(now time.Time) {
	looked, victim := 0, key{}
	for k, e := range c.answers {
		if !now.Before(e.until) {
			delete(c.answers, k)
		}
		victim = k
		if looked++; looked == sample {
			break
		}
	}
	if len(c.answers) >= c.max {
		delete(c.answers, victim)
	}
}
