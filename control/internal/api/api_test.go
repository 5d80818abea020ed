package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/prometheus/client_golang/prometheus"

	"nabat/control/internal/apikeys"
	"nabat/control/internal/balance"
	"nabat/control/internal/blocks"
	"nabat/control/internal/metrics"
	"nabat/control/internal/orders"
	"nabat/control/internal/policies"
	"nabat/control/internal/tokens"
	"nabat/internal/bus"
	"nabat/internal/natsdev"
	"nabat/proto/policy"
)

const patience = 60 * time.Second

// rig is an API with both doors open.
type rig struct {
	t      *testing.T
	nats   *natsdev.Server
	own    *nats.Conn // the API's
	caller *nats.Conn
	issuer *tokens.Issuer
	blocks *blocks.Keeper
	reg    *prometheus.Registry
	http   *httptest.Server
}

func setup(t *testing.T) *rig {
	t.Helper()
	s, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	r := &rig{t: t, nats: s, reg: prometheus.NewRegistry(), issuer: tokens.New(tokens.Options{TTL: time.Hour, MaxTTL: time.Hour, KeyLead: time.Minute}),
		blocks: blocks.New(blocks.Options{Keep: time.Hour})}
	var conns [2]*nats.Conn
	for i := range conns {
		if conns[i], err = bus.Connect(t.Context(), bus.Options{URL: s.URL()}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conns[i].Close)
	}
	r.own, r.caller = conns[0], conns[1]
	counts := metrics.New()
	if err := counts.Register(r.reg); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(r.own)
	if err != nil {
		t.Fatal(err)
	}
	sender := orders.New(orders.Options{NATS: r.own})
	a := New(Options{Tokens: r.issuer, Blocks: r.blocks, Policies: policies.New(policy.Dev(), slog.New(slog.DiscardHandler)), NATS: r.own, JetStream: js,
		Orders: sender, Balance: balance.New(sender, js, slog.New(slog.DiscardHandler)), Keys: apikeys.New(js), Open: true,
		Prefix: "room.", Counts: counts, Log: slog.New(slog.DiscardHandler)})
	service, err := a.Serve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = service.Stop() })
	if err := r.own.FlushTimeout(patience); err != nil { // NATS knows of the service
		t.Fatal(err)
	}
	r.http = httptest.NewServer(a.HTTP())
	t.Cleanup(r.http.Close)
	return r
}

func (r *rig) prepare() {
	r.t.Helper()
	js, err := jetstream.New(r.caller)
	if err != nil {
		r.t.Fatal(err)
	}
	kv, err := bus.EnsureBucket(r.t.Context(), js, "B", "", 1)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.issuer.Prepare(r.t.Context(), kv, kv); err != nil {
		r.t.Fatal(err)
	}
	if kv, err = bus.EnsureBucket(r.t.Context(), js, bus.BucketBlocks, "", 1); err != nil {
		r.t.Fatal(err)
	}
	r.blocks.Prepare(kv)
}

type refusal struct {
	Error struct{ Code, Reason string }
}

func (r *rig) viaNATS(verb, body string) (code, reason string) {
	r.t.Helper()
	m, err := r.caller.Request(bus.APIPrefix+verb, []byte(body), patience)
	if err != nil {
		r.t.Fatal(err)
	}
	var got refusal
	if err := json.Unmarshal(m.Data, &got); err != nil {
		r.t.Fatalf("%s: %v", m.Data, err)
	}
	if header := m.Header.Get(micro.ErrorCodeHeader); header != got.Error.Code || m.Header.Get(micro.ErrorHeader) != got.Error.Reason {
		r.t.Errorf("headers %v, body %s", m.Header, m.Data)
	}
	return got.Error.Code, got.Error.Reason
}

func (r *rig) viaHTTP(method, path, body string, header ...string) (status int, code, reason string) {
	r.t.Helper()
	status, code, data := r.viaHTTPBody(method, path, body, header...)
	var got refusal
	_ = json.Unmarshal(data, &got) // viaHTTPBody has read it
	return status, code, got.Error.Reason
}

func (r *rig) viaHTTPBody(method, path, body string, header ...string) (status int, code string, data []byte) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.http.URL+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err = io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	var got refusal
	if err := json.Unmarshal(data, &got); err != nil {
		r.t.Fatalf("%s: %v", data, err)
	}
	return res.StatusCode, got.Error.Code, data
}

