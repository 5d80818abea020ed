package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"nabat/proto/grant"
	"nabat/proto/wire"
)

// stranger is another issuer's keys.
type stranger struct {
	rsa *rsa.PrivateKey
	ec  *ecdsa.PrivateKey
	ed  ed25519.PrivateKey
}

var strangers = sync.OnceValue(func() (list [2]stranger) {
	for n := range list {
		s := &list[n]
		var err error
		if s.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			panic(err)
		}
		if s.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			panic(err)
		}
		if _, s.ed, err = ed25519.GenerateKey(rand.Reader); err != nil {
			panic(err)
		}
	}
	return list
})

func (s stranger) keys() []Key {
	return []Key{{ID: "k1", Algorithm: RS256, public: &s.rsa.PublicKey}, {ID: "k2", Algorithm: ES256, public: &s.ec.PublicKey},
		{ID: "k3", Algorithm: EdDSA, public: s.ed.Public()}}
}

// set is the keys as the issuer publishes them.
func (s stranger) set(extra ...string) []byte {
	var list []string
	for _, k := range s.keys() {
		data, err := json.Marshal(k.jwk())
		if err != nil {
			panic(err)
		}
		list = append(list, string(data))
	}
	return []byte(`{"keys":[` + strings.Join(append(extra, list...), ",") + `]}`)
}

func (s stranger) sign(t testing.TB, kid string, body jwt.MapClaims) string {
	t.Helper()
	method, key := map[string]jwt.SigningMethod{"k1": jwt.SigningMethodRS256, "k2": jwt.SigningMethodES256, "k3": jwt.SigningMethodEdDSA}[kid],
		map[string]any{"k1": s.rsa, "k2": s.ec, "k3": s.ed}[kid]
	return signRaw(t, method, kid, key, body)
}

