// Package tokens keeps the keys of a cluster and issues tokens with them.
package tokens

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/auth"
	"nabat/internal/bus"
	"nabat/proto/grant"
)

// Options of an Issuer.
type Options struct {
	TTL, MaxTTL      time.Duration
	Issuer, Audience string
}

// Issuer makes tokens. Safe from any goroutine.
type Issuer struct {
	opts Options
	keys atomic.Pointer[[]*auth.SigningKey]
}

// New returns an issuer without keys; Prepare gives it some.
func New(o Options) *Issuer { return &Issuer{opts: o} }

// ErrNotReady is returned while the keys are not there yet.
var ErrNotReady = errors.New("the keys are not ready yet")

// Prepare loads the signing keys, making them if this is the first start of the
// cluster, and publishes what verifies them. Replicas that start together agree:
// the first to create the key wins.
func (i *Issuer) Prepare(ctx context.Context, config, secrets jetstream.KeyValue) error {
	keys, err := load(ctx, secrets)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		if keys, err = create(ctx, secrets); errors.Is(err, jetstream.ErrKeyExists) {
			keys, err = load(ctx, secrets)
		}
	}
	if err != nil {
		return fmt.Errorf("signing keys: %w", err)
	}
	if _, err := secrets.Put(ctx, bus.KeySymmetric, auth.EncodeSymmetric(keys...)); err != nil {
		return fmt.Errorf("publish symmetric keys: %w", err)
	}
	if _, err := config.Put(ctx, bus.KeyJWKS, auth.EncodeJWKS(keys...)); err != nil {
		return fmt.Errorf("publish public keys: %w", err)
	}
	i.keys.Store(&keys)
	return nil
}

func load(ctx context.Context, secrets jetstream.KeyValue) ([]*auth.SigningKey, error) {
	e, err := secrets.Get(ctx, bus.KeySigning)
	if err != nil {
		return nil, err
	}
	return auth.ParseSigning(e.Value())
}

func create(ctx context.Context, secrets jetstream.KeyValue) ([]*auth.SigningKey, error) {
	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	suffix := hex.EncodeToString(id[:])
	hs, err := auth.GenerateHS256("hs-" + suffix)
	if err != nil {
		return nil, err
	}
	ed, err := auth.GenerateEd25519("ed-" + suffix)
	if err != nil {
		return nil, err
	}
	keys := []*auth.SigningKey{hs, ed}
	_, err = secrets.Create(ctx, bus.KeySigning, auth.EncodeSigning(keys...))
	return keys, err
}

// Request is what a token should say.
type Request struct {
	User      string
	TTL       time.Duration // 0: the default
	Algorithm string        // empty: HS256
	Grant     grant.Grant
}

// Token is an issued token.
type Token struct {
	Token   string
	Expires time.Time
	Key     string
	ID      string
}

// Error is a request that cannot be fulfilled as it is.
type Error struct{ Reason string }

func (e *Error) Error() string { return e.Reason }

// Issue makes a token. Errors of type *Error are the caller's fault.
func (i *Issuer) Issue(r Request, now time.Time) (*Token, error) {
	keys := i.keys.Load()
	if keys == nil {
		return nil, ErrNotReady
	}
	if r.User == "" {
		return nil, &Error{"sub is missing: whose token is it?"}
	}
	if r.TTL == 0 {
		r.TTL = i.opts.TTL
	}
	if r.TTL < time.Second || r.TTL > i.opts.MaxTTL {
		return nil, &Error{fmt.Sprintf("ttl is %s: must be 1s to %s", r.TTL, i.opts.MaxTTL)}
	}
	if r.Algorithm == "" {
		r.Algorithm = auth.HS256
	}
	if err := r.Grant.Check(); err != nil {
		return nil, &Error{err.Error()}
	}
	for _, k := range *keys {
		if k.Algorithm == r.Algorithm {
			return i.sign(k, r, now)
		}
	}
	return nil, &Error{fmt.Sprintf("algorithm %q: must be HS256 or EdDSA", r.Algorithm)}
}

func (i *Issuer) sign(k *auth.SigningKey, r Request, now time.Time) (*Token, error) {
	var id [12]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("token id: %w", err)
	}
	c := auth.Claims{User: r.User, ID: hex.EncodeToString(id[:]), Issuer: i.opts.Issuer, IssuedAt: now, Expires: now.Add(r.TTL), Grant: &r.Grant}
	if i.opts.Audience != "" {
		c.Audience = []string{i.opts.Audience}
	}
	token, err := auth.Sign(k, c)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return &Token{Token: token, Expires: c.Expires, Key: k.ID, ID: c.ID}, nil
}

// JWKS is the public key set, as others fetch it.
func (i *Issuer) JWKS() ([]byte, error) {
	keys := i.keys.Load()
	if keys == nil {
		return nil, ErrNotReady
	}
	return auth.EncodeJWKS(*keys...), nil
}
