package issuers

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/control/internal/metrics"
	"nabat/internal/auth"
	"nabat/internal/bus"
	"nabat/internal/natsdev"
	"nabat/proto/wire"
)

const patience = 60 * time.Second

// server is an issuer: a real HTTPS server with keys that rotate.
type server struct {
	*httptest.Server
	t    *testing.T
	down atomic.Bool

	mu       sync.Mutex
	keys     map[string]crypto.Signer
	full     int // answers with a body
	unneeded int // answers that nothing has changed
	body     func() []byte
}

func newServer(t *testing.T, kids ...string) *server {
	t.Helper()
	s := &server{t: t, keys: make(map[string]crypto.Signer)}
	for _, kid := range kids {
		s.add(kid)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, s.URL, s.URL+"/keys")
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/keys", http.StatusFound) })
	mux.HandleFunc("/plain", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://keys.example.com/keys", http.StatusFound)
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<16)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/keys", s.serve)
	s.Server = httptest.NewUnstartedServer(mux)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	if s.down.Load() {
		http.Error(w, "down", http.StatusBadGateway)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	data := s.jwks()
	if s.body != nil {
		data = s.body()
	}
	tag := fmt.Sprintf("%q", base64.StdEncoding.EncodeToString(data[max(0, len(data)-30):])+fmt.Sprint(len(data)))
	w.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		s.unneeded++
		w.WriteHeader(http.StatusNotModified)
		return
	}
	s.full++
	_, _ = w.Write(data)
}

func (s *server) add(kid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if strings.HasPrefix(kid, "ed") {
		_, s.keys[kid], err = ed25519.GenerateKey(rand.Reader)
	} else {
		s.keys[kid], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) remove(kid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, kid)
}

var b64 = base64.RawURLEncoding

