package upstream

import (
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/edge/internal/frame"
	"nabat/edge/internal/resume"
	"nabat/internal/bus"
	"nabat/internal/history"
	"nabat/proto/policy"
	"nabat/proto/subject"
	"nabat/proto/wire"
)

// room is one room that some loop wants, or wanted not long ago. Owned by its
// link's dispatcher.
type room struct {
	name   string
	source source
	sub    *nats.Subscription
	loops  uint64 // bit i: loop i has members, or waits
	wait   uint64 // bit i: loop i waits for a mark
	asked  bool   // a subscription is being confirmed
	ready  bool   // where the room stands is known, or known to be unknown
	idle   time.Time

	messages uint64 // handed out since the room was opened
	counted  bool   // on the link's list of rooms that had some

	// Of a room with history; chain is nil for others.
	chain    *resume.Chain[*frame.Message]
	pulse    *pulse
	ear      *ear // nil but while its stream has no leader, and a while after
	recent   *recent
	known    bool      // the room's place in its history is known
	emitted  uint64    // offset of the last message handed to the loops
	sound    time.Time // when continuity was last known
	stored   uint64    // the newest offset that the store told of
	reading  bool
	stuck    time.Time // since when reads bring nothing new; zero when they do
	origin   bool      // the stream itself is read, not its mirror
	retryAt  time.Time // of a read; zero for none
	verifyAt time.Time // zero while a verification is under way
	again    bool      // verify once more after it
}

// source is where a room's messages come from.
type source struct {
	subject string // subscribed
	stored  string // subject in the stream
	stream  policy.Stream
	kept    policy.History
	deflate *frame.Deflater // nil: not compressed
	watched string          // the room of which this is the watch; empty for rooms
}

func (s *source) hasHistory() bool { return s.stream.Name != "" }

func (l *link) sourceOf(name string) (source, error) {
	o := &l.u.opts
	watched, watch := isWatch(name)
	if watch {
		name = watched
	}
	subj, err := subject.Encode(o.Prefix, name)
	if err != nil {
		return source{}, err
	}
	if watch {
		return watchSource(watched, subj[len(o.Prefix):]), nil
	}
	s := source{subject: subj, stored: subj}
	p := o.Policy(name)
	if p != nil && p.Compress {
		s.deflate = o.Deflater
	}
	if p != nil && p.History != nil && p.Stream != nil {
		s.stream, s.kept = *p.Stream, *p.History
		s.subject = o.LivePrefix + strconv.FormatUint(uint64(subject.Shard(subj)), 10) + "." + subj[len(o.Prefix):]
	}
	return s, nil
}

func (l *link) acquire(name string, loop int) {
	r := l.byName[name]
	if r == nil {
		src, err := l.sourceOf(name)
		if err != nil {
			l.put(frame.NewMark(name, frame.Mark{Err: err}), 1<<loop)
			return
		}
		r = &room{name: name}
		l.byName[name] = r
		l.u.rooms.Add(1)
		l.follow(r, src)
	}
	r.loops |= 1 << loop
	if r.ready {
		l.mark(r, 1<<loop)
		return
	}
	r.wait |= 1 << loop
	if !r.asked {
		l.subscribe(r)
	}
}

// follow makes r read from src; subscribe has to follow.
func (l *link) follow(r *room, src source) {
	r.source, r.sub, r.ready, r.known, r.chain = src, nil, false, false, nil
	l.bySubject[src.subject] = r
	l.u.recents.drop(r.name)
	if src.hasHistory() {
		r.recent = newRecent(l.u.opts.RingCount, l.u.opts.RingBytes)
		l.u.recents.put(r.name, src.stream.Epoch, r.recent)
		l.whole.begin(r)
		if r.pulse = l.u.pulses.take(src.stream.Name); r.pulse.silent.Load() {
			l.ears.hear(r)
		}
	}
}

// leaveSource undoes follow.
func (l *link) leaveSource(r *room) {
	delete(l.bySubject, r.source.subject)
	if r.sub != nil {
		// An error means that the connection is closed: nothing to undo.
		_ = r.sub.Unsubscribe()
	}
	l.ears.forget(r)
	if r.pulse != nil {
		l.u.pulses.leave(r.pulse)
		r.pulse, r.ear = nil, nil
	}
	l.u.recents.drop(r.name)
}

func (l *link) release(name string, loop int) {
	if r := l.byName[name]; r != nil {
		r.loops &^= 1 << loop
		r.wait &^= 1 << loop
		if r.loops == 0 {
			r.idle = time.Now()
		}
	}
}

func (l *link) forget(r *room) {
	l.leaveSource(r)
	delete(l.byName, r.name)
	l.u.rooms.Add(-1)
}

