package upstream

import (
	"sync"
	"time"

	"nabat/edge/internal/frame"
	"nabat/edge/internal/resume"
)

// recent is what an edge keeps of a room's newest messages. The dispatcher
// fills it; loops read it for clients that come back or lag.
type recent struct {
	// mu guards the fields below.
	mu     sync.Mutex
	ring   resume.Ring[*frame.Message]
	newest *frame.Message
	stood  Standing
}

func newRecent(count, bytes int) *recent {
	r := new(recent)
	r.ring.Bound(count, bytes)
	return r
}

func (r *recent) push(e resume.Entry[*frame.Message]) {
	r.mu.Lock()
	r.ring.Push(e, e.Item.Size())
	if !e.Item.Hidden {
		r.newest = e.Item
	}
	r.mu.Unlock()
}

// reset forgets the messages: the next one follows on offset.
func (r *recent) reset(offset uint64) {
	r.mu.Lock()
	r.ring.Reset(offset)
	r.mu.Unlock()
}

// forget drops the messages up to an offset.
func (r *recent) forget(upTo uint64) {
	r.mu.Lock()
	r.ring.Forget(upTo)
	if r.newest != nil && r.newest.Offset <= upTo {
		r.newest = nil
	}
	r.mu.Unlock()
}

func (r *recent) setNewest(m *frame.Message) {
	r.mu.Lock()
	r.newest = m
	r.mu.Unlock()
}

func (r *recent) stand(s Standing) {
	r.mu.Lock()
	r.stood = s
	r.mu.Unlock()
}

// recents finds the recent messages of a room. Safe from any goroutine.
type recents struct {
	// mu guards byRoom.
	mu     sync.RWMutex
	byRoom map[string]kept
}

type kept struct {
	epoch  string
	recent *recent
}

func (s *recents) put(room, epoch string, r *recent) {
	s.mu.Lock()
	if s.byRoom == nil {
		s.byRoom = make(map[string]kept)
	}
	s.byRoom[room] = kept{epoch, r}
	s.mu.Unlock()
}

func (s *recents) drop(room string) {
	s.mu.Lock()
	delete(s.byRoom, room)
	s.mu.Unlock()
}

func (s *recents) get(room, epoch string) *recent {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if k := s.byRoom[room]; k.epoch == epoch {
		return k.recent
	}
	return nil
}

// Look shows fn the recent messages of a room, nil when the edge has none of that
// epoch. fn must not keep the ring. Safe from any goroutine.
func (u *Upstream) Look(room, epoch string, fn func(*resume.Ring[*frame.Message])) {
	r := u.recents.get(room, epoch)
	if r == nil {
		fn(nil)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	fn(&r.ring)
}

// Newest is the newest message of a room that is open on this edge, nil when
// there is none or it is not known. Safe from any goroutine.
func (u *Upstream) Newest(room, epoch string) *frame.Message {
	r := u.recents.get(room, epoch)
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.newest
}

// Standing is where a room and its stream stood when they were last compared.
type Standing struct {
	Asked  time.Time // the comparison began; what is below is of that moment or later
	First  uint64    // the oldest offset that the stream kept, of whatever room; Head+1 when none
	Head   uint64    // the newest offset that the stream had ever stored, of whatever room
	Newest uint64    // the newest offset that it kept of the room; 0 for none
}

// Standing is what the last comparison of a room found. It is ok when that was
// asked for after a time. Safe from any goroutine.
func (u *Upstream) Standing(room, epoch string, after time.Time) (s Standing, ok bool) {
	r := u.recents.get(room, epoch)
	if r == nil {
		return s, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stood, r.stood.Asked.After(after)
}
