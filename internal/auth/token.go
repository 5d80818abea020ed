package auth

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"nabat/proto/grant"
	"nabat/proto/wire"
)

// MaxTokenBytes bounds a token.
const MaxTokenBytes = 8 << 10

// Claims is what a new token should say.
type Claims struct {
	User      string // sub
	ID        string // jti
	Issuer    string
	Audience  []string
	IssuedAt  time.Time
	NotBefore time.Time
	Expires   time.Time // zero: never
	Grant     *grant.Grant
}

// Verified is what is kept of a token that passed. Immutable and shared: one
// lives for each cached token, so it holds only what is asked for later.
type Verified struct {
	User    string
	TokenID string
	Grant   *grant.Grant // shared by all tokens that grant the same
	Expires uint32       // unix seconds, 0 never
	Issued  uint32       // unix seconds, 0 for a token that does not say
}

// claims is Claims as JSON.
type claims struct {
	jwt.RegisteredClaims
	Nabat *grant.Grant `json:"nabat,omitempty"`
}

// Sign makes a token. A missing ID is made up.
func Sign(k *SigningKey, c Claims) (string, error) {
	if c.Grant != nil {
		if err := c.Grant.Check(); err != nil {
			return "", fmt.Errorf("grant: %w", err)
		}
	}
	if c.ID == "" {
		var id [12]byte
		if _, err := rand.Read(id[:]); err != nil {
			return "", fmt.Errorf("token id: %w", err)
		}
		c.ID = hex.EncodeToString(id[:])
	}
	body := claims{Nabat: c.Grant, RegisteredClaims: jwt.RegisteredClaims{Subject: c.User, ID: c.ID, Issuer: c.Issuer, Audience: c.Audience,
		IssuedAt: date(c.IssuedAt), NotBefore: date(c.NotBefore), ExpiresAt: date(c.Expires)}}
	t := jwt.NewWithClaims(jwt.GetSigningMethod(k.Algorithm), body)
	t.Header["kid"] = k.ID
	if k.Algorithm == HS256 {
		return t.SignedString(k.secret)
	}
	return t.SignedString(k.private)
}

func date(t time.Time) *jwt.NumericDate {
	if t.IsZero() {
		return nil
	}
	return jwt.NewNumericDate(t)
}

// Options of a Verifier.
type Options struct {
	Issuer   string // required iss, empty for any
	Audience string // required aud, empty for any
	Leeway   time.Duration
	// CacheEntries bounds the verified tokens that are remembered. Default 65536.
	CacheEntries int
}

// Verifier checks tokens. Safe from any goroutine.
type Verifier struct {
	opts   Options
	keys   keyBox
	cache  *cache
	grants *grants
}

// NewVerifier returns a verifier without keys: it refuses every token.
func NewVerifier(o Options) *Verifier {
	if o.CacheEntries == 0 {
		o.CacheEntries = 65536
	}
	v := &Verifier{opts: o, cache: newCache(o.CacheEntries), grants: newGrants()}
	v.keys.Store(&KeySet{})
	return v
}

// SetKeys replaces the keys. What was verified with old ones is forgotten, unless
// keys have only been added.
func (v *Verifier) SetKeys(s *KeySet) {
	if old := v.keys.Swap(s); !s.keeps(old) {
		v.cache.clear()
	}
}

// Cached returns what a token says that was verified before and has not expired,
// nil otherwise. It allocates nothing.
func (v *Verifier) Cached(token string, now time.Time) *Verified {
	return v.cache.get(token, now.Add(-v.opts.Leeway))
}

// Cheap reports whether Verify takes microseconds (HS256, and whatever it will
// refuse unread) rather than a tenth of a millisecond.
func (v *Verifier) Cheap(token string) bool {
	head, _, _ := strings.Cut(token, ".")
	raw, err := b64.DecodeString(head)
	var h struct {
		Algorithm string `json:"alg"`
	}
	if err != nil || json.Unmarshal(raw, &h) != nil {
		return true
	}
	return h.Algorithm != EdDSA && h.Algorithm != ES256 && h.Algorithm != RS256
}

// Verify checks a token. Every refusal has its own code.
func (v *Verifier) Verify(token string, now time.Time) (*Verified, *wire.Error) {
	if len(token) > MaxTokenBytes {
		return nil, refuse(wire.TokenMalformed, "the token has %d bytes: at most %d", len(token), MaxTokenBytes)
	}
	keys := v.keys.Load()
	options := []jwt.ParserOption{jwt.WithLeeway(v.opts.Leeway), jwt.WithTimeFunc(func() time.Time { return now }), jwt.WithStrictDecoding()}
	var c claims
	check := check{keys: keys, own: &v.opts, claims: &c}
	_, err := jwt.NewParser(options...).ParseWithClaims(token, &c, check.find)
	if err != nil {
		return nil, explain(err, &c, now)
	}
	if err := check.admit(token); err != nil {
		return nil, err
	}
	if c.Nabat != nil {
		if err := c.Nabat.Check(); err != nil {
			return nil, refuse(wire.TokenClaims, "claim nabat: %v", err)
		}
	}
	out := &Verified{User: c.Subject, TokenID: c.ID, Grant: v.grants.share(c.Nabat), Expires: seconds(c.ExpiresAt), Issued: seconds(c.IssuedAt)}
	v.cache.put(token, out, keys == v.keys.Load())
	return out, nil
}

// seconds is d in unix seconds; what lies outside of what 32 bits hold, until
// 2106, is the nearest that does not mean never.
func seconds(d *jwt.NumericDate) uint32 {
	if d == nil {
		return 0
	}
	return uint32(min(max(d.Unix(), 1), 1<<32-1))
}

func moment(d *jwt.NumericDate) time.Time {
	if d == nil {
		return time.Time{}
	}
	return d.Time
}

