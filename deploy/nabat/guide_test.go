package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"nabat/client"
	"nabat/proto/wire"
)

const guide = "deploy/guide/"

// TestCodeOfTheGuideIsThatOfItsFiles: what a page shows of a file is in the file.
func TestCodeOfTheGuideIsThatOfItsFiles(t *testing.T) {
	lines := func(text string) string { // as they are, without the indentation
		var trimmed []string
		for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
			trimmed = append(trimmed, strings.TrimSpace(line))
		}
		return strings.Join(trimmed, "\n")
	}
	excerpts := 0
	for _, page := range pages {
		blocks, _ := code(readPage(t, page))
		for _, b := range blocks {
			if !strings.HasPrefix(page, guide) || b.file == "" {
				continue
			}
			excerpts++
			if !strings.Contains(lines(readPage(t, guide+b.file)), lines(b.text)) {
				t.Errorf("%s shows of %s what is not there:\n%s", page, b.file, b.text)
			}
		}
	}
	if excerpts < 10 {
		t.Errorf("%d blocks name their file: has their form changed?", excerpts)
	}
}

// guideProgram builds one of the guide's programs.
func guideProgram(t *testing.T, folder string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(folder))
	build := exec.Command("go", "build", "-o", file, "./"+guide+folder)
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return file
}

// reader is a person who follows the tutorial, with many terminals.
type reader struct {
	t       *testing.T
	dev     *process
	environ []string // where this test's nabat dev is
	shown   []*output
}

// TestTheTutorial does what the page says, line by line: each line of a block
// without a language is typed into a terminal of its own, and each text is
// waited for on one of them.
func TestTheTutorial(t *testing.T) {
	r := &reader{t: t}
	blocks, _ := code(readPage(t, guide+"tutorial.md"))
	typed, texts := 0, 0
	for i, b := range blocks {
		switch b.language {
		case "":
			// What ends at once says so in the text that follows.
			fails := i+1 < len(blocks) && strings.Contains(blocks[i+1].text, "exit status 1")
			for line := range strings.Lines(b.text) {
				typed++
				r.enter(strings.TrimSpace(line), fails)
			}
		case "text":
			for line := range strings.Lines(b.text) {
				if line = strings.TrimSpace(line); line != "exit status 1" {
					texts++
					r.sees(line)
				}
			}
		}
	}
	if typed < 10 || texts < 8 {
		t.Errorf("%d commands and %d lines of output: has the form of the page changed?", typed, texts)
	}
}

func (r *reader) enter(line string, fails bool) {
	r.t.Helper()
	if rest, isDev := strings.CutPrefix(line, "go run ./deploy/nabat dev"); isDev {
		r.restart(strings.Fields(rest))
		return
	}
	chat := ""
	if strings.HasPrefix(line, "go run ./deploy/guide/chat") {
		chat = guideProgram(r.t, "chat") + " --listen 127.0.0.1:0"
	}
	replaced := strings.NewReplacer("go run ./deploy/nabat", "$PROGRAM", "go run ./deploy/guide/chat", chat,
		"http://127.0.0.1:8090", "$CONTROL").Replace(line)
	out := &output{}
	cmd := exec.Command("sh", "-c", replaced)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "../..", out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = append(append(os.Environ(), asProgram+"=1", "PROGRAM="+os.Args[0]), r.environ...)
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	r.t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it has mostly ended
	})
	r.shown = append(r.shown, out)
	if !fails && (strings.Contains(line, " sub ") || chat != "") { // these go on
		eventually(r.t, line, func() bool {
			return strings.Contains(out.String(), "joined") || strings.Contains(out.String(), "http://")
		})
		return
	}
	select {
	case err := <-done:
		if (err != nil) != fails {
			r.t.Fatalf("%s: %v\n%s", line, err, out)
		}
	case <-time.After(40 * time.Second):
		r.t.Fatalf("%s does not end:\n%s", line, out)
	}
}

