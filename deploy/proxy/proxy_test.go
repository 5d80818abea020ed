// Package proxy has configurations of proxies before edges, and tries each with
// the real program where that is installed.
package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"nabat/client"
	"nabat/control"
	"nabat/edge"
	"nabat/internal/natsdev"
	"nabat/internal/ops"
	"nabat/proto/wire"
)

const patience = 60 * time.Second

// proxies are the configurations. In each, the second edge is left out, and
// addresses become those of the test.
var proxies = []struct {
	file     string
	program  string
	args     func(file, dir string) []string
	replace  []string // pairs; LISTEN, EDGE, OPS and their PORTs are filled in
	protocol string   // proxy_protocol of the edge
}{
	{"nginx.conf", "nginx", func(file, dir string) []string {
		return []string{"-e", "stderr", "-p", dir, "-c", file, "-g", "daemon off; pid " + dir + "/pid;"}
	}, []string{"server edge-1:8080", "server EDGE", "    server edge-2:8080 max_fails=1 fail_timeout=5s;\n", "", "listen 8080", "listen LISTEN",
		"worker_processes auto", "worker_processes 1", "262144", "1024", "65536", "256", "backlog=65535", "backlog=128"}, "off"},
	{"haproxy.cfg", "haproxy", haproxy, []string{"edge-1:8080", "EDGE", "  server edge-2 edge-2:8080 init-addr last,libc,none\n", "", "bind :8080", "bind LISTEN",
		"port 9090", "port OPSPORT", "maxconn 100000", "maxconn 200"}, "off"},
	{"haproxy-tcp.cfg", "haproxy", haproxy, []string{"edge-1:8443", "EDGE", "  server edge-2 edge-2:8443 init-addr last,libc,none\n", "", "bind :8443", "bind LISTEN",
		"port 9090", "port OPSPORT", "maxconn 100000", "maxconn 200"}, "required"},
	{"traefik.yaml", "traefik", func(file, _ string) []string {
		return []string{"--entryPoints.web.address=LISTEN", "--providers.file.filename=" + file}
	}, []string{"http://edge-1:8080", "http://EDGE", "          - url: http://edge-2:8080\n", "", "port: 9090", "port: OPSPORT"}, "off"},
	{"envoy.yaml", "envoy", func(file, _ string) []string { return []string{"-c", file, "--use-dynamic-base-id"} },
		[]string{"address: 0.0.0.0, port_value: 8080", "address: 127.0.0.1, port_value: LISTENPORT", "address: edge-1, port_value: 8080", "address: 127.0.0.1, port_value: EDGEPORT",
			"port_value: 9090", "port_value: OPSPORT"}, "off"},
}

func haproxy(file, _ string) []string { return []string{"-db", "-f", file} }

func TestProxies(t *testing.T) {
	for _, p := range proxies {
		t.Run(p.file, func(t *testing.T) {
			program, err := exec.LookPath(p.program)
			if err != nil {
				program, err = exec.LookPath("/usr/sbin/" + p.program)
			}
			if err != nil {
				if (p.program == "nginx" || p.program == "haproxy") && os.Getenv("NABAT_PROXIES") == "required" {
					t.Fatalf("%s is not installed", p.program)
				}
				t.Skipf("%s is not installed: its configuration was not tried", p.program)
			}
			s := start(t, func(c *edge.Config) { c.ProxyProtocol = p.protocol })
			listen := free(t)
			fill := func(text string) string {
				for name, address := range map[string]string{"LISTEN": listen, "EDGE": s.edge.Addr(), "OPS": s.ops} {
					_, port, _ := net.SplitHostPort(address)
					text = strings.ReplaceAll(strings.ReplaceAll(text, name+"PORT", port), name, address)
				}
				return text
			}
			text, err := os.ReadFile(p.file)
			if err != nil {
				t.Fatal(err)
			}
			config := string(text)
			if p.program == "envoy" { // the second edge has several lines
				before, after, ok := strings.Cut(config, "              - endpoint: {address: {socket_address: {address: edge-2")
				_, after, _ = strings.Cut(after, "\n")
				if !ok {
					t.Fatal("no second edge")
				}
				config = before + after
			}
			for i := 0; i < len(p.replace); i += 2 {
				if !strings.Contains(config, p.replace[i]) {
					t.Fatalf("no %q in %s", p.replace[i], p.file)
				}
				config = strings.ReplaceAll(config, p.replace[i], fill(p.replace[i+1]))
			}
			dir := t.TempDir()
			file := filepath.Join(dir, p.file)
			if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
				t.Fatal(err)
			}
			args := p.args(file, dir)
			for i := range args {
				args[i] = fill(args[i])
			}
			runProxy(t, program, args)
			url := "http://" + listen
			until(t, p.program+" serves", func() bool {
				c, err := client.Dial(t.Context(), url, client.Options{Rooms: []string{"a"}})
				if err == nil {
					c.Close()
				}
				return err == nil
			})
			until(t, "the edge has let go of the first connection", func() bool { return s.connections(t) == 0 })
			s.webSocket(t, url)
			s.eventStream(t, url)
			s.post(t, url)
			s.addresses(t, url)
		})
	}
}