func (s *server) jwks() []byte {
	list := []map[string]string{}
	for kid, k := range s.keys {
		switch public := k.Public().(type) {
		case ed25519.PublicKey:
			list = append(list, map[string]string{"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": b64.EncodeToString(public)})
		case *ecdsa.PublicKey:
			point, err := public.Bytes()
			if err != nil {
				s.t.Fatal(err)
			}
			list = append(list, map[string]string{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": kid, "x": b64.EncodeToString(point[1:33]), "y": b64.EncodeToString(point[33:])})
		}
	}
	data, err := json.Marshal(map[string]any{"keys": list})
	if err != nil {
		s.t.Fatal(err)
	}
	return data
}

// token is signed as RFC 7515 says, without the library that reads it.
func (s *server) token(kid string, claims map[string]any) string {
	s.t.Helper()
	s.mu.Lock()
	key := s.keys[kid]
	s.mu.Unlock()
	body := map[string]any{"iss": s.URL, "aud": "nabat", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range claims {
		body[k] = v
	}
	algorithm := "EdDSA"
	if _, ok := key.(*ecdsa.PrivateKey); ok {
		algorithm = "ES256"
	}
	head, _ := json.Marshal(map[string]string{"alg": algorithm, "kid": kid})
	payload, _ := json.Marshal(body)
	text := b64.EncodeToString(head) + "." + b64.EncodeToString(payload)
	if private, ok := key.(*ecdsa.PrivateKey); ok {
		h := crypto.SHA256.New()
		h.Write([]byte(text))
		r, v, err := ecdsa.Sign(rand.Reader, private, h.Sum(nil))
		if err != nil {
			s.t.Fatal(err)
		}
		sig := make([]byte, 64)
		r.FillBytes(sig[:32])
		v.FillBytes(sig[32:])
		return text + "." + b64.EncodeToString(sig)
	}
	return text + "." + b64.EncodeToString(ed25519.Sign(key.(ed25519.PrivateKey), []byte(text)))
}

// certificate is a file with what the server's certificate is checked by.
func (s *server) certificate() string {
	file := filepath.Join(s.t.TempDir(), "ca.pem")
	data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(file, data, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

func TestMain(m *testing.M) {
	firstPause = 20 * time.Millisecond
	os.Exit(m.Run())
}

type rig struct {
	t  *testing.T
	kv jetstream.KeyValue
}

func setup(t *testing.T) *rig {
	t.Helper()
	s, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	nc, err := bus.Connect(t.Context(), bus.Options{URL: s.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := bus.EnsureBucket(t.Context(), js, bus.BucketKeys, "", 1)
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t, kv}
}

// write makes a file of issuers.
func (r *rig) write(file, text string) {
	r.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// run starts a replica with the issuers of text.
func (r *rig) run(text string) (k *Keeper, file string) {
	r.t.Helper()
	file = filepath.Join(r.t.TempDir(), "issuers.yaml")
	r.write(file, text)
	config, err := ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	for n := range config.sources {
		config.sources[n].refresh = 50 * time.Millisecond
	}
	k = New(Options{Config: config, File: file, Counts: metrics.New(), Log: slog.New(slog.DiscardHandler)})
	if err := k.Publish(r.t.Context(), r.kv); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); k.Run(ctx) }()
	r.t.Cleanup(func() { cancel(); <-done })
	return k, file
}

// verify is what an edge says of a token that knows what is published.
func (r *rig) verify(token string) (*auth.Verified, *wire.Error) {
	r.t.Helper()
	e, err := r.kv.Get(r.t.Context(), bus.KeyIssuers)
	if err != nil {
		r.t.Fatal(err)
	}
	set, err := auth.ParseIssuers(e.Value())
	if err != nil {
		r.t.Fatal(err)
	}
	v := auth.NewVerifier(auth.Options{})
	v.SetKeys(set)
	return v.Verify(token, time.Now())
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("not in %s: %s", patience, what)
		}
	}
}

func (r *rig) good(token string) func() bool {
	return func() bool { _, err := r.verify(token); return err == nil }
}

func (r *rig) refused(token string, code wire.Code) {
	r.t.Helper()
	if c, err := r.verify(token); err == nil || err.Code != code {
		r.t.Errorf("%+v, %v; want %s", c, err, code)
	}
}

func entryOf(s *server, more string) string {
	return fmt.Sprintf("  - {iss: %q, audience: nabat, refresh: 1s, ca_file: %q%s}\n", s.URL, s.certificate(), more)
}

func TestKeysOfAnIssuerReachTheEdgesAndRotate(t *testing.T) {
	r := setup(t)
	s := newServer(t, "k1")
	first := s.token("k1", nil)
	r.run("issuers:\n" + entryOf(s, ""))
	r.until("its token is good", r.good(first))
	r.refused(s.token("k1", map[string]any{"aud": "shop"}), wire.TokenAudience)
	r.refused(s.token("k1", map[string]any{"iss": s.URL + "/"}), wire.TokenUnknownKey)
	r.refused(s.token("k1", map[string]any{"exp": 1}), wire.TokenExpired)
	// Another key is added, of another kind, and then the first one removed.
	s.add("ed2")
	r.until("a token of the new key is good", r.good(s.token("ed2", nil)))
	if !r.good(first)() {
		t.Error("the old key does not go on")
	}
	s.remove("k1")
	r.until("the old key is gone", func() bool { _, err := r.verify(first); return err != nil && err.Code == wire.TokenUnknownKey })
	r.until("an answer that nothing has changed", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.unneeded > 0 })
}

func TestAnOutageOfAnIssuerLeavesItsKeys(t *testing.T) {
	r := setup(t)
	s := newServer(t, "k1")
	token := s.token("k1", nil)
	text := "issuers:\n" + entryOf(s, ", jwks_url: "+s.URL+"/keys")
	r.run(text)
	r.until("its token is good", r.good(token))
	broken := func(why string, body func() []byte) {
		t.Helper()
		s.mu.Lock()
		s.body = body
		before := s.full
		s.mu.Unlock()
		r.until("it was asked: "+why, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.full > before+1 })
		if !r.good(token)() {
			t.Errorf("%s: its keys are gone", why)
		}
	}
	n := 0
	tagless := func(text string) func() []byte { return func() []byte { n++; return fmt.Appendf(nil, text, n) } }
	broken("an error page", tagless("<html>%d</html>"))
	broken("an empty set", tagless(`{"keys":[],"n":%d}`))
	broken("a set with other kinds of keys", tagless(`{"keys":[{"kty":"oct","kid":"a","k":"eA"}],"n":%d}`))
	s.down.Store(true)
	// A replica that starts in the outage serves the keys that are known.
	r.run(text)
	if !r.good(token)() {
		t.Error("its keys are gone with a restart")
	}
	s.mu.Lock()
	s.body = nil
	s.mu.Unlock()
	s.add("k2")
	s.down.Store(false)
	r.until("it is asked again", r.good(s.token("k2", nil)))
}

func TestIssuersDoNotSpeakForEachOther(t *testing.T) {
	r := setup(t)
	a, b := newServer(t, "k1"), newServer(t, "k1")
	secret := "a secret that is long enough for HS256"
	dir := t.TempDir()
	r.write(filepath.Join(dir, "s"), secret+"\n")
	r.run("issuers:\n" + entryOf(a, "") + entryOf(b, `, user_prefix: "b:"`) + fmt.Sprintf("  - {iss: shop, audience: nabat, secret_file: %q}\n", filepath.Join(dir, "s")))
	r.until("both are known", func() bool { return r.good(a.token("k1", nil))() && r.good(b.token("k1", nil))() })
	r.refused(b.token("k1", map[string]any{"iss": a.URL}), wire.TokenSignature)
	r.refused(a.token("k1", map[string]any{"iss": "shop"}), wire.TokenUnknownKey)
	if c, err := r.verify(b.token("k1", nil)); err != nil || c.User != "b:alice" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestAFileThatChangesIsFollowed(t *testing.T) {
	old := pollInterval
	pollInterval = 10 * time.Millisecond
	t.Cleanup(func() { pollInterval = old })
	r := setup(t)
	a, b := newServer(t, "k1"), newServer(t, "k1")
	entryA, entryB := entryOf(a, ""), entryOf(b, "")
	_, file := r.run("issuers:\n" + entryA)
	r.until("the first is known", r.good(a.token("k1", nil)))
	r.write(file, "issuers:\n  - nonsense")
	r.write(file, "issuers:\n"+entryB)
	r.until("the second is known", r.good(b.token("k1", nil)))
	r.refused(a.token("k1", nil), wire.TokenUnknownKey)
	// Somebody deletes what is published.
	if err := r.kv.Purge(t.Context(), bus.KeyIssuers); err != nil {
		t.Fatal(err)
	}
	r.until("it is published again", func() bool {
		_, err := r.kv.Get(t.Context(), bus.KeyIssuers)
		return err == nil && r.good(b.token("k1", nil))()
	})
}

func TestReplicasAgreeOnTheKeysOfIssuers(t *testing.T) {
	r := setup(t)
	a, b := newServer(t, "k1"), newServer(t, "k1")
	text := "issuers:\n" + entryOf(a, "") + entryOf(b, "")
	for range 3 {
		r.run(text)
	}
	r.until("both are known", func() bool { return r.good(a.token("k1", nil))() && r.good(b.token("k1", nil))() })
	a.add("k2")
	b.add("k3")
	r.until("both have rotated", func() bool { return r.good(a.token("k2", nil))() && r.good(b.token("k3", nil))() })
}

func TestWhatAFetchRefuses(t *testing.T) {
	s := newServer(t, "k1")
	other := newServer(t, "k1")
	ca, err := os.ReadFile(s.certificate())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rule   string
		source source
		want   string // empty: it is fetched
	}{
		{"a redirect to https", source{jwksURL: s.URL + "/moved", ca: ca}, ""},
		{"a redirect away from TLS", source{jwksURL: s.URL + "/plain", ca: ca}, "over https only"},
		{"an answer without end", source{jwksURL: s.URL + "/endless", ca: ca}, "larger than"},
		{"a page that is not there", source{jwksURL: s.URL + "/nowhere", ca: ca}, "404"},
		{"a certificate that nobody vouches for", source{jwksURL: s.URL + "/keys"}, "certificate"},
		{"a document of another issuer", source{rules: auth.Issuer{Name: "https://me", Source: discoveryURL(other.URL)}, ca: ca}, "of issuer"},
		{"a document of this issuer", source{rules: auth.Issuer{Name: s.URL, Source: discoveryURL(s.URL + "/")}, ca: ca}, ""},
	} {
		c.source.rules.Algorithms = []string{auth.ES256}
		f, err := newFetcher(&c.source)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.fetch(t.Context())
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.rule, err)
		}
	}
}

