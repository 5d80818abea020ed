package upstream

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"nabat/edge/internal/frame"
	"nabat/edge/internal/resume"
	"nabat/internal/history"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

// Replay is what a read of a room's history brought: messages in order, oldest
// first. More says that there are others behind the last one.
type Replay struct {
	Entries []resume.Entry[*frame.Message]
	More    bool
	Err     error
}

// ErrNoHistory is returned for rooms that have none, or have another epoch now.
var ErrNoHistory = errors.New("the room has no such history")

// From says where a replay begins: at an offset, inclusive, or at a time.
type From struct {
	Room, Epoch string
	Offset      uint64
	SinceMS     int64 // unix milliseconds; instead of Offset when not 0
	Origin      bool  // ask the stream itself: its mirror is behind
}

// replays reads history for clients. Clients that want the same share one read,
// and those that come within a moment its result: a node's clients that come
// back together cost the store one read for each room.
type replays struct {
	u     *Upstream
	count atomic.Uint64 // reads that went to the store

	// mu guards the fields below.
	mu      sync.Mutex
	waiting map[From][]func(Replay)
	results map[From]result
	bytes   int
}

type result struct {
	replay Replay
	at     time.Time
	bytes  int
}

const (
	// resultLife is how long a read serves others; resultBytes bounds what is
	// kept for that.
	resultLife  = 2 * time.Second
	resultBytes = 64 << 20
)

// Replay reads a room's history. done is called once, possibly before Replay
// returns, else from another goroutine. Safe from any goroutine; never blocks.
func (u *Upstream) Replay(from From, done func(Replay)) {
	r := &u.replays
	r.mu.Lock()
	r.expire(time.Now())
	if res, ok := r.results[from]; ok {
		r.mu.Unlock()
		done(res.replay)
		return
	}
	if r.waiting == nil {
		r.waiting, r.results = make(map[From][]func(Replay)), make(map[From]result)
	}
	r.waiting[from] = append(r.waiting[from], done)
	first := len(r.waiting[from]) == 1
	r.mu.Unlock()
	if first {
		r.read(from, false)
	}
}

func (r *replays) read(from From, sure bool) {
	src, err := r.u.link(from.Room).sourceOf(from.Room)
	if err != nil || !src.hasHistory() || src.stream.Epoch != from.Epoch {
		r.answer(from, Replay{Err: ErrNoHistory})
		return
	}
	r.count.Add(1)
	copyName := src.stream.Mirror
	if from.Origin {
		copyName = src.stream.Name
	}
	q := history.Read{Stream: copyName, Subject: src.stored, From: max(from.Offset, 1), Batch: readMessages, MaxBytes: readBytes}
	if from.SinceMS != 0 {
		q.Start = time.UnixMilli(from.SinceMS)
	}
	r.u.opts.Store.Read(q, func(b history.Batch, err error) {
		if errors.Is(err, history.ErrForeign) {
			b, err = history.Batch{}, nil // the mirror answered for its origin: nothing new
		}
		r.u.sighted(err)
		if from.SinceMS != 0 && err == nil && len(b.Messages) == 0 && !sure {
			r.nothing(from, src.stream, time.Now())
			return
		}
		r.answer(from, replayOf(from.Room, b, err))
	})
}

// nothing answers that nothing was stored since a time, once the mirror has all
// that its stream had: one that is behind may only not have it yet.
func (r *replays) nothing(from From, stream policy.Stream, asked time.Time) {
	fail := func(err error) {
		r.u.sighted(err)
		r.answer(from, Replay{Err: err})
	}
	r.u.opts.Store.Head(stream.Name, func(head uint64, err error) {
		if err != nil {
			fail(err)
			return
		}
		r.u.opts.Store.Head(stream.Mirror, func(mirrored uint64, err error) {
			waited := time.Since(asked)
			switch {
			case err != nil:
				fail(err)
			case waited > r.u.opts.Patience:
				fail(history.ErrUnavailable)
			case mirrored < head:
				time.AfterFunc(Pause(waited), func() { r.nothing(from, stream, asked) })
			default:
				r.read(from, true)
			}
		})
	})
}

func replayOf(room string, b history.Batch, err error) Replay {
	out := Replay{More: b.More, Err: err}
	for i := range b.Messages {
		s := &b.Messages[i]
		out.Entries = append(out.Entries, entry(room, s.Header, s.Data, s.Sequence, 0))
	}
	return out
}

// answer tells those who wait, and keeps the result for those who come soon.
func (r *replays) answer(from From, p Replay) {
	r.mu.Lock()
	waiting := r.waiting[from]
	delete(r.waiting, from)
	n := 0
	for _, e := range p.Entries {
		n += e.Item.Size()
	}
	if p.Err == nil && len(p.Entries) > 0 && r.bytes+n <= resultBytes {
		r.results[from] = result{p, time.Now(), n}
		r.bytes += n
	}
	r.mu.Unlock()
	for _, done := range waiting {
		done(p)
	}
}

// forget drops what was read of a room.
func (r *replays) forget(room string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for from, res := range r.results {
		if from.Room == room {
			delete(r.results, from)
			r.bytes -= res.bytes
		}
	}
}

// expire forgets old results. mu is held.
func (r *replays) expire(now time.Time) {
	for from, res := range r.results {
		if now.Sub(res.at) > resultLife {
			delete(r.results, from)
			r.bytes -= res.bytes
		}
	}
}

// Page reads one page of a room's history. done is as in Replay.
func (u *Upstream) Page(h wire.HistoryRequest, done func(*wire.Page, error)) {
	src, err := u.link(h.Room).sourceOf(h.Room)
	if err == nil && !src.hasHistory() {
		err = ErrNoHistory
	}
	if err != nil {
		done(nil, err)
		return
	}
	answer := func(b history.Batch, err error) {
		u.sighted(err)
		if err != nil {
			done(nil, err)
			return
		}
		page := &wire.Page{Room: h.Room, Epoch: src.stream.Epoch, More: b.More}
		for _, e := range replayOf(h.Room, b, nil).Entries {
			if !e.Item.Hidden {
				page.Messages = append(page.Messages, &e.Item.Message)
			}
		}
		if len(page.Messages) == 0 && b.More { // nobody could page past what is hidden
			if h.After = b.Last; !h.IsAfter {
				h.After, h.Before = 0, b.Last
			}
			u.Page(h, done)
			return
		}
		if !h.IsAfter {
			slices.Reverse(page.Messages) // they were read backwards
		}
		done(page, nil)
	}
	if h.IsAfter {
		u.opts.Store.Read(history.Read{Stream: src.stream.Mirror, Subject: src.stored, From: h.After + 1,
			Batch: int(h.Limit), MaxBytes: readBytes}, answer)
		return
	}
	u.opts.Store.Before(src.stream.Mirror, src.stored, h.Before, int(h.Limit), answer)
}
