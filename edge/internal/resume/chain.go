package resume

// DefaultLimit is how many messages a chain holds when SetLimit was not called.
const DefaultLimit = 256

// Chain is the order of one room on one edge: what goes in live, possibly with
// losses and repetitions, and what is read from the store, possibly late, comes
// out in order, once, and without a hole that was not told as a Cut.
//
// The zero value is ready and opening: it asks for Base. After every call the
// caller looks at Ask. Results are valid until the next call. One owner.
type Chain[T any] struct {
	last  uint64
	told  uint64    // the newest offset known to be stored; above last: to be read
	held  []held[T] // Invariant when live: ascending, above last, the first does not follow last
	one   [1]Entry[T]
	limit int
	state state
	// broken says that no run of the subscription is known to be unbroken since
	// the newest held message or, when none is held, since last.
	broken  bool
	idle    bool // what was told of could not be read; it is not asked for again
	more    bool // the last batch was not the end
	checked bool // Stored has answered since Broken
}

type state uint8

const (
	opening state = iota // nothing is known of the room; live messages are held
	adrift               // nothing is known and nobody to ask: the next message is the beginning
	live
)

// held is a live message that waits for what comes before it.
type held[T any] struct {
	Entry[T]
	// linked: the subscription ran unbroken since the message before it in the
	// list or, for the first, since last.
	linked bool
}

// SetLimit bounds the messages held while the store is read. Of more than n,
// the oldest are forgotten; they will be read. Below 1 it is DefaultLimit.
func (c *Chain[T]) SetLimit(n int) {
	c.limit = n
	c.shed()
}

// Last is the offset up to which everything was handed out or cut.
func (c *Chain[T]) Last() uint64 { return c.last }

// Holding reports whether live messages wait for stored ones.
func (c *Chain[T]) Holding() bool { return len(c.held) > 0 }

// Verified reports whether Stored has confirmed Last since the last Broken, or
// has named an offset that was reached since. A room whose newest message has
// been taken from the store stays unverified until the next message comes and
// is confirmed: bound the tries.
func (c *Chain[T]) Verified() bool { return c.state == live && c.checked && c.Ask() == Nothing }

// Ask is what the chain needs now. Before Read is asked for a second time
// without progress, wait 20–50 ms: the store that answered was behind. After
// some tries, GiveUp.
func (c *Chain[T]) Ask() Ask {
	switch {
	case c.state == opening:
		return Base
	case len(c.held) > 0 || c.told > c.last && !c.idle || c.more:
		return Read
	}
	return Nothing
}

// Live takes a message that came from the subscription, in order of arrival. It
// does not allocate when e is the next one. A message that repeats another may
// come at any time, as from a second subscription.
func (c *Chain[T]) Live(e Entry[T]) (out []Entry[T]) {
	if c.state == live && len(c.held) == 0 && e.Offset > c.last && c.follows(&e, !c.broken) {
		return c.pass(e)
	}
	switch {
	case e.Offset <= c.last || e.Offset == 0:
		if e.Offset == c.last && len(c.held) == 0 {
			c.broken = c.told > c.last // the present run has brought last again
		}
		return nil
	case c.state == adrift:
		c.state = live
		return c.pass(e)
	}
	c.hold(e)
	if c.state == opening {
		return nil
	}
	return c.splice(nil)
}

// follows reports whether nothing can lie between last and e.
func (c *Chain[T]) follows(e *Entry[T], linked bool) bool {
	switch {
	case e.Offset == c.last+1: // no offset lies between
		return true
	case e.Prev == c.last && c.last > 0: // the server says so
		return true
	}
	// Last had been taken from the store when e was stored, or there never was
	// one. What came between and was taken too would have been seen.
	return e.Prev <= c.last && linked
}

func (c *Chain[T]) pass(e Entry[T]) []Entry[T] {
	c.last = e.Offset
	c.broken = c.told > e.Offset
	c.one[0] = e
	return c.one[:]
}

// hold puts e into its place. Mostly that is the end.
func (c *Chain[T]) hold(e Entry[T]) {
	i := len(c.held)
	for i > 0 && c.held[i-1].Offset > e.Offset {
		i--
	}
	atEnd := i == len(c.held)
	if i > 0 && c.held[i-1].Offset == e.Offset {
		if atEnd {
			c.broken = c.told > e.Offset // the present run has brought it again
		}
		return
	}
	h := held[T]{Entry: e, linked: atEnd && !c.broken}
	c.held = append(c.held, h)
	if atEnd {
		c.broken = c.told > e.Offset
	} else {
		// It came late, so the run that brought the one behind it lacked it.
		copy(c.held[i+1:], c.held[i:])
		c.held[i] = h
		c.held[i+1].linked = false
	}
	c.shed()
}

// shed forgets the oldest held messages above the limit.
func (c *Chain[T]) shed() {
	limit := c.limit
	if limit < 1 {
		limit = DefaultLimit
	}
	if n := len(c.held) - limit; n > 0 {
		c.release(n)
		c.held[0].linked = false
	}
}

// release takes the first n out of held.
func (c *Chain[T]) release(n int) {
	if n == len(c.held) {
		c.held = nil // gaps are rare; rooms are many
		return
	}
	k := copy(c.held, c.held[n:])
	clear(c.held[k:])
	c.held = c.held[:k]
}

// splice appends to out the held messages that follow last.
func (c *Chain[T]) splice(out []Entry[T]) []Entry[T] {
	n := 0
	for n < len(c.held) && c.follows(&c.held[n].Entry, c.held[n].linked) {
		out = append(out, c.held[n].Entry)
		c.last = c.held[n].Offset
		n++
	}
	if n > 0 {
		c.release(n)
	}
	return out
}

