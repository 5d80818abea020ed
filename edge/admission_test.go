package edge

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"nabat/edge/internal/rate"
	"nabat/proto/grant"
	"nabat/proto/policy"
)

func TestAnAddressHasOneBoundOverAllLoops(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) {
		cfg.Loops, cfg.MaxConnectionsPerAddress, cfg.TrustedProxies = 4, 16, []string{"127.0.0.1"}
	})
	from := func(addr string) (*client, error) {
		return tryDial(t, e.Addr(), "/ws?room=a", http.Header{"X-Forwarded-For": {addr}})
	}
	var open []*client
	for range 64 {
		if a, err := from("192.0.2.7"); err == nil {
			a.connected("a")
			open = append(open, a)
		}
	}
	if len(open) != 16 || e.refusals("too_many_connections") != 48 {
		t.Fatalf("%d are connected, %d were refused", len(open), e.refusals("too_many_connections"))
	}
	used := 0
	for _, w := range e.workers {
		if w.loop.Connections() > 0 {
			used++
		}
	}
	if used < 2 {
		t.Fatalf("the connections are on %d loops", used)
	}
	other, err := from("192.0.2.8")
	if err != nil {
		t.Fatal("another address was refused", err)
	}
	other.connected("a")
	for _, a := range append(open, other) {
		_ = a.conn.Close()
	}
	until(t, "all seats are free", func() bool { return e.addresses.Owners() == 0 })
}

func TestAUserHasABoundedNumberOfConnections(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.Loops, cfg.MaxConnectionsPerUser = 2, 2 })
	g := &grant.Grant{Subscribe: []string{">"}}
	alice, again, bob := c.token(c.hs, "alice", time.Hour, g), c.token(c.ed, "alice", time.Minute, g), c.token(c.hs, "bob", time.Hour, g)
	first := dial(t, e, "/ws?room=a&token="+alice)
	first.connected("a")
	inFrame := dial(t, e, "/ws")
	inFrame.send(`{"id":1,"connect":{"token":"` + again + `","rooms":[{"room":"a"}]}}`)
	inFrame.wantPrefix(`{"id":1,"connected":`)

	// Before the 101, whatever checks the token and whatever carries the rest.
	for _, path := range []string{"/ws?room=a&token=" + alice, "/ws?room=a&token=" + again, "/sse?room=a&token=" + alice} {
		status, body, header := get(t, e, path, upgradeHeaders()...)
		if status != 429 || header.Get("Retry-After") == "" || !strings.Contains(body, `"code":"too_many_connections","reason":"user alice has 2 connections`) {
			t.Fatalf("%s: %d %s %v", path, status, body, header)
		}
	}
	late := dial(t, e, "/ws")
	late.send(`{"id":1,"connect":{"token":"` + alice + `"}}`)
	late.wantPrefix(`{"id":1,"error":{"code":"too_many_connections",`)
	late.wantClose(4104, "too_many_connections")
	anonymous := dial(t, e, "/ws?room=a")
	anonymous.connected("a")
	anonymous.send(`{"id":2,"auth":{"token":"` + alice + `"}}`)
	anonymous.wantPrefix(`{"id":2,"error":{"code":"too_many_connections",`)
	anonymous.send(`{"id":3,"ping":{}}`)
	anonymous.want(`{"id":3,"pong":{}}`)
	if n := e.refusals("too_many_connections"); n != 5 {
		t.Errorf("%d refusals counted", n)
	}

	dial(t, e, "/ws?room=a&token="+bob).connected("a")
	first.send(`{"id":4,"auth":{"token":"` + again + `"}}`) // a renewal needs no second seat
	first.wantPrefix(`{"id":4,"authed":`)
	_ = first.conn.Close()
	until(t, "alice has a seat again", func() bool {
		a, err := tryDial(t, e.Addr(), "/ws?room=a&token="+alice, nil)
		if err == nil {
			a.connected("a")
		}
		return err == nil
	})
}

func TestRatesOfAConnection(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.MessageRate, cfg.MessageBurst, cfg.MaxRateRefusals = 1, 3, 40 })
	b := newBystander(c, e)
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	for i := range 60 {
		a.send(fmt.Sprintf(`{"id":%d,"ping":{}}`, i+1))
	}
	for i := range 3 {
		a.want(fmt.Sprintf(`{"id":%d,"pong":{}}`, i+1))
	}
	a.wantPrefix(`{"id":4,"error":{"code":"rate_limited","reason":"this connection sends too many messages in a second","retry_ms":`)
	a.wantClose(4103, "rate_limited")
	if n := e.refusals("rate_limited"); n < 40 || n > 57 {
		t.Errorf("%d refusals counted", n)
	}
	if n := e.closes("rate_limited"); n != 1 {
		t.Errorf("%d closes counted", n)
	}
	b.served()
}

