package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/prometheus/client_golang/prometheus"

	"nabat/internal/auth"
	"nabat/internal/bus"
	"nabat/internal/natsdev"
	"nabat/proto/policy"
)

const patience = 60 * time.Second

type rig struct {
	t    *testing.T
	nats *natsdev.Server
	nc   *nats.Conn
	js   jetstream.JetStream
}

func setup(t *testing.T) *rig {
	t.Helper()
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	nc, err := bus.Connect(t.Context(), bus.Options{URL: server.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t, server, nc, js}
}

// start runs a control and returns when it is ready.
func (r *rig) start(change func(*Config)) *Control {
	r.t.Helper()
	cfg := Defaults()
	cfg.Listen, cfg.NATSURL, cfg.Dev = "127.0.0.1:0", r.nats.URL(), true
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		r.t.Fatal(err)
	}
	r.run(c)
	return c
}

// run runs c until the test ends or stop is called, and returns when it is ready.
func (r *rig) run(c *Control) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Run(ctx); err != nil {
			r.t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	r.t.Cleanup(stop)
	until(r.t, "control is ready", func() bool { return c.Ready() == nil })
	return stop
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in %s: %s", patience, what)
		}
	}
}

func (r *rig) get(bucket, key string) []byte {
	r.t.Helper()
	kv, err := r.js.KeyValue(r.t.Context(), bucket)
	if err != nil {
		r.t.Fatal(err)
	}
	e, err := kv.Get(r.t.Context(), key)
	if err != nil {
		r.t.Fatal(err)
	}
	return e.Value()
}

func (r *rig) verifier() *auth.Verifier {
	r.t.Helper()
	public, err := auth.ParseJWKS(r.get(bus.BucketConfig, bus.KeyJWKS))
	if err != nil {
		r.t.Fatal(err)
	}
	symmetric, err := auth.ParseSymmetric(r.get(bus.BucketKeys, bus.KeySymmetric))
	if err != nil {
		r.t.Fatal(err)
	}
	v := auth.NewVerifier(auth.Options{})
	v.SetKeys(auth.Merge(public, symmetric))
	return v
}

func call(t *testing.T, method, url, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(data)
}

func TestATokenFromEitherDoorIsVerifiedByWhatEdgesRead(t *testing.T) {
	r := setup(t)
	c := r.start(nil)
	v := r.verifier()
	check := func(data []byte) {
		t.Helper()
		var reply struct {
			Token   string
			Expires int64
		}
		if err := json.Unmarshal(data, &reply); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		claims, werr := v.Verify(reply.Token, time.Now())
		if werr != nil {
			t.Fatal(werr)
		}
		if claims.User != "alice" || !claims.Grant.MaySubscribe("sports.a") || int64(claims.Expires) != reply.Expires {
			t.Fatalf("%+v", claims)
		}
	}
	for _, algorithm := range []string{"HS256", "EdDSA"} {
		body := `{"sub":"alice","ttl":"10m","subscribe":["sports.>"],"algorithm":"` + algorithm + `"}`
		m, err := r.nc.Request("nabat.api.token.issue", []byte(body), patience)
		if err != nil {
			t.Fatal(err)
		}
		check(m.Data)
		status, text := call(t, "POST", "http://"+c.Addr()+"/v1/tokens", body)
		if status != 200 {
			t.Fatal(status, text)
		}
		check([]byte(text))
	}
}

