package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"nabat/client"
	"nabat/internal/bus"
	"nabat/internal/natsdev"
)

// asProgram makes the test binary be nabat, for tests that need a process.
const asProgram = "TEST_BE_NABAT"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// process is nabat as a process of its own.
type process struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr output
	done           chan struct{} // closed when it has ended
}

func startProcess(t *testing.T, environ []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(os.Args[0], args...), done: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), asProgram+"=1"), environ...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // the code is in ProcessState
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it has mostly ended
		<-p.done
		if t.Failed() {
			t.Logf("nabat %s:\n%s%s", strings.Join(args, " "), &p.stdout, &p.stderr)
		}
	})
	return p
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// code waits for the end.
func (p *process) code() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		p.t.Fatal("the process does not end")
		return -1
	}
}

// places are the addresses that nabat dev prints.
type places struct {
	edges              []string
	control, nats, ops string
	paste              [4]string // the lines to paste
}

var devOutput = regexp.MustCompile(`^nabat dev is ready; ctrl-C ends it.

((?:  edge        http://\S+\n)+)  control     (http://\S+)
  nats        (nats://\S+)
  operations  (http://\S+)

Paste the first line into a browser, the others into terminals:

(http://\S+/)
(curl -N .*)
(.* pub .*)
(.* sub .*)
$`)

// waitReady waits until out is all that nabat dev prints.
func waitReady(t *testing.T, out *output, ended func() bool) places {
	t.Helper()
	var m []string
	eventually(t, "nabat dev", func() bool {
		m = devOutput.FindStringSubmatch(out.String())
		return m != nil || ended()
	})
	if m == nil {
		t.Fatalf("nabat dev ended: %q", out)
	}
	p := places{control: m[2], nats: m[3], ops: m[4], paste: [4]string(m[5:9])}
	for line := range strings.Lines(m[1]) {
		p.edges = append(p.edges, strings.TrimSpace(strings.TrimPrefix(line, "  edge")))
	}
	return p
}

var anyPort = []string{"--edge-listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"}

// dev runs nabat dev in a process; args come after free ports.
func startDev(t *testing.T, environ []string, args ...string) (*process, places) {
	t.Helper()
	p := startProcess(t, environ, append(append([]string{"dev"}, anyPort...), args...)...)
	ended := func() bool {
		select {
		case <-p.done:
			return true
		default:
			return false
		}
	}
	return p, waitReady(t, &p.stdout, ended)
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

func TestDevPrintsFourLinesThatWork(t *testing.T) {
	p, at := startDev(t, nil)
	if code, body := get(t, at.paste[0]); code != 200 || !strings.Contains(strings.ToLower(body), "<!doctype html") {
		t.Errorf("the page: %d %.100q", code, body)
	}
	if code, body := get(t, at.ops+"/readyz"); code != 200 {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code, body := get(t, at.ops+"/metrics"); code != 200 || !strings.Contains(body, "\nnabat_") {
		t.Errorf("/metrics: %d %.100q", code, body)
	}
	if log := p.stderr.String(); log != "" {
		t.Errorf("nothing is wrong, but standard error has %q", log)
	}

	// Each line as a shell runs it, with the test binary for the program.
	shell := func(line string) *exec.Cmd {
		line = strings.Replace(line, commandName(), `"$PROGRAM"`, 1)
		cmd := exec.CommandContext(t.Context(), "sh", "-c", "exec "+line)
		cmd.Env = append(os.Environ(), asProgram+"=1", "PROGRAM="+os.Args[0])
		return cmd
	}
	watch := func(line string) *output {
		out := &output{}
		cmd := shell(line)
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		return out
	}
	stream, sub := watch(at.paste[1]), watch(at.paste[3])
	eventually(t, "the event stream to join", func() bool { return strings.Contains(stream.String(), "event: connected") })
	eventually(t, "nabat sub to join", func() bool { return strings.Contains(sub.String(), "joined sports.news") })
	if out, err := shell(at.paste[2]).CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "published 1 message") {
		t.Fatalf("%s: %v: %s", at.paste[2], err, out)
	}
	const want = `{"room":"sports.news","offset":1,"data":{"title":"hello"}}`
	eventually(t, "the event stream to get it", func() bool { return strings.Contains(stream.String(), "data: "+want+"\n") })
	eventually(t, "nabat sub to get it", func() bool { return strings.Contains(sub.String(), want+"\n") })

	before := p.stdout.String()
	p.signal(syscall.SIGTERM)
	if code := p.code(); code != 0 || strings.Contains(p.stderr.String(), "level=ERROR") {
		t.Errorf("exit code %d after SIGTERM: %s", code, &p.stderr)
	}
	if after := p.stdout.String(); after != before {
		t.Errorf("printed more: %q", after[len(before):])
	}
}

func TestDevWithSeveralEdges(t *testing.T) {
	first := freePorts(t, 3)
	_, at := startDev(t, nil, "--edges", "3", "--edge-listen", fmt.Sprintf("127.0.0.1:%d", first))
	for i, e := range at.edges {
		if want := fmt.Sprintf("http://127.0.0.1:%d", first+i); e != want {
			t.Errorf("edge %d is %s, not %s", i, e, want)
		}
	}
	nc, err := nats.Connect(at.nats)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	var conns []*client.Conn
	for i, e := range at.edges {
		c, err := client.Dial(t.Context(), e, client.Options{Rooms: []string{"a"}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if want := "edge-" + strconv.Itoa(i); c.Connected().Node != want {
			t.Errorf("%s calls itself %s", want, c.Connected().Node)
		}
		conns = append(conns, c)
	}
	if err := nc.Publish("room.a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	for i, c := range conns {
		if e := <-c.Events(); e.Message == nil || string(e.Message.Body) != "1" {
			t.Errorf("edge %d: %+v", i, e)
		}
	}
	_, metrics := get(t, at.ops+"/metrics")
	if want := `node="edge-0"`; !strings.Contains(metrics, want) {
		t.Errorf("no metrics with %s", want)
	}
}

// freePorts returns the first of n free ports in a row.
func freePorts(t *testing.T, n int) int {
	t.Helper()
search:
	for range 100 {
		list, err := natsdev.FreeAddresses(1)
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(list[0])
		first, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i < n; i++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+i))
			if err != nil {
				continue search
			}
			l.Close()
		}
		return first
	}
	t.Fatal("no free ports")
	return 0
}