// reconsider looks at every room's policy again.
func (l *link) reconsider() {
	for _, r := range l.byName {
		src, err := l.sourceOf(r.name)
		if err != nil {
			continue
		}
		if src.subject == r.source.subject && src.stream == r.source.stream {
			r.source.kept, r.source.deflate = src.kept, src.deflate
			continue
		}
		l.leaveSource(r)
		l.follow(r, src)
		r.wait = r.loops
		if !r.asked {
			l.subscribe(r)
		}
	}
}

// confirmed is called when NATS has confirmed a subscription, or has not.
func (l *link) confirmed(a ask, err error) {
	r := a.room
	r.asked = false
	if a.subject != r.source.subject { // the policy changed meanwhile
		if a.sub != nil {
			_ = a.sub.Unsubscribe()
		}
		l.subscribe(r)
		return
	}
	r.sub = a.sub
	if a.err != nil {
		err = a.err
	}
	switch {
	case err != nil:
		l.u.opts.Log.Warn("NATS did not confirm a subscription", "room", r.name, "error", err)
		l.refused(r, ErrUnavailable)
	case r.chain != nil:
		l.whole.wantBase = append(l.whole.wantBase, r)
	default:
		l.opened(r)
	}
}

// opened answers those who wait.
func (l *link) opened(r *room) {
	r.ready = true
	l.mark(r, r.wait)
	r.wait = 0
}

// mark tells loops where r stands.
func (l *link) mark(r *room, loops uint64) {
	m := frame.Mark{}
	if r.known {
		m.Epoch, m.Offset = r.source.stream.Epoch, r.emitted
	}
	l.put(frame.NewMark(r.name, m), loops)
}

// decode makes the message that clients get out of what a publisher sent.
func decode(name string, h nats.Header, body []byte) (m *frame.Message, marker bool) {
	w := wire.Message{Room: name}
	var hint, exclude string
	if len(h) > 0 {
		hint, exclude = last(h, bus.HeaderBody), last(h, bus.HeaderExclude)
		w.Event, w.User = last(h, bus.HeaderEvent), last(h, bus.HeaderUser)
		marker = len(h[headerMarker]) > 0
	}
	w.Kind, w.Body = wire.Classify(body, hint)
	m = frame.New(w, exclude)
	m.Key = last(h, bus.HeaderKey)
	return m, marker
}

// Headers that the server writes. A publisher can write them, too; the server
// appends its own, so only the last value counts.
const (
	headerStream   = "Nats-Stream"
	headerSubject  = "Nats-Subject"
	headerSequence = "Nats-Sequence"
	headerLast     = "Nats-Last-Sequence"
	headerTrace    = "traceparent"        // the publisher's, by W3C Trace Context
	headerMarker   = "Nats-Marker-Reason" // a tombstone left by the store, not a message
)

func last(h nats.Header, key string) string {
	if v := h[key]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// takeStored takes a republished message of a room with history.
func (l *link) takeStored(r *room, m *nats.Msg) {
	offset, err1 := strconv.ParseUint(last(m.Header, headerSequence), 10, 64)
	prev, err2 := strconv.ParseUint(last(m.Header, headerLast), 10, 64)
	if err1 != nil || err2 != nil || offset == 0 || history.Hides(m) ||
		last(m.Header, headerStream) != r.source.stream.Name || last(m.Header, headerSubject) != r.source.stored {
		l.u.countLost("not_from_stream", 1)
		return
	}
	e := entry(r.name, m.Header, m.Data, offset, prev)
	l.u.trace(e.Item, m.Header)
	l.emit(r, r.chain.Live(e))
	now := time.Now()
	l.u.pulses.proven(r.pulse, now)
	if r.chain.Ask() == resume.Nothing {
		r.sound = now
	}
	l.whole.attend(r)
}

// trace begins to follow a message that has arrived, if its publisher wants that.
func (u *Upstream) trace(m *frame.Message, h nats.Header) {
	if begin := u.opts.Trace; begin != nil {
		if parent := last(h, headerTrace); parent != "" {
			m.Trace = begin(parent, m.Room)
		}
	}
}

func entry(name string, h nats.Header, body []byte, offset, prev uint64) resume.Entry[*frame.Message] {
	m, marker := decode(name, h, body)
	m.Offset, m.Hidden = offset, marker
	return resume.Entry[*frame.Message]{Offset: offset, Prev: prev, Item: m}
}

// emit hands messages to the loops and keeps them for those who come back.
func (l *link) emit(r *room, list []resume.Entry[*frame.Message]) {
	for _, e := range list {
		m := e.Item
		m.Prev, m.Deflater = r.emitted, r.source.deflate
		r.emitted = e.Offset
		r.recent.push(e)
		if r.repeated(m) {
			m = m.Silent() // for those who are up to date; who reads the ring was not there
		}
		if !m.Hidden {
			r.count(l)
		}
		l.put(m, r.loops)
	}
}
