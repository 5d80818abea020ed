package upstream

import (
	"hash/maphash"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/edge/internal/frame"
	"nabat/proto/wire"
)

// twinLife is for how long a message that was handed out unstored may still turn
// up as a stored one.
const twinLife = 2 * time.Minute

var twinSeed = maphash.MakeSeed()

// ear is what a room without a working stream hears on its own subject, and what
// it has handed out: messages around the moment when the stream comes back are
// both heard and stored, and shown once.
type ear struct {
	sub   *nats.Subscription // nil once the stream stores again
	until time.Time          // then it is forgotten
	// heard counts messages by digest: below zero those that were heard and not
	// stored yet, above those that were stored and not heard yet.
	heard map[uint64]int
	ids   map[string]bool // Nats-Msg-Ids of those that were heard: a retry is no second message
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
// Members are told: what was published since the stream's last message without
// waiting for an acknowledgement is lost.
func (s ears) hear(r *room) {
	l := s.link
	if r.ear != nil && r.ear.sub != nil {
		return
	}
	if r.ear == nil {
		r.ear = &ear{heard: make(map[uint64]int), ids: make(map[string]bool)}
	}
	sub, err := l.nc.ChanSubscribe(r.source.stored, l.queue)
	if err != nil { // the connection is closed
		return
	}
	r.ear.sub = sub
	l.bySubject[r.source.stored] = r
	l.gap(r, wire.Gap{Reason: wire.GapNotStored})
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
	if id := last(m.Header, nats.MsgIdHdr); id != "" {
		if r.ear.ids[id] {
			return
		}
		r.ear.ids[id] = true
	}
	d := twin(shown)
	r.ear.heard[d]--
	if r.ear.heard[d] >= 0 {
		return // the stored copy came first
	}
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
	n := r.ear.heard[d]
	if n >= 0 && r.ear.sub == nil {
		return false // nothing is heard any more
	}
	if r.ear.heard[d] = n + 1; n+1 == 0 {
		delete(r.ear.heard, d)
	}
	return n < 0
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
