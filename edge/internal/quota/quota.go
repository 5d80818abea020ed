// Package quota holds token buckets by whose they are, shared by all loops of a
// node and bounded in number.
package quota

import (
	"encoding/binary"
	"hash/maphash"
	"sync"

	"nabat/edge/internal/rate"
)

const shards = 64

// Table holds a bucket for each owner that has used something lately. Names are
// kept as digests with a key of this process. Safe from any goroutine.
type Table struct {
	// Set at creation, never changed.
	seed maphash.Seed
	max  int // owners of one shard

	shards [shards]shard
}

type shard struct {
	// mu guards buckets.
	mu      sync.Mutex
	buckets map[uint64]rate.Bucket
}

// NewTable returns a table of at most about max owners. Those whose buckets are
// full again are forgotten first; when all are busy, any may be.
func NewTable(max int) *Table {
	t := &Table{seed: maphash.MakeSeed(), max: (max + shards - 1) / shards}
	for i := range t.shards {
		t.shards[i].buckets = make(map[uint64]rate.Bucket)
	}
	return t
}

// Owner is the digest of a name within a group of names.
func (t *Table) Owner(group, name string) uint64 {
	var h maphash.Hash
	h.SetSeed(t.seed)
	_, _ = h.WriteString(group) // never fails
	_ = h.WriteByte(0)
	_, _ = h.WriteString(name)
	return h.Sum64()
}

// Owned is the digest of an owner known by a number, within a group of names.
func (t *Table) Owned(group string, n uint64) uint64 {
	return t.Owner(group, string(binary.BigEndian.AppendUint64(make([]byte, 0, 8), n)))
}

// Take takes n units of owner's, at a time in nanoseconds since some moment. It
// returns 0, or how long to wait before they may be taken: then nothing was.
func (t *Table) Take(owner uint64, l rate.Limit, n, now int64) (wait int64) {
	if !l.On() {
		return 0
	}
	s := &t.shards[owner%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	b, known := s.buckets[owner]
	if wait = b.Wait(l, n, now); wait > 0 {
		return wait
	}
	if !known && len(s.buckets) >= t.max {
		s.makeRoom(now, t.max)
	}
	b.Spend(l, n, now)
	s.buckets[owner] = b
	return 0
}

// makeRoom forgets who has paid for everything, and if nobody has, someone.
func (s *shard) makeRoom(now int64, max int) {
	for owner, b := range s.buckets {
		if int64(b) <= now {
			delete(s.buckets, owner)
		}
	}
	for owner := range s.buckets {
		if len(s.buckets) < max {
			return
		}
		delete(s.buckets, owner)
	}
}

// Owners is how many owners the table remembers.
func (t *Table) Owners() (n int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		n += len(s.buckets)
		s.mu.Unlock()
	}
	return n
}
