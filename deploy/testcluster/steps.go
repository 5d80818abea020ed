package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// step is something that an operator does, or that happens to one.
type step struct {
	name string
	do   func() error
	// still says that no client may notice.
	still bool
}

func (e *e2e) steps() []step {
	return []step{
		{"helm upgrade, a setting of the edges changed", e.upgrade("--set", "edge.logLevel=warn"), false},
		{"rolling restart of the edges", e.restart("deployment", "edge"), false},
		{"rolling restart of control", e.restart("deployment", "control"), true},
		{"rolling restart of the NATS servers", e.restart("statefulset", "nats"), true},
		{"edges scaled from 3 to 5", e.upgrade("--set", "edge.logLevel=warn", "--set", "edge.replicas=5"), true},
		{"edges scaled from 5 to 2", e.upgrade("--set", "edge.logLevel=warn", "--set", "edge.replicas=2"), false},
		{"a node drained", e.drain, false},
		{"the node in service again", e.uncordon, true},
		{"a control pod killed", e.murder("control", "deployment"), true},
		{"a NATS pod killed", e.murder("nats", "statefulset"), true},
		{"an edge pod killed", e.murder("edge", "deployment"), false},
		{"helm rollback to the first revision", e.rollback, false},
	}
}

// step does s, waits until every client is back, and notes how they fared.
func (e *e2e) step(ctx context.Context, s step) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e.pending = nil
	begin := time.Now()
	if err := s.do(); err != nil {
		return err
	}
	took := time.Now()
	if err := errors.Join(e.gathered(ctx), e.alive()); err != nil {
		return err
	}
	slices.Sort(e.pending)
	e.note(s.name, begin.Add(time.Since(took)), e.pending)
	if s.still && len(e.pending) > 0 {
		return fmt.Errorf("%d clients lost their connection: none should", len(e.pending))
	}
	return nil
}

// upgrade is helm upgrade with more settings.
func (e *e2e) upgrade(settings ...string) func() error {
	return func() error {
		_, err := e.helm(append([]string{"upgrade", release, e.chart, "-n", space, "-f", e.file, "--wait", "--timeout", limit}, settings...)...)
		return errors.Join(err, e.ended("edge"))
	}
}

// restart is a rolling restart, until the last of the old pods has gone.
func (e *e2e) restart(kind, part string) func() error {
	return func() error {
		name := kind + "/" + release + "-" + part
		if _, err := e.kubectl("-n", space, "rollout", "restart", name); err != nil {
			return err
		}
		return e.rolledOut(kind, part)
	}
}

func (e *e2e) rolledOut(kind, part string) error {
	_, err := e.kubectl("-n", space, "rollout", "status", kind+"/"+release+"-"+part, "--timeout="+limit)
	return errors.Join(err, e.ended(part))
}

// ended waits until no pod of a part is on its way out: helm and kubectl wait for
// the new ones only.
func (e *e2e) ended(part string) error {
	return within(3*time.Minute, "the old pods to end", func() error {
		out, err := e.kubectl("-n", space, "get", "pods", "-l", "app.kubernetes.io/component="+part, "-o", "jsonpath={.items[*].metadata.deletionTimestamp}")
		if err == nil && strings.TrimSpace(out) != "" {
			err = errNotYet
		}
		return err
	}, e.alive)
}

// drain moves all pods of the last node away, as before its maintenance.
func (e *e2e) drain() error {
	_, err := e.kubectl("drain", nodeName(e.cluster.size), "--ignore-daemonsets", "--delete-emptydir-data", "--timeout="+limit)
	return errors.Join(err, e.rolledOut("deployment", "edge"), e.rolledOut("deployment", "control"), e.rolledOut("statefulset", "nats"))
}

func (e *e2e) uncordon() error {
	_, err := e.kubectl("uncordon", nodeName(e.cluster.size))
	return err
}

// murder kills a pod's process without notice, removes the pod, and waits until
// another took its place.
func (e *e2e) murder(part, kind string) func() error {
	return func() error {
		out, err := e.kubectl("-n", space, "get", "pods", "-l", "app.kubernetes.io/component="+part, "-o", "jsonpath={.items[0].metadata.name} {.items[0].metadata.uid}")
		if err != nil {
			return err
		}
		name, uid, _ := strings.Cut(strings.TrimSpace(out), " ")
		if err := kill(uid); err != nil {
			return err
		}
		if _, err := e.kubectl("-n", space, "delete", "pod", name, "--grace-period=0", "--force"); err != nil {
			return err
		}
		return errors.Join(e.replaced(part, uid), e.rolledOut(kind, part))
	}
}