// errUnknownKey and errAlgorithm come back out of the parser.
var (
	errUnknownKey = errors.New("unknown key")
	errAlgorithm  = errors.New("algorithm does not belong to the key")
)

// check is one token on its way through the rules.
type check struct {
	keys   *KeySet
	own    *Options
	claims *claims
	from   *issuerKeys // nil: the cluster's own
}

// find is the parser's key function. The issuer that the token names decides
// whose keys are looked at; the key decides about the algorithm, so that none,
// and a public key's bytes used as an HMAC secret, are refused.
func (f *check) find(t *jwt.Token) (any, error) {
	if t.Method == jwt.SigningMethodNone {
		return nil, fmt.Errorf("%w: none is never accepted", errAlgorithm)
	}
	id, named := t.Header["kid"].(string)
	var k Key
	var ok bool
	if f.from = f.keys.issuers[f.claims.Issuer]; f.from != nil {
		k, ok = f.from.find(id, t.Method.Alg(), named)
	} else {
		k, ok = f.keys.keys[id]
	}
	switch {
	case !ok && f.from == nil && f.own.Issuer != "" && f.claims.Issuer != f.own.Issuer:
		return nil, jwt.ErrTokenInvalidIssuer
	case !ok && f.claims.Issuer != "":
		return nil, fmt.Errorf("%w %q of issuer %q", errUnknownKey, clip(id), clip(f.claims.Issuer))
	case !ok:
		return nil, fmt.Errorf("%w %q", errUnknownKey, clip(id))
	case t.Method.Alg() != k.Algorithm:
		return nil, fmt.Errorf("%w: key %q is for %s, the token says %s", errAlgorithm, clip(id), k.Algorithm, t.Method.Alg())
	case k.Algorithm == HS256:
		return k.secret, nil
	}
	return k.public, nil
}

// admit holds a token whose signature and times are good against whom it is
// from and for.
func (f *check) admit(token string) *wire.Error {
	c := f.claims
	if f.from != nil {
		return f.from.admit(c, token)
	}
	switch {
	case f.own.Audience != "" && len(c.Audience) == 0:
		return refuse(wire.TokenAudience, "the token names no audience (aud)")
	case f.own.Audience != "" && !slices.Contains(c.Audience, f.own.Audience):
		return refuse(wire.TokenAudience, "the token is for audience %q", clip(strings.Join(c.Audience, " ")))
	case f.own.Issuer != "" && c.Issuer == "":
		return refuse(wire.TokenIssuer, "the token names no issuer (iss)")
	case f.own.Issuer != "" && c.Issuer != f.own.Issuer:
		return refuse(wire.TokenIssuer, "the token comes from issuer %q", clip(c.Issuer))
	}
	return nil
}

// Peek reads what a token says without checking anything.
func Peek(token string) (Claims, error) {
	var c claims
	if len(token) > MaxTokenBytes {
		return Claims{}, errors.New("the token is too long")
	}
	if _, _, err := jwt.NewParser().ParseUnverified(token, &c); err != nil {
		// The parser's error may quote the token.
		return Claims{}, errors.New("the token is not a JWT")
	}
	return Claims{User: c.Subject, ID: c.ID, Issuer: c.Issuer, Audience: c.Audience, IssuedAt: moment(c.IssuedAt),
		NotBefore: moment(c.NotBefore), Expires: moment(c.ExpiresAt), Grant: c.Nabat}, nil
}

func refuse(code wire.Code, format string, args ...any) *wire.Error {
	return &wire.Error{Code: code, Reason: fmt.Sprintf(format, args...)}
}

// explain turns the parser's error into a code and words that tell what to do.
func explain(err error, c *claims, now time.Time) *wire.Error {
	var shape *json.UnmarshalTypeError
	switch {
	case errors.Is(err, errAlgorithm):
		return refuse(wire.TokenAlgorithm, "the token's algorithm is not accepted: %v", cause(err, errAlgorithm))
	case errors.Is(err, errUnknownKey):
		return refuse(wire.TokenUnknownKey, "the token's key is not known here: %v", cause(err, errUnknownKey))
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return refuse(wire.TokenSignature, "the token's signature is wrong")
	case errors.Is(err, jwt.ErrTokenExpired):
		ago := now.Sub(moment(c.ExpiresAt)).Round(time.Second)
		return refuse(wire.TokenExpired, "the token expired %s ago: get a new one", ago)
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return refuse(wire.TokenNotYetValid, "the token is not valid yet (nbf): check the clocks")
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return refuse(wire.TokenIssuer, "the token comes from issuer %q", clip(c.Issuer))
	case errors.Is(err, jwt.ErrTokenUnverifiable):
		return refuse(wire.TokenAlgorithm, "the token's algorithm is not known")
	case errors.Is(err, jwt.ErrTokenInvalidClaims):
		return refuse(wire.TokenClaims, "a claim has the wrong form: %v", err)
	case errors.As(err, &shape):
		return refuse(wire.TokenClaims, "claim %s has the wrong form: a %s stands where none belongs", strings.TrimPrefix(shape.Field, "RegisteredClaims."), shape.Value)
	}
	return refuse(wire.TokenMalformed, "the token is not a JWT: three parts in base64url with dots between")
}

// cause is the innermost error that wraps mark.
func cause(err, mark error) error {
	for {
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			inner := e.Unwrap()
			if inner == mark || inner == nil {
				return err
			}
			err = inner
		case interface{ Unwrap() []error }:
			found := false
			for _, inner := range e.Unwrap() {
				if errors.Is(inner, mark) {
					err, found = inner, true
				}
			}
			if !found || err == mark {
				return err
			}
		default:
			return err
		}
	}
}

func clip(s string) string {
	const limit = 64
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}