func signRaw(t testing.TB, method jwt.SigningMethod, kid string, key any, body jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, body)
	if kid != "" {
		token.Header["kid"] = kid
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var allOfThem = []string{RS256, ES256, EdDSA}

// withIssuers is a verifier with keys of its own and two issuers, whose keys have
// the same ids.
func withIssuers(t testing.TB, change func(a, b *Issuer)) (rig, [2]stranger) {
	t.Helper()
	r := setup(t, Options{Audience: "own"})
	s := strangers()
	a := Issuer{Name: "https://a", Source: "x", Audience: []string{"nabat", "other"}, Algorithms: allOfThem, Keys: s[0].keys()}
	b := Issuer{Name: "https://b", Source: "x", Audience: []string{AnyAudience}, Algorithms: allOfThem, UserPrefix: "b:", Keys: s[1].keys()}
	if change != nil {
		change(&a, &b)
	}
	set, err := ParseIssuers((&IssuerSet{Issuers: []Issuer{a, b}}).Encode())
	if err != nil {
		t.Fatal(err)
	}
	r.v.SetKeys(Merge(r.v.keys.Load(), set))
	return r, s
}

func exp() int64 { return now.Add(time.Hour).Unix() }

func TestTokensOfOtherIssuers(t *testing.T) {
	r, s := withIssuers(t, nil)
	for _, kid := range []string{"k1", "k2", "k3"} {
		token := s[0].sign(t, kid, jwt.MapClaims{"iss": "https://a", "aud": "nabat", "sub": "alice", "iat": now.Unix(), "exp": exp(), "nabat": map[string]any{"subscribe": []string{"a.>"}}})
		if r.v.Cheap(token) {
			t.Errorf("%s: checked on the loop", kid)
		}
		c, err := r.v.Verify(token, now)
		if err != nil {
			t.Fatal(kid, err)
		}
		if c.User != "alice" || !c.Grant.MaySubscribe("a.b") || int64(c.Issued) != now.Unix() || int64(c.Expires) != exp() {
			t.Errorf("%s: %+v", kid, c)
		}
		// The same key id at another issuer is another key.
		c, err = r.v.Verify(s[1].sign(t, kid, jwt.MapClaims{"iss": "https://b", "sub": "alice", "exp": exp()}), now)
		if err != nil || c.User != "b:alice" {
			t.Errorf("%s: %+v, %v", kid, c, err)
		}
		if _, err := r.v.Verify(s[1].sign(t, kid, jwt.MapClaims{"iss": "https://a", "aud": "nabat", "sub": "alice", "exp": exp()}), now); err == nil || err.Code != wire.TokenSignature {
			t.Errorf("%s: b speaks for a: %v", kid, err)
		}
	}
}

func TestRefusalsOfOtherIssuersTokens(t *testing.T) {
	r, s := withIssuers(t, nil)
	der, err := x509.MarshalPKIXPublicKey(&s[0].rsa.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	good := jwt.MapClaims{"iss": "https://a", "aud": "nabat", "sub": "alice", "exp": exp()}
	with := func(change ...any) jwt.MapClaims {
		c := jwt.MapClaims{}
		for k, v := range good {
			c[k] = v
		}
		for n := 0; n < len(change); n += 2 {
			if c[change[n].(string)] = change[n+1]; change[n+1] == nil {
				delete(c, change[n].(string))
			}
		}
		return c
	}
	for _, c := range []struct {
		rule, token string
		code        wire.Code
		reason      string
	}{
		{"a public key as HMAC secret", signRaw(t, jwt.SigningMethodHS256, "k1", der, good), wire.TokenAlgorithm, "is for RS256"},
		{"a modulus as HMAC secret", signRaw(t, jwt.SigningMethodHS256, "k1", s[0].rsa.N.Bytes(), good), wire.TokenAlgorithm, "is for RS256"},
		{"none", signRaw(t, jwt.SigningMethodNone, "k1", jwt.UnsafeAllowNoneSignatureType, good), wire.TokenAlgorithm, "none is never accepted"},
		{"PS256 with an RS256 key", signRaw(t, jwt.SigningMethodPS256, "k1", s[0].rsa, good), wire.TokenAlgorithm, "is for RS256"},
		{"an unknown key", signRaw(t, jwt.SigningMethodES256, "k9", s[0].ec, good), wire.TokenUnknownKey, `"k9" of issuer "https://a"`},
		{"one of our own keys", signRaw(t, jwt.SigningMethodHS256, "h1", r.hs.secret, good), wire.TokenUnknownKey, `"h1"`},
		{"a key of theirs in our name", s[0].sign(t, "k1", with("iss", nil)), wire.TokenUnknownKey, `"k1"`},
		{"an issuer nobody knows", s[0].sign(t, "k1", with("iss", "https://evil")), wire.TokenUnknownKey, `of issuer "https://evil"`},
		{"another audience", s[0].sign(t, "k1", with("aud", []string{"own", "shop"})), wire.TokenAudience, `"own shop"`},
		{"no audience", s[0].sign(t, "k1", with("aud", nil)), wire.TokenAudience, "no audience"},
		{"expired", s[0].sign(t, "k1", with("exp", now.Add(-time.Hour).Unix())), wire.TokenExpired, "expired 1h0m0s ago"},
		{"not valid yet", s[0].sign(t, "k1", with("nbf", now.Add(time.Hour).Unix())), wire.TokenNotYetValid, "not valid yet"},
		{"no end", s[0].sign(t, "k1", with("exp", nil)), wire.TokenClaims, "never ends"},
		{"no user", s[0].sign(t, "k1", with("sub", nil)), wire.TokenClaims, "no user"},
		{"a sub of the wrong form", s[0].sign(t, "k1", with("sub", 5)), wire.TokenClaims, "claim sub"},
		{"a bad pattern", s[0].sign(t, "k1", with("nabat", map[string]any{"subscribe": []string{"a..b"}})), wire.TokenClaims, "subscribe: room"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			claims, err := r.v.Verify(c.token, now)
			if err == nil {
				t.Fatalf("accepted: %+v", claims)
			}
			if err.Code != c.code || !strings.Contains(err.Reason, c.reason) {
				t.Fatalf("got %v, want %s: %s", err, c.code, c.reason)
			}
		})
	}
}

func TestAnIssuersAlgorithmsBoundItsKeys(t *testing.T) {
	r, s := withIssuers(t, func(a, _ *Issuer) { a.Algorithms = []string{ES256} })
	body := jwt.MapClaims{"iss": "https://a", "aud": "nabat", "sub": "a", "exp": exp()}
	if _, err := r.v.Verify(s[0].sign(t, "k2", body), now); err != nil {
		t.Error(err)
	}
	if _, err := r.v.Verify(s[0].sign(t, "k1", body), now); err == nil || err.Code != wire.TokenUnknownKey {
		t.Error(err)
	}
}

func TestASharedSecretNeedsNoKeyID(t *testing.T) {
	secret := []byte("a secret of more than 32 bytes, shared")
	k, err := SecretKey("", secret)
	if err != nil {
		t.Fatal(err)
	}
	r, s := withIssuers(t, func(a, b *Issuer) {
		a.Algorithms, a.Keys = []string{HS256}, []Key{k}
		b.Keys = append(b.Keys, Key{ID: "k4", Algorithm: ES256, public: &s0().ec.PublicKey})
	})
	body := jwt.MapClaims{"iss": "https://a", "aud": "nabat", "sub": "a", "exp": exp()}
	token := signRaw(t, jwt.SigningMethodHS256, "", secret, body)
	if _, err := r.v.Verify(token, now); err != nil || !r.v.Cheap(token) {
		t.Error(err)
	}
	if _, err := r.v.Verify(signRaw(t, jwt.SigningMethodHS256, "", []byte("another secret of more than 32 bytes"), body), now); err == nil || err.Code != wire.TokenSignature {
		t.Error(err)
	}
	if _, err := r.v.Verify(signRaw(t, jwt.SigningMethodHS256, "x", secret, body), now); err == nil || err.Code != wire.TokenUnknownKey {
		t.Error("a key id that is not there is not ignored:", err)
	}
	body["iss"] = "https://b"
	if _, err := r.v.Verify(signRaw(t, jwt.SigningMethodEdDSA, "", s[1].ed, body), now); err != nil {
		t.Error("the only key of its kind:", err)
	}
	if _, err := r.v.Verify(signRaw(t, jwt.SigningMethodES256, "", s[1].ec, body), now); err == nil || err.Code != wire.TokenUnknownKey {
		t.Error("one of two keys of a kind:", err)
	}
	if _, err := SecretKey("", secret[:31]); err == nil {
		t.Error("a short secret was accepted")
	}
}

func s0() stranger { return strangers()[0] }

func TestWhereAGrantComesFrom(t *testing.T) {
	r, s := withIssuers(t, func(a, _ *Issuer) {
		a.Claims = map[string]string{"subscribe": "/access/rooms~1read", "publish": "https://a/publish", "info": "profile"}
		a.Grant = &grant.Grant{Subscribe: []string{"lobby"}}
	})
	for rule, c := range map[string]struct {
		claims jwt.MapClaims
		want   string // the grant, or the reason
	}{
		"its own claim wins":         {jwt.MapClaims{"nabat": map[string]any{"publish": []string{"x"}}, "https://a/publish": "y"}, `{"publish":["x"]}`},
		"a path to a list":           {jwt.MapClaims{"access": map[string]any{"rooms/read": []string{"a", "b.>"}}}, `{"subscribe":["a","b.>"]}`},
		"a text with spaces":         {jwt.MapClaims{"https://a/publish": "x y.*"}, `{"publish":["x","y.*"]}`},
		"info is any JSON":           {jwt.MapClaims{"profile": map[string]any{"name": "A"}}, `{"info":{"name":"A"}}`},
		"an empty list is a grant":   {jwt.MapClaims{"https://a/publish": ""}, `{}`},
		"nothing of it: the default": {jwt.MapClaims{"access": "x"}, `{"subscribe":["lobby"]}`},
		"a claim of the wrong form":  {jwt.MapClaims{"https://a/publish": 5}, "claim https://a/publish must be a list"},
		"a list of the wrong form":   {jwt.MapClaims{"https://a/publish": []any{"a", 1}}, "claim https://a/publish must be a list"},
		"a bad pattern":              {jwt.MapClaims{"https://a/publish": "a..b"}, "publish: room"},
	} {
		for k, v := range map[string]any{"iss": "https://a", "aud": "nabat", "sub": "a", "exp": exp()} {
			c.claims[k] = v
		}
		got, err := r.v.Verify(s[0].sign(t, "k2", c.claims), now)
		if err != nil {
			if err.Code != wire.TokenClaims || !strings.Contains(err.Reason, c.want) {
				t.Errorf("%s: %v", rule, err)
			}
			continue
		}
		if text, _ := json.Marshal(got.Grant); strings.ReplaceAll(string(text), `\u003e`, ">") != c.want {
			t.Errorf("%s: %s", rule, text)
		}
	}
}

func TestWhatIsTakenOutOfAnIssuersSet(t *testing.T) {
	s := s0()
	n := new(big.Int).Lsh(big.NewInt(1), 1023) // 1024 bits; which ones does not matter
	small := &rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537}
	weak, _ := json.Marshal(Key{ID: "weak", Algorithm: RS256, public: small}.jwk())
	set := s.set(string(weak), `{"kty":"oct","kid":"s","k":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}`, `{"kty":"RSA","kid":"enc","use":"enc","n":"AQAB","e":"AQAB"}`,
		`{"kty":"EC","kid":"p","crv":"P-384","x":"AA","y":"AA"}`, `{"kty":"OKP","kid":"leak","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}`,
		`{"kty":"EC","kid":"off","crv":"P-256","x":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8","y":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}`,
		`{"kty":"RSA","kid":"none","alg":"none","n":"AQAB","e":"AQAB"}`, `{"kty":"XYZ","kid":"new"}`)
	keys, passed, err := ReadIssuerKeys(set, allOfThem)
	if err != nil || passed != 8 || !slices.EqualFunc(keys, s.keys(), Key.Equal) {
		t.Fatalf("%d keys, %d passed over, %v", len(keys), passed, err)
	}
	if keys, _, err = ReadIssuerKeys(s.set(), []string{ES256}); err != nil || len(keys) != 1 || keys[0].ID != "k2" {
		t.Fatal(keys, err)
	}
	for rule, doc := range map[string]string{"no keys": `{"keys":[]}`, "none that is of use": `{"keys":[{"kty":"oct","kid":"a","k":"eA"}]}`, "no JSON": `<html>`} {
		if keys, _, err := ReadIssuerKeys([]byte(doc), allOfThem); err == nil {
			t.Errorf("%s: %v", rule, keys)
		}
	}
	many := make([]string, MaxIssuerKeys+5)
	for n := range many {
		many[n] = fmt.Sprintf(`{"kty":"OKP","kid":"%d","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`, n)
	}
	if keys, _, err := ReadIssuerKeys(s.set(many...), allOfThem); err != nil || len(keys) != MaxIssuerKeys {
		t.Errorf("%d keys, %v", len(keys), err)
	}
}

