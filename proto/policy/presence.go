package policy

import (
	"encoding/json"
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"
)

// Presence is how who is in a room is kept and shown.
type Presence struct {
	// Grace is how long a user may be away before others are told, in nanoseconds
	// in JSON. Nil: DefaultGrace.
	Grace *time.Duration `json:"grace,omitempty"`
	// Full is the number of users above which a room's clients are shown counts
	// and no lists. Nil: DefaultFull.
	Full *int `json:"full,omitempty"`
	// Anonymous lets clients without a token see it.
	Anonymous bool `json:"anonymous,omitempty"`
}

// Defaults and bounds of Presence.
const (
	DefaultGrace = 5 * time.Second
	MaxGrace     = 10 * time.Minute
	DefaultFull  = 500
	MaxFull      = 10000
)

// GraceTime is the grace in force.
func (p *Presence) GraceTime() time.Duration {
	if p.Grace == nil {
		return DefaultGrace
	}
	return *p.Grace
}

// FullAt is the number of users in force above which no lists are shown.
func (p *Presence) FullAt() int {
	if p.Full == nil {
		return DefaultFull
	}
	return *p.Full
}

// Check reports the first setting that is out of its range.
func (p *Presence) Check() error {
	switch {
	case p.GraceTime() < 0 || p.GraceTime() > MaxGrace:
		return fmt.Errorf("presence.grace is %s: must be 0s to %s", p.GraceTime(), MaxGrace)
	case p.FullAt() < 0 || p.FullAt() > MaxFull:
		return fmt.Errorf("presence.full is %d: must be 0 to %d", p.FullAt(), MaxFull)
	}
	return nil
}

// UnmarshalJSON reads what Decode gets: an object, or true for all defaults.
func (p *Presence) UnmarshalJSON(text []byte) error {
	if string(text) == "true" {
		*p = Presence{}
		return nil
	}
	type plain Presence
	return json.Unmarshal(text, (*plain)(p))
}

// presence reads true, false or a mapping.
func (p parser) presence(n *yaml.Node, to **Presence) error {
	if n.Kind == yaml.ScalarNode {
		var on bool
		if err := p.flag(n, "presence", &on); err != nil {
			return p.at(n, "presence must be true, false, or a mapping such as {grace: 5s}")
		}
		if *to = nil; on {
			*to = &Presence{}
		}
		return nil
	}
	one := &Presence{}
	*to = one
	return p.each(n, "presence", func(key string, k, v *yaml.Node) error {
		switch key {
		case "grace":
			d, err := time.ParseDuration(v.Value)
			if err != nil {
				return p.at(v, "presence.grace is %q: must be a duration from 0s to %s, such as 5s", v.Value, MaxGrace)
			}
			one.Grace = &d
		case "full":
			full := 0
			if v.Tag != "!!int" || v.Decode(&full) != nil {
				return p.at(v, "presence.full is %q: must be a number from 0 to %d", v.Value, MaxFull)
			}
			one.Full = &full
		case "anonymous":
			return p.flag(v, "presence.anonymous", &one.Anonymous)
		default:
			return p.at(k, "unknown key %q in presence: there are grace, full and anonymous", key)
		}
		if err := one.Check(); err != nil {
			return p.at(v, "%w", err)
		}
		return nil
	})
}
