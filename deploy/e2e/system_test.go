// Package e2e plays Nabat as its users do: a whole system, and real browsers.
package e2e

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/control"
	"nabat/edge"
	"nabat/internal/natsdev"
)

const patience = 60 * time.Second

// system is NATS, control and an edge in this process, as nabat dev has them.
type system struct {
	t       *testing.T
	nats    *natsdev.Server
	nc      *nats.Conn
	control *control.Control
	edge    *edge.Edge
	cfg     edge.Config
	stop    func() // of the edge
}

func start(t *testing.T, change ...func(*edge.Config)) *system {
	t.Helper()
	return startWith(t, "", change...)
}

// startWith is start with a file of policies.
func startWith(t *testing.T, policies string, change ...func(*edge.Config)) *system {
	t.Helper()
	s := &system{t: t}
	var err error
	if s.nats, err = natsdev.Start(natsdev.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.nats.Shutdown)
	if s.nc, err = nats.Connect(s.nats.URL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.nc.Close)
	s.cfg = edge.Defaults()
	s.cfg.Listen, s.cfg.NATSURL, s.cfg.Node, s.cfg.Dev = "127.0.0.1:0", s.nats.URL(), "edge-0", true
	s.cfg.Drain, s.cfg.CloseTimeout = 100*time.Millisecond, time.Second
	for _, fn := range change {
		fn(&s.cfg)
	}
	s.startEdge()
	s.cfg.Listen = s.edge.Addr() // it comes back where it was
	cc := control.Defaults()
	cc.Policies = policies
	cc.Listen, cc.NATSURL, cc.Dev, cc.EdgeURL = "127.0.0.1:0", s.nats.URL(), true, "http://"+s.edge.Addr()
	if s.control, err = control.New(cc, slog.New(slog.DiscardHandler), nil); err != nil {
		t.Fatal(err)
	}
	run(t, s.control.Run)
	until(t, "the system is ready", func() bool { return s.control.Ready() == nil && s.edge.Ready() == nil })
	return s
}

func (s *system) startEdge() {
	s.t.Helper()
	e, err := edge.New(s.cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.edge, s.stop = e, run(s.t, e.Run)
}

// run runs a program until the returned function is called, or the test ends.
func run(t *testing.T, program func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := program(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
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

func (s *system) page(path string) string { return "http://" + s.control.Addr() + path }

func (s *system) publish(subj, body string) {
	s.t.Helper()
	if err := s.nc.Publish(subj, []byte(body)); err != nil {
		s.t.Fatal(err)
	}
	if err := s.nc.Flush(); err != nil {
		s.t.Fatal(err)
	}
}

func TestPagesAreServed(t *testing.T) {
	s := start(t)
	for path, want := range map[string]string{"/": "every browser hears at once", "/forum/": "Moderator's desk", "/forum": "Moderator's desk",
		"/config.json": s.edge.Addr(), "/map/": "The map", "/restaurant/": "The restaurant",
		"/chat/": "Group chat", "/document/": "A shared document", "/quotes/": "Live quotes", "/studio": "Pictures, voice, camera",
		"/yjs.js": "The MIT License", "/uplot.js": "The MIT License", "/uplot.css": "The MIT License", "/console": "Nabat console", "/console/app.js": "figures.start()", "/story.js": "export async function open", "/nabat-lite.js": "class Connection", "/nabat-client.js": "nabat-client, built from client/js", "/nabat-client-worker.js": "nabat-client-worker, built from client/js", "/openapi.yaml": "openapi: 3.1.0"} {
		res, err := http.Get(s.page(path))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != 200 || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d, %v", path, res.StatusCode, err)
		}
		// A page runs what it holds itself, by its hash, and nothing that is put into it.
		if csp := res.Header.Get("Content-Security-Policy"); strings.Contains(csp, "unsafe") ||
			strings.Contains(csp, "script-src 'self' 'sha256-") != strings.Contains(string(body), `<script type="module">`) {
			t.Errorf("%s: Content-Security-Policy %s", path, csp)
		}
		// The console knows a key: it talks to nobody else.
		if alone := strings.Contains(res.Header.Get("Content-Security-Policy"), "connect-src 'self'"); alone != strings.HasPrefix(path, "/console") {
			t.Errorf("%s: connects to its own control alone: %t", path, alone)
		}
		// Pages of other sites may import the client, and read nothing else.
		if shared := res.Header.Get("Access-Control-Allow-Origin") == "*"; shared != (path == "/nabat-client.js") {
			t.Errorf("%s: shared with other sites: %t", path, shared)
		}
	}
}
