package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nabat/loadtest/checker"
)

func TestEveryWrongCommandLineIsRefused(t *testing.T) {
	for args, want := range map[string]string{
		"fly":             `there is no command "fly"`,
		"up now":          `up takes flags only, but was given "now"`,
		"e2e now":         `e2e takes flags only, but was given "now"`,
		"quick now":       `quick takes flags only, but was given "now"`,
		"build some more": "build takes no arguments but quick",
		"-node {}":        "-node is for the first process of a node",
		"-policy token":   "-policy needs a token and namespaces",
		"-fleet":          "-fleet needs a plan",
	} {
		if err := run(context.Background(), strings.Fields(args)); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}

// The verdict is what the whole test hangs on.
func TestNothingThatWentWrongPasses(t *testing.T) {
	good := outcome{Report: checker.Report{Published: 10, Delivered: 20}, Talk: talk{Published: 5, Received: 5}}
	if err := verdict(good); err != nil {
		t.Errorf("all is well: %v", err)
	}
	for rule, spoil := range map[string]func(*outcome){
		"a broken promise":                func(o *outcome) { o.Report.Broken = 1 },
		"a loss that was announced":       func(o *outcome) { o.Report.Lost = 1 },
		"a resume that did not recover":   func(o *outcome) { o.Report.Unrecovered = map[string]int{"history_cut": 1} },
		"nothing was published":           func(o *outcome) { o.Report = checker.Report{} },
		"less came than was published":    func(o *outcome) { o.Report.Delivered = 9 },
		"a problem of one that publishes": func(o *outcome) { o.Talk.Problems = []string{"talk.1: a gap"} },
		"a message of theirs is missing":  func(o *outcome) { o.Talk.Received = 4 },
	} {
		o := good
		if spoil(&o); verdict(o) == nil {
			t.Errorf("%s passes", rule)
		}
	}
}

func TestAProcessIsStoppedAndItsLogKept(t *testing.T) {
	p, err := launch("x", t.TempDir(), command("sh", "-c", "echo hello; trap '' TERM; while :; do sleep 0.05; done"))
	if err != nil {
		t.Fatal(err)
	}
	if err := within(20*time.Second, "its log", func() error {
		if !strings.Contains(tail(p.log), "hello") {
			return errNotYet
		}
		return p.ended()
	}, nil); err != nil {
		t.Fatal(err)
	}
	p.stop(10 * time.Millisecond) // it ignores SIGTERM
	if err := p.ended(); err == nil || !strings.Contains(err.Error(), "x has ended: hello") {
		t.Errorf("%v", err)
	}
}

func TestWaitingEndsWithWhatIsWaitedFor(t *testing.T) {
	if err := within(time.Minute, "a thing", func() error { return errNotYet }, func() error { return os.ErrClosed }); err == nil || !strings.Contains(err.Error(), "file already closed") {
		t.Errorf("a part has ended: %v", err)
	}
	if err := within(time.Millisecond, "a thing", func() error { return errNotYet }, nil); err == nil || !strings.Contains(err.Error(), "in vain for a thing: not yet") {
		t.Errorf("time is up: %v", err)
	}
}

// A namespace needs root; the rest of a node is what the whole test is about.
func TestNamespacesAndControlGroupsAreRemoved(t *testing.T) {
	if err := needed(); err != nil {
		t.Skip(err)
	}
	c := &cluster{dir: filepath.Join(t.TempDir(), "run")}
	if err := c.claim(c.dir); err != nil {
		t.Skip(err) // a cluster runs, which has these names
	}
	defer c.lock.Close()
	if err := c.clean(); err != nil {
		t.Fatal(err)
	}
	if err := makeRouter(); err != nil {
		t.Error(err)
	}
	if err := makeNode(9); err != nil {
		t.Error(err)
	}
	if err := makeGroups(nodeNS(9)); err != nil {
		t.Error(err)
	}
	if out, err := do(append(enter(routerNS), "ip", "route", "get", "10.244.9.5")...); err != nil || !strings.Contains(out, "via "+nodeIP(9)) {
		t.Errorf("the router knows the way to pods of the node: %s, %v", out, err)
	}
	if err := c.clean(); err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob("/sys/fs/cgroup/*/" + nodeNS(9))
	spaces, err2 := filepath.Glob("/run/netns/" + routerNS + "*")
	if len(left)+len(spaces) > 0 || err != nil || err2 != nil {
		t.Errorf("left behind: %v %v", left, spaces)
	}
}

// The control plane is built from what is in go.mod; what the harness tells it
// must be of the same version.
func TestVersionsAreThoseOfTheModule(t *testing.T) {
	text, err := os.ReadFile("kube/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\tk8s.io/kubernetes " + kubernetes + "\n", "\thelm.sh/helm/v3 " + helm} {
		if !strings.Contains(string(text), want) {
			t.Errorf("go.mod has no %q", want)
		}
	}
}
