package edge

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"nabat/internal/auth"
	"nabat/internal/bus"
	"nabat/internal/config"
	"nabat/internal/natsdev"
	"nabat/proto/grant"
	"nabat/proto/policy"
)

// The defaults that PROTOCOL.md promises are those of the code.
func TestTheLimitsOfTheText(t *testing.T) {
	text, err := os.ReadFile("../proto/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	defaults := make(map[string]string)
	v := reflect.ValueOf(Defaults())
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("config")
		switch x := v.Field(i).Interface().(type) {
		case time.Duration:
			defaults[key] = fmt.Sprintf("%.0f s", x.Seconds())
		case config.Bytes:
			defaults[key] = strings.NewReplacer("KiB", " KiB", "MiB", " MiB").Replace(x.String())
		default:
			defaults[key] = fmt.Sprint(x)
		}
	}
	_, rest, _ := strings.Cut(string(text), "\n| setting | default |")
	n := 0
	for _, line := range strings.Split(rest, "\n")[2:] {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			break
		}
		key := strings.Trim(cells[1], " `")
		if got, ok := defaults[key]; !ok || got != strings.TrimSpace(cells[2]) {
			t.Errorf("%s: the text says %s, the code %q", key, cells[2], got)
		}
		n++
	}
	if n < 10 {
		t.Errorf("%d limits found", n)
	}
}

func TestAnEventStreamWithATokenThatJoinsNothingNeedsARoom(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	token := c.token(c.hs, "alice", time.Hour, &grant.Grant{Subscribe: []string{"a"}})
	status, body, _ := get(t, e, "/sse?token="+token)
	if status != 400 || !strings.Contains(body, "at least one room") {
		t.Fatalf("%d %s", status, body)
	}
}

func TestAPreflightAllowsCredentialsWhereTheAnswerDoes(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.Origins = []string{"https://app.example.com"} })
	for origin, want := range map[string]string{"https://app.example.com": "true", "http://localhost:3000": ""} {
		for _, method := range []string{"OPTIONS", "GET"} {
			status, _, header := rawRequest(t, e.Addr(), method+" /sse HTTP/1.1\r\nHost: x\r\nOrigin: "+origin+"\r\n\r\n")
			if (status != 204 && status != 400) || header.Get("Access-Control-Allow-Origin") != origin || header.Get("Access-Control-Allow-Credentials") != want {
				t.Errorf("%s from %s: %d %v", method, origin, status, header)
			}
		}
	}
}

// A client whose good token was refused for a key that is not known yet would
// never come back.
func TestAnEdgeWithoutPoliciesKeysAndBlocksAsksToTryAgain(t *testing.T) {
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	c := &cluster{t: t, nats: server}
	if c.nc, err = bus.Connect(t.Context(), bus.Options{URL: server.URL()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.nc.Close)
	if c.hs, err = auth.GenerateHS256("h"); err != nil {
		t.Fatal(err)
	}
	cfg := Defaults()
	cfg.Listen, cfg.NATSURL, cfg.Node, cfg.Drain = "127.0.0.1:0", server.URL(), "edge-0", 0
	e, err := New(cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })

	token := c.token(c.hs, "alice", time.Hour, &grant.Grant{Subscribe: []string{"a"}})
	for _, path := range []string{"/ws", "/ws?room=a&token=" + token, "/sse?room=a"} {
		status, body, header := get(t, e, path, upgradeHeaders()...)
		if status != 503 || header.Get("Retry-After") != "1" || !strings.Contains(body, `"unavailable"`) {
			t.Errorf("%s: %d %s %v", path, status, body, header)
		}
	}
	if status, _, _ := get(t, e, "/"); status != 200 {
		t.Errorf("/: %d", status)
	}
	c.put(bus.BucketConfig, bus.KeyPolicies, policy.Dev().Encode())
	c.put(bus.BucketConfig, bus.KeyJWKS, auth.EncodeJWKS())
	c.put(bus.BucketKeys, bus.KeySymmetric, auth.EncodeSymmetric(c.hs))
	c.put(bus.BucketKeys, bus.KeyIssuers, new(auth.IssuerSet).Encode())
	// What is revoked is not known yet: a good token may be one of them.
	until(t, "the keys are there", e.keyed.Load)
	if status, body, _ := get(t, e, "/ws?room=a&token="+token, upgradeHeaders()...); status != 503 || !strings.Contains(body, `"unavailable"`) || e.Ready() == nil {
		t.Errorf("without the blocks: %d %s", status, body)
	}
	c.bucket(bus.BucketBlocks)
	until(t, "the edge is ready", func() bool { return e.Ready() == nil })
	dial(t, e, "/ws?room=a&token="+token).connected("a")
}