func TestATakenPortNamesItsFlag(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	for _, flag := range []string{"edge-listen", "control-listen", "nats-listen", "ops-listen"} {
		t.Run(flag, func(t *testing.T) {
			r := nabat(t, "", nil, append(append([]string{"dev", "--log-level", "error"}, anyPort...), "--"+flag, taken)...)
			want := fmt.Sprintf("nabat dev: --%s %s: the port is taken: stop what listens there, or give another address (port 0 picks a free one)\n", flag, taken)
			if r.code != 1 || r.stderr != want || r.stdout != "" {
				t.Errorf("%+v\nwant %s", r, want)
			}
		})
	}
	t.Run("the second of two edges", func(t *testing.T) {
		first := freePorts(t, 2)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+1))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		r := nabat(t, "", nil, append(append([]string{"dev", "--log-level", "error"}, anyPort...), "--edges", "2", "--edge-listen", fmt.Sprintf("127.0.0.1:%d", first))...)
		if want := fmt.Sprintf("nabat dev: --edge-listen %s: the port is taken", l.Addr()); r.code != 1 || !strings.HasPrefix(r.stderr, want) {
			t.Errorf("%+v\nwant %s", r, want)
		}
	})
}

func TestBadConfigurationHasItsError(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	unknown := file("unknown.yaml", "edgs: 1\n")
	policies := file("policies.yaml", "rooms:\n  - match: \">\"\n    slow: never\n")
	for _, c := range []struct {
		rule    string
		environ []string
		args    []string
		code    int
		want    string
	}{
		{"no edges", nil, []string{"dev", "--edges", "0"}, 1, "nabat dev: edges is 0: must be 1 to 64"},
		{"edges that are no number", nil, []string{"dev", "--edges", "two"}, 2, `nabat dev: --edges "two": must be a whole number`},
		{"one dash", nil, []string{"dev", "-edges", "2"}, 2, "nabat dev: there is no flag -edges: write --edges"},
		{"a flag of edge is not one of dev", nil, []string{"dev", "--listen", ":1"}, 2, "nabat dev: there is no flag --listen"},
		{"an address without a port", nil, []string{"dev", "--ops-listen", "localhost"}, 1, `nabat dev: ops_listen is "localhost": must be host:port`},
		{"a port that is none", nil, []string{"dev", "--nats-listen", ":99999"}, 1, `nabat dev: nats_listen is ":99999": the port must be a number from 0 to 65535`},
		{"not enough ports", nil, []string{"dev", "--edges", "2", "--edge-listen", ":65535"}, 1, `nabat dev: edge_listen is ":65535": there are no 2 ports from there`},
		{"a log level that is none", nil, append([]string{"dev", "--log-level", "loud"}, anyPort...), 1, "nabat dev: log_level is \"loud\": must be debug, info, warn or error"},
		{"a file that is not there", nil, []string{"dev", "--config", "testdata/none.yaml"}, 1, "nabat dev: configuration file testdata/none.yaml: open testdata/none.yaml: no such file or directory"},
		{"an unknown key of the file", nil, []string{"dev", "--config", unknown}, 1, "nabat dev: configuration file " + unknown + `: unknown key "edgs"; did you mean edges?`},
		{"the file by the environment", []string{"NABAT_CONFIG=" + unknown}, []string{"dev"}, 1, "nabat dev: configuration file " + unknown + `: unknown key "edgs"; did you mean edges?`},
		{"an unknown variable", []string{"NABAT_EDGS=1"}, []string{"dev"}, 1, "nabat dev: environment: unknown variable NABAT_EDGS; did you mean NABAT_EDGES?"},
		{"policies that break a rule", nil, append([]string{"dev", "--log-level", "error", "--policies", policies}, anyPort...), 1, "nabat dev: policies: " + policies + ":3:"},
		{"an edge without an address", nil, []string{"edge", "--listen", ""}, 1, "nabat edge: listen is empty: give host:port, or :port for every address"},
		{"an edge with too many loops", nil, []string{"edge", "--loops", "1000"}, 1, "nabat edge: loops is 1000: must be 0 to 64"},
		{"an edge with a size that is none", nil, []string{"edge", "--max-queue-bytes", "much"}, 2, `nabat edge: --max-queue-bytes "much": "much" is not a size such as 65536, 64KiB or 1MB`},
		{"check wants something", nil, []string{"check"}, 2, "nabat check: nothing to check: name a program, or give --config or --policies"},
		{"check of no program", nil, []string{"check", "edges"}, 2, `nabat check: there is no program "edges": edge, control or dev`},
		{"check finds an unknown key", nil, []string{"check", "dev", "--config", unknown}, 1, "nabat check: as dev: configuration file " + unknown + `: unknown key "edgs"; did you mean edges?`},
		{"check finds a policy that breaks a rule", nil, []string{"check", "--policies", policies}, 1, "nabat check: " + policies + ":3:"},
		{"check of no file", nil, []string{"check", "--policies", "testdata/none.yaml"}, 1, "nabat check: open testdata/none.yaml: no such file or directory"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			r := nabat(t, "", c.environ, c.args...)
			first, _, _ := strings.Cut(r.stderr, "\n")
			if r.code != c.code || !strings.HasPrefix(first, c.want) || r.stdout != "" {
				t.Errorf("exit %d: %s\nwant %d: %s\nstdout %q", r.code, first, c.code, c.want, r.stdout)
			}
		})
	}
}

