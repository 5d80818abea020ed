package auth

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"nabat/proto/grant"
	"nabat/proto/wire"
)

var now = time.Unix(1_800_000_000, 0)

type rig struct {
	hs, ed *SigningKey
	v      *Verifier
}

func setup(t testing.TB, o Options) rig {
	t.Helper()
	hs, err := GenerateHS256("h1")
	if err != nil {
		t.Fatal(err)
	}
	ed, err := GenerateEd25519("e1")
	if err != nil {
		t.Fatal(err)
	}
	public, err := ParseJWKS(EncodeJWKS(hs, ed))
	if err != nil {
		t.Fatal(err)
	}
	symmetric, err := ParseSymmetric(EncodeSymmetric(hs, ed))
	if err != nil {
		t.Fatal(err)
	}
	v := NewVerifier(o)
	v.SetKeys(Merge(public, nil, symmetric))
	return rig{hs, ed, v}
}

func (r rig) sign(t testing.TB, k *SigningKey, c Claims) string {
	t.Helper()
	token, err := Sign(k, c)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestRoundTrip(t *testing.T) {
	for _, algorithm := range []string{HS256, EdDSA} {
		r := setup(t, Options{Issuer: "iss", Audience: "aud"})
		k := map[string]*SigningKey{HS256: r.hs, EdDSA: r.ed}[algorithm]
		token := r.sign(t, k, Claims{User: "alice", Issuer: "iss", Audience: []string{"x", "aud"}, Expires: now.Add(time.Hour),
			Grant: &grant.Grant{Subscribe: []string{"sports.>"}, Rooms: []string{"user.alice"}}})
		if r.v.Cheap(token) != (k == r.hs) {
			t.Errorf("%s: cheap is %v", k.Algorithm, r.v.Cheap(token))
		}
		if r.v.Cached(token, now) != nil {
			t.Error("cached before it was verified")
		}
		c, werr := r.v.Verify(token, now)
		if werr != nil {
			t.Fatal(werr)
		}
		if c.User != "alice" || c.TokenID == "" || int64(c.Expires) != now.Add(time.Hour).Unix() || !c.Grant.MaySubscribe("sports.a") {
			t.Errorf("claims %+v", c)
		}
		if r.v.Cached(token, now) != c || r.v.Cached(token, now.Add(time.Hour)) != nil {
			t.Error("the cache serves a token until it expires, and not after")
		}
		if n := testing.AllocsPerRun(100, func() { r.v.Cached(token, now) }); n != 0 {
			t.Errorf("Cached: %v allocations", n)
		}
		r.v.SetKeys(&KeySet{})
		if r.v.Cached(token, now) != nil {
			t.Error("the cache outlived its keys")
		}
	}
}

func TestRefusals(t *testing.T) {
	r := setup(t, Options{Issuer: "iss", Audience: "aud", Leeway: 2 * time.Second})
	good := Claims{User: "a", Issuer: "iss", Audience: []string{"aud"}, Expires: now.Add(time.Hour)}
	with := func(change func(*Claims)) Claims { c := good; change(&c); return c }
	stranger, err := GenerateHS256("h9")
	if err != nil {
		t.Fatal(err)
	}
	impostor, err := GenerateHS256("h1")
	if err != nil {
		t.Fatal(err)
	}
	raw := func(method jwt.SigningMethod, kid string, key any, body jwt.MapClaims) string {
		token := jwt.NewWithClaims(method, body)
		token.Header["kid"] = kid
		s, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	body := jwt.MapClaims{"sub": "a", "iss": "iss", "aud": "aud"}
	token := r.sign(t, r.hs, good)
	for _, c := range []struct {
		rule, token string
		code        wire.Code
		reason      string
	}{
		{"empty", "", wire.TokenMalformed, "not a JWT"},
		{"garbage", "x.y.z", wire.TokenMalformed, "not a JWT"},
		{"too long", strings.Repeat("a", MaxTokenBytes+1), wire.TokenMalformed, "at most 8192"},
		{"a signature of another key", r.sign(t, impostor, good), wire.TokenSignature, "signature is wrong"},
		{"a changed body", token[:strings.LastIndex(token, ".")-3] + "AAA" + token[strings.LastIndex(token, "."):], "", ""},
		{"an unknown key", r.sign(t, stranger, good), wire.TokenUnknownKey, `unknown key "h9"`},
		{"alg none", raw(jwt.SigningMethodNone, "h1", jwt.UnsafeAllowNoneSignatureType, body), wire.TokenAlgorithm, "none is never accepted"},
		{"a public key used as HMAC secret", raw(jwt.SigningMethodHS256, "e1", []byte(r.ed.public.(ed25519.PublicKey)), body), wire.TokenAlgorithm, `key "e1" is for EdDSA, the token says HS256`},
		{"HS512 with an HS256 key", raw(jwt.SigningMethodHS512, "h1", r.hs.secret, body), wire.TokenAlgorithm, `key "h1" is for HS256`},
		{"expired", r.sign(t, r.hs, with(func(c *Claims) { c.Expires = now.Add(-5 * time.Minute) })), wire.TokenExpired, "expired 5m0s ago"},
		{"not valid yet", r.sign(t, r.hs, with(func(c *Claims) { c.NotBefore = now.Add(time.Minute) })), wire.TokenNotYetValid, "not valid yet"},
		{"another audience", r.sign(t, r.hs, with(func(c *Claims) { c.Audience = []string{"shop"} })), wire.TokenAudience, `audience "shop"`},
		{"no audience", r.sign(t, r.hs, with(func(c *Claims) { c.Audience = nil })), wire.TokenAudience, "no audience"},
		{"another issuer", r.sign(t, r.hs, with(func(c *Claims) { c.Issuer = "evil" })), wire.TokenIssuer, `issuer "evil"`},
		{"a bad pattern in the grant", raw(jwt.SigningMethodHS256, "h1", r.hs.secret, jwt.MapClaims{"iss": "iss", "aud": "aud", "nabat": map[string]any{"subscribe": []string{"a..b"}}}), wire.TokenClaims, "subscribe: room"},
		{"a grant of the wrong form", raw(jwt.SigningMethodHS256, "h1", r.hs.secret, jwt.MapClaims{"nabat": "all"}), wire.TokenClaims, "claim nabat has the wrong form"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			claims, err := r.v.Verify(c.token, now)
			if err == nil {
				t.Fatalf("accepted: %+v", claims)
			}
			if c.code != "" && (err.Code != c.code || !strings.Contains(err.Reason, c.reason)) {
				t.Fatalf("got %v, want %s: %s", err, c.code, c.reason)
			}
		})
	}
	if _, err := r.v.Verify(r.sign(t, r.hs, with(func(c *Claims) { c.Expires = now.Add(-500 * time.Millisecond) })), now); err != nil {
		t.Errorf("within the leeway: %v", err)
	}
}

func TestSigningKeysReadBack(t *testing.T) {
	r := setup(t, Options{})
	list, err := ParseSigning(EncodeSigning(r.hs, r.ed))
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	for _, k := range list {
		if _, err := r.v.Verify(r.sign(t, k, Claims{User: "a"}), now); err != nil {
			t.Errorf("%s: %v", k.Algorithm, err)
		}
	}
}

func TestKeySetsRefuse(t *testing.T) {
	r := setup(t, Options{})
	for rule, read := range map[string]func() error{
		"a secret in a public set":      func() error { _, err := ParseJWKS(EncodeSymmetric(r.hs)); return err },
		"a private key in a public set": func() error { _, err := ParseJWKS(EncodeSigning(r.ed)); return err },
		"a public key among secrets":    func() error { _, err := ParseSymmetric(EncodeJWKS(r.ed)); return err },
		"a short secret": func() error {
			_, err := ParseSymmetric(fmt.Appendf(nil, `{"keys":[{"kty":"oct","kid":"a","alg":"HS256","k":%q}]}`, base64.RawURLEncoding.EncodeToString([]byte("short"))))
			return err
		},
		"no JSON":       func() error { _, err := ParseJWKS([]byte("x")); return err },
		"an id twice":   func() error { _, err := ParseSymmetric(EncodeSymmetric(r.hs, r.hs)); return err },
		"unknown types": func() error { _, err := ParseSigning([]byte(`{"keys":[{"kty":"RSA","kid":"a"}]}`)); return err },
	} {
		if read() == nil {
			t.Errorf("%s was accepted", rule)
		}
	}
}

func TestSignRefusesABadGrant(t *testing.T) {
	r := setup(t, Options{})
	if _, err := Sign(r.hs, Claims{Grant: &grant.Grant{Publish: []string{"a..b"}}}); err == nil {
		t.Fatal("signed")
	}
}

func TestEqualGrantsAreShared(t *testing.T) {
	r := setup(t, Options{})
	verify := func(user string, patterns ...string) *Verified {
		t.Helper()
		v, err := r.v.Verify(r.sign(t, r.hs, Claims{User: user, Grant: &grant.Grant{Subscribe: patterns}}), now)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	a, b, c := verify("a", "x.>"), verify("b", "x.>"), verify("c", "y.>")
	if a.Grant != b.Grant || a.Grant == c.Grant {
		t.Fatal("grants are shared if and only if they are equal")
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	c := newCache(10)
	for i := range 1000 {
		c.put(fmt.Sprint(i), &Verified{}, true)
	}
	if n := len(c.young) + len(c.old); n > 10 {
		t.Fatalf("%d entries", n)
	}
	if c.get("999", now) == nil {
		t.Fatal("the newest was forgotten")
	}
}

func FuzzVerify(f *testing.F) {
	r := setup(f, Options{})
	token := r.sign(f, r.hs, Claims{User: "a"})
	f.Add(token)
	f.Add(r.sign(f, r.ed, Claims{User: "a"}))
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, s string) {
		r.v.Cheap(s)
		claims, err := r.v.Verify(s, now)
		if (claims == nil) == (err == nil) {
			t.Fatal("neither claims nor error, or both")
		}
		if err != nil && (err.Code == "" || err.Reason == "") {
			t.Fatal("an empty refusal")
		}
	})
}

func BenchmarkVerifyHS256(b *testing.B) {
	r := setup(b, Options{})
	token := r.sign(b, r.hs, Claims{User: "alice", Expires: now.Add(time.Hour), Grant: &grant.Grant{Subscribe: []string{"a.>"}}})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.v.Verify(token, now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCached(b *testing.B) {
	r := setup(b, Options{})
	token := r.sign(b, r.hs, Claims{User: "alice"})
	if _, err := r.v.Verify(token, now); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		r.v.Cached(token, now)
	}
}
