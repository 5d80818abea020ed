package events

import (
	"context"
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/bus"
	"nabat/proto/buspb"
)

// ledger is what others should say, in order, until it is seen.
type ledger struct {
	list  []*said // nil: seen
	first int     // number of list[0]
	byID  map[string]int
	bySay map[say]int // the newest of it

	// What was in the stream before the report that tells of it came here: the
	// newest ids, in two halves.
	early, older map[string]struct{}
}

// maxEarly bounds a half of the ids that came early.
const maxEarly = 1 << 15

// say is what an event says, however it was learned: replicas that missed
// different reports know the same by different numbers.
type say struct{ kind, room, user, session string }

func newLedger() ledger {
	return ledger{byID: make(map[string]int), bySay: make(map[say]int), early: make(map[string]struct{})}
}

func (l *ledger) size() int { return len(l.byID) }

func sayOf(e *said) say {
	return say{string(e.Kind), e.Room, e.User, buspb.SessionID(e.Epoch, e.Loop, e.Connection)}
}

// add keeps one more, unless it was seen already, and reports whether the oldest
// had to go for it.
func (l *ledger) add(e said, most int) (full bool) {
	for _, half := range []map[string]struct{}{l.early, l.older} {
		if _, seen := half[e.id]; seen {
			delete(half, e.id)
			return false
		}
	}
	if full = len(l.list) >= most; full {
		l.drop(l.list[0])
		l.list, l.first = l.list[1:], l.first+1
	}
	l.byID[e.id], l.bySay[sayOf(&e)] = l.first+len(l.list), l.first+len(l.list)
	l.list = append(l.list, &e)
	return full
}

func (l *ledger) drop(e *said) {
	if e == nil {
		return
	}
	if at, ok := l.byID[e.id]; ok {
		delete(l.byID, e.id)
		if k := sayOf(e); l.bySay[k] == at {
			delete(l.bySay, k)
		}
		l.list[at-l.first] = nil
	}
}

// seen removes what the stream has.
func (l *ledger) seen(id string, body []byte) {
	at, ok := l.byID[id]
	var e Event
	if !ok && len(l.bySay) > 0 && json.Unmarshal(body, &e) == nil {
		at, ok = l.bySay[say{string(e.Kind), e.Room, e.User, e.Session}]
	}
	if ok {
		l.drop(l.list[at-l.first])
	} else {
		if len(l.early) >= maxEarly {
			l.early, l.older = make(map[string]struct{}), l.early
		}
		l.early[id] = struct{}{}
	}
	for len(l.list) > 0 && l.list[0] == nil {
		l.list, l.first = l.list[1:], l.first+1
	}
}

// take removes and returns, in order, what is now ours, and removes what is too
// old to be said again.
func (l *ledger) take(oldest time.Time, ours func(*said) bool) (taken []said) {
	kept := l.list
	for _, e := range kept {
		switch {
		case e == nil:
		case e.at.Before(oldest):
			l.drop(e)
		case ours(e):
			taken = append(taken, *e)
			l.drop(e)
		}
	}
	for len(l.list) > 0 && l.list[0] == nil {
		l.list, l.first = l.list[1:], l.first+1
	}
	if len(l.list) == 0 {
		l.list = nil
	}
	return taken
}

// listen watches the stream for what others say, until ctx ends.
func (s *Speaker) listen(ctx context.Context) {
	for ctx.Err() == nil {
		if s.Ready() == nil {
			_ = s.watch(ctx) // an outage passes
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *Speaker) watch(ctx context.Context) error {
	// From before the first thing that may be pending: what was said while nobody
	// listened counts, too.
	start := time.Now().Add(-Window)
	c, err := s.opts.JetStream.OrderedConsumer(ctx, bus.StreamEvents, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &start})
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	run, err := c.Consume(func(m jetstream.Msg) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.pending.seen(m.Headers().Get(nats.MsgIdHdr), m.Data())
	}, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		select {
		case failed <- err:
		default:
		}
	}))
	if err != nil {
		return err
	}
	defer run.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-run.Closed():
			return nil
		case <-failed:
			// The consumer makes itself anew, from where it was.
		}
	}
}
