package upstream

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"nabat/edge/internal/frame"
	"nabat/edge/internal/resume"
	"nabat/internal/history"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

const (
	// maxSubjects is how many rooms one question after their newest messages
	// names; the server refuses more than 1024 results.
	maxSubjects = 1000
	// readMessages and readBytes bound one read of a room. A read begins with a
	// message that is known, so it has to have room for two of the largest.
	readMessages = 256
	readBytes    = 4 << 20
	// staleWait is the first pause of a reader that waits for a copy which lags
	// behind, or for a store that does not answer; it grows with the time waited,
	// up to blindWait.
	staleWait = 50 * time.Millisecond
	blindWait = time.Second
)

// Pause is how long one waits before the history is asked again, after having
// waited for so long.
func Pause(waited time.Duration) time.Duration { return min(max(waited/4, staleWait), blindWait) }

// continuity keeps the rooms of one link whole: it finds out where they stand,
// reads what the subscription did not bring, and looks again from time to time.
// Owner: the link's dispatcher.
type continuity struct {
	// Set at creation, never changed.
	u    *Upstream
	link *link

	// Owned by the dispatcher.
	timers   timers
	wantBase []*room
}

// begin starts the chain of a room anew.
func (c *continuity) begin(r *room) {
	r.chain = new(resume.Chain[*frame.Message])
	r.emitted, r.reading, r.again, r.origin = 0, false, false, false
	r.stuck = time.Time{}
	r.retryAt, r.verifyAt = time.Time{}, time.Time{}
}

// askBases asks, for all rooms that were confirmed in this batch, where they
// stand: the newest stored message of each.
func (c *continuity) askBases() {
	if len(c.wantBase) == 0 {
		return
	}
	c.newest(c.wantBase, func(r *room, found *history.Stored, err error) { c.based(r, found, err) })
	c.wantBase = nil
}

// newest asks for the newest stored message of each room, by stream. answer
// runs on the dispatcher; rooms whose source changed meanwhile are left out.
func (c *continuity) newest(rooms []*room, answer func(r *room, found *history.Stored, err error)) {
	byStream := make(map[policy.Stream][]*room)
	for _, r := range rooms {
		byStream[r.source.stream] = append(byStream[r.source.stream], r)
	}
	for stream, all := range byStream {
		for part := range slices.Chunk(all, maxSubjects) {
			q := &question{c: c, stream: stream, rooms: part, asked: time.Now()}
			for _, r := range part {
				q.subjects = append(q.subjects, r.source.stored)
			}
			q.answer = answer
			q.ask()
		}
	}
}

// question asks for the newest messages of rooms of one stream. Its mirror
// answers, which may be behind: the leader says first how far the answer must
// reach. A mirror that is behind may be so for many seconds after its stream got
// another leader; meanwhile the stream itself is asked. Used by one goroutine at
// a time.
type question struct {
	c        *continuity
	stream   policy.Stream
	rooms    []*room
	subjects []string
	answer   func(r *room, found *history.Stored, err error)
	first    uint64
	head     uint64
	sure     bool // the mirror is known to have reached head
	asked    time.Time
	mirror   error // why the mirror did not answer, though the stream did
	behind   bool  // the answer does not reach head
}

// over reports that an answer which is behind is good enough from now on.
func (q *question) over() bool { return time.Since(q.asked) > q.c.u.opts.Patience }

// blind reports that no answer is one, too: nobody waits for a store that has
// been away for long.
func (q *question) blind() bool { return q.over() || q.c.u.blindFor() > q.c.u.opts.Patience }

func (q *question) ask() {
	q.c.u.opts.Store.Ends(q.stream.Name, func(first, head uint64, err error) {
		switch {
		case err == nil:
			q.first, q.head = first, head
			q.look()
		case q.blind():
			q.done(nil, err)
		default: // a stream that gets another leader has none for some seconds
			q.c.u.sighted(err)
			q.wait(q.ask)
		}
	})
}

