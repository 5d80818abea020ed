package upstream

import (
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// streamInfo is the subject of JetStream on which the leader of a stream, and
// nobody else, says how it is.
const streamInfo = "$JS.API.STREAM.INFO."

// deaf is for how long a follower was not heard of when it counts as gone. It
// answers its leader's heartbeats, which come each second.
const deaf = 5 * time.Second

// overlap is how long rooms are still heard on their own subjects once their
// stream is led again: messages are under way on both.
const overlap = time.Second

// pulse is what an edge knows of one stream: whether it stores, and republishes
// what it stored. A stream without a leader does neither, and its rooms are then
// heard on their own subjects.
type pulse struct {
	stream string       // set at creation
	proof  atomic.Int64 // unix nanoseconds: when the stream last stored, or answered
	silent atomic.Bool
	proved atomic.Int64 // as proof, but never without a proof

	// Guarded by pulses.mu.
	rooms int
	asked time.Time
	back  time.Time // when a silent stream was proven to be led again; zero for not yet
}

// pulses are those of all streams that rooms of this edge are read from. Streams
// in use prove themselves by what they republish; others are asked. Questions go
// over the first live connection and not through the Store: there they would wait
// behind the reads of a storm.
type pulses struct {
	u *Upstream

	// mu guards the fields below and those of each pulse.
	mu       sync.Mutex
	byStream map[string]*pulse
	inbox    string // answers come to inbox.<number>
	number   uint64
	asked    map[string]*pulse // by reply subject
}

// take returns the pulse of a stream for one more room.
func (s *pulses) take(stream string) *pulse {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.byStream[stream]
	if p == nil {
		p = &pulse{stream: stream}
		p.proof.Store(time.Now().UnixNano())
		if s.byStream == nil {
			s.byStream = make(map[string]*pulse)
		}
		s.byStream[stream] = p
	}
	p.rooms++
	return p
}

func (s *pulses) leave(p *pulse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.rooms--; p.rooms == 0 {
		delete(s.byStream, p.stream)
	}
}

// silent names a stream that does not store now, empty for none.
func (s *pulses) silent() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.byStream {
		if p.silent.Load() {
			return p.stream
		}
	}
	return ""
}

// Stores reports whether a stream is known to have stored, or to have had a leader
// that could, after a moment. Safe from any goroutine.
func (u *Upstream) Stores(stream string, after time.Time) bool {
	u.pulses.mu.Lock()
	defer u.pulses.mu.Unlock()
	p := u.pulses.byStream[stream]
	return p != nil && !p.silent.Load() && p.proved.Load() > after.UnixNano()
}

// listen makes answers come to the link's queue, which answered looks for.
func (s *pulses) listen(l *link) error {
	s.inbox = l.nc.NewInbox() + "."
	s.asked = make(map[string]*pulse)
	_, err := l.nc.ChanSubscribe(s.inbox+"*", l.queue)
	return err
}

// look asks streams that were quiet for a moment, and gives up on those that were
// silent for as long as the patience lasts: a stream that only gets another leader
// is back sooner. Owner: the dispatcher of the first link.
func (s *pulses) look(l *link, now time.Time) {
	if s.u.opts.Patience == 0 {
		return
	}
	limit := max(s.u.opts.Patience, time.Second)
	connected := l.nc.IsConnected()
	s.mu.Lock()
	var fallen, risen []*pulse
	for _, p := range s.byStream {
		quiet := now.Sub(time.Unix(0, p.proof.Load()))
		switch {
		case p.silent.Load() && !p.back.IsZero() && now.Sub(p.back) >= overlap:
			p.silent.Store(false)
			risen = append(risen, p)
		case !connected: // silence says nothing then; the time begins anew
			p.proof.Store(now.UnixNano())
		case quiet >= limit && p.silent.CompareAndSwap(false, true):
			p.back = time.Time{}
			fallen = append(fallen, p)
		}
		if connected && quiet >= limit/16 && now.Sub(p.asked) >= limit/16 {
			p.asked = now
			s.ask(l, p)
		}
	}
	s.mu.Unlock()
	for _, p := range fallen {
		s.u.opts.Log.Warn("a stream has no leader: its rooms are heard without it, and nothing is stored", "stream", p.stream)
		s.tell(func(l *link) { l.ears.open(p) })
	}
	for _, p := range risen {
		s.u.opts.Log.Info("a stream stores again", "stream", p.stream)
		s.tell(func(l *link) { l.ears.shut(p) })
	}
}

func (s *pulses) tell(fn func(*link)) {
	for _, l := range s.u.live {
		l.post(func() { fn(l) })
	}
}

// ask needs mu. An answer that does not come is forgotten with the next question.
func (s *pulses) ask(l *link, p *pulse) {
	for reply, other := range s.asked {
		if other == p {
			delete(s.asked, reply)
		}
	}
	s.number++
	reply := s.inbox + strconv.FormatUint(s.number, 36)
	s.asked[reply] = p
	// An error means that the connection is gone: then silence says nothing.
	_ = l.nc.PublishRequest(streamInfo+p.stream, reply, nil)
}

// answered takes an answer and reports whether m was one.
func (s *pulses) answered(m *nats.Msg) bool {
	if s.inbox == "" || !strings.HasPrefix(m.Subject, s.inbox) {
		return false
	}
	s.mu.Lock()
	p := s.asked[m.Subject]
	delete(s.asked, m.Subject)
	s.mu.Unlock()
	if p != nil && stores(m.Data) {
		s.proven(p, time.Now())
	}
	return true
}

// stores reports whether a stream that answers so can store: its leader notices
// only after 10 to 20 s that it has lost the others, and stores nothing meanwhile.
func stores(answer []byte) bool {
	var info struct {
		State   *struct{} `json:"state"` // nil in an error
		Cluster struct {
			Replicas []struct {
				Offline bool          `json:"offline"`
				Active  time.Duration `json:"active"` // since it was heard of
			} `json:"replicas"` // without the leader
		} `json:"cluster"`
	}
	if json.Unmarshal(answer, &info) != nil || info.State == nil {
		return false
	}
	alive := 1
	for _, r := range info.Cluster.Replicas {
		if !r.Offline && r.Active < deaf {
			alive++
		}
	}
	return 2*alive > 1+len(info.Cluster.Replicas)
}

// proven notes that a stream has stored or answered.
func (s *pulses) proven(p *pulse, now time.Time) {
	p.proof.Store(now.UnixNano())
	p.proved.Store(now.UnixNano())
	if p.silent.Load() {
		s.mu.Lock()
		if p.back.IsZero() {
			p.back = now
		}
		s.mu.Unlock()
	}
}
