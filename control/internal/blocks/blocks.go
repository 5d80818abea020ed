// Package blocks revokes tokens and blocks users: it writes what edges obey, and
// removes what has lost its force.
package blocks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/auth"
	"nabat/internal/bus"
	"nabat/proto/block"
)

const (
	// margin is added to the end of a token: clocks differ, and edges forgive.
	margin = 10 * time.Minute
	// maxReason bounds what an operator writes down.
	maxReason = 512
)

// sweepInterval is how often entries that are over are removed. Edges do not
// wait for that.
const sweepInterval = time.Minute

// Options of a Keeper.
type Options struct {
	// Keep is the longest life of a token: what is revoked without an end of its
	// own is kept that long.
	Keep time.Duration
	Log  *slog.Logger // nil: nothing is logged
}

// Keeper writes the blocks. Safe from any goroutine.
type Keeper struct {
	opts Options

	// mu guards kv, which Prepare sets.
	mu sync.Mutex
	kv jetstream.KeyValue
}

// New returns a keeper without a bucket; Prepare gives it one.
func New(o Options) *Keeper {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{opts: o}
}

// Prepare takes the bucket.
func (k *Keeper) Prepare(kv jetstream.KeyValue) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kv = kv
}

// ErrNotReady is returned while the bucket is not there yet.
var ErrNotReady = errors.New("the list of blocks is not ready yet")

// Error is a request that cannot be fulfilled as it is.
type Error struct{ Reason string }

func (e *Error) Error() string { return e.Reason }

func (k *Keeper) bucket() (jetstream.KeyValue, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.kv == nil {
		return nil, ErrNotReady
	}
	return k.kv, nil
}

// TokenRequest names a token by its id, or by itself.
type TokenRequest struct {
	ID     string // jti
	Token  string
	Reason string
}

// RevokeToken takes a token out of use. The token itself is better than its id,
// because it says how long that has to be remembered; it is not verified.
func (k *Keeper) RevokeToken(ctx context.Context, r TokenRequest, now time.Time) (*block.Entry, error) {
	until := now.Add(k.opts.Keep)
	switch {
	case (r.ID == "") == (r.Token == ""):
		return nil, &Error{"give one of jti and token"}
	case r.Token != "":
		c, err := auth.Peek(r.Token)
		switch {
		case err != nil:
			return nil, &Error{err.Error()}
		case c.ID == "":
			return nil, &Error{"the token has no id (jti): revoke its user's tokens by the time of issue"}
		}
		r.ID = c.ID
		if !c.Expires.IsZero() {
			until = c.Expires
		}
	}
	e := &block.Entry{Kind: block.Token, Subject: r.ID, Created: now.Unix(), Until: until.Add(margin).Unix(), Reason: r.Reason}
	return e, k.put(ctx, e)
}

// RevokeUser takes all tokens of a user out of use that were issued before a
// time; zero is now. A time before the one that is in force changes nothing.
func (k *Keeper) RevokeUser(ctx context.Context, user string, before time.Time, reason string, now time.Time) (*block.Entry, error) {
	switch {
	case before.IsZero():
		// iat counts whole seconds: this one's tokens are revoked with the others.
		before = now.Truncate(time.Second).Add(time.Second)
	case before.After(now.Add(time.Second)):
		return nil, &Error{"issued_before lies in the future: block the user instead"}
	case before.Unix() <= 0:
		return nil, &Error{"issued_before must be unix seconds"}
	}
	e := &block.Entry{Kind: block.Issued, Subject: user, Before: before.Unix(), Created: now.Unix(),
		Until: before.Add(k.opts.Keep + margin).Unix(), Reason: reason}
	if err := check(e); err != nil {
		return nil, err
	}
	kv, err := k.bucket()
	if err != nil {
		return nil, err
	}
	for {
		old, err := kv.Get(ctx, e.Key())
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			_, err = kv.Create(ctx, e.Key(), e.Encode())
		case err == nil:
			if had, decodeErr := block.Decode(old.Value()); decodeErr == nil && had.Before >= e.Before {
				return had, nil
			}
			_, err = kv.Update(ctx, e.Key(), e.Encode(), old.Revision())
		}
		if err == nil {
			k.opts.Log.Info("revoked", "kind", e.Kind, "user", e.Subject, "before", e.Before)
			return e, nil
		}
		if !bus.Raced(err) {
			return nil, fmt.Errorf("revoke: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(rand.N(20 * time.Millisecond)):
		}
	}
}

