// Package tokens keeps the keys of a cluster and issues tokens with them.
package tokens

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/auth"
	"nabat/proto/grant"
	"nabat/proto/wire"
)

// Options of an Issuer.
type Options struct {
	TTL, MaxTTL      time.Duration
	Issuer, Audience string
	// KeyAge is after what time a key gets a successor; 0: only by command.
	KeyAge time.Duration
	// KeyLead is how long a new key is published before it signs.
	KeyLead time.Duration
	Log     *slog.Logger // nil: nothing is logged
}

// Issuer makes tokens, and the keys for them. Safe from any goroutine.
type Issuer struct {
	opts Options
	keys atomic.Pointer[ring]

	// mu guards the buckets, which Prepare sets, and is held while keys change.
	mu              sync.Mutex
	config, secrets jetstream.KeyValue
}

// New returns an issuer without keys; Prepare gives it some.
func New(o Options) *Issuer {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Issuer{opts: o}
}

// ErrNotReady is returned while the keys are not there yet.
var ErrNotReady = errors.New("the keys are not ready yet")

// Request is what a token should say.
type Request struct {
	User      string
	TTL       time.Duration // 0: the default
	Algorithm string        // empty: HS256
	NotBefore time.Time     // zero: valid at once
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
	if !r.NotBefore.IsZero() && !r.NotBefore.Before(now.Add(r.TTL)) {
		return nil, &Error{fmt.Sprintf("nbf is not before the end of the token, which is ttl (%s) from now", r.TTL)}
	}
	if k := keys.signer(r.Algorithm, now); k != nil {
		return i.sign(k, r, now)
	}
	return nil, &Error{fmt.Sprintf("algorithm %q: must be HS256 or EdDSA", r.Algorithm)}
}

func (i *Issuer) sign(k *auth.SigningKey, r Request, now time.Time) (*Token, error) {
	var id [12]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("token id: %w", err)
	}
	c := auth.Claims{User: r.User, ID: hex.EncodeToString(id[:]), Issuer: i.opts.Issuer, IssuedAt: now, NotBefore: r.NotBefore, Expires: now.Add(r.TTL), Grant: &r.Grant}
	if i.opts.Audience != "" {
		c.Audience = []string{i.opts.Audience}
	}
	token, err := auth.Sign(k, c)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return &Token{Token: token, Expires: c.Expires, Key: k.ID, ID: c.ID}, nil
}

// Verify checks a token as edges do, by the keys of the cluster and those of
// other issuers; these may be nil.
func (i *Issuer) Verify(token string, issuers *auth.KeySet, now time.Time) (*auth.Verified, *wire.Error, error) {
	keys := i.keys.Load()
	if keys == nil {
		return nil, nil, ErrNotReady
	}
	public, err := auth.ParseJWKS(auth.EncodeJWKS(*keys...))
	if err != nil {
		return nil, nil, fmt.Errorf("public keys: %w", err)
	}
	symmetric, err := auth.ParseSymmetric(auth.EncodeSymmetric(*keys...))
	if err != nil {
		return nil, nil, fmt.Errorf("symmetric keys: %w", err)
	}
	v := auth.NewVerifier(auth.Options{Issuer: i.opts.Issuer, Audience: i.opts.Audience})
	v.SetKeys(auth.Merge(public, symmetric, issuers))
	who, refused := v.Verify(token, now)
	return who, refused, nil
}

// JWKS is the public key set, as others fetch it.
func (i *Issuer) JWKS() ([]byte, error) {
	keys := i.keys.Load()
	if keys == nil {
		return nil, ErrNotReady
	}
	return auth.EncodeJWKS(*keys...), nil
}
