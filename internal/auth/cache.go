package auth

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"
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
	young, old map[[sha256.Size]byte]*Claims
}

func newCache(limit int) *cache {
	return &cache{limit: max(limit/2, 1), young: make(map[[sha256.Size]byte]*Claims)}
}

// get returns the claims of a token unless it expired before now.
func (c *cache) get(token string, now time.Time) *Claims {
	digest := sum(token)
	c.mu.Lock()
	defer c.mu.Unlock()
	claims := c.young[digest]
	if claims == nil {
		if claims = c.old[digest]; claims == nil {
			return nil
		}
	}
	if !claims.Expires.IsZero() && !now.Before(claims.Expires) {
		return nil
	}
	return claims
}

func sum(token string) [sha256.Size]byte {
	if len(token) > MaxTokenBytes {
		return [sha256.Size]byte{}
	}
	var buf [MaxTokenBytes]byte
	return sha256.Sum256(buf[:copy(buf[:], token)])
}

// put remembers claims. current is false when the keys have changed since they
// were verified.
func (c *cache) put(token string, claims *Claims, current bool) {
	if !current {
		return
	}
	digest := sum(token)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.young) >= c.limit {
		c.young, c.old = make(map[[sha256.Size]byte]*Claims), c.young
	}
	c.young[digest] = claims
}

func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.young, c.old = make(map[[sha256.Size]byte]*Claims), nil
}
