package loop

import "time"

const (
	// Tick is the resolution of deadlines.
	Tick = 100 * time.Millisecond

	wheelTicks = 1 << 10 // horizon 102 s; later deadlines take several rounds
)

// wheel is a hashed timer wheel. A deadline is 12 bytes in a bucket and a tick
// in the connection's table entry; no object, no pointer. Moving a deadline
// forward leaves a stale entry behind that is recognised when its bucket comes.
type wheel struct {
	began   time.Time
	current uint32 // the tick that was served last
	buckets [wheelTicks][]deadline
}

type deadline struct {
	ref  Ref
	tick uint32
}

func (w *wheel) start(now time.Time) { w.began, w.current = now, 0 }

// set asks for a wake after d unless an earlier one is pending.
func (w *wheel) set(ref Ref, d time.Duration, t *table) {
	e := t.entry(ref)
	if e == nil {
		return
	}
	ticks := (d + Tick - 1) / Tick
	ticks = min(max(ticks, 1), 1<<30)
	tick := w.current + uint32(ticks)
	if e.wake != 0 && e.wake <= tick {
		return
	}
	e.wake = tick
	w.insert(deadline{ref, tick})
}

func (w *wheel) insert(d deadline) {
	at := min(d.tick, w.current+wheelTicks-1)
	b := &w.buckets[at%wheelTicks]
	*b = append(*b, d)
}

// advance serves every tick up to now.
func (w *wheel) advance(now time.Time, t *table) {
	target := uint32(now.Sub(w.began) / Tick)
	for w.current < target {
		w.current++
		b := &w.buckets[w.current%wheelTicks]
		list := *b
		*b = nil
		for _, d := range list {
			w.fire(d, t)
		}
		// Keep the memory of an ordinary bucket, not of a burst.
		if *b == nil && cap(list) <= 1024 {
			*b = list[:0]
		}
	}
}

func (w *wheel) fire(d deadline, t *table) {
	e := t.entry(d.ref)
	if e == nil || e.wake != d.tick {
		return // closed, or overtaken by an earlier deadline
	}
	if d.tick > w.current {
		w.insert(d) // beyond the horizon: another round
		return
	}
	e.wake = 0
	e.handler.Wake()
}