func (q *question) look() {
	q.c.u.opts.Store.Newest(q.stream.Mirror, q.subjects, func(list []history.Stored, upTo uint64, err error) {
		switch {
		case err == nil && upTo >= q.head:
			q.done(list, nil)
		case err == nil && len(list) == 0: // nothing found does not say how far it looked
			q.c.u.opts.Store.Head(q.stream.Mirror, func(mirrored uint64, err error) {
				if err == nil && mirrored >= q.head && !q.again() {
					q.done(nil, nil)
					return
				}
				q.origin(nil, err)
			})
		default:
			q.origin(list, err)
		}
	})
}

// origin asks the stream, as its mirror is behind or does not answer. The mirror
// may answer all the same, in the stream's name; then both are asked again.
func (q *question) origin(list []history.Stored, mirror error) {
	q.c.u.opts.Store.Newest(q.stream.Name, q.subjects, func(stored []history.Stored, upTo uint64, err error) {
		switch {
		case err == nil && upTo >= q.head:
			q.mirror = mirror
			q.done(stored, nil)
		case mirror != nil && q.blind():
			q.done(nil, mirror)
		case mirror == nil && q.over():
			q.behind = true
			q.done(list, nil)
		default:
			q.c.u.sighted(mirror)
			q.wait(q.look)
		}
	})
}

// again reports, once, that the mirror has to be looked at anew: it reached the
// head, but perhaps only after it was asked.
func (q *question) again() bool {
	first := !q.sure
	q.sure = true
	return first
}

func (q *question) wait(then func()) { time.AfterFunc(Pause(time.Since(q.asked)), then) }

func (q *question) done(list []history.Stored, err error) {
	q.c.u.sighted(cmp.Or(err, q.mirror))
	q.c.link.post(func() {
		found := make(map[string]*history.Stored, len(list))
		for i := range list {
			found[list[i].Subject] = &list[i]
		}
		current := q.rooms[:0]
		for _, r := range q.rooms {
			if r.chain != nil && r.source.stream == q.stream {
				if err == nil && !q.behind {
					q.stand(r, found[r.source.stored])
				}
				q.answer(r, found[r.source.stored], err)
				current = append(current, r)
			}
		}
		q.c.catchUp(q.stream, current)
	})
}

// stand notes what a whole answer says of a room and its stream.
func (q *question) stand(r *room, found *history.Stored) {
	s := Standing{Asked: q.asked, First: q.first, Head: q.head}
	if found != nil {
		s.Newest = found.Sequence
	}
	r.recent.stand(s)
}

// based opens a room at its newest stored message. Without an answer it opens
// all the same: messages flow, and nobody is told a position.
func (c *continuity) based(r *room, found *history.Stored, err error) {
	now := time.Now()
	r.sound = now
	if err != nil {
		c.verifyAt(r, now.Add(blindWait))
		c.link.opened(r)
		c.giveUp(r)
		return
	}
	c.settle(r, found, 0)
	c.verifyAt(r, now.Add(c.u.opts.Verify))
}

// settle makes the newest stored message the place where the room stands, or
// what the loops have already, when that is newer.
func (c *continuity) settle(r *room, found *history.Stored, had uint64) {
	base := had
	if found != nil {
		base = max(base, found.Sequence)
	}
	out := r.chain.Base(base)
	r.known, r.emitted = true, base
	r.recent.reset(base)
	if found != nil {
		e := entry(r.name, found.Header, found.Data, found.Sequence, 0)
		r.recent.setNewest(e.Item)
	}
	c.link.opened(r)
	c.link.emit(r, out)
	c.attend(r)
}

// attend reads what the chain asks for.
func (c *continuity) attend(r *room) {
	if r.chain.Ask() != resume.Read || r.reading || !r.retryAt.IsZero() {
		return
	}
	r.reading = true
	stream := r.source.stream
	copyName := stream.Mirror
	if r.origin {
		copyName = stream.Name
	}
	c.u.opts.Store.Read(history.Read{Stream: copyName, Subject: r.source.stored, From: max(r.chain.Last(), 1),
		Batch: readMessages, MaxBytes: readBytes}, func(b history.Batch, err error) {
		if errors.Is(err, history.ErrForeign) {
			b, err = history.Batch{}, nil // the mirror answered for its origin: nothing new
		}
		c.u.sighted(err)
		c.link.post(func() {
			if r.chain != nil && r.source.stream == stream {
				c.replay(r, b, err)
			}
		})
	})
}