func TestFilesThatCannotBeUsedSayWhy(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "i.yaml")
	for name, text := range map[string]string{"short": "short", "long": strings.Repeat("s", 40), "no.pem": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ entry, want string }{
		{"{iss: a, audience: b, jwks: c}", "line 2: field jwks not found"},
		{"{audience: b, jwks_url: 'https://x/'}", "iss is missing"},
		{"{iss: 'https://a'}", "audience is missing"},
		{"{iss: a, audience: b}", `"a/.well-known/openid-configuration" is no URL`},
		{"{iss: 'http://a', audience: b}", "over https only"},
		{"{iss: a, audience: b, jwks_url: 'http://x.example/'}", "over https only"},
		{"{iss: a, audience: b, jwks_url: 'https://u:p@x/'}", "must not hold a password"},
		{"{iss: 'https://a', audience: b, algorithms: [HS256]}", "HS256 belongs to secret_file"},
		{"{iss: 'https://a', audience: b, algorithms: none}", `"none" must be`},
		{"{iss: a, audience: b, secret_file: long, algorithms: RS256}", "HS256 belongs to secret_file"},
		{"{iss: a, audience: b, secret_file: short}", "at least 32"},
		{"{iss: a, audience: b, secret_file: none}", "secret_file: open"},
		{"{iss: a, audience: b, secret_file: long, jwks_url: 'https://x/'}", "stands instead of"},
		{"{iss: 'https://a', audience: b, ca_file: no.pem}", "holds no certificate"},
		{"{iss: 'https://a', audience: b, ca_file: none}", "ca_file: open"},
		{"{iss: 'https://a', audience: b, refresh: 1ms}", "refresh is 1ms"},
		{"{iss: 'https://a', audience: b, claims: {user: x}}", `claims: "user"`},
		{"{iss: 'https://a', audience: b, grant: {subscribe: a..b}}", "grant: subscribe"},
		{"{iss: 'https://a', audience: b}\n  - {iss: 'https://a', audience: b}", "issuer 2 (https://a): it is there twice"},
	} {
		if err := os.WriteFile(file, []byte("issuers:\n  - "+c.entry), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFile(file); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "i.yaml") || strings.Contains(err.Error(), "short\n") {
			t.Errorf("%s: %v", c.entry, err)
		}
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := ReadFile(file); err != nil || len(c.sources) != 0 {
		t.Errorf("an empty file: %v", err)
	}
	if c, err := ReadFile(""); err != nil || len(c.sources) != 0 {
		t.Errorf("no file: %v", err)
	}
}
