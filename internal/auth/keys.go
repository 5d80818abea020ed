// Package auth makes and checks tokens: JWTs whose "nabat" claim is a grant.
package auth

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// The algorithms of keys that Nabat makes (RFC 7518 §3.1, RFC 8037 §3.1).
const (
	HS256 = "HS256"
	EdDSA = "EdDSA"
)

// minSecret is the least length of a symmetric key in bytes (RFC 7518 §3.2).
const minSecret = 32

// Key verifies tokens. Its algorithm belongs to it: a token that names another
// one is refused, whatever the key could do.
type Key struct {
	ID        string
	Algorithm string
	secret    []byte           // HS256
	public    crypto.PublicKey // EdDSA
}

// SigningKey makes tokens.
type SigningKey struct {
	Key
	private ed25519.PrivateKey // EdDSA
}

// KeySet is keys by id. Immutable.
type KeySet struct{ keys map[string]Key }

// IDs lists the ids of the keys, sorted.
func (s *KeySet) IDs() []string { return slices.Sorted(maps.Keys(s.keys)) }

// jwk is one key of a JWK set (RFC 7517 §4).
type jwk struct {
	Type      string `json:"kty"`
	ID        string `json:"kid"`
	Algorithm string `json:"alg"`
	Use       string `json:"use,omitempty"`
	Curve     string `json:"crv,omitempty"`
	X         string `json:"x,omitempty"` // public part of an OKP key
	D         string `json:"d,omitempty"` // private part of an OKP key
	K         string `json:"k,omitempty"` // secret of an oct key
}

type jwkSet struct {
	Keys []jwk `json:"keys"`
}

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

var b64 = base64.RawURLEncoding

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
		j := jwk{ID: k.ID, Algorithm: k.Algorithm}
		if k.secret != nil {
			j.Type, j.K = "oct", b64.EncodeToString(k.secret)
		} else {
			j.Type, j.Curve, j.D = "OKP", "Ed25519", b64.EncodeToString(k.private.Seed())
		}
		set.Keys = append(set.Keys, j)
	}
	return marshal(set)
}

func marshal(set jwkSet) []byte {
	if set.Keys == nil {
		set.Keys = []jwk{}
	}
	data, err := json.Marshal(set)
	if err != nil {
		panic("auth: " + err.Error()) // texts always encode
	}
	return data
}

// ParseJWKS reads a public JWK set. A symmetric or private key in it is an
// error: it would be a leaked secret.
func ParseJWKS(data []byte) (*KeySet, error) {
	return parse(data, func(j jwk) (Key, error) {
		if j.Type != "OKP" || j.D != "" || j.K != "" {
			return Key{}, errors.New("a public key set may hold public OKP keys only")
		}
		return publicKey(j)
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

func publicKey(j jwk) (Key, error) {
	x, err := b64.DecodeString(j.X)
	if err != nil || len(x) != ed25519.PublicKeySize || j.Curve != "Ed25519" || j.Algorithm != EdDSA {
		return Key{}, errors.New("not an Ed25519 public key for EdDSA")
	}
	return Key{ID: j.ID, Algorithm: EdDSA, public: ed25519.PublicKey(x)}, nil
}

func symmetricKey(j jwk) (Key, error) {
	secret, err := b64.DecodeString(j.K)
	if err != nil || len(secret) < minSecret || j.Algorithm != HS256 {
		return Key{}, fmt.Errorf("not a secret of at least %d bytes for HS256", minSecret)
	}
	return Key{ID: j.ID, Algorithm: HS256, secret: secret}, nil
}

// ParseSigning reads what EncodeSigning wrote.
func ParseSigning(data []byte) ([]*SigningKey, error) {
	var set jwkSet
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("signing keys: %w", err)
	}
	var list []*SigningKey
	for _, j := range set.Keys {
		k := &SigningKey{}
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
// with one id counts.
func Merge(sets ...*KeySet) *KeySet {
	out := &KeySet{keys: make(map[string]Key)}
	for _, s := range sets {
		if s == nil {
			continue
		}
		for id, k := range s.keys {
			if _, ok := out.keys[id]; !ok {
				out.keys[id] = k
			}
		}
	}
	return out
}
