package policy

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// History is what is kept of the rooms under a policy.
type History struct {
	Messages int           `json:"messages,omitempty"` // of one room; 0: no bound
	Age      time.Duration `json:"age,omitempty"`      // nanoseconds in JSON; 0: no bound
	Bytes    int64         `json:"bytes,omitempty"`    // of all rooms together; 0: no bound
	Replicas int           `json:"replicas,omitempty"` // copies in NATS; 0: one
}

// Stream is where a policy's messages are stored. Control sets it once the
// stream, its mirror and its republish are verified: from then on edges read
// the rooms from the live prefix.
type Stream struct {
	Name   string `json:"name"`
	Mirror string `json:"mirror"` // answers reads of history
	Epoch  string `json:"epoch"`
}

// Bounds of history.
const (
	MaxMessages = 1_000_000
	MinAge      = time.Second
	MinBytes    = 1 << 20
	MaxReplicas = 5
)

// Check reports the first bound that cannot be kept.
func (h *History) Check() error {
	switch {
	case h.Messages < 0 || h.Messages > MaxMessages:
		return fmt.Errorf("history.messages is %d: must be 1 to %d", h.Messages, MaxMessages)
	case h.Age != 0 && h.Age < MinAge:
		return fmt.Errorf("history.age is %s: must be at least %s", h.Age, MinAge)
	case h.Bytes != 0 && h.Bytes < MinBytes:
		return fmt.Errorf("history.bytes is %d: must be at least 1MiB, which holds the largest message", h.Bytes)
	case h.Messages == 0 && h.Age == 0 && h.Bytes == 0:
		return errors.New("history needs a bound: at least one of messages, age and bytes")
	case h.Replicas < 0 || h.Replicas > MaxReplicas:
		return fmt.Errorf("history.replicas is %d: must be 1 to %d", h.Replicas, MaxReplicas)
	}
	return nil
}

// checkHistory holds policy i against the rules of history, and against those
// before it.
func (s *Set) checkHistory(i int) error {
	p := &s.Rooms[i]
	for j := range s.Rooms[:i] {
		for _, d := range []*Policy{&s.Rooms[j], p} {
			if d.Match == Default && d.History != nil {
				return fmt.Errorf("policy %q has history: then it must be the only policy, as its stream would hold every room", Default)
			}
		}
	}
	if p.History == nil {
		switch {
		case p.Latest:
			return fmt.Errorf("policy %q: latest needs history", p.Match)
		case p.Slow == Lag:
			return fmt.Errorf("policy %q: slow: lag needs history: a lagging reader catches up from it", p.Match)
		case p.Stream != nil:
			return fmt.Errorf("policy %q: a stream without history", p.Match)
		}
		return nil
	}
	if err := p.History.Check(); err != nil {
		return fmt.Errorf("policy %q: %w", p.Match, err)
	}
	if p.Stream != nil && (p.Stream.Name == "" || p.Stream.Mirror == "" || p.Stream.Epoch == "") {
		return fmt.Errorf("policy %q: a stream needs name, mirror and epoch", p.Match)
	}
	return checkKept(p.Match)
}

// checkKept: a stream captures one subject, a literal or a prefix. NATS reads
// $1 and {{…}} in the destination of a republish as references.
func checkKept(match string) error {
	tokens := strings.Split(match, ".")
	for i, token := range tokens {
		switch {
		case token == "*":
			return fmt.Errorf("policy %q: history is kept of a room or of <prefix>.>, not of patterns with *", match)
		case i > 0 && strings.HasPrefix(token, "$"), strings.HasPrefix(token, "{{"):
			return fmt.Errorf("policy %q: with history no token may begin with $ or {{", match)
		}
	}
	return nil
}