// tell notes that the offset x is stored, which live messages did not tell yet.
func (c *Chain[T]) tell(x uint64) {
	c.told = max(c.told, x)
	c.idle = false
	c.unlink(x)
}

// unlink notes that the run which brought the messages around the offset x did
// not bring x.
func (c *Chain[T]) unlink(x uint64) {
	for i := range c.held {
		switch h := &c.held[i]; {
		case h.Offset == x:
			return
		case h.Offset > x:
			h.linked = false
			return
		}
	}
	c.broken = true
}

// Base answers Ask Base: the room begins behind last. What was held is handed
// out or, if something is missing before it, asked for. The answer may be old;
// what it lacks is found by the prev of the next message, or by Stored.
func (c *Chain[T]) Base(last uint64) (out []Entry[T]) {
	if c.state == live {
		c.Stored(last)
		return nil
	}
	c.state = live
	if last > 0 {
		n := 0
		for n < len(c.held) && c.held[n].Offset <= last {
			n++
		}
		seen := n > 0 && c.held[n-1].Offset == last
		c.release(n)
		c.moved(last, seen)
	}
	return c.splice(nil)
}

// moved sets last to an offset that came from the store. The run that brought
// the next live message counts only if it has brought last too: a store that is
// behind, or a break, may hide messages that were taken since.
func (c *Chain[T]) moved(last uint64, seen bool) {
	c.last = last
	if !seen {
		c.unlink(last)
	}
}

// Broken says that the subscription's unbroken run has ended: a reconnect, a
// drop. Call it after the last message of the old run and before the first of
// the new one. A message whose prev is below Last then proves nothing, and the
// newest messages may be missing: ask for the newest offset and call Stored.
func (c *Chain[T]) Broken() {
	c.broken = true
	c.checked = false
}

// Stored tells the newest stored offset of the room, 0 for none. Below Last it
// is old, or Last has been taken since, and says nothing. Above Last the chain
// asks Read, unless the messages arrive meanwhile. The question must have been
// sent after the last Broken; otherwise Verified may say yes too early.
func (c *Chain[T]) Stored(last uint64) {
	switch {
	case c.state == opening || last < c.last:
		return
	case c.state == adrift:
		c.Base(last)
		return
	}
	c.checked = c.checked || last >= c.told
	if last > c.last {
		c.tell(last)
	}
}

// Replay takes one batch that answers Read. A list that begins with the message
// at Last proves that nothing behind Last has been taken. If that message is
// gone, continuity counts as proven only when provable, that is when the caller
// knows that nothing can have been taken since Last was handed out; otherwise
// the chain goes on behind the cut. An empty list proves nothing: the store is
// behind, or all was taken. With more another batch follows: the chain asks
// Read again. A batch needs room for two messages, or it may hold nothing but
// the proof and lead nowhere. An answer that comes when none is asked for any more is ignored;
// one that was asked for at an earlier Last is not.
func (c *Chain[T]) Replay(list []Entry[T], more, provable bool) (out []Entry[T], cut *Cut) {
	if c.Ask() != Read {
		return nil, nil
	}
	c.more = more
	if len(list) == 0 {
		return nil, nil
	}
	if first := list[0].Offset; first > c.last+1 && !provable {
		if len(c.held) == 0 || c.held[0].Offset >= first {
			cut = &Cut{From: c.last, To: first}
		} else if out, cut = c.overtake(list); first > c.last+1 {
			return out, cut
		}
	}
	return c.splice(c.merge(out, list)), cut
}

// merge appends to out the list and what is held between its messages, which
// was stored once and has been taken since.
func (c *Chain[T]) merge(out, list []Entry[T]) []Entry[T] {
	n, last, seen := 0, c.last, true
	for _, e := range list {
		if e.Offset <= last {
			continue
		}
		for n < len(c.held) && c.held[n].Offset < e.Offset {
			out = append(out, c.held[n].Entry)
			n++
		}
		if seen = n < len(c.held) && c.held[n].Offset == e.Offset; seen {
			n++
		}
		out = append(out, e)
		last = e.Offset
	}
	if n > 0 {
		c.release(n)
	}
	if last > c.last {
		c.moved(last, seen)
	}
	return out
}

// overtake leaps when what is held reaches back further than list, the store's
// oldest, but perhaps not up to it.
func (c *Chain[T]) overtake(list []Entry[T]) (out []Entry[T], cut *Cut) {
	for i := range list { // what is held does not follow over any of them
		c.tell(list[i].Offset)
	}
	return c.leap()
}

// leap hands out the first held message over a cut, and what follows it.
func (c *Chain[T]) leap() (out []Entry[T], cut *Cut) {
	h := c.held[0].Entry
	if h.Offset > c.last+1 {
		cut = &Cut{From: c.last, To: h.Offset}
	}
	c.last = h.Offset
	c.release(1)
	return c.splice([]Entry[T]{h}), cut
}

// GiveUp says that the store cannot be read now. The held messages come out
// behind a cut; where something is missing between them too, only those before
// that place do, and the chain is still Holding: call it again, for each call
// tells one cut. With nothing held the chain stays where it is and tells no
// cut: later messages, or Stored, will make it ask again. The chain is then
// live, but not verified.
func (c *Chain[T]) GiveUp() (out []Entry[T], cut *Cut) {
	c.idle, c.more, c.checked = true, false, false
	if len(c.held) > 0 {
		c.state = live
		return c.leap()
	}
	if c.state == opening {
		c.state = adrift
		return nil, &Cut{}
	}
	return nil, nil
}
