package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"nabat/loadtest/report"
	"nabat/loadtest/target"
)

const childVariable = "NABAT_LOADTEST_TEST_CHILD"

func TestMain(m *testing.M) {
	if kind := os.Getenv(childVariable); kind != "" {
		os.Exit((&app{self: child, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}).run(context.Background(), []string{kind}))
	}
	os.Exit(m.Run())
}

func child(kind string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+kind, "GORACE=atexit_sleep_ms=0")
	return cmd
}

// loadtest runs the program as a person would.
func loadtest(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	a := &app{self: child, stdin: strings.NewReader(""), stdout: &out, stderr: &errs}
	defer a.close()
	code = a.run(t.Context(), args)
	return code, out.String(), errs.String()
}

func TestHelpExplains(t *testing.T) {
	code, stdout, stderr := loadtest(t, "--help")
	if code != 0 || stderr != "" {
		t.Errorf("code %d, %q", code, stderr)
	}
	for _, want := range []string{"every client gets every message once and in order", "a tour of one minute", "go run ./loadtest fanout", "idle ", "floor ", "storm ", "checker "} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in:\n%s", want, stdout)
		}
	}
	for _, hidden := range []string{"swarm-worker", "broker", "completion"} {
		if strings.Contains(stdout, hidden) {
			t.Errorf("%q is shown:\n%s", hidden, stdout)
		}
	}
}

func TestWrongCommandLines(t *testing.T) {
	tests := []struct {
		args string
		want string
	}{
		{"fan", `there is no command "fan"`},
		{"fanout extra", `takes no arguments, but was given "extra"`},
		{"fanout --memebrs 5", "there is no flag --memebrs"},
		{"fanout --members many", `--members "many": must be a whole number`},
		{"fanout --members", "flag needs an argument"},
		{"fanout --in-flight 1,x", `--in-flight "1,x": must be whole numbers, comma separated`},
		{"fanout --round 5", `--round "5": must be a duration, such as 500ms or 2s`},
		{"fanout --peer socketio", `--peer "socketio": choose from nabat, naive, gorilla, gws, nbio, nats, centrifuge, mercure`},
		{"fanout --peer gws,gws", "--peer gws stands twice"},
		{"fanout --peer gws --target ws://127.0.0.1:1 --nats nats://127.0.0.1:1", "give one of them"},
		{"idle --target ws://127.0.0.1:1 --procs 1", "--procs bounds an edge that is started here"},
		{"idle --procs -1", "--procs must not be negative"},
		{"fanout --nats nats://127.0.0.1:1", "--nats goes with --target, which is missing"},
		{"idle --pid 1", "--pid goes with --target, which is missing"},
		{"fanout --target ws://127.0.0.1:1", "--target needs --nats"},
		{"idle --target ftp://127.0.0.1:1", `the scheme is "ftp"`},
		{"idle --workers -1", "--workers must not be negative"},
		{"idle --loops 0", "--loops must be at least 1"},
		{"floor --peer gws", "there is no flag --peer"},
		{"slow --target ws://127.0.0.1:1", "--target needs --nats"},
		{"storm --target ws://127.0.0.1:1", "there is no flag --target"},
		{"checker --edge 127.0.0.1:1", "--edge needs --nats"},
		{"checker --nats nats://127.0.0.1:1", "--nats goes with --edge, which is missing"},
		{"checker --rooms-each 50 --rooms 5", "not more rooms for each than there are"},
		{"compare a.json", "needs two files that --json wrote"},
		{"all", "--out is missing"},
		{"all --out x --only dance", `--only "dance": choose from floor, idle`},
		{"all --out x --scale 0", "--scale 0: must be more than 0"},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			code, stdout, stderr := loadtest(t, strings.Fields(test.args)...)
			if code != 2 || stdout != "" || !strings.Contains(stderr, test.want) || !strings.Contains(stderr, "--help") {
				t.Errorf("code %d, %q, want 2 and %q", code, stderr, test.want)
			}
		})
	}
}

