package edge

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws/wsutil"
	"github.com/golang-jwt/jwt/v5"

	"nabat/internal/auth"
	"nabat/internal/bus"
	"nabat/proto/grant"
	"nabat/proto/policy"
)

// form is one way to show a token. try says what became of it: 101, or the HTTP
// status or the close status of the refusal, and its code.
type form struct {
	name string
	try  func(t testing.TB, e *Edge, token string) (status int, code string)
}

var tokenForms = []form{
	{"query", func(t testing.TB, e *Edge, token string) (int, string) { return shake(t, e, "/ws?token="+token) }},
	{"sub-protocol", func(t testing.TB, e *Edge, token string) (int, string) {
		return shake(t, e, "/ws", "Sec-WebSocket-Protocol: nabat.v1.json, nabat.token."+token)
	}},
	{"bearer", func(t testing.TB, e *Edge, token string) (int, string) {
		return shake(t, e, "/ws", "Authorization: Bearer "+token)
	}},
	{"cookie", func(t testing.TB, e *Edge, token string) (int, string) {
		return shake(t, e, "/ws", "Cookie: nabat_token="+token)
	}},
	{"connect", func(t testing.TB, e *Edge, token string) (int, string) {
		c := dial(t, e, "/ws")
		defer func() { _ = c.conn.Close() }()
		c.send(`{"id":1,"connect":{"token":"` + token + `"}}`)
		code := answer(c)
		if code == "" {
			return 101, ""
		}
		_, err := c.next()
		var closed wsutil.ClosedError
		if !errors.As(err, &closed) || !strings.Contains(closed.Reason, `"`+code+`"`) {
			t.Errorf("after %s: %v", code, err)
		}
		return int(closed.Code), code
	}},
	{"auth", func(t testing.TB, e *Edge, token string) (int, string) {
		c := dial(t, e, "/ws?room=a")
		defer func() { _ = c.conn.Close() }()
		c.connected("a")
		c.send(`{"id":1,"auth":{"token":"` + token + `"}}`)
		code := answer(c)
		if code == "" {
			return 101, ""
		}
		c.send(`{"id":2,"ping":{}}`) // none of them closes
		c.want(`{"id":2,"pong":{}}`)
		return 0, code
	}},
}

// shake is a WebSocket handshake.
func shake(t testing.TB, e *Edge, path string, header ...string) (int, string) {
	t.Helper()
	status, body, _ := get(t, e, path, append(upgradeHeaders(), append(header, "X-Once: 1")...)...)
	var refusal struct{ Error struct{ Code string } }
	if status != 101 {
		if err := json.Unmarshal([]byte(body), &refusal); err != nil {
			t.Fatalf("%d %s", status, body)
		}
	}
	return status, refusal.Error.Code
}

// answer is the code of the answer to command 1, "" when it went well.
func answer(c *client) string {
	c.t.Helper()
	text, err := c.next()
	if err != nil {
		c.t.Fatal(err)
	}
	var reply struct {
		ID    int
		Error struct{ Code string }
	}
	if err := json.Unmarshal([]byte(text), &reply); err != nil || reply.ID != 1 {
		c.t.Fatalf("%s: %v", text, err)
	}
	return reply.Error.Code
}

// issuer is somebody else with an RSA and an EC key.
type issuer struct {
	rsa *rsa.PrivateKey
	ec  *ecdsa.PrivateKey
}

const theirs = "https://login.example.com/"

// trust publishes an issuer as control would.
func (c *cluster) trust() *issuer {
	c.t.Helper()
	i := new(issuer)
	var err error
	if i.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		c.t.Fatal(err)
	}
	if i.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		c.t.Fatal(err)
	}
	point, err := i.ec.PublicKey.Bytes()
	if err != nil {
		c.t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	set := fmt.Sprintf(`{"keys":[{"kty":"RSA","kid":"rs","n":%q,"e":%q},{"kty":"EC","crv":"P-256","kid":"es","x":%q,"y":%q}]}`,
		b64(i.rsa.N.Bytes()), b64(big.NewInt(int64(i.rsa.E)).Bytes()), b64(point[1:33]), b64(point[33:]))
	keys, _, err := auth.ReadIssuerKeys([]byte(set), []string{auth.RS256, auth.ES256})
	if err != nil {
		c.t.Fatal(err)
	}
	c.put(bus.BucketKeys, bus.KeyIssuers, (&auth.IssuerSet{Issuers: []auth.Issuer{{Name: theirs, Source: "x", Audience: []string{"nabat"},
		Algorithms: []string{auth.RS256, auth.ES256}, Grant: &grant.Grant{Subscribe: []string{"a"}}, Keys: keys}}}).Encode())
	return i
}