// webSocket: both directions, and nothing in between ends it.
func (s *system) webSocket(t *testing.T, url string) {
	t.Helper()
	c, err := client.Dial(t.Context(), url, client.Options{Rooms: []string{"chat.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Publish(t.Context(), wire.Publication{Room: "chat.1", Kind: wire.Text, Body: []byte("from a client")}); err != nil {
		t.Fatal(err)
	}
	s.publish(t, "room.chat.1", "from NATS")
	for _, want := range []string{"from a client", "from NATS"} {
		select {
		case e := <-c.Events():
			if e.Message == nil || string(e.Message.Body) != want {
				t.Fatalf("got %+v, want %q", e, want)
			}
		case <-time.After(patience):
			t.Fatalf("no %q", want)
		}
	}
}

// get opens an event stream from an address of this machine.
func get(t *testing.T, from, url string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return roundTrip(t, from, req)
}

// roundTrip sends a request without a body from an address. A connection that the
// edge refuses as it comes may be answered before the request is written, which
// net/http takes for an error of the connection: it is made again.
func roundTrip(t *testing.T, from string, req *http.Request) *http.Response {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext}
	for deadline := time.Now().Add(patience); ; {
		r, err := transport.RoundTrip(req)
		if err == nil {
			t.Cleanup(func() { _ = r.Body.Close() })
			return r
		}
		if !strings.Contains(err.Error(), "readLoopPeekFailLocked") || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// eventStream: a message comes while the stream stays open.
func (s *system) eventStream(t *testing.T, url string) {
	t.Helper()
	var r *http.Response
	until(t, "the address of the connection before is free", func() bool {
		r = get(t, "127.0.0.1", url+"/sse?room=news")
		return r.StatusCode != http.StatusTooManyRequests
	})
	if r.StatusCode != http.StatusOK || !strings.HasPrefix(r.Header.Get("Content-Type"), "text/event-stream") {
		t.Fatalf("%d %v", r.StatusCode, r.Header)
	}
	lines := bufio.NewScanner(r.Body)
	read := func(want string) {
		for lines.Scan() {
			if strings.Contains(lines.Text(), want) {
				return
			}
		}
		t.Fatalf("no %s in the event stream: %v", want, lines.Err())
	}
	read("connected")
	s.publish(t, "room.news", "at once")
	read("at once")
	_ = r.Body.Close()
	until(t, "the edge has noticed that the client left", func() bool { return s.connections(t) == 0 })
}

// post: a publish over HTTP, and its path, arrive as they were sent.
func (s *system) post(t *testing.T, url string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	var status int
	var answer []byte
	until(t, "the address of the connection before is free", func() bool {
		req, err := http.NewRequestWithContext(t.Context(), "POST", url+"/v1/rooms/a%2Fb%20c+d", strings.NewReader(`{"text":"hi"}`))
		if err != nil {
			t.Fatal(err)
		}
		r, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Body.Close() }()
		if answer, err = io.ReadAll(r.Body); err != nil {
			t.Fatal(err)
		}
		status = r.StatusCode
		return status != http.StatusTooManyRequests
	})
	if status != http.StatusOK || !strings.HasPrefix(string(answer), `{"published":{"room":"a/b c+d","epoch":"`) {
		t.Fatalf("%d %s", status, answer)
	}
	until(t, "the edge has let go of it", func() bool { return s.connections(t) == 0 })
}

// addresses: the edge tells clients apart by their own addresses. Each may have
// one connection.
func (s *system) addresses(t *testing.T, url string) {
	t.Helper()
	for _, c := range []struct {
		from   string
		status int
	}{{"127.0.0.2", 200}, {"127.0.0.3", 200}, {"127.0.0.2", 429}} {
		if r := get(t, c.from, url+"/sse?room=news"); r.StatusCode != c.status {
			body, _ := io.ReadAll(io.LimitReader(r.Body, 1000))
			t.Errorf("from %s: %d, want %d: %s", c.from, r.StatusCode, c.status, body)
		}
	}
	// What a client claims is not believed.
	req, err := http.NewRequest("GET", url+"/sse?room=news", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Forwarded-For", "127.0.0.9")
	if r := roundTrip(t, "127.0.0.3", req); r.StatusCode != 429 {
		t.Errorf("a client chose its address: %d", r.StatusCode)
	}
}

// system is NATS, control and one edge, with its operations port.
type system struct {
	edge     *edge.Edge
	nc       *nats.Conn
	ops      string
	registry *prometheus.Registry
}

func start(t *testing.T, change func(*edge.Config)) *system {
	t.Helper()
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	s := &system{registry: prometheus.NewRegistry()}
	if s.nc, err = nats.Connect(server.URL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.nc.Close)
	log := slog.New(slog.DiscardHandler)
	cfg := edge.Defaults()
	cfg.Listen, cfg.NATSURL, cfg.Node = "127.0.0.1:0", server.URL(), "edge-1"
	cfg.Drain, cfg.CloseTimeout = 100*time.Millisecond, time.Second
	cfg.TrustedProxies, cfg.MaxConnectionsPerAddress = []string{"127.0.0.1/32"}, 1
	change(&cfg)
	if s.edge, err = edge.New(cfg, log, s.registry); err != nil {
		t.Fatal(err)
	}
	run(t, s.edge.Run)
	cc := control.Defaults()
	cc.Listen, cc.NATSURL, cc.Dev = "127.0.0.1:0", server.URL(), true
	c, err := control.New(cc, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	run(t, c.Run)
	o, err := ops.New(ops.Options{Listen: "127.0.0.1:0", Registry: s.registry, Ready: s.edge.Ready, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	s.ops = o.Addr()
	run(t, o.Run)
	until(t, "the system is ready", func() bool { return c.Ready() == nil && s.edge.Ready() == nil })
	return s
}

func (s *system) publish(t *testing.T, subj, body string) {
	t.Helper()
	if err := errors.Join(s.nc.Publish(subj, []byte(body)), s.nc.Flush()); err != nil {
		t.Fatal(err)
	}
}

// connections are those that the edge has.
func (s *system) connections(t *testing.T) (n int) {
	t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "nabat_edge_connections" || f.GetName() == "nabat_edge_handshakes_pending" {
			for _, m := range f.GetMetric() {
				n += int(m.GetGauge().GetValue())
			}
		}
	}
	return n
}

func run(t *testing.T, program func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := program(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// output is what a proxy said, for when it fails.
type output struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// runProxy runs a program with all that it starts, until the test ends.
func runProxy(t *testing.T, program string, args []string) {
	t.Helper()
	said := &output{}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			fmt.Printf("%s %s:\n%s\n", program, strings.Join(args, " "), said)
		}
	})
}

func free(t *testing.T) string {
	t.Helper()
	addresses, err := natsdev.FreeAddresses(1)
	if err != nil {
		t.Fatal(err)
	}
	return addresses[0]
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
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
