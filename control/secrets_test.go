package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"nabat/internal/auth"
	"nabat/internal/bus"
)

// locked is a log that is written and read at the same time.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestNoSecretIsEverLogged(t *testing.T) {
	r := setup(t)
	dir := t.TempDir()
	const apiKey, shared, password = "an-api-key-of-the-cluster", "a-secret-that-is-shared-with-the-shop", "wrong-password-of-a-caller"
	down := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(down.Close)
	for name, text := range map[string]string{"key": apiKey, "shop": shared,
		"i.yaml": fmt.Sprintf("issuers:\n - {iss: shop, audience: a, secret_file: shop}\n - {iss: down, audience: a, jwks_url: %q}\n", down.URL)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := Defaults()
	cfg.Listen, cfg.NATSURL, cfg.APIKeyFile, cfg.Issuers = "127.0.0.1:0", r.nats.URL(), filepath.Join(dir, "key"), filepath.Join(dir, "i.yaml")
	log := new(locked)
	c, err := New(cfg, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	until(t, "control is ready", func() bool { return c.Ready() == nil })
	secrets := []string{apiKey, shared, password}
	keys := func() {
		t.Helper()
		var doc struct{ Keys []struct{ D, K string } }
		if err := json.Unmarshal(r.get(bus.BucketKeys, bus.KeySigning), &doc); err != nil || len(doc.Keys) == 0 {
			t.Fatal(doc, err)
		}
		for _, k := range doc.Keys {
			secrets = append(secrets, k.D+k.K)
		}
	}
	keys()
	bearer := []string{"Authorization", "Bearer " + apiKey}
	post := func(path, body string, header ...string) string {
		t.Helper()
		_, text := call(t, "POST", "http://"+c.Addr()+path, body, header...)
		return text
	}
	for _, algorithm := range []string{auth.HS256, auth.EdDSA} {
		var reply struct{ Token string }
		if err := json.Unmarshal([]byte(post("/v1/tokens", `{"sub":"alice","algorithm":"`+algorithm+`"}`, bearer...)), &reply); err != nil || reply.Token == "" {
			t.Fatal(err)
		}
		secrets = append(secrets, strings.Split(reply.Token, ".")...)
		for _, body := range []string{`{"token":"` + reply.Token + `"}`, `{"token":"` + reply.Token + `x"}`, `{"token":"` + reply.Token + `","jti":5}`, `{"toke":"` + reply.Token + `"}`} {
			post("/v1/tokens/revoke", body, bearer...)
			if _, err := r.nc.Request("nabat.api.token.revoke", []byte(body), patience); err != nil {
				t.Fatal(err)
			}
		}
		post("/v1/tokens?token="+reply.Token, `{}`, "Authorization", "Bearer "+password)
		post("/v1/users/block", `{"user":"alice"}`, "Authorization", "Bearer "+reply.Token)
	}
	post("/v1/keys/rotate", `{}`, bearer...)
	keys()
	until(t, "the issuer that is down is logged", func() bool { return strings.Contains(log.String(), "can not be fetched now") })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	text := log.String()
	if !strings.Contains(text, "the keys have changed") || !strings.Contains(text, "blocked") {
		t.Fatalf("the log is not whole:\n%s", text)
	}
	for _, secret := range secrets {
		// Heads of tokens are short, and say nothing that is not public.
		if at := strings.Index(text, secret); len(secret) < 24 || at >= 0 {
			t.Errorf("%.12s…: %s", secret, text[max(0, at-200):min(len(text), max(0, at)+50)])
		}
	}
}
