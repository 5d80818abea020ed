// Package apikeys keeps the keys of the HTTP API: who may use which verbs, and
// for which rooms. Only digests are stored.
package apikeys

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/bus"
	"nabat/proto/subject"
)

// Key is one key of the API, without its secret.
type Key struct {
	ID      string    `json:"id"`
	Name    string    `json:"name,omitempty"`
	Scopes  []string  `json:"scopes"`          // scopes and names of verbs
	Rooms   []string  `json:"rooms,omitempty"` // patterns; empty: every room
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"`
	Rotated time.Time `json:"rotated,omitzero"`
	Revoked time.Time `json:"revoked,omitzero"`

	// SHA-256 in hexadecimal. A secret has 256 random bits: nothing slower is
	// needed to keep it from being guessed.
	Digest string `json:"digest,omitempty"`
	// The digest before the last rotation is accepted until OldUntil.
	OldDigest string    `json:"old_digest,omitempty"`
	OldUntil  time.Time `json:"old_until,omitzero"`
}

// Admin is the scope that allows everything.
const Admin = "admin"

// Allows reports whether the key is for a verb.
func (k *Key) Allows(verb, scope string) bool {
	return slices.ContainsFunc(k.Scopes, func(s string) bool { return s == Admin || s == scope || s == verb })
}

// Covers reports whether the key is for a room.
func (k *Key) Covers(room string) bool {
	return len(k.Rooms) == 0 || slices.ContainsFunc(k.Rooms, func(p string) bool { return subject.Match(p, room) })
}

// Shown is the key without its digests.
func (k *Key) Shown() Key {
	shown := *k
	shown.Digest, shown.OldDigest = "", ""
	return shown
}

// check reports whether secret is the key's.
func (k *Key) check(secret string, now time.Time) error {
	got := digest(secret)
	switch {
	case !same(got, k.Digest) && (!same(got, k.OldDigest) || !now.Before(k.OldUntil)):
		return errUnknown
	case !k.Revoked.IsZero():
		return fmt.Errorf("the API key %s was revoked", k.ID)
	case !k.Expires.IsZero() && !now.Before(k.Expires):
		return fmt.Errorf("the API key %s has expired", k.ID)
	}
	return nil
}

func same(a, b string) bool {
	return b != "" && subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

func digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

var errUnknown = errors.New("the API key is not known")

// Errors of a change.
var (
	ErrNotFound = errors.New("there is no such API key")
	ErrTooMany  = fmt.Errorf("there are %d API keys, as many as there may be: revoke some", maxKeys)
	ErrNotReady = errors.New("the API keys are not read yet")
)

// maxKeys bounds the document that all replicas watch. Keys that were revoked or
// have expired stay on the list for keepRevoked.
const (
	maxKeys     = 500
	keepRevoked = 30 * 24 * time.Hour
)

// Bootstrap is the key that the configuration gives. It may do everything.
type Bootstrap struct{ digest string }

// NewBootstrap returns the key with this secret.
func NewBootstrap(secret string) *Bootstrap { return &Bootstrap{digest(secret)} }

// Matches compares digests, so that neither time nor length tells of the key.
func (b *Bootstrap) Matches(secret string) bool { return b != nil && same(digest(secret), b.digest) }

// Store is the keys of a cluster. Safe from any goroutine.
type Store struct {
	js   jetstream.JetStream
	keys atomic.Pointer[document]
}

// document is the value in NATS.
type document struct {
	Keys []*Key `json:"keys"`

	revision uint64
}

// New returns a store that knows no key before Run.
func New(js jetstream.JetStream) *Store { return &Store{js: js} }

// Run follows the keys until ctx ends.
func (s *Store) Run(ctx context.Context) {
	bus.Watch(ctx, s.js, bus.BucketKeys, bus.KeyAPIKeys, func(value []byte, revision uint64) {
		var d document
		if json.Unmarshal(value, &d) == nil {
			d.revision = revision
			s.take(&d)
		}
	})
}

// take replaces the keys by newer ones. A revision that goes back belongs to a
// bucket that was made again, of which the watch tells.
func (s *Store) take(d *document) { s.keys.Store(d) }

// Find returns the key with this secret.
func (s *Store) Find(secret string) (*Key, error) {
	rest, ok := strings.CutPrefix(secret, prefix)
	id, _, found := strings.Cut(rest, "_")
	d := s.keys.Load()
	if !ok || !found || d == nil {
		return nil, errUnknown
	}
	for _, k := range d.Keys {
		if k.ID == id {
			return k, k.check(secret, time.Now())
		}
	}
	return nil, errUnknown
}

// prefix lets people, and programs that look for leaked secrets, know a key.
const prefix = "nabat_"

func newSecret(id string) string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // it never fails
	return prefix + id + "_" + base64.RawURLEncoding.EncodeToString(b[:])
}