func TestAnAddressIsLoggedAtDebugOnly(t *testing.T) {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo} {
		c := newCluster(t, policy.Dev())
		var out bytes.Buffer
		e, stop := c.startLogged(func(cfg *Config) { cfg.Loops, cfg.TrustedProxies = 1, []string{"127.0.0.1"} },
			slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level})))
		a, err := tryDial(t, e.Addr(), "/ws?room=a", http.Header{"X-Forwarded-For": {"192.0.2.7"}})
		if err != nil {
			t.Fatal(err)
		}
		session := a.connected("a")
		stop()
		line := "msg=\"client connects\" node=edge-0 address=192.0.2.7 path=/ws session=" + session
		if strings.Contains(out.String(), line) != (level == slog.LevelDebug) || (level == slog.LevelInfo && strings.Contains(out.String(), "192.0.2")) {
			t.Errorf("at %s: %s", level, out.String())
		}
	}
}

func TestAdmissionSettings(t *testing.T) {
	for _, s := range []struct {
		rule   string
		change func(*Config)
		want   string
	}{
		{"a mode that does not exist", func(c *Config) { c.ProxyProtocol = "on" }, `proxy_protocol: "on" is not off, optional or required`},
		{"a header that anybody may send", func(c *Config) { c.ProxyProtocol = "optional" }, "proxy_protocol is optional: name the proxies in trusted_proxies"},
		{"a network that is none", func(c *Config) { c.TrustedProxies = []string{"10.0.0.0/8", "lb.example"} }, `trusted_proxies: "lb.example" is not an address`},
		{"a header that is none", func(c *Config) { c.ForwardedHeader = "X-Real-IP" }, `forwarded_header is "X-Real-IP"`},
		{"half a second of silence", func(c *Config) { c.TCPKeepAlive = time.Second / 2 }, "tcp_keepalive is 500ms: must be 0 to 9h in whole seconds"},
		{"a day of silence", func(c *Config) { c.TCPKeepAlive = 24 * time.Hour }, "tcp_keepalive is 24h0m0s"},
		{"a rate below nothing", func(c *Config) { c.AcceptRate = -1 }, "accept_rate is -1: must be 0 to 10000000"},
		{"no backlog", func(c *Config) { c.Backlog = 0 }, "backlog is 0"},
		{"no refusals", func(c *Config) { c.MaxRateRefusals = 0 }, "max_rate_refusals is 0"},
		{"a negative wait", func(c *Config) { c.AcceptWait = -time.Second }, "accept_wait is -1s"},
		{"a negative bound", func(c *Config) { c.MaxConnectionsPerUser = -1 }, "max_connections_per_user is -1"},
	} {
		t.Run(s.rule, func(t *testing.T) {
			cfg := Defaults()
			s.change(&cfg)
			if err := cfg.Check(); err == nil || !strings.Contains(err.Error(), s.want) {
				t.Fatalf("%v, want %s", err, s.want)
			}
		})
	}
	cfg := Defaults()
	cfg.ProxyProtocol, cfg.TrustedProxies, cfg.ForwardedHeader = "required", []string{"10.0.0.0/8", "::1"}, "forwarded"
	if err := cfg.Check(); err != nil {
		t.Fatal(err)
	}
}

func TestAcceptRateIsSharedByLoops(t *testing.T) {
	for _, c := range []struct {
		rate, burst, loops int
		wait               time.Duration
		want               rate.Limit
		waiting            int
	}{
		{0, 0, 4, time.Second, rate.Limit{}, 0},
		{10000, 0, 4, 2 * time.Second, rate.Limit{PerSecond: 2500, Burst: 2500}, 5000},
		{10000, 1, 4, 2 * time.Second, rate.Limit{PerSecond: 2500, Burst: 251}, 5000}, // a tick's worth
		{1, 1, 4, 0, rate.Limit{PerSecond: 1, Burst: 1}, 1},
	} {
		cfg := Config{AcceptRate: c.rate, AcceptBurst: c.burst, AcceptWait: c.wait, Loops: c.loops}
		if l, waiting := cfg.acceptRate(); l != c.want || waiting != c.waiting {
			t.Errorf("%+v: %+v, %d", c, l, waiting)
		}
	}
}