func TestFailuresAreClear(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) }))
	defer web.Close()
	tests := []struct {
		name, args, want string
	}{
		{"a dead target", "idle --connections 3 --target ws://127.0.0.1:1", "target: 3 of 3 connections failed\n  3 × nothing listens at 127.0.0.1:1 (connection refused)"},
		{"a web server", "idle --connections 3 --target " + web.URL, `3 × the answer is HTTP 200 OK, not 101 Switching Protocols: "hello"`},
		{"a dead NATS", "fanout --members 3 --target " + web.URL + " --nats nats://127.0.0.1:1", "NATS at nats://127.0.0.1:1"},
		{"too many connections for one server", "idle --connections 2000000", "or measure a server of your own with --target"},
		{"no members", "fanout --members 0", "at least 1"},
		{"a payload that is too small", "floor --payload 5", "payload of 5 bytes: must be"},
		{"a result file that cannot be", "floor --json /nonexistent/a.json", "--json: open /nonexistent/a.json"},
		{"a page that cannot be", "floor --html /nonexistent/a.html", "--html: open /nonexistent/a.html"},
		{"rooms that nobody has", "rooms --rooms 5 --rooms-each 9", "each client in 9 of 5 rooms"},
		{"a priority that there is not", "storm --nice 20", "nice 20: 0 to 19"},
		{"a pace below none", "storm --accept-rate -1", "accept-rate -1: must not be negative"},
		{"a storm of nothing", "storm --no-plain --tls=false", "neither with nor without TLS"},
		{"a peer that cannot chat", "mixed --peer gws", "only nabat and --target can chat"},
		{"a chat with nobody", "mixed --clients 2 --target ws://127.0.0.1:1", "connection refused"},
		{"nobody stalls", "slow --stall-every 1", "one of 1 members stalls"},
		{"a soak that is too short", "soak --for 3s --sample 2s", "at least three are needed"},
		{"a way to connect that is none", "connect --only carrier-pigeon", `no way "carrier-pigeon" to connect`},
		{"a cluster beyond the machine", "cluster --edges 250 --clients 19000", "do not fit into this machine"},
		{"results that are not there", "compare /nonexistent/a.json /nonexistent/b.json", "no such file"},
		{"a checker without NATS", "checker --edge 127.0.0.1:1 --nats nats://127.0.0.1:1", "connect to NATS"},
		{"TLS that is none", "idle --connections 3 --target wss" + strings.TrimPrefix(web.URL, "http"), "3 × TLS: "},
		{"a dead operations port", "idle --connections 3 --target " + web.URL + " --ops http://127.0.0.1:1", "operations port"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := loadtest(t, strings.Fields(test.args)...)
			if code != 1 || stdout != "" || !strings.Contains(stderr, test.want) {
				t.Errorf("code %d, %q, want 1 and %q", code, stderr, test.want)
			}
		})
	}
}

func TestFloor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "floor.json")
	code, stdout, stderr := loadtest(t, "floor", "--members", "30", "--rounds", "2", "--round", "50ms", "--json", file)
	if code != 0 {
		t.Fatalf("code %d, %s", code, stderr)
	}
	for _, want := range []string{"floor: 30 members", "opening a connection", "one message at a time", rowPrefix + "CPU per delivery"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in:\n%s", want, stdout)
		}
	}
	if !strings.Contains(stderr, "floor: connecting: 30 of 30 connected") {
		t.Errorf("progress: %s", stderr)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r report.Report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if got := r.Section("one message at a time").Row("  missing"); got == nil || got.Values["floor"] != 0 {
		t.Errorf("%s", text)
	}
}

const rowPrefix = "server "

func TestInterruptEndsARun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs strings.Builder
	code := (&app{self: child, stdin: strings.NewReader(""), stdout: &out, stderr: &errs}).run(ctx, []string{"floor", "--members", "3"})
	if code != 1 || !strings.Contains(errs.String(), "interrupted") {
		t.Errorf("code %d, %q", code, errs.String())
	}
}

