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
// the lock for three look-ups, and not at all while the list is empty.
type List struct {
	known   atomic.Bool
	entries atomic.Int64

	// mu guards the tables.
	mu     sync.RWMutex
	tables tables
}

// tables hold the entries by their key in the bucket, and by subject, because a
// key takes a digest.
type tables struct {
	byKey                 map[string]*block.Entry
	users, issued, tokens map[string]*block.Entry
}

func newTables() tables {
	return tables{make(map[string]*block.Entry), make(map[string]*block.Entry), make(map[string]*block.Entry), make(map[string]*block.Entry)}
}

// of is the table of a kind by subject.
func (t *tables) of(kind block.Kind) map[string]*block.Entry {
	switch kind {
	case block.User:
		return t.users
	case block.Issued:
		return t.issued
	}
	return t.tokens
}

func (t *tables) set(key string, e *block.Entry) {
	t.byKey[key] = e
	t.of(e.Kind)[e.Subject] = e
}

func (t *tables) remove(key string) {
	if e := t.byKey[key]; e != nil {
		delete(t.byKey, key)
		delete(t.of(e.Kind), e.Subject)
	}
}

// New returns a list that knows nothing yet.
func New() *List { return &List{tables: newTables()} }

// Known reports whether the list has been read once: before that nobody can be
// told whether his token still counts.
func (l *List) Known() bool { return l.known.Load() }

// Len is the number of entries, of which some may be over.
func (l *List) Len() int { return int(l.entries.Load()) }

// Replace takes the whole list, by the keys of the bucket. Entries that cannot be
// read are left out and reported. stricter tells that an entry is new or another.
func (l *List) Replace(all map[string][]byte) (stricter bool, bad []error) {
	fresh := newTables()
	for key, value := range all {
		e, err := block.Decode(value)
		if err == nil && e.Key() != key {
			err = fmt.Errorf("block %s: it is about another subject", key)
		}
		if err != nil {
			bad = append(bad, err)
			continue
		}
		fresh.set(key, e)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, e := range fresh.byKey {
		if old := l.tables.byKey[key]; old == nil || *old != *e {
			stricter = true
		}
	}
	l.tables = fresh
	l.entries.Store(int64(len(fresh.byKey)))
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
		l.tables.remove(key)
	} else {
		l.tables.set(key, e)
	}
	l.entries.Store(int64(len(l.tables.byKey)))
	return e != nil, nil
}

// Check says why id may not be here, nil when it may. An anonymous client is
// nobody, and not blocked.
func (l *List) Check(id *session.Identity, now time.Time) *wire.Error {
	if id == nil || l.entries.Load() == 0 {
		return nil
	}
	l.mu.RLock()
	user, issued, token := l.tables.users[id.User], l.tables.issued[id.User], l.tables.tokens[id.TokenID]
	l.mu.RUnlock()
	switch {
	case inForce(user, now):
		reason := "this user is blocked"
		if user.Until != 0 {
			reason += " until " + date(user.Until)
		}
		return &wire.Error{Code: wire.UserBlocked, Reason: reason}
	case inForce(issued, now) && int64(id.Issued) < issued.Before:
		return &wire.Error{Code: wire.TokenRevoked, Reason: "this user's tokens that were issued before " + date(issued.Before) + " are revoked: get a new one"}
	case inForce(token, now):
		return &wire.Error{Code: wire.TokenRevoked, Reason: "the token is revoked"}
	}
	return nil
}

func inForce(e *block.Entry, now time.Time) bool { return e != nil && !e.Over(now) }

func date(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }
