package upstream

import (
	"hash/maphash"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/edge/internal/frame"
	"nabat/proto/wire"
)

const (
	// twinLife is for how long a message that was handed out unstored may still
	// turn up as a stored one.
	twinLife = 2 * time.Minute
	// maxTwins bounds what one room remembers for that; twice as many at times.
	// Only those around the stream's return have a twin.
	maxTwins = 1024
)

var twinSeed = maphash.MakeSeed()

// ear is what a room without a working stream hears on its own subject, and what
// it has handed out: messages around the moment when the stream comes back are
// both heard and stored, and shown once.
type ear struct {
	sub   *nats.Subscription // nil once the stream stores again
	told  bool               // members know that nothing is stored
	until time.Time          // then it is forgotten
	now   twins
	older twins // what now was, before it was full
}

// twins are what a room remembers of messages with two copies.
type twins struct {
	// heard counts messages by digest: below zero those that were heard and not
	// stored yet, above those that were stored and not heard yet.
	heard map[uint64]int
	ids   map[string]bool // Nats-Msg-Ids of those that were heard: a retry is no second message
}

func newTwins() twins { return twins{make(map[uint64]int), make(map[string]bool)} }

// count adds to what is known of a digest and returns what it was.
func (e *ear) count(digest uint64, n int) (before int) {
	if was, ok := e.older.heard[digest]; ok { // what is counted moves on to now
		delete(e.older.heard, digest)
		e.now.heard[digest] += was
	}
	before = e.now.heard[digest]
	if e.now.heard[digest] += n; e.now.heard[digest] == 0 {
		delete(e.now.heard, digest)
	}
	e.turnOver()
	return before
}

// retried reports whether a message with that id was heard before.
func (e *ear) retried(id string) bool {
	if e.now.ids[id] || e.older.ids[id] {
		return true
	}
	e.now.ids[id] = true
	e.turnOver()
	return false
}

// turnOver forgets the oldest when there are too many.
func (e *ear) turnOver() {
	if len(e.now.heard) > maxTwins || len(e.now.ids) > maxTwins {
		e.older, e.now = e.now, newTwins()
	}
}

// ears are those of one link's rooms. Owner: the link's dispatcher.
type ears struct{ link *link }

// open is called when a stream has no leader.
func (s ears) open(p *pulse) {
	for _, r := range s.link.byName {
		if r.pulse == p {
			s.hear(r)
		}
	}
}

// hear makes a room be read on its own subject, beside the stored copies.
// Members are told once NATS has the subscription: what was published between the
// stream's last message and then, without waiting for an acknowledgement, is lost.
func (s ears) hear(r *room) {
	l := s.link
	if r.ear != nil && r.ear.sub != nil {
		return
	}
	if r.ear == nil {
		r.ear = &ear{now: newTwins(), older: newTwins()}
	}
	sub, err := l.nc.ChanSubscribe(r.source.stored, l.queue)
	if err != nil { // the connection is closed
		return
	}
	r.ear.sub, r.ear.told = sub, false
	l.bySubject[r.source.stored] = r
	l.mu.Lock()
	l.untold = append(l.untold, r)
	l.mu.Unlock()
	signal(l.asks)
}

// tell tells members, once, that nothing is stored.
func (s ears) tell(r *room) {
	if r.ear != nil && r.ear.sub != nil && !r.ear.told {
		r.ear.told = true
		s.link.gap(r, wire.Gap{Reason: wire.GapNotStored})
	}
}

// shut is called when a stream stores again.
func (s ears) shut(p *pulse) {
	for _, r := range s.link.byName {
		if r.pulse == p {
			s.forget(r)
		}
	}
}

// forget ends the subscription to a room's own subject.
func (s ears) forget(r *room) {
	l := s.link
	if r.ear == nil || r.ear.sub == nil {
		return
	}
	// What the queue holds came before the end. An error means that the
	// connection is closed.
	_ = r.ear.sub.Unsubscribe()
	for n := len(l.queue); n > 0; n-- {
		l.take(<-l.queue)
	}
	delete(l.bySubject, r.source.stored)
	r.ear.sub, r.ear.until = nil, time.Now().Add(twinLife)
}

// take hands out a message that may not be stored: without an offset.
func (s ears) take(r *room, m *nats.Msg) {
	l := s.link
	shown, _ := decode(r.name, m.Header, m.Data)
	if id := last(m.Header, nats.MsgIdHdr); id != "" && r.ear.retried(id) {
		return
	}
	if r.ear.count(twin(shown), -1) > 0 {
		return // the stored copy came first
	}
	s.tell(r)
	l.u.unstored.Add(1)
	r.count(l)
	shown.Deflater = r.source.deflate
	l.u.trace(shown, m.Header)
	l.put(shown, r.loops)
}

// repeated reports whether a stored message was handed out already, unstored.
func (r *room) repeated(m *frame.Message) bool {
	if r.ear == nil {
		return false
	}
	d := twin(m)
	if r.ear.sub == nil && r.ear.count(d, 0) >= 0 {
		return false // nothing is heard any more
	}
	return r.ear.count(d, 1) < 0
}

// twin is a digest of what makes two copies of a message the same.
func twin(m *frame.Message) uint64 {
	var h maphash.Hash
	h.SetSeed(twinSeed)
	for _, part := range [...]string{m.Event, m.User, m.Key, m.Exclude} {
		_, _ = h.WriteString(part) // never fails
		_ = h.WriteByte(0)
	}
	_ = h.WriteByte(byte(m.Kind))
	_, _ = h.Write(m.Body)
	return h.Sum64()
}