func TestTheCacheOutlivesKeysThatAreAdded(t *testing.T) {
	r, s := withIssuers(t, nil)
	own := r.sign(t, r.hs, Claims{User: "a", Audience: []string{"own"}})
	theirs := s[0].sign(t, "k3", jwt.MapClaims{"iss": "https://a", "aud": "nabat", "sub": "a", "exp": exp()})
	base := r.v.keys.Load()
	fresh := func() {
		t.Helper()
		r.v.SetKeys(base)
		for _, token := range []string{own, theirs} {
			if _, err := r.v.Verify(token, now); err != nil {
				t.Fatal(err)
			}
		}
	}
	with := func(change func(*Issuer)) *KeySet {
		i := base.issuers["https://a"].rules
		i.Keys = slices.Clone(i.Keys)
		change(&i)
		set, err := ParseIssuers((&IssuerSet{Issuers: []Issuer{i}}).Encode())
		if err != nil {
			t.Fatal(err)
		}
		return Merge(set, base)
	}
	another, err := GenerateEd25519("e2")
	if err != nil {
		t.Fatal(err)
	}
	for rule, c := range map[string]struct {
		set   *KeySet
		stays bool
	}{
		"the same":                    {Merge(base), true},
		"a key of our own more":       {Merge(base, &KeySet{keys: map[string]Key{"e2": another.Key}}), true},
		"a key of theirs more":        {with(func(i *Issuer) { i.Keys = append(i.Keys, Key{ID: "k9", Algorithm: EdDSA, public: another.public}) }), true},
		"a key of our own less":       {&KeySet{keys: map[string]Key{"e1": r.ed.Key}, issuers: base.issuers}, false},
		"another key under its id":    {with(func(i *Issuer) { i.Keys[2].public = another.public }), false},
		"a key of theirs less":        {with(func(i *Issuer) { i.Keys = i.Keys[:2] }), false},
		"another rule":                {with(func(i *Issuer) { i.Audience = []string{"x"} }), false},
		"an issuer less":              {&KeySet{keys: base.keys}, false},
		"an issuer that was ours yet": {Merge(base, &KeySet{issuers: map[string]*issuerKeys{"": {}}}), false},
	} {
		fresh()
		r.v.SetKeys(c.set)
		if got := r.v.Cached(own, now) != nil && r.v.Cached(theirs, now) != nil; got != c.stays {
			t.Errorf("%s: remembered is %t", rule, got)
		}
	}
}

