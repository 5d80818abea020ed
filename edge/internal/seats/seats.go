// Package seats counts the connections of each address and of each user over
// all loops of a node, and refuses those above a bound.
package seats

import (
	"hash/maphash"
	"net/netip"
	"sync"
)

const shards = 64

// Table counts connections by whose they are. Names are kept as digests with a
// key of this process. All methods are safe from any goroutine; the locks are
// taken when a connection comes and goes, never for a message.
type Table struct {
	// Set at creation, never changed.
	max  uint32
	seed maphash.Seed

	shards [shards]shard
}

type shard struct {
	// mu guards count.
	mu    sync.Mutex
	count map[key]uint32 // never 0: an owner without connections has no entry
}

// key is the digest of an owner; 0 is nobody.
type key uint64

// NewTable returns a table that lets each owner have max connections. It is nil
// when max is 0: nothing is counted.
func NewTable(max int) *Table {
	if max == 0 {
		return nil
	}
	t := &Table{max: uint32(max), seed: maphash.MakeSeed()}
	for i := range t.shards {
		t.shards[i].count = make(map[key]uint32)
	}
	return t
}

// address is the owner that an address stands for. A host that has IPv6 has a
// /64 of it at least, so that is one owner.
func (t *Table) address(a netip.Addr) key {
	b := a.Unmap().AsSlice()
	return nonzero(maphash.Bytes(t.seed, b[:min(len(b), 8)]))
}

func (t *Table) user(name string) key { return nonzero(maphash.String(t.seed, name)) }

func nonzero(h uint64) key { return key(max(h, 1)) }

func (t *Table) shard(k key) *shard { return &t.shards[k%shards] }

// take reports false when k has as many as it may have.
func (t *Table) take(k key) bool {
	s := t.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count[k] >= t.max {
		return false
	}
	s.count[k]++
	return true
}

func (t *Table) release(k key) {
	s := t.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count[k]--; s.count[k] == 0 {
		delete(s.count, k)
	}
}

// Owners is how many owners have a connection.
func (t *Table) Owners() (n int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		n += len(s.count)
		s.mu.Unlock()
	}
	return n
}

// Held is what the connections of one loop have taken: 8 bytes for each and for
// each table, nothing where there is none. Owner: the loop.
type Held struct{ addresses, users places }

// NewHeld returns what the connections of one loop hold in tables that all
// loops share. Either may be nil: not counted.
func NewHeld(addresses, users *Table) *Held {
	return &Held{places{table: addresses}, places{table: users}}
}

// TakeAddress counts the connection in slot for its client's address. It
// reports false when the address has as many as it may have.
func (h *Held) TakeAddress(slot uint32, a netip.Addr) bool {
	if h.addresses.table == nil || !a.IsValid() {
		return true
	}
	return h.addresses.take(slot, h.addresses.table.address(a))
}

// TakeUser is TakeAddress for the user of a verified token; a client without
// one is nobody's. Who had another user before gives that seat back.
func (h *Held) TakeUser(slot uint32, user string) bool {
	if h.users.table == nil || user == "" {
		return true
	}
	return h.users.take(slot, h.users.table.user(user))
}

// Address is the digest of the address of the connection in slot, 0 where it is
// not counted.
func (h *Held) Address(slot uint32) uint64 {
	if int(slot) >= len(h.addresses.owner) {
		return 0
	}
	return uint64(h.addresses.owner[slot])
}

// Leave gives back what the connection in slot has taken.
func (h *Held) Leave(slot uint32) {
	h.addresses.leave(slot)
	h.users.leave(slot)
}

// places are the seats of one loop's connections in one table, by slot.
type places struct {
	table *Table
	owner []key
}

func (p *places) take(slot uint32, k key) bool {
	for int(slot) >= len(p.owner) {
		p.owner = append(p.owner, 0)
	}
	if p.owner[slot] == k {
		return true
	}
	if !p.table.take(k) {
		return false
	}
	p.leave(slot)
	p.owner[slot] = k
	return true
}

func (p *places) leave(slot uint32) {
	if int(slot) < len(p.owner) && p.owner[slot] != 0 {
		p.table.release(p.owner[slot])
		p.owner[slot] = 0
	}
}