func (i *issuer) sign(t testing.TB, method jwt.SigningMethod, kid string, key any, change jwt.MapClaims) string {
	t.Helper()
	body := jwt.MapClaims{"iss": theirs, "aud": "nabat", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range change {
		body[k] = v
	}
	token := jwt.NewWithClaims(method, body)
	token.Header["kid"] = kid
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestEveryFormOfATokenIsHeldAgainstEveryRule(t *testing.T) {
	c := newCluster(t, policy.Dev())
	i := c.trust()
	e := c.edge(func(cfg *Config) { cfg.Issuer, cfg.Audience = "control", "edges" })
	stranger, err := auth.GenerateHS256("h")
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := auth.GenerateEd25519("nobody")
	if err != nil {
		t.Fatal(err)
	}
	own := func(k *auth.SigningKey, change func(*auth.Claims)) string {
		claims := auth.Claims{User: "alice", Issuer: "control", Audience: []string{"edges"}, Expires: time.Now().Add(time.Hour)}
		if change != nil {
			change(&claims)
		}
		token, err := auth.Sign(k, claims)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	public, err := x509.MarshalPKIXPublicKey(&i.rsa.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	rs := func(change jwt.MapClaims) string { return i.sign(t, jwt.SigningMethodRS256, "rs", i.rsa, change) }
	for _, c := range []struct{ rule, token, code string }{
		{"HS256", own(c.hs, nil), ""},
		{"EdDSA", own(c.ed, nil), ""},
		{"RS256", rs(nil), ""},
		{"ES256", i.sign(t, jwt.SigningMethodES256, "es", i.ec, nil), ""},
		{"no JWT", "x.y.z", "token_malformed"},
		{"none", i.sign(t, jwt.SigningMethodNone, "rs", jwt.UnsafeAllowNoneSignatureType, nil), "token_algorithm"},
		{"a public key as HMAC secret", i.sign(t, jwt.SigningMethodHS256, "rs", public, nil), "token_algorithm"},
		{"an algorithm that is not the key's", i.sign(t, jwt.SigningMethodRS512, "rs", i.rsa, nil), "token_algorithm"},
		{"an unknown key", own(unknown, nil), "token_unknown_key"},
		{"a key of another issuer", i.sign(t, jwt.SigningMethodRS256, "rs", i.rsa, jwt.MapClaims{"iss": "control", "aud": "edges"}), "token_unknown_key"},
		{"a wrong signature", own(stranger, nil), "token_signature"},
		{"a wrong signature by another kind of key", i.sign(t, jwt.SigningMethodES256, "es", strangersKey(t), nil), "token_signature"},
		{"expired", own(c.ed, func(c *auth.Claims) { c.Expires = time.Now().Add(-time.Hour) }), "token_expired"},
		{"not valid yet", rs(jwt.MapClaims{"nbf": time.Now().Add(time.Hour).Unix()}), "token_not_yet_valid"},
		{"another audience", own(c.hs, func(c *auth.Claims) { c.Audience = []string{"nabat"} }), "token_audience"},
		{"another audience than the issuer's", rs(jwt.MapClaims{"aud": "edges"}), "token_audience"},
		{"another issuer", own(c.hs, func(c *auth.Claims) { c.Issuer = "somebody" }), "token_issuer"},
		{"an issuer nobody knows", rs(jwt.MapClaims{"iss": "somebody"}), "token_issuer"},
		{"bad claims", rs(jwt.MapClaims{"nabat": jwt.MapClaims{"subscribe": []string{"a..b"}}}), "token_claims"},
		{"claims of the wrong form", rs(jwt.MapClaims{"sub": 5}), "token_claims"},
		{"another issuer's token without an end", rs(jwt.MapClaims{"exp": nil}), "token_claims"},
	} {
		for _, f := range tokenForms {
			t.Run(c.rule+" as "+f.name, func(t *testing.T) {
				before := e.refusals(c.code)
				status, code := f.try(t, e, c.token)
				want := 101
				switch {
				case c.code == "":
				case f.name == "auth":
					want = 0
				case f.name == "connect" && c.code == "token_expired":
					want = 4001
				case f.name == "connect":
					want = 4000
				default:
					want = 401
				}
				if status != want || code != c.code {
					t.Errorf("got %d %q, want %d %q", status, code, want, c.code)
				}
				if c.code != "" && e.refusals(c.code) != before+1 {
					t.Errorf("%s was counted %d times", c.code, e.refusals(c.code)-before)
				}
			})
		}
	}
}

func strangersKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A reconnect storm asks nobody: control is not there, and then NATS is not
// either.
func TestManyComeBackWithTokensAndNobodyIsAsked(t *testing.T) {
	c := newCluster(t, policy.Dev())
	i := c.trust()
	e := c.edge(func(cfg *Config) { cfg.Loops = 1 })
	stays := dial(t, e, "/ws?room=a")
	stays.connected("a")
	seen := c.claims(c.ed, "alice", "1", time.Now())
	dial(t, e, "/ws?room=a&token="+seen).connected("a")
	c.nats.Stop()
	until(t, "the edge has lost NATS", func() bool { return !e.control.IsConnected() })
	var wg sync.WaitGroup
	const each = 60
	for _, token := range []string{seen, c.claims(c.hs, "bob", "2", time.Now()), c.claims(c.ed, "carol", "3", time.Now()), i.sign(t, jwt.SigningMethodRS256, "rs", i.rsa, nil)} {
		for range each {
			wg.Go(func() {
				one, err := tryDial(t, e.Addr(), "/ws?room=a", http.Header{"Authorization": {"Bearer " + token}})
				if err != nil {
					t.Error(err)
					return
				}
				if text, err := one.next(); err != nil || !strings.HasPrefix(text, `{"connected":`) {
					t.Errorf("%s %v", text, err)
				}
			})
		}
	}
	wg.Wait()
	// Whose key came meanwhile is asked to try again, not to stay away.
	fresh, err := auth.GenerateHS256("h2")
	if err != nil {
		t.Fatal(err)
	}
	if status, code := tokenForms[0].try(t, e, c.claims(fresh, "dave", "4", time.Now())); status != 503 || code != "unavailable" {
		t.Errorf("a key that may be new: %d %s", status, code)
	}
}

// A log is read by many, and kept for long.
func TestNoTokenIsEverLogged(t *testing.T) {
	c := newCluster(t, policy.Dev())
	i := c.trust()
	var mu sync.Mutex
	var log bytes.Buffer
	e, stop := c.startLogged(nil, slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(p)
	}), &slog.HandlerOptions{Level: slog.LevelDebug})))
	good := c.claims(c.hs, "alice", "1", time.Now())
	bad := good[:len(good)-8] + "AAAAAAAA"
	expired := i.sign(t, jwt.SigningMethodRS256, "rs", i.rsa, jwt.MapClaims{"exp": 1000000000})
	tokens := []string{good, bad, expired, i.sign(t, jwt.SigningMethodES256, "es", i.ec, nil), "plainlyNotAToken"}
	for _, token := range tokens {
		for _, f := range tokenForms {
			f.try(t, e, token)
		}
		if status, _ := tokenForms[0].try(t, e, token); status != 101 { // else it would not end
			get(t, e, "/sse?room=a&token="+token)
		}
		get(t, e, "/nowhere?token="+token)
		get(t, e, "/ws?room=%zz&token="+token, upgradeHeaders()...)
		rawRequest(t, e.Addr(), "GET /ws?token="+token+" HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n")
		rawRequest(t, e.Addr(), "GET /ws?token="+token+" HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example/?token="+token+"\r\n\r\n")
		a := dial(t, e, "/ws")
		a.send(`{"id":1,"connect":{"token":"` + token + `"`)
		a.wantPrefix(`{`)
	}
	c.put(bus.BucketKeys, bus.KeySymmetric, []byte(`{"keys":[{"kty":"oct","kid":"a","alg":"HS256","k":"c2hvcnRzZWNyZXQ"}]}`))
	c.put(bus.BucketKeys, bus.KeyIssuers, []byte(`{"issuers":[{"iss":"a","keys":[{"kty":"oct","k":"c2hvcnRzZWNyZXQ"}]}]}`))
	until(t, "bad keys are logged", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Count(log.String(), "keys from control are not usable") >= 2
	})
	stop()
	text := log.String()
	if !strings.Contains(text, "level=DEBUG") || !strings.Contains(text, "edge drains") {
		t.Fatalf("the log is not whole:\n%s", text)
	}
	secrets := []string{"c2hvcnRzZWNyZXQ", "shortsecret"}
	for _, token := range tokens {
		for _, part := range append(strings.Split(token, "."), token) {
			if len(part) >= 16 {
				secrets = append(secrets, part)
			}
		}
	}
	var doc struct{ Keys []struct{ K string } }
	if err := json.Unmarshal(auth.EncodeSymmetric(c.hs), &doc); err != nil {
		t.Fatal(err)
	}
	for _, secret := range append(secrets, doc.Keys[0].K) {
		if at := strings.Index(text, secret); at >= 0 {
			t.Errorf("the log has %.24s…: %s", secret, text[max(0, at-200):min(len(text), at+100)])
		}
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
