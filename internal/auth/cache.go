package auth

import (
	"crypto/sha256"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"nabat/proto/grant"
)

// keyBox holds the key set in force.
type keyBox = atomic.Pointer[KeySet]

// cache remembers verified tokens by digest, so that a reconnect storm does not
// verify twice. It has two halves: when the young one is full it becomes the
// old one, and the old one is forgotten.
type cache struct {
	limit int

	// mu guards the fields below.
	mu         sync.Mutex
	young, old map[digest]*Verified
}

// digest is half a SHA-256: finding a second token with the digest of a given
// one takes 2^128 tries.
type digest [16]byte

func newCache(limit int) *cache {
	return &cache{limit: max(limit/2, 1), young: make(map[digest]*Verified)}
}

// get returns the verified of a token unless it expired before now.
func (c *cache) get(token string, now time.Time) *Verified {
	d := sum(token)
	c.mu.Lock()
	defer c.mu.Unlock()
	verified := c.young[d]
	if verified == nil {
		if verified = c.old[d]; verified == nil {
			return nil
		}
	}
	if verified.Expires != 0 && now.Unix() >= int64(verified.Expires) {
		return nil
	}
	return verified
}

func sum(token string) (d digest) {
	if len(token) > MaxTokenBytes {
		return d // no token is that long: nothing is cached under it
	}
	var buf [MaxTokenBytes]byte
	full := sha256.Sum256(buf[:copy(buf[:], token)])
	copy(d[:], full[:])
	return d
}

// put remembers verified. current is false when the keys have changed since they
// were verified.
func (c *cache) put(token string, verified *Verified, current bool) {
	if !current {
		return
	}
	d := sum(token)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.young) >= c.limit {
		c.young, c.old = make(map[digest]*Verified), c.young
	}
	c.young[d] = verified
}

func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.young, c.old = make(map[digest]*Verified), nil
}

// grants shares equal grants: a million users often hold a handful of them.
type grants struct {
	// mu guards byText.
	mu     sync.Mutex
	byText map[[sha256.Size]byte]weak.Pointer[grant.Grant]
}

// maxGrants bounds the table; above it dead entries are dropped, and if all
// live, sharing begins anew.
const maxGrants = 16384

func newGrants() *grants {
	return &grants{byText: make(map[[sha256.Size]byte]weak.Pointer[grant.Grant])}
}

// share returns a grant equal to g that others may hold too. A missing grant is
// an empty one.
func (s *grants) share(g *grant.Grant) *grant.Grant {
	if g == nil {
		g = &grant.Grant{}
	}
	text, err := json.Marshal(g)
	if err != nil {
		return g // info that is no JSON can not come out of a token
	}
	key := sha256.Sum256(text)
	s.mu.Lock()
	defer s.mu.Unlock()
	if shared := s.byText[key].Value(); shared != nil {
		return shared
	}
	if len(s.byText) >= maxGrants {
		for k, w := range s.byText {
			if w.Value() == nil {
				delete(s.byText, k)
			}
		}
		if len(s.byText) >= maxGrants {
			clear(s.byText)
		}
	}
	s.byText[key] = weak.Make(g)
	return g
}