func TestVariablesOfOthersAreLeftAlone(t *testing.T) {
	environ := []string{"NABAT_TOKEN=t", "NABAT_EDGE=http://x", "NABAT_BROWSER=required", "NABAT_NATS_URL=nats://x",
		"KUBERNETES_SERVICE_HOST=10.0.0.1", "NABAT_SERVICE_HOST=10.0.0.2", "NABAT_EDGE_PORT_8080_TCP=tcp://10.0.0.2:8080", "NABAT_PORT=tcp://10.0.0.2:8080"}
	if r := nabat(t, "", environ, "dev", "--print-config"); r.code != 0 {
		t.Errorf("%+v", r)
	}
	if r := nabat(t, "", environ, "edge", "--print-config"); r.code != 0 || !strings.Contains(r.stdout, "nats_url: nats://x\n") {
		t.Errorf("%+v", r)
	}
	if r := nabat(t, "", environ[5:6], "dev", "--print-config"); r.code != 1 || !strings.Contains(r.stderr, "NABAT_SERVICE_HOST") {
		t.Errorf("outside of a cluster: %+v", r)
	}
}

func TestTheConfigurationInForceIsShownWithoutSecrets(t *testing.T) {
	environ := []string{"NABAT_NATS_TOKEN=hush", "NABAT_NATS_URL=nats://u:hush@a:1,nats://hush@b:2", "NABAT_MAX_ROOMS=7"}
	for _, args := range [][]string{{"edge", "--print-config"}, {"check", "edge"}} {
		r := nabat(t, "", environ, args...)
		if r.code != 0 || strings.Contains(r.stdout, "hush") || !strings.Contains(r.stdout, "•••") || !strings.Contains(r.stdout, "max_rooms: 7\n") ||
			!strings.Contains(r.stdout, "nats_url: nats://•••@a:1,nats://•••@b:2\n") {
			t.Errorf("%v: %+v", args, r)
		}
	}
	p, _ := startDev(t, nil, "--log-level", "info")
	if log := p.stderr.String(); !strings.Contains(log, "configuration in force") || !strings.Contains(log, "edges: 1; ") {
		t.Errorf("log: %s", log)
	}
}