// replay takes what a read brought.
func (c *continuity) replay(r *room, b history.Batch, err error) {
	r.reading = false
	if err != nil {
		c.later(r)
		return
	}
	list := make([]resume.Entry[*frame.Message], len(b.Messages))
	for i := range b.Messages {
		s := &b.Messages[i]
		list[i] = entry(r.name, s.Header, s.Data, s.Sequence, 0)
	}
	c.fill(r, list, b.More)
}

// fill gives a chain what was read for it.
func (c *continuity) fill(r *room, list []resume.Entry[*frame.Message], more bool) {
	before := r.chain.Last()
	out, cut := r.chain.Replay(list, more, c.provable(r, len(list)))
	if cut != nil {
		c.cut(r, cut, wire.GapCut)
	}
	c.link.emit(r, out)
	switch {
	case r.chain.Ask() != resume.Read:
		c.u.recoveries.Add(1)
		r.stuck, r.origin, r.sound = time.Time{}, false, time.Now()
	case r.chain.Last() == before:
		c.later(r)
	default:
		r.stuck = time.Time{}
		c.attend(r)
	}
}

// later asks again after a while, the mirror and the stream itself by turns, and
// gives up in the end.
func (c *continuity) later(r *room) {
	now := time.Now()
	if r.stuck.IsZero() {
		r.stuck = now
	}
	waited := now.Sub(r.stuck)
	if waited > c.u.opts.Patience {
		r.stuck, r.origin = time.Time{}, false
		c.giveUp(r)
		c.verifyAt(r, now.Add(blindWait))
		return
	}
	r.origin = !r.origin
	c.retryAt(r, now.Add(Pause(waited)))
}

// giveUp hands out what is held though something before it can not be read now.
func (c *continuity) giveUp(r *room) {
	for again := true; again; again = r.chain.Holding() {
		out, cut := r.chain.GiveUp()
		if cut != nil && r.known {
			c.cut(r, cut, wire.GapUnavailable)
		}
		c.link.emit(r, out)
	}
}

func (c *continuity) cut(r *room, missing *resume.Cut, reason string) {
	c.u.cuts.Add(1)
	c.link.gap(r, wire.Gap{From: missing.From, To: missing.To, Reason: reason})
	// What is handed out next does not follow on what is kept.
	if missing.To > 0 {
		r.recent.reset(missing.To - 1)
	} else {
		r.recent.reset(r.chain.Last())
	}
}

// provable reports whether nothing can have left the store since the room was
// known to be empty: for so short a time and so few messages the policy keeps
// all. Where there was a message, that one proves it or nothing does.
func (c *continuity) provable(r *room, messages int) bool {
	kept := &r.source.kept
	return r.known && r.chain.Last() == 0 && kept.Bytes == 0 && (kept.Messages == 0 || messages < kept.Messages) &&
		(kept.Age == 0 || time.Since(r.sound) < kept.Age)
}

// broken notes that messages of r may have been missed.
func (c *continuity) broken(r *room) {
	r.chain.Broken()
	switch {
	case !r.ready: // its base is asked for once the subscription is confirmed
	case r.verifyAt.IsZero():
		r.again = true // a question is under way: its answer may be older
	default:
		c.verifyAt(r, time.Now())
	}
}

// verified compares what the store has with what the room was told.
func (c *continuity) verified(r *room, found *history.Stored, err error) {
	now := time.Now()
	switch {
	case err != nil:
		c.verifyAt(r, now.Add(blindWait))
		return
	case !r.known:
		// Opened without an answer: the place is known only now, and its loops
		// have to hear of it.
		had := r.emitted
		c.begin(r)
		r.wait = r.loops
		c.settle(r, found, had)
	case found != nil:
		r.chain.Stored(found.Sequence)
		if r.chain.Ask() == resume.Nothing {
			r.sound = now
		}
		r.stored = found.Sequence // what is missing is read when all are known
	}
	if r.again {
		r.again = false
		c.verifyAt(r, now)
		return
	}
	// Spread, so that a node's rooms do not ask all at once for ever.
	c.verifyAt(r, now.Add(c.u.opts.Audit/2+rand.N(max(c.u.opts.Audit, 1))))
}