// Create makes a key and returns its secret, which is not kept.
func (s *Store) Create(ctx context.Context, k Key) (Key, string, error) {
	var b [6]byte
	_, _ = rand.Read(b[:]) // it never fails
	k.ID, k.Created = hex.EncodeToString(b[:]), time.Now().UTC()
	secret := newSecret(k.ID)
	k.Digest = digest(secret)
	err := s.update(ctx, func(d *document) error {
		if len(d.Keys) >= maxKeys {
			return ErrTooMany
		}
		d.Keys = append(d.Keys, &k)
		return nil
	})
	return k.Shown(), secret, err
}

// List returns the keys, in the order in which they were made.
func (s *Store) List(ctx context.Context) ([]Key, error) {
	kv, err := s.js.KeyValue(ctx, bus.BucketKeys)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", bus.BucketKeys, err)
	}
	d, err := read(ctx, kv)
	if err != nil {
		return nil, err
	}
	list := make([]Key, 0, len(d.Keys))
	for _, k := range d.Keys {
		list = append(list, k.Shown())
	}
	return list, nil
}

// Revoke ends a key.
func (s *Store) Revoke(ctx context.Context, id string) (Key, error) {
	return s.change(ctx, id, func(k *Key) {
		if k.Revoked.IsZero() {
			k.Revoked = time.Now().UTC()
		}
	})
}

// Rotate gives a key another secret. The old one is accepted for grace.
func (s *Store) Rotate(ctx context.Context, id string, grace time.Duration) (Key, string, error) {
	secret := newSecret(id)
	k, err := s.change(ctx, id, func(k *Key) {
		k.Rotated = time.Now().UTC()
		k.OldDigest, k.OldUntil, k.Digest = k.Digest, k.Rotated.Add(grace), digest(secret)
	})
	return k, secret, err
}

// change changes one key that was not revoked.
func (s *Store) change(ctx context.Context, id string, fn func(*Key)) (shown Key, err error) {
	err = s.update(ctx, func(d *document) error {
		for i, k := range d.Keys {
			if k.ID == id && k.Revoked.IsZero() {
				changed := *k
				fn(&changed)
				d.Keys[i], shown = &changed, changed.Shown()
				return nil
			}
		}
		return fmt.Errorf("%w: %s", ErrNotFound, id)
	})
	return shown, err
}

// update changes the document by compare-and-set, again while other replicas are
// faster.
func (s *Store) update(ctx context.Context, fn func(*document) error) error {
	const maxPause = 50 * time.Millisecond
	kv, err := s.js.KeyValue(ctx, bus.BucketKeys)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	for {
		d, err := read(ctx, kv)
		if err != nil {
			return err
		}
		d.forget(time.Now())
		if err := fn(d); err != nil {
			return err
		}
		if d.revision, err = write(ctx, kv, d); err == nil {
			s.take(d) // this replica knows it at once
			return nil
		}
		if !bus.Raced(err) {
			return fmt.Errorf("write API keys: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(mathrand.N(maxPause)):
		}
	}
}

func read(ctx context.Context, kv jetstream.KeyValue) (*document, error) {
	d := new(document)
	e, err := kv.Get(ctx, bus.KeyAPIKeys)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return d, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read API keys: %w", err)
	}
	if err := json.Unmarshal(e.Value(), d); err != nil {
		return nil, fmt.Errorf("the list of API keys (%s in %s) cannot be read: %w", bus.KeyAPIKeys, bus.BucketKeys, err)
	}
	d.revision = e.Revision()
	return d, nil
}

func write(ctx context.Context, kv jetstream.KeyValue, d *document) (uint64, error) {
	data, err := json.Marshal(d)
	if err != nil {
		return 0, err
	}
	if d.revision == 0 {
		return kv.Create(ctx, bus.KeyAPIKeys, data)
	}
	return kv.Update(ctx, bus.KeyAPIKeys, data, d.revision)
}

// forget drops keys that have ended long ago.
func (d *document) forget(now time.Time) {
	d.Keys = slices.DeleteFunc(d.Keys, func(k *Key) bool {
		ended := k.Revoked
		if ended.IsZero() {
			ended = k.Expires
		}
		return !ended.IsZero() && now.Sub(ended) > keepRevoked
	})
}
