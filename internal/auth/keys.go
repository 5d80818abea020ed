// Package auth makes and checks tokens: JWTs whose "nabat" claim is a grant.
package auth

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// The algorithms of tokens (RFC 7518 §3.1, RFC 8037 §3.1). Nabat makes keys for
// the first two; the others are those of other issuers.
const (
	HS256 = "HS256"
	EdDSA = "EdDSA"
	ES256 = "ES256"
	RS256 = "RS256"
)

// minSecret is the least length of a symmetric key in bytes (RFC 7518 §3.2).
const minSecret = 32

// Key verifies tokens. Its algorithm belongs to it: a token that names another
// one is refused, whatever the key could do.
type Key struct {
	ID        string
	Algorithm string
	secret    []byte           // HS256
	public    crypto.PublicKey // the others
}

// SigningKey makes tokens.
type SigningKey struct {
	Key
	private ed25519.PrivateKey // EdDSA

	// What decides when it is used; unix seconds, 0 for a key that was made
	// before there were such dates.
	Created   int64
	SignsFrom int64
	// Longest is the longest life, in seconds, that a token of it may have got.
	Longest int64
}

// KeySet is the cluster's own keys by id, and those of other issuers. Immutable.
type KeySet struct {
	keys    map[string]Key
	issuers map[string]*issuerKeys
}

// IDs lists the ids of the cluster's own keys, sorted.
func (s *KeySet) IDs() []string { return slices.Sorted(maps.Keys(s.keys)) }

// GenerateHS256 makes a symmetric key.
func GenerateHS256(id string) (*SigningKey, error) {
	secret := make([]byte, minSecret)
	if _, err := rand.Read(secret); err != nil {
		return nil, fmt.Errorf("generate key %s: %w", id, err)
	}
	return &SigningKey{Key: Key{ID: id, Algorithm: HS256, secret: secret}}, nil
}

// GenerateEd25519 makes a key pair.
func GenerateEd25519(id string) (*SigningKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key %s: %w", id, err)
	}
	return &SigningKey{Key: Key{ID: id, Algorithm: EdDSA, public: public}, private: private}, nil
}

// EncodeJWKS writes the public halves as a JWK set. Symmetric keys have none
// and are left out.
func EncodeJWKS(keys ...*SigningKey) []byte {
	var set jwkSet
	for _, k := range keys {
		if public, ok := k.public.(ed25519.PublicKey); ok {
			set.Keys = append(set.Keys, jwk{Type: "OKP", ID: k.ID, Algorithm: EdDSA, Use: "sig", Curve: "Ed25519", X: b64.EncodeToString(public)})
		}
	}
	return marshal(set)
}

// EncodeSymmetric writes the symmetric keys, which are secrets.
func EncodeSymmetric(keys ...*SigningKey) []byte {
	var set jwkSet
	for _, k := range keys {
		if k.secret != nil {
			set.Keys = append(set.Keys, jwk{Type: "oct", ID: k.ID, Algorithm: HS256, K: b64.EncodeToString(k.secret)})
		}
	}
	return marshal(set)
}

// EncodeSigning writes all keys with their private parts.
func EncodeSigning(keys ...*SigningKey) []byte {
	var set jwkSet
	for _, k := range keys {
		j := jwk{ID: k.ID, Algorithm: k.Algorithm, Created: k.Created, SignsFrom: k.SignsFrom, Longest: k.Longest}
		if k.secret != nil {
			j.Type, j.K = "oct", b64.EncodeToString(k.secret)
		} else {
			j.Type, j.Curve, j.D = "OKP", "Ed25519", b64.EncodeToString(k.private.Seed())
		}
		set.Keys = append(set.Keys, j)
	}
	return marshal(set)
}

// ParseJWKS reads a public JWK set. A symmetric or private key in it is an
// error: it would be a leaked secret.
func ParseJWKS(data []byte) (*KeySet, error) {
	return parse(data, func(j jwk) (Key, error) {
		k, err := publicKey(j)
		if err == nil && (k.Algorithm != EdDSA || j.Algorithm != EdDSA) {
			err = errors.New("not an Ed25519 public key for EdDSA")
		}
		return k, err
	})
}

// ParseSymmetric reads what EncodeSymmetric wrote.
func ParseSymmetric(data []byte) (*KeySet, error) {
	return parse(data, func(j jwk) (Key, error) {
		if j.Type != "oct" {
			return Key{}, errors.New("not a symmetric key")
		}
		return symmetricKey(j)
	})
}

func parse(data []byte, read func(jwk) (Key, error)) (*KeySet, error) {
	var set jwkSet
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	out := &KeySet{keys: make(map[string]Key, len(set.Keys))}
	for _, j := range set.Keys {
		k, err := read(j)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", j.ID, err)
		}
		if _, twice := out.keys[k.ID]; twice || k.ID == "" {
			return nil, fmt.Errorf("key %q: ids must be there, and once", j.ID)
		}
		out.keys[k.ID] = k
	}
	return out, nil
}

// ParseSigning reads what EncodeSigning wrote.
func ParseSigning(data []byte) ([]*SigningKey, error) {
	var set jwkSet
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("signing keys: %w", err)
	}
	var list []*SigningKey
	for _, j := range set.Keys {
		k := &SigningKey{Created: j.Created, SignsFrom: j.SignsFrom, Longest: j.Longest}
		var err error
		switch j.Type {
		case "oct":
			k.Key, err = symmetricKey(j)
		case "OKP":
			var seed []byte
			if seed, err = b64.DecodeString(j.D); err == nil && len(seed) != ed25519.SeedSize {
				err = errors.New("not an Ed25519 seed")
			}
			if err == nil {
				k.private = ed25519.NewKeyFromSeed(seed)
				k.Key = Key{ID: j.ID, Algorithm: EdDSA, public: k.private.Public()}
			}
		default:
			err = fmt.Errorf("key type %q is not known", j.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("signing key %q: %w", j.ID, err)
		}
		list = append(list, k)
	}
	return list, nil
}

// Merge returns the keys of all sets. Nil sets are empty; the first of two keys
// with one id counts, and so does the first of two issuers with one name.
func Merge(sets ...*KeySet) *KeySet {
	out := &KeySet{keys: make(map[string]Key), issuers: make(map[string]*issuerKeys)}
	for _, s := range sets {
		if s == nil {
			continue
		}
		for id, k := range s.keys {
			if _, ok := out.keys[id]; !ok {
				out.keys[id] = k
			}
		}
		for name, i := range s.issuers {
			if _, ok := out.issuers[name]; !ok {
				out.issuers[name] = i
			}
		}
	}
	return out
}

// keeps reports whether whatever old accepts s accepts, too, and says the same
// of it: then what was verified with old stays verified.
func (s *KeySet) keeps(old *KeySet) bool {
	for id, k := range old.keys {
		if !k.Equal(s.keys[id]) {
			return false
		}
	}
	for name, i := range old.issuers {
		if !s.issuers[name].keeps(i) {
			return false
		}
	}
	// An issuer that is new takes tokens away from the cluster's own keys.
	return len(s.issuers) == len(old.issuers)
}

// Equal reports whether both are the same key under the same id.
func (k Key) Equal(o Key) bool {
	if k.ID != o.ID || k.Algorithm != o.Algorithm || subtle.ConstantTimeCompare(k.secret, o.secret) != 1 {
		return false
	}
	public, ok := k.public.(interface{ Equal(crypto.PublicKey) bool })
	if !ok {
		return k.public == nil && o.public == nil
	}
	return public.Equal(o.public)
}
