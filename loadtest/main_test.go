package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"nabat/loadtest/report"
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
	code = (&app{self: child, stdin: strings.NewReader(""), stdout: &out, stderr: &errs}).run(t.Context(), args)
	return code, out.String(), errs.String()
}

func TestNoArgumentsExplain(t *testing.T) {
	code, stdout, stderr := loadtest(t)
	if code != 0 || stderr != "" {
		t.Errorf("code %d, %q", code, stderr)
	}
	for _, want := range []string{"every client gets every message once and in order", "go run ./loadtest fanout", "idle ", "floor "} {
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
		{"fanout --nats nats://127.0.0.1:1", "--nats goes with --target, which is missing"},
		{"idle --pid 1", "--pid goes with --target, which is missing"},
		{"fanout --target ws://127.0.0.1:1", "--target needs --nats"},
		{"idle --target ftp://127.0.0.1:1", `the scheme is "ftp"`},
		{"idle --workers -1", "--workers must not be negative"},
		{"idle --loops 0", "--loops must be at least 1"},
		{"floor --peer gws", "there is no flag --peer"},
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

// The real thing, small: builds the program, starts NATS, control and an
// edge, and measures.
func TestARealEdge(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	for _, args := range []string{"fanout --members 50 --rounds 1 --round 50ms", "idle --connections 50 --settle 200ms"} {
		code, stdout, stderr := loadtest(t, strings.Fields(args)...)
		if code != 0 {
			t.Fatalf("%s: code %d, %s", args, code, stderr)
		}
		if !strings.Contains(stdout, "nabat") || strings.Contains(stdout, "FAULT") {
			t.Errorf("%s:\n%s", args, stdout)
		}
	}
}
