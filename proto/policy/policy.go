// Package policy holds the settings of rooms by pattern, as control publishes
// them and edges obey them.
package policy

import (
	"encoding/json"
	"fmt"
	"time"

	"nabat/proto/subject"
)

// Slow says what happens when a client reads slower than its rooms speak.
type Slow string

// The rules for slow readers.
const (
	Lag        Slow = "lag"        // the subscription waits and catches up from history, which it needs
	Conflate   Slow = "conflate"   // the newest message of each key follows when there is room; what was overtaken does not
	Drop       Slow = "drop"       // messages are dropped and a gap is announced
	Disconnect Slow = "disconnect" // the connection is closed with 4100
)

// Default is the pattern of the default policy: it alone may overlap others.
const Default = ">"

// Anonymous is what clients without a token may do.
type Anonymous struct {
	Subscribe bool `json:"subscribe,omitempty"`
	Publish   bool `json:"publish,omitempty"`
}

// Policy is the settings of all rooms that match a pattern.
type Policy struct {
	Match     string    `json:"match"`
	Anonymous Anonymous `json:"anonymous,omitzero"`
	Publish   bool      `json:"publish,omitempty"`  // clients may publish, if their grant also says so
	Slow      Slow      `json:"slow,omitempty"`     // SlowRule says what empty means
	History   *History  `json:"history,omitempty"`  // nil: messages are not kept
	Latest    bool      `json:"latest,omitempty"`   // a new subscriber first gets the last message
	Compress  bool      `json:"compress,omitempty"` // for clients that negotiated it
	Stream    *Stream   `json:"stream,omitempty"`   // nil: the rooms are read from their own subjects

	Rates           *Rates `json:"rates,omitempty"`             // nil: not bounded
	MaxMessageBytes int64  `json:"max_message_bytes,omitempty"` // of what clients publish; 0: the edge's and NATS's bound only

	Conflation *Conflation `json:"conflate,omitempty"` // nil: every message is handed out
	Presence   *Presence   `json:"presence,omitempty"` // nil: nobody is told who is there
	Hooks      *Hooks      `json:"hooks,omitempty"`    // nil: no backend is asked
}

// Conflation lets messages overtake others of the same key (Nabat-Key; those
// without one share the empty key).
type Conflation struct {
	Every time.Duration `json:"every,omitempty"` // a member gets a key at most this often; nanoseconds in JSON, 0 for no bound
}

// MinEvery and MaxEvery bound Conflation.Every.
const (
	MinEvery = 10 * time.Millisecond
	MaxEvery = time.Hour
)

// SlowRule is the rule in force for slow readers.
func (p *Policy) SlowRule() Slow {
	switch {
	case p.Slow != "":
		return p.Slow
	case p.Conflation != nil:
		return Conflate
	case p.History != nil:
		return Lag
	}
	return Drop
}

// Set is all policies. A set is immutable once it is published.
type Set struct {
	Version uint64   `json:"version"`
	Rooms   []Policy `json:"rooms"`
}

// Dev is the set of a development server: everybody may do everything and see
// who is there, and every room keeps its last messages.
func Dev() *Set {
	return &Set{Rooms: []Policy{{Match: Default, Publish: true, Anonymous: Anonymous{Subscribe: true, Publish: true},
		History: &History{Messages: 100, Age: time.Hour, Replicas: 1}, Presence: &Presence{Anonymous: true}}}}
}

// Production is the set of a server that was given no policies: a token decides,
// and clients do not publish.
func Production() *Set { return &Set{Rooms: []Policy{{Match: Default, Slow: Drop}}} }

// Decode reads a set as it lies in the KV bucket.
func Decode(data []byte) (*Set, error) {
	var s Set
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("policy set: %w", err)
	}
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("policy set: %w", err)
	}
	return &s, nil
}

// Encode is the inverse of Decode.
func (s *Set) Encode() []byte {
	data, err := json.Marshal(s)
	if err != nil {
		panic("policy: " + err.Error()) // strings, booleans and a number always encode
	}
	return data
}

// Check reports the first policy that breaks a rule, by its pattern.
func (s *Set) Check() error {
	for i := range s.Rooms {
		if err := s.check(i); err != nil {
			return err
		}
	}
	return nil
}

func (s *Set) check(i int) error {
	p := &s.Rooms[i]
	if err := subject.CheckPattern(p.Match); err != nil {
		return err
	}
	for j := range s.Rooms[:i] {
		other := s.Rooms[j].Match
		if p.Match == other {
			return fmt.Errorf("policy %q is there twice", p.Match)
		}
		if p.Match != Default && other != Default && subject.Overlap(p.Match, other) {
			return fmt.Errorf("policy %q overlaps %q: a room must match one of them only (or the default %q)", p.Match, other, Default)
		}
	}
	if p.Anonymous.Publish && !p.Publish {
		return fmt.Errorf("policy %q: anonymous.publish needs publish: true", p.Match)
	}
	if c := p.Conflation; c != nil && c.Every != 0 && (c.Every < MinEvery || c.Every > MaxEvery) {
		return fmt.Errorf("policy %q: conflate.every is %s: must be %s to %s", p.Match, c.Every, MinEvery, MaxEvery)
	}
	if err := p.checkBounds(); err != nil {
		return fmt.Errorf("policy %q: %w", p.Match, err)
	}
	switch p.Slow {
	case "", Lag, Conflate, Drop, Disconnect:
	default:
		return fmt.Errorf("policy %q: slow is %q: must be lag, conflate, drop or disconnect", p.Match, p.Slow)
	}
	if p.Presence != nil {
		if err := p.Presence.Check(); err != nil {
			return fmt.Errorf("policy %q: %w", p.Match, err)
		}
	}
	return s.checkHistory(i)
}

// For returns the policy of room, nil when none matches. It allocates nothing.
func (s *Set) For(room string) *Policy {
	var fallback *Policy
	for i := range s.Rooms {
		p := &s.Rooms[i]
		if p.Match == Default {
			fallback = p
		} else if subject.Match(p.Match, room) {
			return p
		}
	}
	if room == "" {
		return nil
	}
	return fallback
}
