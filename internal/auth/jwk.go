package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
)

// Sizes of RSA keys in bits: below, they can be broken (RFC 7518 §3.3); above,
// one check takes a millisecond.
const minRSA, maxRSA = 2048, 4096

// jwk is one key of a JWK set (RFC 7517 §4).
type jwk struct {
	Type      string `json:"kty"`
	ID        string `json:"kid,omitempty"`
	Algorithm string `json:"alg,omitempty"`
	Use       string `json:"use,omitempty"`
	Curve     string `json:"crv,omitempty"`
	X         string `json:"x,omitempty"` // public part of an OKP key; a coordinate of an EC key
	Y         string `json:"y,omitempty"`
	N         string `json:"n,omitempty"` // modulus and exponent of an RSA key
	E         string `json:"e,omitempty"`
	D         string `json:"d,omitempty"` // private part of an OKP, EC or RSA key
	K         string `json:"k,omitempty"` // secret of an oct key

	// Of signing keys only.
	Created   int64 `json:"created,omitempty"`
	SignsFrom int64 `json:"signs_from,omitempty"`
	Longest   int64 `json:"longest,omitempty"`
}

type jwkSet struct {
	Keys []jwk `json:"keys"`
}

var b64 = base64.RawURLEncoding

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

// publicKey reads a public key. Its algorithm follows from its type where it
// names none.
func publicKey(j jwk) (Key, error) {
	if j.D != "" || j.K != "" {
		return Key{}, errors.New("a public key set may hold no secret: it has leaked")
	}
	if j.Use != "" && j.Use != "sig" {
		return Key{}, fmt.Errorf("its use is %q, not sig", j.Use)
	}
	var k Key
	var err error
	switch j.Type {
	case "OKP":
		k, err = edwardsKey(j)
	case "EC":
		k, err = curveKey(j)
	case "RSA":
		k, err = rsaKey(j)
	default:
		return Key{}, fmt.Errorf("a public key set may not hold keys of type %q", j.Type)
	}
	if err != nil {
		return Key{}, err
	}
	if j.Algorithm != "" && j.Algorithm != k.Algorithm {
		return Key{}, fmt.Errorf("a key of type %s is for %s here, and says %q", j.Type, k.Algorithm, j.Algorithm)
	}
	k.ID = j.ID
	return k, nil
}

func edwardsKey(j jwk) (Key, error) {
	x, err := b64.DecodeString(j.X)
	if err != nil || len(x) != ed25519.PublicKeySize || j.Curve != "Ed25519" {
		return Key{}, errors.New("not an Ed25519 public key")
	}
	return Key{Algorithm: EdDSA, public: ed25519.PublicKey(x)}, nil
}

func curveKey(j jwk) (Key, error) {
	const size = 32
	x, errX := b64.DecodeString(j.X)
	y, errY := b64.DecodeString(j.Y)
	if errX != nil || errY != nil || len(x) != size || len(y) != size || j.Curve != "P-256" {
		return Key{}, errors.New("not a P-256 public key")
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
	if err != nil {
		return Key{}, errors.New("not a point on P-256")
	}
	return Key{Algorithm: ES256, public: public}, nil
}

func rsaKey(j jwk) (Key, error) {
	n, errN := b64.DecodeString(j.N)
	e, errE := b64.DecodeString(j.E)
	if errN != nil || errE != nil || len(e) == 0 || len(e) > 4 {
		return Key{}, errors.New("not an RSA public key")
	}
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	if bits := public.N.BitLen(); bits < minRSA || bits > maxRSA {
		return Key{}, fmt.Errorf("an RSA key of %d bits: must have %d to %d", bits, minRSA, maxRSA)
	}
	if public.E < 3 || public.E%2 == 0 || public.E > 1<<31-1 {
		return Key{}, errors.New("an RSA key with a bad exponent")
	}
	return Key{Algorithm: RS256, public: public}, nil
}

func symmetricKey(j jwk) (Key, error) {
	secret, err := b64.DecodeString(j.K)
	if err != nil || len(secret) < minSecret || j.Algorithm != HS256 {
		return Key{}, fmt.Errorf("not a secret of at least %d bytes for HS256", minSecret)
	}
	return Key{ID: j.ID, Algorithm: HS256, secret: secret}, nil
}

// jwk is the key as it was read.
func (k Key) jwk() jwk {
	j := jwk{ID: k.ID, Algorithm: k.Algorithm, Use: "sig"}
	switch public := k.public.(type) {
	case ed25519.PublicKey:
		j.Type, j.Curve, j.X = "OKP", "Ed25519", b64.EncodeToString(public)
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			panic("auth: " + err.Error()) // it was read as a point
		}
		j.Type, j.Curve, j.X, j.Y = "EC", "P-256", b64.EncodeToString(point[1:33]), b64.EncodeToString(point[33:])
	case *rsa.PublicKey:
		j.Type, j.N, j.E = "RSA", b64.EncodeToString(public.N.Bytes()), b64.EncodeToString(big.NewInt(int64(public.E)).Bytes())
	default:
		j.Type, j.Use, j.K = "oct", "", b64.EncodeToString(k.secret)
	}
	return j
}
