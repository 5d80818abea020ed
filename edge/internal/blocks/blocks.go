// Package blocks is what an edge knows of revoked tokens and blocked users, and
// the answer to whether an identity may be here.
package blocks

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"nabat/edge/internal/session"
	"nabat/proto/block"
	"nabat/proto/wire"
)

// List holds the entries in force. Safe from any goroutine; a handshake takes
// the lock for two look-ups at most, and for none while the list is empty.
type List struct {
	known   atomic.Bool
	entries atomic.Int64

	// mu guards byKey.
	mu    sync.RWMutex
	byKey map[string]*block.Entry
}

// New returns a list that knows nothing yet.
func New() *List { return &List{byKey: make(map[string]*block.Entry)} }

// Known reports whether the list has been read once: before that nobody can be
// told whether his token still counts.
func (l *List) Known() bool { return l.known.Load() }

// Len is the number of entries, of which some may be over.
func (l *List) Len() int { return int(l.entries.Load()) }

// Replace takes the whole list, by the keys of the bucket. Entries that cannot be
// read are left out and reported. stricter tells that an entry is new or another.
func (l *List) Replace(all map[string][]byte) (stricter bool, bad []error) {
	fresh := make(map[string]*block.Entry, len(all))
	for key, value := range all {
		e, err := block.Decode(value)
		if err == nil && e.Key() != key {
			err = fmt.Errorf("block %s: it is about another subject", key)
		}
		if err != nil {
			bad = append(bad, err)
			continue
		}
		fresh[key] = e
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, e := range fresh {
		if old := l.byKey[key]; old == nil || *old != *e {
			stricter = true
		}
	}
	l.byKey = fresh
	l.entries.Store(int64(len(fresh)))
	l.known.Store(true)
	return stricter, bad
}

// Set takes one entry; a nil value deletes it.
func (l *List) Set(key string, value []byte) (stricter bool, err error) {
	var e *block.Entry
	if value != nil {
		if e, err = block.Decode(value); err != nil {
			return false, err
		}
		if e.Key() != key {
			return false, fmt.Errorf("block %s: it is about another subject", key)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e == nil {
		delete(l.byKey, key)
	} else {
		l.byKey[key] = e
	}
	l.entries.Store(int64(len(l.byKey)))
	return e != nil, nil
}

// Check says why id may not be here, nil when it may. An anonymous client is
// nobody, and not blocked.
func (l *List) Check(id *session.Identity, now time.Time) *wire.Error {
	if id == nil || l.entries.Load() == 0 {
		return nil
	}
	if e := l.find(block.User, id.User, now); e != nil {
		reason := "this user is blocked"
		if e.Until != 0 {
			reason += " until " + time.Unix(e.Until, 0).UTC().Format(time.RFC3339)
		}
		return &wire.Error{Code: wire.UserBlocked, Reason: reason}
	}
	if e := l.find(block.Issued, id.User, now); e != nil && int64(id.Issued) < e.Before {
		return &wire.Error{Code: wire.TokenRevoked, Reason: "this user's tokens that were issued before " +
			time.Unix(e.Before, 0).UTC().Format(time.RFC3339) + " are revoked: get a new one"}
	}
	if l.find(block.Token, id.TokenID, now) != nil {
		return &wire.Error{Code: wire.TokenRevoked, Reason: "the token is revoked"}
	}
	return nil
}

func (l *List) find(kind block.Kind, subject string, now time.Time) *block.Entry {
	if subject == "" {
		return nil
	}
	key := block.Key(kind, subject)
	l.mu.RLock()
	defer l.mu.RUnlock()
	if e := l.byKey[key]; e != nil && !e.Over(now) {
		return e
	}
	return nil
}
