package client

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"nabat/proto/wire"
)

// outlet is where events go: to the loops over their room, or else to Events.
type outlet struct {
	// Set at creation, never changed.
	events chan Event
	others chan struct{} // closed when the program has another way than Events to hear of things
	turn   chan struct{} // held by who joins or leaves a room for a feed

	// Atomic.
	heard atomic.Bool // Events was asked for

	once    sync.Once      // closes others
	held    map[string]int // by who holds turn: the feeds of rooms that are joined for them alone
	leaving crew

	// mu guards feeds.
	mu    sync.Mutex
	feeds map[topic][]*feed
}

// topic is what a feed takes out of all events.
type topic struct {
	room     string
	presence bool // who comes and leaves, else all the rest
}

// feed is the queue of one loop.
type feed struct {
	topic  topic
	events chan Event
	done   chan struct{} // closed when the loop has ended: what comes then is dropped
	// missed is set where the feed is not waited for: it says that something was
	// dropped because the feed was full.
	missed chan struct{}

	holds bool // by who holds turn: it counts in held
}

func newOutlet(queue int) *outlet {
	return &outlet{events: make(chan Event, queue), others: make(chan struct{}), turn: make(chan struct{}, 1), held: map[string]int{}, feeds: map[topic][]*feed{}}
}

// listen is what Events returns.
func (o *outlet) listen() <-chan Event {
	o.heard.Store(true)
	return o.events
}

// otherwise says that Events need not be read by who has not asked for it.
func (o *outlet) otherwise() { o.once.Do(func() { close(o.others) }) }

// put hands an event to who takes it, and waits until they do or stop is closed,
// when it reports false. It calls waits, if that is not nil, before and after it
// waits.
func (o *outlet) put(e Event, stop <-chan struct{}, waits func(bool)) bool {
	if waits == nil {
		waits = func(bool) {}
	}
	takers, events := o.takers(&e)
	for _, f := range takers {
		if !f.put(e, stop, waits) {
			return false
		}
	}
	if !events {
		return true
	}
	select {
	case o.events <- e:
		return true
	default:
	}
	others := o.others
	if o.heard.Load() {
		others = nil
	}
	waits(true)
	defer waits(false)
	select {
	case o.events <- e:
		return true
	case <-others:
		return true // nobody reads Events: they may begin, and have missed this one
	case <-stop:
		return false
	}
}

func (f *feed) put(e Event, stop <-chan struct{}, waits func(bool)) bool {
	select {
	case f.events <- e:
		return true
	case <-f.done:
		return true
	default:
	}
	if f.missed != nil {
		select {
		case f.missed <- struct{}{}:
		default: // it is known
		}
		return true
	}
	waits(true)
	defer waits(false)
	select {
	case f.events <- e:
	case <-f.done:
	case <-stop:
		return false
	}
	return true
}

// takers lists the feeds that take e, and says whether Events has it, too.
func (o *outlet) takers(e *Event) (takers []*feed, events bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.feeds) == 0 {
		return nil, true
	}
	of := func(room string) []*feed { return slices.Clone(o.feeds[topic{room: room}]) }
	switch {
	case e.Message != nil:
		takers = of(e.Message.Room)
	case e.Gap != nil:
		takers = of(e.Gap.Room)
	case e.Reset != nil:
		takers = of(e.Reset.Room)
	case e.Recovered != nil:
		takers = of(e.Recovered.Room)
	case e.Lagging != nil:
		takers = of(e.Lagging.Room)
	case e.Presence != nil:
		takers = slices.Clone(o.feeds[topic{e.Presence.Room, true}])
	case e.Unsubscribed != nil:
		for t, feeds := range o.feeds {
			if slices.Contains(e.Unsubscribed, t.room) {
				takers = append(takers, feeds...)
			}
		}
		return takers, true // it may be about other rooms as well
	}
	return takers, len(takers) == 0
}

// host is who joins rooms for a feed: a Conn or a Keeper.
type host interface {
	Subscribe(ctx context.Context, rooms []string, options ...SubscribeOption) ([]wire.Position, error)
	Unsubscribe(ctx context.Context, rooms ...string) error
	Err() error
	in(ctx context.Context, room string) (bool, error)
	ended() <-chan struct{}
}

// open joins the room of a new feed, unless it was joined already.
func (o *outlet) open(ctx context.Context, h host, f *feed, options ...SubscribeOption) (*wire.Position, error) {
	o.otherwise()
	select {
	case o.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-o.turn }()
	room := f.topic.room
	joined, err := h.in(ctx, room)
	if err != nil {
		return nil, err
	}
	// Before the answer: messages come right behind it.
	o.mu.Lock()
	o.feeds[f.topic] = append(o.feeds[f.topic], f)
	o.mu.Unlock()
	at, err := h.Subscribe(ctx, []string{room}, options...)
	if err != nil {
		o.remove(f)
		return nil, err
	}
	if _, ours := o.held[room]; ours || !joined {
		f.holds = true
		o.held[room]++
	}
	if len(at) == 0 {
		return &wire.Position{Room: room}, nil
	}
	return &at[0], nil
}

// close ends a feed that was opened. Its room is left behind its back, if it was
// joined for feeds alone and this was the last; what comes until then is dropped.
func (o *outlet) close(h host, f *feed) {
	close(f.done)
	o.leaving.run(func() {
		ctx, cancel := contextOf(h)
		defer cancel()
		select {
		case o.turn <- struct{}{}:
		case <-ctx.Done():
			return
		}
		defer func() { <-o.turn }()
		room := f.topic.room
		if f.holds {
			if o.held[room]--; o.held[room] == 0 {
				if h.Unsubscribe(ctx, room) != nil {
					return // still there: f drops what comes, and who opens the room next may leave it
				}
				delete(o.held, room)
			}
		}
		o.remove(f)
	})
}

func (o *outlet) remove(f *feed) {
	o.mu.Lock()
	defer o.mu.Unlock()
	left := slices.DeleteFunc(o.feeds[f.topic], func(other *feed) bool { return other == f })
	if o.feeds[f.topic] = left; len(left) == 0 {
		delete(o.feeds, f.topic)
	}
}

// contextOf ends with a Conn or a Keeper.
func contextOf(h host) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // it ends with ctx
		select {
		case <-h.ended():
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// crew are goroutines whose owner waits for them.
type crew struct {
	mu   sync.Mutex // guards over, and that nobody comes behind it
	over bool
	all  sync.WaitGroup
}

// run has fn run by a goroutine. It reports false when wait was called before.
func (c *crew) run(fn func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false
	}
	c.all.Go(fn)
	return true
}

// wait returns when all have ended. Nobody comes any more.
func (c *crew) wait() {
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	c.all.Wait()
}