// kill kills the program of a pod: the processes of nodes are also the machine's.
func kill(uid string) error {
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return err
	}
	for _, file := range groups {
		text, err := os.ReadFile(file)
		name, err2 := os.ReadFile(filepath.Join(filepath.Dir(file), "comm"))
		if err != nil || err2 != nil { // it has just ended
			continue
		}
		if strings.Contains(string(text), "pod"+uid) && strings.TrimSpace(string(name)) == "nabat" {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				return err
			}
			return syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return fmt.Errorf("no process of the pod %s was found", uid)
}

// replaced waits until the pod has gone and as many as before are ready.
func (e *e2e) replaced(part, uid string) error {
	return within(3*time.Minute, "another pod in its place", func() error {
		out, err := e.kubectl("-n", space, "get", "pods", "-l", "app.kubernetes.io/component="+part, "-o",
			`jsonpath={range .items[*]}{.metadata.uid}={.status.conditions[?(@.type=="Ready")].status} {end}`)
		if err == nil && (out == "" || strings.Contains(out, uid) || strings.Count(out, "=") != strings.Count(out, "=True")) {
			err = fmt.Errorf("pods: %s", out)
		}
		return err
	}, e.alive)
}

func (e *e2e) rollback() error {
	_, err := e.helm("rollback", release, "1", "-n", space, "--wait", "--timeout", limit)
	return errors.Join(err, e.ended("edge"))
}

// end lets the fleet finish, judges, and removes the release.
func (e *e2e) end() error {
	begin := time.Now()
	o, err := e.fleet.finish()
	if err != nil {
		return errors.Join(err, e.explain())
	}
	e.fleet = nil
	e.note("the last messages", begin, nil)
	begin = time.Now()
	if _, err := e.helm("uninstall", release, "-n", space, "--wait", "--timeout", limit); err != nil {
		return err
	}
	e.note("helm uninstall --wait", begin, nil)
	e.print()
	say("%s", o.Report.String())
	say("%d messages published by clients of the Go library, %d received; %d came unstored and %d of them once more; %d problems",
		o.Talk.Published, o.Talk.Received, o.Talk.Unstored, o.Talk.Repeated, len(o.Talk.Problems))
	return verdict(o)
}

// verdict is the first thing that is wrong.
func verdict(o outcome) error {
	switch {
	case o.Report.Broken > 0:
		return fmt.Errorf("%d promises broken", o.Report.Broken)
	case o.Report.Lost > 0 || len(o.Report.Unrecovered) > 0:
		return fmt.Errorf("%d messages announced as lost, resumes not recovered: %v", o.Report.Lost, o.Report.Unrecovered)
	case o.Report.Published == 0 || o.Report.Delivered < o.Report.Published:
		return fmt.Errorf("%d messages published and %d delivered: nothing was tested", o.Report.Published, o.Report.Delivered)
	case len(o.Talk.Problems) > 0:
		return fmt.Errorf("%d problems of clients that publish, such as: %s", len(o.Talk.Problems), o.Talk.Problems[0])
	case o.Talk.Published != o.Talk.Received:
		return fmt.Errorf("clients published %d messages and received %d", o.Talk.Published, o.Talk.Received)
	}
	return nil
}

// String is a line for people and for the README.
func (r row) String() string {
	text := fmt.Sprintf("| %-46s | %7.1f s |", r.what, r.took.Seconds())
	if len(r.absences) == 0 {
		return text + " |"
	}
	at := func(percent int) float64 { return r.absences[(len(r.absences)-1)*percent/100].Seconds() }
	return text + fmt.Sprintf(" %d away: half for %.2f s or less, 99 %% %.2f s, longest %.2f s |", len(r.absences), at(50), at(99), at(100))
}

func (e *e2e) print() {
	say("\n| step | took | clients |\n| --- | --- | --- |")
	for _, r := range e.rows {
		say("%s", r)
	}
}