func TestCheckPrintsWhatIsInForce(t *testing.T) {
	dir := t.TempDir()
	config, policies := filepath.Join(dir, "c.yaml"), filepath.Join(dir, "p.yaml")
	for path, text := range map[string]string{
		config: "max_rooms: 9\n",
		policies: "rooms:\n  - match: \"chat.>\"\n    publish: true\n    slow: disconnect\n" +
			"    presence: { grace: 3s, full: 20, anonymous: true }\n    rates: { publish: 5 }\n    max_message_bytes: 4KiB\n" +
			"    hooks: { subscribe: true, publish: true }\n    compress: true\n" +
			"  - match: ask.a\n    hooks: { publish: true }\n    presence: true\n" +
			"  - match: ask.b\n    hooks: { subscribe: true }\n    rates: { publish: 5, burst: 9 }\n" +
			"  - match: news.>\n    conflate: {}\n" +
			"  - match: quotes.>\n    conflate: { every: 250ms }\n    history: {messages: 100, age: 24h, bytes: 1GiB, replicas: 3}\n    latest: true\n" +
			"  - match: \">\"\n    anonymous: {subscribe: true}\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := nabat(t, "", nil, "check", "--config", config, "--policies", policies)
	if r.code != 0 || !strings.HasPrefix(r.stdout, "# nabat edge: in force\n") || !strings.Contains(r.stdout, "max_rooms: 9\n") {
		t.Fatalf("%+v", r)
	}
	want := `# policies: 6, in force
chat.>                   slow: disconnect  clients publish with a grant
                         presence: shown to everybody; grace 3s; up to 20 users are listed
                         hooks: a backend decides who joins and what clients publish
                         rates: a client publishes 5 messages in a second, 5 at once
                         max_message_bytes: a client's message has at most 4KiB
                         compress: messages go out compressed to who can read that
ask.a                    slow: drop        clients only subscribe, with a grant
                         presence: shown to who has the grant; grace 5s; up to 500 users are listed
                         hooks: a backend decides what clients publish
ask.b                    slow: drop        clients only subscribe, with a grant
                         hooks: a backend decides who joins
                         rates: a client publishes 5 messages in a second, 9 at once
news.>                   slow: conflate    clients only subscribe, with a grant
                         conflate: the newest message of each key for who reads slowly
quotes.>                 slow: conflate    clients only subscribe, with a grant; a new subscriber gets the last message
                         history: 100 messages of a room, 24h0m0s, 1GiB in all; replicas: 3
                         conflate: the newest message of each key, every 250ms
>                        slow: drop        anyone subscribes
`
	if !strings.HasSuffix(r.stdout, want) {
		t.Errorf("got %s\nwant %s", r.stdout, want)
	}
}

func TestCheckReadsTheCertificate(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl on this machine")
	}
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	if out, err := exec.Command(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
		"-subj", "/CN=edge", "-addext", "subjectAltName=DNS:edge.example.com", "-keyout", key, "-out", cert).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	env := []string{"NABAT_TLS_LISTEN=:8443", "NABAT_TLS_CERT=" + cert, "NABAT_TLS_KEY=" + key}
	r := nabat(t, "", env, "check", "edge")
	if r.code != 0 || !strings.Contains(r.stdout, "\n# certificate of tls_listen: edge.example.com; ECDSA P-256; until ") {
		t.Errorf("%+v", r)
	}
	if r = nabat(t, "", env[:1], "check", "edge"); r.code != 1 || !strings.Contains(r.stderr, "tls_listen needs a certificate: give tls_cert and tls_key") {
		t.Errorf("%+v", r)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	r = nabat(t, "", env[1:], "edge", "--listen", "127.0.0.1:0", "--ops-listen", "", "--tls-listen", l.Addr().String(), "--log-level", "error")
	if want := fmt.Sprintf("nabat edge: --tls-listen %s: the port is taken", l.Addr()); r.code != 1 || !strings.HasPrefix(r.stderr, want) {
		t.Errorf("%+v, want %s", r, want)
	}
}

func TestDevRemovesItsDataUnlessToldWhereToKeepIt(t *testing.T) {
	temporary, kept := t.TempDir(), filepath.Join(t.TempDir(), "data")
	for _, c := range []struct {
		args []string
		want string // what is left
	}{{nil, ""}, {[]string{"--data", kept}, kept}} {
		p, at := startDev(t, []string{"TMPDIR=" + temporary}, c.args...)
		_ = at
		p.signal(os.Interrupt)
		if code := p.code(); code != 0 {
			t.Errorf("exit code %d after SIGINT", code)
		}
		if left, err := os.ReadDir(temporary); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if c.want == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(c.want, "jetstream")); err != nil {
			t.Error(err)
		}
	}
}

