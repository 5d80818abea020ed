package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"nabat/edge"
	"nabat/internal/natsdev"
	"nabat/internal/ops"
	"nabat/loadtest/checker"
)

// What is killed runs in a process of its own: this binary again, which is told
// by these variables what to be.
const (
	asEdge    = "NABAT_TEST_EDGE"
	asNATS    = "NABAT_TEST_NATS"
	asChecker = "NABAT_TEST_CHECKER"
	asControl = "NABAT_TEST_CONTROL"
	asCrowd   = "NABAT_TEST_CROWD"
)

func TestMain(m *testing.M) {
	for name, be := range map[string]func(text string) error{asEdge: beEdge, asNATS: beNATS, asChecker: beChecker, asControl: beControl, asCrowd: beCrowd} {
		if text := os.Getenv(name); text != "" {
			if err := be(text); err != nil {
				fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// ready tells the parent that this process works; ended closes when the parent
// has.
func ready() { fmt.Println("ready") }

func stopped() context.Context {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // it ends with the parent
		cancel()
	}()
	return ctx
}

// beEdge runs an edge until it is told to stop.
func beEdge(text string) error {
	var cfg edge.Config
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	log, err := ops.NewLogger(os.Stderr, cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return err
	}
	registry := ops.NewRegistry()
	e, err := edge.New(cfg, log, registry)
	if err != nil {
		return err
	}
	server, err := ops.New(ops.Options{Listen: cfg.OpsListen, Registry: registry, Ready: e.Ready, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	ctx := stopped()
	go func() { _ = server.Run(ctx) }() // it ends with the process
	ready()
	return e.Run(ctx)
}

// member is one NATS server of a cluster.
type member struct {
	Index  int
	Routes []string
	Listen string
	Dir    string
}

// beNATS runs a NATS server until it is told to stop, which it does as a lame
// duck.
func beNATS(text string) error {
	var m member
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return err
	}
	options := natsdev.Options{Listen: m.Listen, Dir: m.Dir}
	if len(m.Routes) > 1 {
		options = natsdev.Member(m.Index, m.Routes, options)
	}
	s, err := natsdev.Start(options)
	if err != nil {
		return err
	}
	ctx := stopped()
	ready()
	<-ctx.Done()
	s.LameDuck()
	return nil
}

// beChecker runs a plan until a line comes, and prints the report.
func beChecker(text string) error {
	var plan checker.Plan
	if err := json.Unmarshal([]byte(text), &plan); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	run, err := checker.Start(ctx, plan)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	ready()
	for lines.Scan() {
		switch word, rest, _ := strings.Cut(lines.Text(), " "); word {
		case "present":
			fmt.Println("present", run.Present())
		case "published":
			fmt.Println("published", run.Published())
		case "finish":
			limit, err := time.ParseDuration(rest)
			if err != nil {
				return err
			}
			limited, cancel := context.WithTimeout(ctx, limit)
			report := run.Finish(limited)
			cancel()
			return json.NewEncoder(os.Stdout).Encode(report)
		}
	}
	return nil // the parent has ended
}

// process is this binary as something else.
type process struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	done   chan struct{}
	stderr tail
}

// spawn starts a process and returns when it is ready.
func spawn(t *testing.T, name, role string, config any) *process {
	t.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, name: name, cmd: exec.Command(self), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), role+"="+string(text))
	p.cmd.Stderr = &p.stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewScanner(out)
	p.out.Buffer(nil, 16<<20)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s said last:\n%s", name, p.stderr.String())
		}
	})
	if !p.out.Scan() || p.out.Text() != "ready" {
		_ = p.in.Close()
		t.Fatalf("%s did not start: %q\n%s", name, p.out.Text(), p.stderr.String())
	}
	return p
}

// kill ends the process on the spot, if it still runs.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	p.wait()
}

// stop asks the process to end, and waits for it.
func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	p.wait()
}

func (p *process) wait() {
	select {
	case <-p.done:
		return
	default:
	}
	_ = p.cmd.Wait() // how it ended is not the question
	close(p.done)
}

// ask sends a line and returns the answer.
func (p *process) ask(line string) string {
	p.t.Helper()
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		p.t.Fatalf("%s: %v\n%s", p.name, err, p.stderr.String())
	}
	if !p.out.Scan() {
		p.t.Fatalf("%s does not answer %q: %v\n%s", p.name, line, p.out.Err(), p.stderr.String())
	}
	return p.out.Text()
}

// number asks for a number, which the answer has behind a word.
func (p *process) number(word string) int {
	p.t.Helper()
	answer := p.ask(word)
	n, err := strconv.Atoi(strings.TrimPrefix(answer, word+" "))
	if err != nil {
		p.t.Fatalf("%s answers %q", p.name, answer)
	}
	return n
}

// metric reads one metric of an edge, summed over its labels.
func metric(t *testing.T, ops, name string) (sum float64) {
	t.Helper()
	r, err := http.Get("http://" + ops + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	lines := bufio.NewScanner(r.Body)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), name); ok && (rest[0] == '{' || rest[0] == ' ') {
			v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += v
		}
	}
	return sum
}