// The real thing, small: builds the program once, starts NATS, control and
// edges, and measures.
func TestARealEdge(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	a := &app{self: child, stdin: strings.NewReader("")}
	t.Cleanup(a.close)
	dir := t.TempDir()
	shrink(t)
	tests := []struct{ args, want string }{
		{"", "NATS and control are on the edge's bill"},
		{"fanout --members 50 --rounds 1 --round 50ms --rate 50 --json " + dir + "/a.json --html " + dir + "/a.html", "one message at a time"},
		{"fanout --members 40 --rounds 1 --round 50ms --no-floor --json " + dir + "/b.json", "one message at a time"},
		{"compare " + dir + "/a.json " + dir + "/b.json", "second / first"},
		{"idle --connections 50 --settle 200ms", "goroutines"},
		{"connect --connections 20 --rounds 1", "TLS 1.3 and an HS256 token each"},
		{"rooms --clients 20 --rooms 20 --rooms-each 4 --rounds 1 --round 50ms --rate 200", "rooms: 20 clients, each in 4 of 20 rooms"},
		{"mixed --clients 10 --rooms 5 --rooms-each 2 --rate 200 --leave-every 5 --page-every 5 --for 500ms", "pages of history"},
		{"slow --members 20 --stall-every 10 --rounds 1 --round 200ms", "a stalled reader"},
		{"storm --clients 40 --survivors 10 --rooms 10 --rounds 1 --quiet 200ms", "with TLS 1.3"},
		{"soak --members 20 --for 600ms --sample 200ms", "grew"},
		{"cluster --edges 2 --clients 30 --messages 2", "60 clients of 2 edges"},
		{"checker --clients 8 --rooms 4 --rooms-each 2 --every 20ms --for 1s --restless 10", "0 violations"},
		{"all --only floor,fanout --scale 0.002 --out " + dir + "/all", "floor: 20 members"},
	}
	for _, test := range tests {
		var out, errs strings.Builder
		a.stdout, a.stderr = &out, &errs
		if code := a.run(t.Context(), strings.Fields(test.args)); code != 0 {
			t.Fatalf("%s: code %d, %s\n%s", test.args, code, errs.String(), out.String())
		}
		if !strings.Contains(out.String(), test.want) || strings.Contains(out.String(), "FAULT") {
			t.Errorf("%s: no %q in:\n%s", test.args, test.want, out.String())
		}
	}
	for file, want := range map[string]string{"a.html": "<svg", "all/README.md": "## fanout", "all/floor.json": `"scenario": "floor"`, "all/fanout.html": "</html>"} {
		if text, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: no %q (%v)", file, want, err)
		}
	}
}

// shrink makes the steps of all, and the tour, fit into a test.
func shrink(t *testing.T) {
	before, size := slices.Clone(steps), tourSize
	t.Cleanup(func() { steps, tourSize = before, size })
	tourSize.clients, tourSize.rounds, tourSize.round = 20, 1, 50*time.Millisecond
	for i := range steps {
		if steps[i].name == "fanout" {
			steps[i].args = []string{"fanout", "--rounds", "1", "--round", "50ms"}
		}
		if steps[i].name == "floor" {
			steps[i].args = []string{"floor", "--rounds", "1", "--round", "50ms"}
		}
	}
}

// Peers need a minute to build: ask for them.
func TestPeersSpeakTheirOwnProtocols(t *testing.T) {
	if os.Getenv("NABAT_LOADTEST_PEERS") == "" {
		t.Skip("set NABAT_LOADTEST_PEERS=1 to build and start them")
	}
	code, stdout, stderr := loadtest(t, strings.Fields("fanout --members 30 --rounds 1 --round 100ms --no-floor --peer "+strings.Join(target.Peers, ","))...)
	if code != 0 || strings.Contains(stdout, "FAULT") {
		t.Errorf("code %d, %s\n%s", code, stderr, stdout)
	}
}