// BlockUser keeps a user out, whatever token it shows: for a time, or for good
// when that is 0. It replaces an earlier block.
func (k *Keeper) BlockUser(ctx context.Context, user string, duration time.Duration, reason string, now time.Time) (*block.Entry, error) {
	e := &block.Entry{Kind: block.User, Subject: user, Created: now.Unix(), Reason: reason}
	switch {
	case duration < 0:
		return nil, &Error{"for must not be negative"}
	case duration > 0:
		e.Until = now.Add(duration + time.Second - 1).Unix()
	}
	return e, k.put(ctx, e)
}

// Unblock lets a user in again and reports whether it was blocked. What was
// revoked stays revoked.
func (k *Keeper) Unblock(ctx context.Context, user string, now time.Time) (was bool, err error) {
	if user == "" {
		return false, &Error{"user is missing: who shall be unblocked?"}
	}
	kv, err := k.bucket()
	if err != nil {
		return false, err
	}
	key := block.Key(block.User, user)
	old, err := kv.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("unblock: %w", err)
	}
	if err := kv.Delete(ctx, key); err != nil {
		return false, fmt.Errorf("unblock: %w", err)
	}
	k.opts.Log.Info("unblocked", "user", user)
	e, err := block.Decode(old.Value())
	return err != nil || !e.Over(now), nil
}

func check(e *block.Entry) error {
	switch {
	case e.Subject == "" && e.Kind == block.Token:
		return &Error{"jti is missing: which token?"}
	case e.Subject == "":
		return &Error{"user is missing: whose access?"}
	case len(e.Reason) > maxReason:
		return &Error{fmt.Sprintf("reason has %d bytes: at most %d", len(e.Reason), maxReason)}
	}
	if err := e.Check(); err != nil {
		return &Error{err.Error()}
	}
	return nil
}

func (k *Keeper) put(ctx context.Context, e *block.Entry) error {
	if err := check(e); err != nil {
		return err
	}
	kv, err := k.bucket()
	if err != nil {
		return err
	}
	if _, err := kv.Put(ctx, e.Key(), e.Encode()); err != nil {
		return fmt.Errorf("block: %w", err)
	}
	k.opts.Log.Info("blocked", "kind", e.Kind, "subject", e.Subject, "until", e.Until)
	return nil
}

// List is what is in force, the newest first. Of a user, if one is given.
func (k *Keeper) List(ctx context.Context, user string, now time.Time) ([]block.Entry, error) {
	list := []block.Entry{}
	err := k.each(ctx, func(e *block.Entry, _ jetstream.KeyValueEntry) {
		if !e.Over(now) && (user == "" || e.Kind != block.Token && e.Subject == user) {
			list = append(list, *e)
		}
	})
	slices.SortFunc(list, func(a, b block.Entry) int {
		return cmp.Or(cmp.Compare(b.Created, a.Created), cmp.Compare(a.Key(), b.Key()))
	})
	return list, err
}

// each calls fn for every entry that can be read.
func (k *Keeper) each(ctx context.Context, fn func(*block.Entry, jetstream.KeyValueEntry)) error {
	kv, err := k.bucket()
	if err != nil {
		return err
	}
	w, err := kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return fmt.Errorf("read blocks: %w", err)
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case entry, ok := <-w.Updates():
			if !ok {
				return errors.New("read blocks: the watch ended")
			}
			if entry == nil { // all has been read
				return nil
			}
			if e, err := block.Decode(entry.Value()); err == nil {
				fn(e, entry)
			}
		}
	}
}

// Run removes what is over until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	tick := time.NewTicker(sweepInterval + rand.N(sweepInterval/4)) // replicas take turns
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := k.sweep(ctx, time.Now()); err != nil && ctx.Err() == nil {
			k.opts.Log.Warn("blocks that are over can not be removed now", "error", err)
		}
	}
}

func (k *Keeper) sweep(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	kv, err := k.bucket()
	if err != nil {
		return err
	}
	var over []jetstream.KeyValueEntry
	if err := k.each(ctx, func(e *block.Entry, entry jetstream.KeyValueEntry) {
		if e.Over(now.Add(-margin)) {
			over = append(over, entry)
		}
	}); err != nil {
		return err
	}
	for _, entry := range over {
		// An entry that was renewed meanwhile, or removed by another replica, stays.
		if err := kv.Delete(ctx, entry.Key(), jetstream.LastRevision(entry.Revision())); err != nil && !bus.Raced(err) {
			return fmt.Errorf("remove: %w", err)
		}
	}
	// What is left of deleted entries goes once every edge has seen it.
	if err := kv.PurgeDeletes(ctx); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}
