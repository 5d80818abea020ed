package streams

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/bus"
	"nabat/proto/policy"
	"nabat/proto/subject"
)

// document is what all replicas know of streams, one value in the
// configuration bucket. A stream's name is written here by compare-and-set
// before the stream is made, so that replicas that race make the same one.
type document struct {
	Streams map[string]*record `json:"streams"`          // in use, by pattern
	Parked  []*record          `json:"parked,omitempty"` // capture nothing, only keep what they hold
	// Policies is the revision of the policies by which this was last changed.
	// Reads may be stale: who reads an older one must not judge by it.
	Policies uint64 `json:"policies"`
}

// record is one stream.
type record struct {
	policy.Stream
	Pattern  string    `json:"pattern"`
	Created  time.Time `json:"created,omitzero"`  // in NATS; another time means that somebody made it again
	Ready    bool      `json:"ready,omitempty"`   // stream, mirror and republish were seen as they must be
	Orphaned time.Time `json:"orphaned,omitzero"` // since when no policy uses it
}

// stored is a document as it was read, to be replaced by compare-and-set.
type stored struct {
	document
	raw      []byte
	revision uint64 // 0: there was none
}

func load(ctx context.Context, kv jetstream.KeyValue) (*stored, error) {
	s := &stored{document: document{Streams: make(map[string]*record)}}
	e, err := kv.Get(ctx, bus.KeyStreams)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of streams: %w", err)
	}
	s.revision, s.raw = e.Revision(), e.Value()
	if err := json.Unmarshal(s.raw, &s.document); err != nil {
		return nil, fmt.Errorf("the list of streams (%s in %s) cannot be read: %w", bus.KeyStreams, bus.BucketConfig, err)
	}
	if s.Streams == nil {
		s.Streams = make(map[string]*record)
	}
	return s, nil
}

// save writes the document if it has changed, as judged by that revision of the
// policies. It fails with what bus.Raced knows when another replica was faster.
func (s *stored) save(ctx context.Context, kv jetstream.KeyValue, policies uint64) error {
	if bytes.Equal(s.encode(), s.raw) || (s.revision == 0 && len(s.Streams)+len(s.Parked) == 0) {
		return nil
	}
	s.Policies = policies
	data, err := s.encode(), error(nil)
	switch {
	case s.revision == 0:
		s.revision, err = kv.Create(ctx, bus.KeyStreams, data)
	default:
		s.revision, err = kv.Update(ctx, bus.KeyStreams, data, s.revision)
	}
	if err != nil {
		return fmt.Errorf("write the list of streams: %w", err)
	}
	s.raw = data
	return nil
}

func (s *stored) encode() []byte {
	data, err := json.Marshal(s.document)
	if err != nil {
		panic("streams: " + err.Error()) // texts, times and numbers always encode
	}
	return data
}

// settle parks the streams that nobody uses any more. A policy that is gone
// may come back at once, as when an operator mends a file or replicas start one
// after the other with different ones: for the time of grace its stream goes on
// capturing, and nothing is lost. Then it is parked, for who turns history off
// wants nothing stored. A parked stream misses messages, so that a policy that
// comes back later gets a new stream, with a new epoch.
func (d *document) settle(set *policy.Set, now time.Time, grace time.Duration) {
	for _, pattern := range d.patterns() {
		r := d.Streams[pattern]
		if kept(set, pattern) {
			r.Orphaned = time.Time{}
			continue
		}
		if r.Orphaned.IsZero() {
			r.Orphaned = now
		}
		if now.Sub(r.Orphaned) >= grace || inTheWay(set, pattern) {
			d.park(r, now)
		}
	}
}

// park takes a stream out of use.
func (d *document) park(r *record, now time.Time) {
	if d.Streams[r.Pattern] == r {
		delete(d.Streams, r.Pattern)
	}
	r.Ready, r.Orphaned = false, now
	d.Parked = append(d.Parked, r)
}

// knows reports whether a stream of that name is in the document.
func (d *document) knows(name string) bool {
	same := func(r *record) bool { return r.Name == name || r.Mirror == name }
	for _, r := range d.Streams {
		if same(r) {
			return true
		}
	}
	return slices.ContainsFunc(d.Parked, same)
}

func (d *document) patterns() []string { return slices.Sorted(maps.Keys(d.Streams)) }

// kept reports whether a policy keeps history of pattern.
func kept(set *policy.Set, pattern string) bool {
	return slices.ContainsFunc(set.Rooms, func(p policy.Policy) bool { return p.Match == pattern && p.History != nil })
}

// inTheWay reports whether a policy with history wants subjects that the stream
// of pattern captures: NATS gives a subject to one stream only.
func inTheWay(set *policy.Set, pattern string) bool {
	return slices.ContainsFunc(set.Rooms, func(p policy.Policy) bool {
		return p.Match != pattern && p.History != nil && subject.Overlap(p.Match, pattern)
	})
}