// count is how many requests were counted with these labels.
func (r *rig) count(verb, via, code string) (n float64) {
	r.t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "nabat_control_requests_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := make(map[string]string)
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["verb"] == verb && labels["via"] == via && labels["code"] == code {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

var routes = map[string][2]string{"token.issue": {"POST", "/v1/tokens"}, "publish": {"POST", "/v1/publish"},
	"policies": {"GET", "/v1/policies"}, "jwks": {"GET", "/v1/jwks"}, "token.revoke": {"POST", "/v1/tokens/revoke"}, "user.revoke": {"POST", "/v1/users/revoke"},
	"user.block": {"POST", "/v1/users/block"}, "user.unblock": {"POST", "/v1/users/unblock"}, "block.list": {"GET", "/v1/blocks"},
	"keys.list": {"GET", "/v1/keys"}, "keys.rotate": {"POST", "/v1/keys/rotate"}}

func TestBothDoorsGiveTheSameAnswers(t *testing.T) {
	r := setup(t)
	check := func(verb, body, code, reason string, status int) {
		t.Helper()
		natsBefore, httpBefore := r.count(verb, "nats", code), r.count(verb, "http", code)
		label := code
		if code == "ok" {
			code = ""
		}
		if got, why := r.viaNATS(verb, body); got != code || !strings.Contains(why, reason) {
			t.Errorf("NATS %s %.80s: %q %q", verb, body, got, why)
		}
		if s, got, why := r.viaHTTP(routes[verb][0], routes[verb][1], body); s != status || got != code || !strings.Contains(why, reason) {
			t.Errorf("HTTP %s %.80s: %d %q %q", verb, body, s, got, why)
		}
		if n, h := r.count(verb, "nats", label)-natsBefore, r.count(verb, "http", label)-httpBefore; n != 1 || h != 1 {
			t.Errorf("%s %s was counted %v times for NATS and %v for HTTP", verb, label, n, h)
		}
	}
	check("token.issue", `{"sub":"a"}`, "unavailable", "keys are not ready", 503)
	check("jwks", ``, "unavailable", "keys are not ready", 503)
	check("policies", ``, "ok", "", 200)
	check("keys.list", ``, "unavailable", "keys are not ready", 503)
	check("keys.rotate", `{}`, "unavailable", "keys are not ready", 503)
	check("user.block", `{"user":"a"}`, "unavailable", "blocks is not ready", 503)
	check("block.list", ``, "unavailable", "blocks is not ready", 503)
	r.prepare()
	check("token.issue", `{"sub":"a"}`, "ok", "", 200)
	check("token.issue", `{"sub":"a","nbf":32503680000}`, "bad_request", "nbf is not before the end", 400)
	check("token.issue", `{"sub":"a","nbf":-1}`, "bad_request", "nbf is -1", 400)
	check("token.revoke", `{"jti":"x"}`, "ok", "", 200)
	check("token.revoke", `{}`, "bad_request", "one of jti and token", 400)
	check("token.revoke", `{"jti":"x","token":"y"}`, "bad_request", "one of jti and token", 400)
	check("token.revoke", `{"token":"y"}`, "bad_request", "not a JWT", 400)
	check("user.revoke", `{"user":"a"}`, "ok", "", 200)
	check("user.revoke", `{}`, "bad_request", "user is missing", 400)
	check("user.revoke", `{"user":"a","issued_before":32503680000}`, "bad_request", "lies in the future", 400)
	check("user.revoke", `{"user":"a","issued_before":-5}`, "bad_request", "must be unix seconds", 400)
	check("user.block", `{"user":"a","for":"10m","reason":"spam"}`, "ok", "", 200)
	check("user.block", `{"for":"10m"}`, "bad_request", "user is missing", 400)
	check("user.block", `{"user":"a","for":"soon"}`, "bad_request", `for is "soon"`, 400)
	check("user.block", `{"user":"a","for":"-1h"}`, "bad_request", `for is "-1h"`, 400)
	check("user.block", `{"user":"`+strings.Repeat("u", 1025)+`"}`, "bad_request", "at most 1024", 400)
	check("user.block", `{"user":"a","reason":"`+strings.Repeat("r", 513)+`"}`, "bad_request", "at most 512", 400)
	check("block.list", ``, "ok", "", 200)
	check("user.unblock", `{"user":"a"}`, "ok", "", 200)
	check("user.unblock", `{}`, "bad_request", "user is missing", 400)
	check("keys.list", ``, "ok", "", 200)
	check("keys.rotate", `{"at_once":true}`, "ok", "", 200)
	check("keys.rotate", `{"now":true}`, "bad_request", "unknown field", 400)
	check("jwks", ``, "ok", "", 200)
	check("token.issue", `{"sub":"a","ttl":"2h"}`, "bad_request", "must be 1s to 1h", 400)
	check("token.issue", `{"sub":"a","ttl":"-1s"}`, "bad_request", `ttl is "-1s"`, 400)
	check("token.issue", `[]`, "bad_request", "not the JSON object", 400)
	check("token.issue", `{"sub":"a"`, "bad_request", "not the JSON object", 400)
	check("token.issue", ``, "bad_request", "sub is missing", 400)
	check("publish", `{"room":"a","text":"x"}`, "ok", "", 200)
	check("publish", `{"room":"a","text":""}`, "ok", "", 200)
	check("publish", `{"room":"a","data":null}`, "ok", "", 200)
	check("publish", `{"room":"a","data":1,"text":"x"}`, "bad_request", "exactly one of", 400)
	check("publish", `{"room":"","text":"x"}`, "bad_room", "must not be empty", 400)
	check("publish", `{"room":"a.>","text":"x"}`, "bad_room", "patterns", 400)
	check("publish", `{"room":"a","text":"x","user":"`+strings.Repeat("u", 257)+`"}`, "bad_request", "user must be at most 256 bytes", 400)
	check("publish", `{"room":"a","text":"x","user":"`+strings.Repeat("u", 256)+`"}`, "ok", "", 200)
	check("publish", `{"room":"a","text":"x","key":"\u0000"}`, "bad_request", "key must be", 400)
	check("publish", `{"room":"a","text":"x","message_id":"a\nb"}`, "bad_request", "message_id must be", 400)
	check("publish", `{"room":"a","text":"x","exclude":"\u007f"}`, "bad_request", "exclude must be", 400)
}

func TestWhatHTTPRefusesBeforeTheVerbIsCountedToo(t *testing.T) {
	r := setup(t)
	fits := `{"room":"a","base64":"` + base64.StdEncoding.EncodeToString(make([]byte, 1<<20-4096)) + `"}`
	fits += strings.Repeat(" ", maxBody-len(fits))
	for _, c := range []struct {
		rule, body string
		header     []string
		status     int
		code       string
	}{
		{"a body of exactly the bound", fits, nil, 200, ""},
		{"a byte more", fits + " ", nil, 413, "too_large"},
		{"another content type", `{}`, []string{"Content-Type", "text/plain"}, 415, "unsupported_media_type"},
		{"a content type with parameters", `{"room":"a","text":"x"}`, []string{"Content-Type", "application/json; charset=utf-8"}, 200, ""},
		{"a page of another site", `{}`, []string{"Sec-Fetch-Site", "same-site"}, 403, "origin_not_allowed"},
		{"a page of our own", `{"room":"a","text":"x"}`, []string{"Sec-Fetch-Site", "same-origin"}, 200, ""},
	} {
		t.Run(c.rule, func(t *testing.T) {
			label := c.code
			if label == "" {
				label = "ok"
			}
			before := r.count("publish", "http", label)
			status, code, _ := r.viaHTTP("POST", "/v1/publish", c.body, c.header...)
			if status != c.status || code != c.code {
				t.Fatalf("%d %s", status, code)
			}
			if got := r.count("publish", "http", label) - before; got != 1 {
				t.Fatalf("counted %v times", got)
			}
		})
	}
}

func TestAPublishWithoutNATSIsUnavailable(t *testing.T) {
	r := setup(t)
	r.nats.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); r.own.IsConnected(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the API does not notice that NATS is gone")
		}
	}
	if status, code, reason := r.viaHTTP("POST", "/v1/publish", `{"room":"a","text":"x"}`); status != 503 || code != "unavailable" || !strings.Contains(reason, "NATS") {
		t.Fatal(status, code, reason)
	}
}

func TestAPublishIsTheMessageOfABackend(t *testing.T) {
	r := setup(t)
	sub, err := r.caller.SubscribeSync("room.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.caller.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ body, data, kind string }{
		{`"data":{"a": [1, 2]}`, `{"a": [1, 2]}`, "json"},
		{`"data":null`, `null`, "json"},
		{`"text":"a\nb"`, "a\nb", "text"},
		{`"base64":"AP8="`, "\x00\xff", "binary"},
	} {
		if code, reason := r.viaNATS("publish", `{"room":"team chat","key":"k","message_id":"m",`+c.body+`}`); code != "" {
			t.Fatal(c.body, code, reason)
		}
		m, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		header := fmt.Sprint(m.Header.Get(bus.HeaderBody), m.Header.Get(bus.HeaderKey), m.Header.Get(nats.MsgIdHdr), m.Header.Get(bus.HeaderUser))
		if m.Subject != "room.team%20chat" || !bytes.Equal(m.Data, []byte(c.data)) || header != fmt.Sprint(c.kind, "k", "m", "") {
			t.Errorf("%s: %s %q %v", c.body, m.Subject, m.Data, m.Header)
		}
	}
}