func TestRulesOfIssuersThatCannotHold(t *testing.T) {
	for want, change := range map[string]func(*Issuer){
		"iss is missing":           func(i *Issuer) { i.Name = "" },
		"audience is missing":      func(i *Issuer) { i.Audience = nil },
		"stands alone":             func(i *Issuer) { i.Audience = []string{"a", AnyAudience} },
		"algorithms is missing":    func(i *Issuer) { i.Algorithms = nil },
		`"none" must be`:           func(i *Issuer) { i.Algorithms = []string{"none"} },
		`"sub" must be one of`:     func(i *Issuer) { i.Claims = map[string]string{"sub": "x"} },
		"subscribe names no claim": func(i *Issuer) { i.Claims = map[string]string{"subscribe": ""} },
		"grant: subscribe: room":   func(i *Issuer) { i.Grant = &grant.Grant{Subscribe: []string{"a..b"}} },
	} {
		i := Issuer{Name: "a", Audience: []string{"b"}, Algorithms: []string{RS256}}
		change(&i)
		if _, err := ParseIssuers((&IssuerSet{Issuers: []Issuer{i}}).Encode()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	i := Issuer{Name: "a", Audience: []string{"b"}, Algorithms: []string{RS256}}
	if _, err := ParseIssuers((&IssuerSet{Issuers: []Issuer{i, i}}).Encode()); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Error(err)
	}
}

func TestPeekReadsWithoutAKey(t *testing.T) {
	r := setup(t, Options{})
	c, err := Peek(r.sign(t, r.hs, Claims{User: "a", ID: "5", Expires: now}))
	if err != nil || c.User != "a" || c.ID != "5" || !c.Expires.Equal(now) {
		t.Errorf("%+v, %v", c, err)
	}
	for _, bad := range []string{"", "x", "a.b.c", strings.Repeat("a", MaxTokenBytes+1)} {
		if _, err := Peek(bad); err == nil || bad != "" && len(bad) > 3 && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestTimesBeyondThirtyTwoBits(t *testing.T) {
	r := setup(t, Options{})
	for name, at := range map[string]int64{"after 2106": 1 << 40, "never mind": 1<<32 - 1} {
		c, err := r.v.Verify(signRaw(t, jwt.SigningMethodHS256, "h1", r.hs.secret, jwt.MapClaims{"exp": at, "iat": -5}), now)
		if err != nil || c.Expires != 1<<32-1 || c.Issued != 1 {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
}
