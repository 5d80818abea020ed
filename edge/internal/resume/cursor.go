package resume

// Cursor is the way of one subscription from where it was to where its loop is:
// after a reconnect (Resume) or after it lagged (Lag). The caller makes a step
// with Next and does what it says, until it says DoLive:
//
//	DoDeliver  write Entries, and when they are written call Next
//	DoRead     read the room's stored messages from From on, one batch; call Replay
//	DoWait     wait 20–50 ms, or until the loop has moved; call Next; after some tries GiveUp
//	DoLive     write Entries; from now on the loop's messages are the next ones
//
// A Cut is told before the Entries that come with it, whatever there is to do.
type Cursor[T any] struct {
	epoch     string
	position  uint64
	known     bool // recovered is settled
	recovered bool
}

// Do is what the caller of a cursor does next.
type Do uint8

// What there is to do.
const (
	DoLive Do = iota
	DoDeliver
	DoRead
	DoWait
)

// Step is what a cursor decided. Entries are in order, behind what was handed
// out before, and at or below the loop's position.
type Step[T any] struct {
	Do      Do
	From    uint64 // with DoRead: the first offset to read
	Cut     *Cut
	Entries []Entry[T]
}

// View is a room as a cursor's loop sees it at the moment of the step.
type View[T any] struct {
	Epoch string
	// Position is the offset of the last message that the loop has handed to
	// the room's members. A subscription that becomes live gets what is above.
	Position uint64
	// Ring may be ahead of Position, and nil. The caller has locked it.
	Ring *Ring[T]
	// Limit bounds the entries of one step that come from the ring; below 1
	// there is no bound. Those of a read are bounded by who reads.
	Limit int
}

// Resume returns the cursor of a client that came back with a position.
func Resume[T any](epoch string, offset uint64) Cursor[T] {
	return Cursor[T]{epoch: epoch, position: offset}
}

// Lag returns the cursor of a subscription that was live up to offset on this
// edge and could not keep up.
func Lag[T any](epoch string, offset uint64) Cursor[T] {
	return Cursor[T]{epoch: epoch, position: offset, known: true, recovered: true}
}

// Position is the offset up to which everything was handed out or cut.
func (c *Cursor[T]) Position() uint64 { return c.position }

// Recovered reports whether everything between the position that the cursor
// began with and the first entry it handed out is known to be there. It is not
// known before the first step that hands out, cuts or goes live. A cut in a
// later step is a gap, and does not change it; a new epoch does.
func (c *Cursor[T]) Recovered() (recovered, known bool) { return c.recovered, c.known }

func (c *Cursor[T]) judge(recovered bool) {
	if !c.known {
		c.known, c.recovered = true, recovered
	}
}

// Next makes a step without the store. provable is as for Chain.Replay; here it
// matters only to a client that comes back with offset 0, for which neither the
// ring nor the store can prove anything.
func (c *Cursor[T]) Next(v View[T], provable bool) Step[T] {
	switch {
	case c.epoch != v.Epoch:
		return c.restart(v)
	case c.position > v.Position: // the client was served by an edge that is ahead of this one
		return Step[T]{Do: DoWait}
	case c.position == v.Position && (c.position > 0 || c.known):
		c.judge(true)
		return Step[T]{Do: DoLive}
	case c.position < v.Position && !c.covered(v):
		return Step[T]{Do: DoRead, From: max(c.position, 1)}
	}
	start := c.position
	s := c.fromRing(v)
	if start == 0 && !c.known {
		// Nothing was stored when this edge opened the room, but there may have
		// been something in the meantime.
		first := uint64(0)
		if len(s.Entries) > 0 {
			first = s.Entries[0].Offset
		}
		if c.judge(provable || first == 1); !c.recovered {
			s.Cut = &Cut{To: first}
		}
	}
	c.judge(true)
	return s
}

// covered reports whether the ring has all from the position to the loop's. One
// that began when nothing was stored does not know what had been taken before,
// so a client that comes back has to find its own message in it.
func (c *Cursor[T]) covered(v View[T]) bool {
	return v.Ring != nil && c.position >= v.Ring.Low() && v.Ring.Newest() >= v.Position &&
		(v.Ring.Low() > 0 || c.known || c.position == 0 || v.Ring.has(c.position))
}

func (c *Cursor[T]) fromRing(v View[T]) Step[T] {
	if c.position == v.Position {
		return Step[T]{Do: DoLive}
	}
	limit := v.Limit
	if limit < 1 {
		limit = v.Ring.Len()
	}
	s := Step[T]{Do: DoLive, Entries: v.Ring.between(c.position, v.Position, limit)}
	c.position = v.Position
	if n := len(s.Entries); n == limit && s.Entries[n-1].Offset < v.Position {
		s.Do = DoDeliver
		c.position = s.Entries[n-1].Offset
	}
	return s
}

// restart leaves an epoch that is no more: nothing of it can be compared.
func (c *Cursor[T]) restart(v View[T]) Step[T] {
	c.epoch, c.position = v.Epoch, v.Position
	c.known, c.recovered = true, false
	return Step[T]{Do: DoLive, Cut: &Cut{}}
}

// Replay makes a step with one batch that answers DoRead; more says that the
// store has further messages. The rules are those of Chain.Replay: a list that
// begins at the position proves that nothing was lost, as does provable. A
// batch that ends below the loop's position with nothing more to read comes
// from a store that is behind: DoWait. So does one that holds nothing new: a batch
// needs room for two messages, as the first is the one that proves.
func (c *Cursor[T]) Replay(v View[T], list []Entry[T], more, provable bool) (s Step[T]) {
	if c.epoch != v.Epoch {
		return c.restart(v)
	}
	if c.position >= v.Position {
		return c.Next(v, provable)
	}
	if n := len(list); n > 0 && list[n-1].Offset > c.position {
		first := min(list[0].Offset, v.Position+1)
		proven := provable || list[0].Offset <= c.position+1
		if c.judge(proven); !proven {
			s.Cut = &Cut{From: c.position, To: first}
		}
	}
	start, end := c.position, c.position
	for i := range list {
		if list[i].Offset > end && list[i].Offset <= v.Position {
			s.Entries = append(s.Entries, list[i])
		}
		end = max(end, list[i].Offset)
	}
	c.position = min(end, v.Position)
	switch {
	case c.position == v.Position:
		s.Do = DoLive
	case c.covered(v):
		s.Do = DoDeliver
	case more && c.position > start:
		s.Do, s.From = DoRead, max(c.position, 1)
	default:
		s.Do = DoWait
	}
	return s
}

// GiveUp makes a step when the store cannot be read, or stays behind: what is
// missing is cut, and the ring serves the rest. A position that is still above
// the loop's is taken for recovered only when provable: its message and all
// after it may have been taken from the store before this edge opened the room.
func (c *Cursor[T]) GiveUp(v View[T], provable bool) Step[T] {
	switch {
	case c.epoch != v.Epoch:
		return c.restart(v)
	case c.position > v.Position:
		s := Step[T]{Do: DoLive}
		if c.judge(provable); !provable {
			s.Cut = &Cut{}
		}
		c.position = v.Position
		return s
	case c.position == v.Position || c.covered(v):
		return c.Next(v, provable)
	}
	to := v.Position
	if v.Ring != nil && v.Ring.Newest() >= to {
		to = min(max(v.Ring.Low(), c.position), to)
	}
	cut := &Cut{From: c.position, To: to + 1}
	c.judge(false)
	c.position = to
	s := c.fromRing(v)
	s.Cut = cut
	return s
}
