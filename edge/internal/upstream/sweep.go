package upstream

import (
	"nabat/edge/internal/frame"
	"nabat/edge/internal/resume"
	"nabat/internal/history"
	"nabat/proto/policy"
)

const (
	// sweepRooms is how many rooms must have missed something before the stream
	// is read as a whole, and sweepFactor how many messages may be read for each
	// of them. A read of one room costs the store its distance in the whole
	// stream, so that many of them cost far more than one read of it all.
	sweepRooms, sweepFactor = 64, 20
	sweepMessages           = 1000
	sweepBytes              = 8 << 20
)

// sweep is one contiguous read of a stream, after an outage of the whole node:
// what belongs to the rooms that missed something is handed to them. It is used
// by one goroutine at a time.
type sweep struct {
	c      *continuity
	stream policy.Stream
	rooms  map[string]*room // by stored subject
	lists  map[string][]resume.Entry[*frame.Message]
	next   uint64
	until  uint64
	origin bool // the stream itself is read, as its mirror is behind or does not answer
}

// catchUp reads what the rooms of a stream have missed: together, when
// they are many and close, else each for itself.
func (c *continuity) catchUp(stream policy.Stream, rooms []*room) {
	s := &sweep{c: c, stream: stream, rooms: make(map[string]*room), lists: make(map[string][]resume.Entry[*frame.Message])}
	for _, r := range rooms {
		if r.chain.Ask() != resume.Read || r.reading || !r.retryAt.IsZero() {
			continue
		}
		if last := r.chain.Last(); last > 0 { // an empty room says nothing of where to begin
			s.rooms[r.source.stored] = r
			if s.next == 0 || last < s.next {
				s.next = last
			}
			s.until = max(s.until, r.stored)
		}
	}
	if len(s.rooms) >= sweepRooms && s.until > s.next && s.until-s.next < sweepFactor*uint64(len(s.rooms)) {
		c.u.sweeps.Add(1)
		for _, r := range s.rooms {
			r.reading = true
		}
		s.read()
	}
	for _, r := range rooms {
		c.attend(r)
	}
}

func (s *sweep) read() {
	copyName := s.stream.Mirror
	if s.origin {
		copyName = s.stream.Name
	}
	s.c.u.opts.Store.Read(history.Read{Stream: copyName, From: s.next, Batch: sweepMessages, MaxBytes: sweepBytes},
		func(b history.Batch, err error) {
			s.c.u.sighted(err)
			for i := range b.Messages {
				m := &b.Messages[i]
				if r := s.rooms[m.Subject]; r != nil {
					s.lists[m.Subject] = append(s.lists[m.Subject], entry(r.name, m.Header, m.Data, m.Sequence, 0))
				}
			}
			if b.Last > 0 {
				s.next = b.Last + 1
			}
			switch {
			case s.next > s.until:
				err = nil
			case err == nil && b.More:
				s.read()
				return
			case !s.origin:
				s.origin = true
				s.read()
				return
			}
			s.c.link.post(func() { s.hand(err) })
		})
}

// hand gives the rooms what was read; what that did not settle, each reads for
// itself.
func (s *sweep) hand(err error) {
	for subj, r := range s.rooms {
		if r.chain == nil || r.source.stream != s.stream || !r.reading {
			continue
		}
		r.reading = false
		if err == nil {
			s.c.fill(r, s.lists[subj], false)
		} else {
			s.c.attend(r)
		}
	}
}