func TestTokensOfDev(t *testing.T) {
	_, at := startDev(t, nil)
	for _, algorithm := range []string{"HS256", "EdDSA"} {
		t.Run(algorithm, func(t *testing.T) {
			r := nabat(t, "", nil, "token", "--user", "alice", "--subscribe", "chat.*", "--publish", "chat.42", "--deny", "chat.13", "--room", "user.alice",
				"--info", `{"name":"Alice"}`, "--ttl", "10m", "--algorithm", algorithm, "--nats-url", at.nats)
			if r.code != 0 || strings.Count(r.stdout, "\n") != 1 || strings.Count(r.stdout, ".") != 2 || r.stderr != "" {
				t.Fatalf("%+v", r)
			}
			token := strings.TrimSpace(r.stdout)
			c, err := client.Dial(t.Context(), at.edges[0], client.Options{Token: token})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			got := c.Connected()
			left := time.Until(time.Unix(got.Expires, 0))
			if got.User != "alice" || len(got.Rooms) != 1 || got.Rooms[0].Room != "user.alice" || left < 8*time.Minute || left > 10*time.Minute {
				t.Errorf("%+v", got)
			}
			if _, err := c.Subscribe(t.Context(), []string{"chat.13"}); err == nil {
				t.Error("a denied room was joined")
			}
			sub := nabat(t, "", nil, "sub", "chat.1", "--edge", at.edges[0], "--token", token, "--timeout", "500ms")
			if want := "nabat sub: joined user.alice, chat.1 at " + at.edges[0] + " (edge-0), as alice\n"; sub.code != 0 || sub.stderr != want {
				t.Errorf("%+v\nwant %s", sub, want)
			}
		})
	}
	t.Run("a server without control is told", func(t *testing.T) {
		server, err := natsdev.Start(natsdev.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Shutdown()
		r := nabat(t, "", nil, "token", "--user", "u", "--nats-url", server.URL())
		if want := "nabat token: no control service on NATS at " + server.URL() + ": start nabat control (nabat dev has one)\n"; r.code != 1 || r.stderr != want {
			t.Errorf("%+v", r)
		}
	})
}

// startSub runs nabat sub in this process.
func startSub(t *testing.T, args ...string) (stdout, stderr *output, code chan int, stop context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	stdout, stderr, code = &output{}, &output{}, make(chan int, 1)
	a := &app{stdin: strings.NewReader(""), stdout: stdout, stderr: stderr}
	go func() { code <- a.run(ctx, append([]string{"sub"}, args...)) }()
	return stdout, stderr, code, cancel
}

func TestSubPrintsMessages(t *testing.T) {
	_, at := startDev(t, nil)
	nc, err := nats.Connect(at.nats)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	bodies := []string{`{"n": 1}`, "two\nlines", "\xff"}
	for _, c := range []struct {
		rule string
		args []string
		want string
	}{
		{"one JSON object a line", nil,
			`{"room":"a b","offset":1,"data":{"n":1},"user":"bob"}` + "\n" + `{"room":"a b","offset":2,"text":"two\nlines","user":"bob"}` + "\n" + `{"room":"a b","offset":3,"base64":"/w==","user":"bob"}` + "\n"},
		{"--raw prints bodies", []string{"--raw"}, "{\"n\":1}\ntwo\nlines\n\xff\n"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			stdout, stderr, code, _ := startSub(t, append([]string{"a b", "--edge", at.edges[0], "--count", "3", "--timeout", "20s"}, c.args...)...)
			eventually(t, "nabat sub to join", func() bool { return strings.Contains(stderr.String(), "joined a b") })
			for _, b := range bodies {
				m := &nats.Msg{Subject: "room.a%20b", Data: []byte(b), Header: nats.Header{"Nabat-User": {"bob"}}}
				if err := nc.PublishMsg(m); err != nil {
					t.Fatal(err)
				}
			}
			if got := <-code; got != 0 || stdout.String() != c.want {
				t.Errorf("exit %d, %q\nwant %q\n%s", got, stdout, c.want, stderr)
			}
		})
	}
	t.Run("fewer than --count are a failure", func(t *testing.T) {
		r := nabat(t, "", nil, "sub", "a", "--edge", at.edges[0], "--count", "2", "--timeout", "300ms")
		if r.code != 1 || !strings.HasSuffix(r.stderr, "nabat sub: 0 of 2 messages arrived in 300ms\n") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("a refusal for good ends it", func(t *testing.T) {
		r := nabat(t, "", []string{"NABAT_TOKEN=x"}, "sub", "a", "--edge", at.edges[0])
		if r.code != 1 || !strings.HasPrefix(r.stderr, "nabat sub: token_malformed: ") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("an interrupt ends it well", func(t *testing.T) {
		_, stderr, code, stop := startSub(t, "a", "--edge", at.edges[0])
		eventually(t, "nabat sub to join", func() bool { return strings.Contains(stderr.String(), "joined a") })
		stop()
		if got := <-code; got != 0 {
			t.Errorf("exit %d: %s", got, stderr)
		}
	})
}

// As in production: NATS, control and edges each on their own, and one of them
// restarted while a client is there.
func TestEdgeAndControlAsSeparateProcesses(t *testing.T) {
	server, nc := startNATS(t, natsdev.Options{})
	policies := filepath.Join(t.TempDir(), "policies.yaml")
	if err := os.WriteFile(policies, []byte("rooms:\n  - match: \">\"\n    anonymous: {subscribe: true}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	program := func(args ...string) (p *process, ops string) {
		port := freePorts(t, 1)
		ops = fmt.Sprintf("127.0.0.1:%d", port)
		p = startProcess(t, nil, append(args, "--nats-url", server.URL(), "--ops-listen", ops)...)
		eventually(t, args[0]+" to be ready", func() bool {
			r, err := http.Get("http://" + ops + "/readyz")
			if err != nil {
				return false
			}
			r.Body.Close()
			return r.StatusCode == 200
		})
		return p, ops
	}
	control, _ := program("control", "--listen", "127.0.0.1:0", "--policies", policies, "--api-key", "0123456789abcdef")
	edgeAddress := fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1))
	edge, _ := program("edge", "--listen", edgeAddress, "--node", "one", "--drain", "100ms")

	stdout, stderr, code, _ := startSub(t, "a", "--edge", edgeAddress, "--count", "2", "--timeout", "50s")
	eventually(t, "nabat sub to join", func() bool { return strings.Contains(stderr.String(), "joined a at "+edgeAddress+" (one)") })
	publish := func(body string) {
		if err := nc.Publish("room.a", []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	publish("1")
	eventually(t, "the first message", func() bool { return strings.Contains(stdout.String(), `"data":1`) })
	edge.signal(syscall.SIGTERM)
	if got := edge.code(); got != 0 {
		t.Errorf("edge: exit %d", got)
	}
	program("edge", "--listen", edgeAddress, "--node", "two")
	eventually(t, "nabat sub to come back", func() bool { return strings.Contains(stderr.String(), "joined a at "+edgeAddress+" (two)") })
	publish("2")
	if got := <-code; got != 0 {
		t.Errorf("nabat sub: exit %d", got)
	}
	for _, want := range []string{"4200 drain: again in ", "gap in a: messages sent meanwhile are not known\n"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("nabat sub does not say %q:\n%s", want, stderr)
		}
	}
	control.signal(syscall.SIGTERM)
	if got := control.code(); got != 0 {
		t.Errorf("control: exit %d", got)
	}
}

func TestASecondSignalHurries(t *testing.T) {
	_, at := startDev(t, nil)
	ops, address := fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1)), fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1))
	p := startProcess(t, nil, "edge", "--listen", address, "--ops-listen", ops, "--nats-url", at.nats, "--drain", "10m")
	ready := func(want int) func() bool {
		return func() bool {
			r, err := http.Get("http://" + ops + "/readyz")
			if err != nil {
				return false
			}
			r.Body.Close()
			return r.StatusCode == want
		}
	}
	eventually(t, "the edge to be ready", ready(200))
	var conns []*client.Conn
	for range 20 {
		c, err := client.Dial(t.Context(), address, client.Options{Rooms: []string{"a"}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	p.signal(syscall.SIGTERM)
	eventually(t, "readiness to fail first", ready(503))
	p.signal(syscall.SIGTERM)
	if code := p.code(); code != 0 {
		t.Errorf("exit %d", code)
	}
	for _, c := range conns {
		for range c.Events() {
			t.Error("an event")
		}
		var closed *client.CloseError
		if !errors.As(c.Err(), &closed) || closed.Status != 4200 {
			t.Errorf("hurried, but without a goodbye: %v", c.Err())
		}
	}
}

func TestAnEdgeWithoutNATSCanBeStopped(t *testing.T) {
	port := freePorts(t, 1)
	ops := fmt.Sprintf("127.0.0.1:%d", port)
	p := startProcess(t, nil, "edge", "--listen", "127.0.0.1:0", "--nats-url", "nats://127.0.0.1:1", "--ops-listen", ops)
	eventually(t, "the operations port", func() bool {
		r, err := http.Get("http://" + ops + "/readyz")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		reason, _ := bufio.NewReader(r.Body).ReadString('\n')
		return r.StatusCode == 503 && reason == "starting\n"
	})
	p.signal(syscall.SIGTERM)
	if code := p.code(); code != 0 {
		t.Errorf("exit %d", code)
	}
}

// A node whose history can not be read stays in service, and says so.
func TestReadinessTellsOfHistoryThatCanNotBeRead(t *testing.T) {
	_, at := startDev(t, nil)
	nc, err := nats.Connect(at.nats)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(t.Context(), at.edges[0], client.Options{Rooms: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for name := range js.StreamNames(t.Context()).Name() {
		if !strings.HasSuffix(name, bus.MirrorSuffix) {
			continue
		}
		mirror := name
		// Control mends both before long: each look takes them away, and rooms that
		// nobody was in yet make the edge read.
		rooms := 0
		eventually(t, "readiness to say it", func() bool {
			origin, err := js.Stream(t.Context(), strings.TrimSuffix(mirror, bus.MirrorSuffix))
			if err != nil {
				t.Fatal(err)
			}
			cfg := origin.CachedInfo().Config
			cfg.AllowDirect = false
			if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			if err := js.DeleteStream(t.Context(), mirror); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
				t.Fatal(err)
			}
			if rooms++; rooms < 30 { // each waits for an answer while the edge is patient
				go func(room string) { _, _ = c.Subscribe(t.Context(), []string{room}) }(fmt.Sprint("b", rooms))
			}
			code, body := get(t, at.ops+"/readyz")
			return code == 200 && strings.HasPrefix(body, "ok\ndegraded: history can not be read: ")
		})
		if _, body := get(t, at.ops+"/metrics"); !strings.Contains(body, "nabat_edge_history_degraded{") {
			t.Error("there is no metric of it")
		}
		return
	}
	t.Fatal("nabat dev keeps no history")
}
