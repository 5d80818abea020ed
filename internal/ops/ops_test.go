package ops

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestEndpoints(t *testing.T) {
	var problem, degraded error
	s, err := New(Options{Listen: "127.0.0.1:0", Registry: NewRegistry(), Ready: func() error { return problem },
		Degraded: func() error { return degraded }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	get := func(path string) (int, string) {
		r, err := http.Get("http://" + s.Addr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Body.Close() }()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(b)
	}
	if status, body := get("/healthz"); status != 200 || body != "ok\n" {
		t.Errorf("healthz: %d %q", status, body)
	}
	if status, body := get("/readyz"); status != 200 || body != "ok\n" {
		t.Errorf("readyz: %d %q", status, body)
	}
	degraded = errors.Join(errors.New("no history"), errors.New("no luck"))
	if status, body := get("/readyz"); status != 200 || body != "ok\ndegraded: no history\ndegraded: no luck\n" {
		t.Errorf("readyz: %d %q", status, body)
	}
	problem = errors.Join(errors.New("no keys"), errors.New("no policies"))
	if status, body := get("/readyz"); status != 503 || body != "no keys\nno policies\n" {
		t.Errorf("readyz: %d %q", status, body)
	}
	if status, body := get("/metrics"); status != 200 || !strings.Contains(body, "go_goroutines") {
		t.Errorf("metrics: %d", status)
	}
	if status, _ := get("/debug/pprof/"); status != 200 {
		t.Errorf("pprof: %d", status)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsNotServed(t *testing.T) {
	s, err := New(Options{Listen: "127.0.0.1:0", Registry: NewRegistry(), Ready: func() error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 404},
		{"GET", "/readyz/x", 404},
		{"POST", "/readyz", 405},
		{"POST", "/healthz", 405},
		{"HEAD", "/readyz", 200},
		{"GET", "/debug/pprof/cmdline", 200},
		{"GET", "/debug/pprof/goroutine", 200},
		{"GET", "/debug/pprof/none", 404},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+s.Addr()+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		if r.StatusCode != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, r.StatusCode, c.status)
		}
	}
	// A port that is taken away is an error, unlike an end that was asked for.
	if err := s.listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "operations port") {
		t.Fatalf("got %v", err)
	}
}

func TestATakenPortIsAnError(t *testing.T) {
	s, err := New(Options{Listen: "127.0.0.1:0", Registry: NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.listener.Close() }()
	if _, err := New(Options{Listen: s.Addr(), Registry: NewRegistry()}); err == nil || !strings.Contains(err.Error(), "operations port") {
		t.Fatalf("got %v", err)
	}
}

func TestNewLogger(t *testing.T) {
	var b bytes.Buffer
	log, err := NewLogger(&b, "warn", "json")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("quiet")
	log.Warn("loud")
	if strings.Contains(b.String(), "quiet") || !strings.Contains(b.String(), `"msg":"loud"`) {
		t.Fatalf("got %q", b.String())
	}
	for want, c := range map[string][2]string{"log_level": {"loud", "text"}, "log_format": {"info", "xml"}} {
		if _, err := NewLogger(&b, c[0], c[1]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", c, err)
		}
	}
}