// restart ends what runs, as ctrl-C does, and starts it again.
func (r *reader) restart(args []string) {
	r.t.Helper()
	if r.dev != nil {
		r.dev.signal(os.Interrupt)
		if code := r.dev.code(); code != 0 {
			r.t.Fatalf("nabat dev: exit %d", code)
		}
	}
	for i, arg := range args {
		if strings.HasPrefix(arg, guide) {
			args[i] = filepath.Join("../..", arg)
		}
	}
	dev, at := startDev(r.t, nil, args...)
	r.dev = dev
	r.environ = []string{"NABAT_NATS_URL=" + at.nats, "NABAT_EDGE=" + at.edges[0], "CONTROL=" + at.control}
}

func (r *reader) sees(line string) {
	r.t.Helper()
	pattern := regexp.MustCompile("(?m)^ *" + strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".+") + "$")
	eventually(r.t, line, func() bool {
		return slices.ContainsFunc(r.shown, func(o *output) bool { return pattern.MatchString(o.String()) })
	})
}

// languages has how an example is started, or why it cannot be.
var languages = []struct {
	name  string
	start func(t *testing.T, example string) []string
}{
	{"Go", func(t *testing.T, example string) []string { return []string{guideProgram(t, "go/"+example)} }},
	{"Node", func(t *testing.T, example string) []string {
		node, err := exec.LookPath("node")
		if err == nil {
			_, err = os.Stat("../guide/node/node_modules/@nats-io/transport-node")
		}
		missing(t, "TEST_NODE", "Node with the packages of deploy/guide/node (npm ci there)", err)
		return []string{node, "../guide/node/" + example + ".mjs"}
	}},
	{"Python", func(t *testing.T, example string) []string {
		python, err := exec.LookPath("python3")
		if err == nil {
			err = exec.Command(python, "-c", "import nats").Run()
		}
		missing(t, "TEST_PYTHON", "Python 3 with nats-py", err)
		if example == "token" { // a module of Python's own has that name
			example = "issue"
		}
		return []string{python, "../guide/python/" + example + ".py"}
	}},
}

// missing skips a test, unless the variable says that it must be run.
func missing(t *testing.T, name, what string, err error) {
	t.Helper()
	switch {
	case err == nil:
	case os.Getenv(name) == "required":
		t.Fatalf("there is no %s: %v", what, err)
	default:
		t.Skipf("there is no %s: %v", what, err)
	}
}

// TestTheExamplesForBackends runs the same examples in each language.
func TestTheExamplesForBackends(t *testing.T) {
	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			l.start(t, "publish")     // or skip
			_, at := startDev(t, nil) // of its own: revoked is revoked, and published is published
			e := &examples{t: t, at: at, start: l.start}
			e.publish()
			token := e.run("token")
			e.call(token)
			e.presence(token)
			e.events(token)
			e.revoke(token)
			e.decide()
		})
	}
}

type examples struct {
	t     *testing.T
	at    places
	start func(t *testing.T, example string) []string
}

