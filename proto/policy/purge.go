package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Purge says that what was stored of a room was removed by hand.
type Purge struct {
	Room   string    `json:"room"`
	Stream string    `json:"stream"`
	UpTo   uint64    `json:"up_to"` // the last offset that is gone
	At     time.Time `json:"at"`
}

// Purges is the newest purges, the oldest first. Immutable once published.
type Purges struct {
	Purges []Purge `json:"purges"`
	// Forgotten is when the last one was that is no longer on the list.
	Forgotten time.Time `json:"forgotten,omitzero"`
}

// MaxPurges bounds the list.
const MaxPurges = 1000

// DecodePurges reads a list as it lies in the KV bucket.
func DecodePurges(data []byte) (*Purges, error) {
	var p Purges
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("purges: %w", err)
	}
	return &p, nil
}

// Encode is the inverse of DecodePurges.
func (p *Purges) Encode() []byte {
	data, err := json.Marshal(p)
	if err != nil {
		panic("policy: " + err.Error()) // texts, numbers and times always encode
	}
	return data
}

// With is the list with one more. An older one of the same room in the same
// stream is contained in it.
func (p *Purges) With(one Purge) *Purges {
	next := &Purges{Forgotten: p.Forgotten, Purges: slices.DeleteFunc(slices.Clone(p.Purges), func(o Purge) bool {
		return o.Room == one.Room && o.Stream == one.Stream && o.UpTo <= one.UpTo
	})}
	next.Purges = append(next.Purges, one)
	if n := len(next.Purges) - MaxPurges; n > 0 {
		next.Forgotten = next.Purges[n-1].At
		next.Purges = slices.Delete(next.Purges, 0, n)
	}
	return next
}

// Since reports whether something of a room may have been purged after a time.
// A nil list knows of none.
func (p *Purges) Since(room string, at time.Time) bool {
	if p == nil {
		return false
	}
	if p.Forgotten.After(at) {
		return true
	}
	return slices.ContainsFunc(p.Purges, func(o Purge) bool { return o.Room == room && o.At.After(at) })
}