func TestReplicasAgreeOnKeysAndAreDiscoverable(t *testing.T) {
	r := setup(t)
	r.start(nil)
	before := r.get(bus.BucketKeys, bus.KeySigning)
	r.start(nil)
	if string(before) != string(r.get(bus.BucketKeys, bus.KeySigning)) {
		t.Fatal("the second replica made keys of its own")
	}
	m, err := r.nc.Request("$SRV.INFO.nabat-api", nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	var info micro.Info
	if err := json.Unmarshal(m.Data, &info); err != nil || info.Name != "nabat-api" || len(info.Endpoints) == 0 {
		t.Fatalf("%.400s: %v", m.Data, err)
	}
}

func TestPublish(t *testing.T) {
	r := setup(t)
	c := r.start(nil)
	sub, err := r.nc.SubscribeSync("room.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	status, text := call(t, "POST", "http://"+c.Addr()+"/v1/publish", `{"room":"team chat 1","data":{"x":1},"event":"news","user":"bob","exclude":"c1"}`)
	if status != 200 || !strings.Contains(text, `{"published":{"room":"team chat 1","epoch":`) || !strings.Contains(text, `"offset":1`) {
		t.Fatal(status, text)
	}
	m, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	if m.Subject != "room.team%20chat%201" || string(m.Data) != `{"x":1}` || m.Header.Get("Nabat-Event") != "news" || m.Header.Get("Nabat-User") != "bob" || m.Header.Get("Nabat-Exclude") != "c1" {
		t.Fatalf("%s %s %v", m.Subject, m.Data, m.Header)
	}
}

func TestRefusals(t *testing.T) {
	r := setup(t)
	open := r.start(nil)
	closed := r.start(func(c *Config) { c.Dev = false; c.APIKey = "0123456789abcdef" })
	bearer := []string{"Authorization", "Bearer 0123456789abcdef"}
	for _, c := range []struct {
		rule         string
		to           *Control
		method, path string
		body         string
		header       []string
		status       int
		want         string
	}{
		{"no API key", closed, "POST", "/v1/tokens", `{"sub":"a"}`, nil, 401, `"unauthorized"`},
		{"a wrong API key", closed, "POST", "/v1/tokens", `{"sub":"a"}`, []string{"Authorization", "Bearer 0123456789abcdeg"}, 401, `"unauthorized"`},
		{"the right API key", closed, "POST", "/v1/tokens", `{"sub":"a"}`, bearer, 200, `"token"`},
		{"public keys need none", closed, "GET", "/v1/jwks", "", nil, 200, `"OKP"`},
		{"the description needs none", closed, "GET", "/openapi.yaml", "", nil, 200, "openapi: 3.1.0"},
		{"no user", open, "POST", "/v1/tokens", `{}`, nil, 400, "sub is missing"},
		{"a bad pattern", open, "POST", "/v1/tokens", `{"sub":"a","subscribe":["a..b"]}`, nil, 400, "subscribe: room"},
		{"a bad ttl", open, "POST", "/v1/tokens", `{"sub":"a","ttl":"soon"}`, nil, 400, `ttl is \"soon\"`},
		{"a ttl beyond the bound", open, "POST", "/v1/tokens", `{"sub":"a","ttl":"9000h"}`, nil, 400, "must be 1s to 720h"},
		{"an unknown algorithm", open, "POST", "/v1/tokens", `{"sub":"a","algorithm":"none"}`, nil, 400, "must be HS256 or EdDSA"},
		{"an unknown field", open, "POST", "/v1/tokens", `{"user":"a"}`, nil, 400, `unknown field \"user\"`},
		{"an empty body", open, "POST", "/v1/tokens", ``, nil, 400, "sub is missing"},
		{"two objects", open, "POST", "/v1/tokens", `{"sub":"a"}{}`, nil, 400, "more behind"},
		{"a bad room", open, "POST", "/v1/publish", `{"room":"a..b","text":"x"}`, nil, 400, `"bad_room"`},
		{"no message body", open, "POST", "/v1/publish", `{"room":"a"}`, nil, 400, "exactly one of data, text and base64"},
		{"bad base64", open, "POST", "/v1/publish", `{"room":"a","base64":"!"}`, nil, 400, "not standard base64"},
		{"a control character in a header", open, "POST", "/v1/publish", `{"room":"a","text":"x","event":"a\r\nb"}`, nil, 400, "event must be"},
		{"a message larger than NATS takes", open, "POST", "/v1/publish", `{"room":"a","text":"` + strings.Repeat("x", 1<<20+1) + `"}`, nil, 413, `"too_large"`},
		{"a body larger than the API takes", open, "POST", "/v1/publish", strings.Repeat("x", 3<<20), nil, 413, `"too_large"`},
		{"another content type", open, "POST", "/v1/publish", `{}`, []string{"Content-Type", "text/plain"}, 415, "application/json"},
		{"a page of another site", open, "POST", "/v1/publish", `{"room":"a","text":"x"}`, []string{"Sec-Fetch-Site", "cross-site"}, 403, `"origin_not_allowed"`},
		{"another method", open, "GET", "/v1/tokens", "", nil, 405, "takes POST"},
		{"an unknown request", open, "GET", "/v1/nope", "", nil, 404, "/openapi.yaml"},
		{"policies", open, "GET", "/v1/policies", "", nil, 200, `"match":"\u003e"`},
	} {
		t.Run(c.rule, func(t *testing.T) {
			status, text := call(t, c.method, "http://"+c.to.Addr()+c.path, c.body, c.header...)
			if status != c.status || !strings.Contains(text, c.want) {
				t.Fatalf("%d %s", status, text)
			}
		})
	}
	m, err := r.nc.Request("nabat.api.publish", []byte(`{"room":"a..b","text":"x"}`), patience)
	if err != nil || m.Header.Get(micro.ErrorCodeHeader) != "bad_room" || !strings.Contains(string(m.Data), `"bad_room"`) {
		t.Fatalf("over NATS: %v %v", m, err)
	}
}

func TestConfigurationRefusals(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, c := range []struct {
		rule   string
		change func(*Config)
		want   string
	}{
		{"no key outside of dev", func(c *Config) { c.Dev = false }, "the HTTP API needs a key"},
		{"no key on an address that others reach", func(c *Config) { c.Listen = ":0" }, "the HTTP API needs a key"},
		{"a short key", func(c *Config) { c.APIKey = "short" }, "at least 16"},
		{"an empty key file", func(c *Config) { c.APIKeyFile = write("key", "\n") }, "is empty"},
		{"a missing key file", func(c *Config) { c.APIKeyFile = filepath.Join(dir, "none") }, "api_key_file"},
		{"two keys", func(c *Config) { c.APIKey, c.APIKeyFile = "x", "y" }, "both given"},
		{"a bad policy file", func(c *Config) { c.Policies = write("p.yaml", "rooms:\n - match: a\n   pubish: true") }, `p.yaml:3: unknown key "pubish"`},
		{"a missing policy file", func(c *Config) { c.Policies = filepath.Join(dir, "none.yaml") }, "none.yaml"},
		{"a bad replica count", func(c *Config) { c.Replicas = 2 }, "must be 1, 3 or 5"},
		{"a bad token life", func(c *Config) { c.TokenTTL = 0 }, "token_ttl is 0s"},
		{"keys that age in minutes", func(c *Config) { c.KeyAge = time.Minute }, "key_age is 1m0s"},
		{"keys that sign before now", func(c *Config) { c.KeyLead = -1 }, "key_lead is -1ns"},
		{"keys that wait as long as they live", func(c *Config) { c.KeyAge, c.KeyLead = time.Hour, time.Hour }, "key_lead is 1h0m0s"},
		{"a bad file of issuers", func(c *Config) { c.Issuers = write("i.yaml", "issuers:\n - iss: a\n   jwks: b") }, "i.yaml: yaml: unmarshal errors:\n  line 3: field jwks not found"},
		{"an issuer that is control itself", func(c *Config) {
			c.Issuer, c.Issuers = "me", write("me.yaml", "issuers:\n - {iss: me, audience: a, jwks_url: \"https://x/\"}")
		}, "control's own issuer"},
		{"a missing file of issuers", func(c *Config) { c.Issuers = filepath.Join(dir, "no.yaml") }, "no.yaml"},
		{"no NATS", func(c *Config) { c.NATSURL = "" }, "nats_url is empty"},
		{"a live prefix that rooms begin with", func(c *Config) { c.LivePrefix = "room.live." }, "neither may begin with the other"},
		{"a live prefix that rooms lie under", func(c *Config) { c.LivePrefix, c.SubjectPrefix = "a.", "a.room." }, "neither may begin with the other"},
		{"a prefix without a dot", func(c *Config) { c.LivePrefix = "live" }, "live_prefix is \"live\""},
		{"a prefix with a wildcard", func(c *Config) { c.SubjectPrefix = "*." }, "subject_prefix is \"*.\""},
		{"a prefix with a space", func(c *Config) { c.SubjectPrefix = "my room." }, "subject_prefix is \"my room.\""},
		{"streams verified without end", func(c *Config) { c.StreamVerify = 0 }, "stream_verify is 0s"},
		{"a grace before now", func(c *Config) { c.StreamGrace = -1 }, "stream_grace is -1ns"},
		{"no address", func(c *Config) { c.Listen = "" }, "listen is empty"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			cfg := Defaults()
			cfg.Listen, cfg.Dev = "127.0.0.1:0", true
			c.change(&cfg)
			_, err := New(cfg, slog.New(slog.DiscardHandler), nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestPoliciesFollowTheFileAndNeverGoBack(t *testing.T) {
	r := setup(t)
	file := filepath.Join(t.TempDir(), "p.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("rooms:\n - match: a\n")
	c := r.start(func(c *Config) { c.Policies = file })
	inForce := func() *policy.Set {
		set, err := policy.Decode(r.get(bus.BucketConfig, bus.KeyPolicies))
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	if s := inForce(); s.Version != 1 || s.Rooms[0].Match != "a" {
		t.Fatalf("%+v", s)
	}
	// A replica with the same file changes nothing.
	r.start(func(c *Config) { c.Policies = file })
	if s := inForce(); s.Version != 1 {
		t.Fatalf("%+v", s)
	}
	write("rooms:\n - nonsense")
	if err := c.policies.Reload(t.Context(), file); err == nil || !strings.Contains(err.Error(), "p.yaml:2: ") {
		t.Fatalf("a bad file: %v", err)
	}
	if s := inForce(); s.Version != 1 {
		t.Fatalf("a bad file changed the policies: %+v", s)
	}
	write("rooms:\n - match: b\n")
	until(t, "the changed file is published", func() bool { s := inForce(); return s.Version >= 2 && s.Rooms[0].Match == "b" })
}

func TestHistoryIsKeptWhenControlIsReady(t *testing.T) {
	r := setup(t)
	file := filepath.Join(t.TempDir(), "p.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stream := func(pattern string) *policy.Stream {
		set, err := policy.Decode(r.get(bus.BucketConfig, bus.KeyPolicies))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range set.Rooms {
			if p.Match == pattern {
				return p.Stream
			}
		}
		return nil
	}
	write("rooms:\n - match: chat.>\n   history: {messages: 10}\n - match: \">\"\n")
	c := r.start(func(c *Config) { c.Policies = file })
	first := stream("chat.>")
	if first == nil || stream(">") != nil {
		t.Fatalf("chat.>: %+v", first)
	}
	if _, err := r.js.Publish(t.Context(), "room.chat.1", []byte("x")); err != nil {
		t.Fatal(err)
	}
	// A changed file is followed, at once and under the same epoch.
	write("rooms:\n - match: chat.>\n   history: {messages: 20}\n - match: news\n   history: {age: 1h}\n - match: \">\"\n")
	if err := c.policies.Reload(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	if again := stream("chat.>"); again == nil || *again != *first {
		t.Fatalf("published with %+v, had %+v", again, first)
	}
	until(t, "the new policy has its stream", func() bool { return stream("news") != nil })
	s, err := r.js.Stream(t.Context(), first.Name)
	if err != nil {
		t.Fatal(err)
	}
	if info := s.CachedInfo(); info.Config.MaxMsgsPerSubject != 20 || info.State.Msgs != 1 {
		t.Fatalf("%+v", info)
	}
	// A replica agrees.
	r.start(func(c *Config) { c.Policies = file })
	if again := stream("chat.>"); *again != *first {
		t.Fatalf("%+v, was %+v", again, first)
	}
}

func TestReadySaysWhichStreamCannotBeHad(t *testing.T) {
	r := setup(t)
	if _, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "MINE", Subjects: []string{"room.a"}}); err != nil {
		t.Fatal(err)
	}
	cfg := Defaults()
	cfg.Listen, cfg.NATSURL, cfg.Dev = "127.0.0.1:0", r.nats.URL(), true
	registry := prometheus.NewRegistry()
	c, err := New(cfg, slog.New(slog.DiscardHandler), registry)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	until(t, "control names the stream", func() bool { return c.Ready() != nil && strings.Contains(c.Ready().Error(), "captured by MINE") })
	if n := gauge(t, registry, "nabat_control_streams", "failed"); n != 1 {
		t.Fatalf("%v streams failed", n)
	}
	// Meanwhile the policies are in force, without a stream.
	set, err := policy.Decode(r.get(bus.BucketConfig, bus.KeyPolicies))
	if err != nil || set.Rooms[0].Stream != nil || set.Rooms[0].History == nil {
		t.Fatalf("%+v, %v", set, err)
	}
	if err := r.js.DeleteStream(t.Context(), "MINE"); err != nil {
		t.Fatal(err)
	}
	until(t, "control is ready", func() bool { return c.Ready() == nil })
	until(t, "the metrics say so", func() bool { return gauge(t, registry, "nabat_control_streams", "ready") == 1 })
}

func gauge(t *testing.T, from prometheus.Gatherer, name, state string) float64 {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == state {
				return m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

func TestReadyTellsOfNATS(t *testing.T) {
	r := setup(t)
	c := r.start(nil)
	r.nats.Stop()
	until(t, "control says that NATS is gone", func() bool { return c.Ready() != nil && strings.Contains(c.Ready().Error(), "NATS") })
	if err := r.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	until(t, "control is ready again", func() bool { return c.Ready() == nil })
	until(t, "the API answers again", func() bool {
		_, err := r.nc.Request("nabat.api.token.issue", []byte(`{"sub":"a"}`), time.Second)
		return err == nil || !(errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrReconnectBufExceeded))
	})
}