func (e *examples) command(ctx context.Context, example string, args ...string) *exec.Cmd {
	e.t.Helper()
	line := append(e.start(e.t, example), args...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Env = append(os.Environ(), "NATS_URL="+e.at.nats)
	return cmd
}

func (e *examples) run(example string, args ...string) string {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), 40*time.Second)
	defer cancel()
	out, err := e.command(ctx, example, args...).CombinedOutput()
	if err != nil {
		e.t.Fatalf("%s: %v\n%s", example, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (e *examples) dial(o client.Options) *client.Conn {
	e.t.Helper()
	c, err := client.Dial(e.t.Context(), e.at.edges[0], o)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(c.Close)
	return c
}

// publish: twice the same is stored once.
func (e *examples) publish() {
	e.t.Helper()
	watch := e.dial(client.Options{Rooms: []string{"orders.17"}})
	first, second := e.run("publish"), e.run("publish")
	offset, again, _ := strings.Cut(second, ", ")
	if first != offset+", duplicate false" || again != "duplicate true" {
		e.t.Errorf("%q, then %q", first, second)
	}
	m := (<-watch.Events()).Message
	if m == nil || m.Event != "state" || m.User != "shop" || string(m.Body) != `{"state":"paid"}` || m.Offset == 0 {
		e.t.Errorf("%+v", m)
	}
}

// serve starts a program that goes on until end is called.
func (e *examples) serve(example string) (out *output, end func()) {
	e.t.Helper()
	out = &output{}
	service := e.command(context.Background(), example)
	service.Stdout, service.Stderr = out, out
	if err := service.Start(); err != nil {
		e.t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		_ = service.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = service.Wait()
	})
	e.t.Cleanup(end)
	eventually(e.t, example, func() bool { return strings.Contains(out.String(), "ready") })
	return out, end
}

// presence: who is there is listed, and counted.
func (e *examples) presence(token string) {
	e.t.Helper()
	alice := e.dial(client.Options{Token: token, Rooms: []string{"orders.18"}})
	e.dial(client.Options{Rooms: []string{"orders.18"}})
	eventually(e.t, "who is there", func() bool { return e.run("presence", "orders.18") == "alice\n1 users and 1 without a name" })
	alice.Close()
}

// events: what happened while the program was away comes when it is back, and
// what it has done does not come again.
func (e *examples) events(token string) {
	e.t.Helper()
	out, end := e.serve("events")
	alice := e.dial(client.Options{Token: token, Rooms: []string{"orders.19"}})
	eventually(e.t, "alice comes", func() bool { return strings.Contains(out.String(), "join orders.19 alice\n") })
	end()
	alice.Close()
	out, end = e.serve("events")
	eventually(e.t, "alice has gone", func() bool { return strings.Contains(out.String(), "leave orders.19 alice\n") })
	end()
	if strings.Contains(out.String(), "join") {
		e.t.Errorf("again: %s", out)
	}
}

// decide: with policies that have hooks.
func (e *examples) decide() {
	e.t.Helper()
	_, e.at = startDev(e.t, nil, "--policies", "../guide/hooks.yaml")
	c := e.dial(client.Options{Rooms: []string{"orders.20"}})
	publish := func(kind wire.Kind, body string) error {
		_, err := c.Publish(e.t.Context(), wire.Publication{Room: "orders.20", Kind: kind, Body: []byte(body)})
		return err
	}
	var refused *wire.Error
	if err := publish(wire.Text, "hi"); !errors.As(err, &refused) || refused.Code != wire.HookUnavailable {
		e.t.Errorf("without the program: %v", err)
	}
	e.serve("decide")
	if err := publish(wire.Text, "hi"); err != nil {
		e.t.Error(err)
	}
	for kind, body := range map[wire.Kind]string{wire.Text: "buy spam", wire.Data: `{"text":"buy spam"}`} {
		if err := publish(kind, body); !errors.As(err, &refused) || refused.Code != wire.NotAllowed || refused.Reason != "no spam, please" {
			e.t.Errorf("%s: %v", body, err)
		}
	}
}

// call: the answer knows who asks, and a refusal keeps its code.
func (e *examples) call(token string) {
	e.t.Helper()
	out, end := e.serve("answer")
	defer end()
	c := e.dial(client.Options{Token: token})
	if rooms := c.Connected().Rooms; c.Connected().User != "alice" || len(rooms) != 1 || rooms[0].Room != "user.alice" {
		e.t.Errorf("%+v", c.Connected())
	}
	result, err := c.Call(e.t.Context(), "orders.create", map[string]int{"item": 12})
	var answer struct {
		Order, Item int
		For         string
	}
	if err != nil || json.Unmarshal(result.Body, &answer) != nil || answer.Order != 4711 || answer.Item != 12 || answer.For != "alice" {
		e.t.Errorf("%s %+v, %v\n%s", result.Body, answer, err, out)
	}
	var refused *wire.Error
	if _, err := c.Call(e.t.Context(), "orders.create", "x"); !errors.As(err, &refused) || refused.Backend != "400" || refused.Reason != "which item?" {
		e.t.Errorf("a bad call: %v", err)
	}
}

// revoke: what is open is closed.
func (e *examples) revoke(token string) {
	e.t.Helper()
	c := e.dial(client.Options{Token: token})
	if out := e.run("revoke", "alice"); !strings.Contains(out, `"alice"`) {
		e.t.Errorf("%s", out)
	}
	for range c.Events() { // ends with the connection
	}
	var closed *client.CloseError
	if !errors.As(c.Err(), &closed) || closed.Status != 4003 {
		e.t.Errorf("after revocation: %v", c.Err())
	}
}
