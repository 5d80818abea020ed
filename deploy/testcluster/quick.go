package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// module is where resource definitions of others come from.
type module struct{ path, folder, pattern string }

// definitions are the kinds beyond Kubernetes' own that the chart may render.
var definitions = []module{
	{"github.com/prometheus-operator/prometheus-operator@v0.93.0", "example/prometheus-operator-crd", "monitoring.coreos.com_*.yaml"},
	{"sigs.k8s.io/gateway-api@v1.5.1", "config/crd/standard", "gateway.networking.k8s.io_*routes.yaml"},
	{"github.com/kedacore/keda/v2@v2.21.0", "config/crd/bases", "keda.sh_scaledobjects.yaml"},
}

// wanted are the kinds that the chart has, by the name of the definition's file.
var wanted = []string{"servicemonitors", "podmonitors", "prometheusrules", "httproutes", "scaledobjects"}

func quickCommand(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("quick", flag.ContinueOnError)
	chart := f.String("chart", "../../charts/nabat", "the chart")
	if err := flags(f, args); err != nil {
		return err
	}
	kept, err := cache()
	if err != nil {
		return err
	}
	b := &builder{cache: kept, say: say}
	if err := b.build(ctx, forQuick); err != nil {
		return err
	}
	q, err := startQuick(b.bin())
	if err != nil {
		return err
	}
	return errors.Join(q.holdAll(*chart), q.stop())
}

// quick is an API server on the loopback interface: no nodes, no controllers.
type quick struct {
	dir       string
	api       *api
	processes []*process
	helm      string
	spaces    []string // namespaces that are there
}

func startQuick(bin string) (*quick, error) {
	dir, err := os.MkdirTemp("", "nabat-quick-")
	if err != nil {
		return nil, err
	}
	q := &quick{dir: dir, helm: filepath.Join(bin, "helm")}
	ports, err := freePorts(3)
	if err != nil {
		return nil, errors.Join(err, q.stop())
	}
	q.api = &api{dir: dir, kindless: filepath.Join(bin, "kindless-quick"), address: "127.0.0.1", advertise: "127.0.0.1", port: ports[0],
		etcd: [2]string{ports[1], ports[2]}, token: rand.Text(),
		// The account that a pod names is rendered, too, but nothing is stored.
		more: []string{"--disable-admission-plugins=ServiceAccount"}}
	begin := time.Now()
	err = q.api.start(func(name string, argv ...string) (*process, error) {
		p, err := launch(name, dir, command(argv...))
		if err == nil {
			q.processes = append(q.processes, p)
		}
		return p, err
	})
	if err != nil {
		for _, p := range q.processes {
			err = errors.Join(err, p.ended())
		}
		return nil, errors.Join(err, q.stop())
	}
	say("API server ready after %s", time.Since(begin).Round(100*time.Millisecond))
	return q, nil
}

func (q *quick) stop() error {
	for _, p := range q.processes {
		p.stop(3 * time.Second)
	}
	return os.RemoveAll(q.dir)
}

// freePorts are ports of the loopback interface that nobody listens on.
func freePorts(n int) (ports []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // all at once, so that none comes twice
		ports = append(ports, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	}
	return ports, nil
}

func (q *quick) kubectl(input string, args ...string) (string, error) {
	return feed(input, append([]string{q.api.kindless, "kubectl", "--kubeconfig", filepath.Join(q.dir, "admin.kubeconfig")}, args...)...)
}

// holdAll renders the chart with its own values and with those of each file in
// its folder ci, and lets the server judge what comes out. A warning is an error:
// the server only warns of a Deployment whose pods it would not let in.
func (q *quick) holdAll(chart string) error {
	if err := q.define(); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(chart, "ci", "*.yaml"))
	if err != nil {
		return err
	}
	var errs []error
	passed := 0
	for _, values := range append([]string{""}, files...) {
		n, err := q.hold(chart, values)
		name := "its own values"
		if values != "" {
			name = filepath.Base(values)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("with %s: %w", name, err))
			continue
		}
		passed++
		say("ok  %-28s %d objects", name, n)
	}
	say("%d passed, %d failed", passed, len(errs))
	return errors.Join(errs...)
}

// hold renders with one file of values and counts what the server takes.
func (q *quick) hold(chart, values string) (int, error) {
	argv := []string{q.helm, "template", "nabat", chart, "--namespace", "chart", "--kube-version", kubernetes,
		"--api-versions", "monitoring.coreos.com/v1", "--api-versions", "gateway.networking.k8s.io/v1", "--api-versions", "keda.sh/v1alpha1"}
	if values != "" {
		argv = append(argv, "--values", values)
	}
	text, err := do(argv...)
	if err != nil {
		return 0, err
	}
	for _, m := range namespaced.FindAllStringSubmatch(text, -1) {
		if err := q.space(m[1]); err != nil {
			return 0, err
		}
	}
	out, err := q.kubectl(text, "apply", "--server-side", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-f", "-")
	return strings.Count(out, "serverside-applied"), err
}

// namespaced finds the namespaces of what was rendered.
var namespaced = regexp.MustCompile(`(?m)^  namespace: "?([a-z0-9-]+)"?$`)

// space makes a namespace that takes restricted pods only, and warns of them.
func (q *quick) space(name string) error {
	if slices.Contains(q.spaces, name) {
		return nil
	}
	q.spaces = append(q.spaces, name)
	_, err := q.kubectl("apiVersion: v1\nkind: Namespace\nmetadata: {name: "+name+", labels: {"+
		"pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/warn: restricted}}\n", "apply", "-f", "-")
	return err
}

// define installs the kinds of others, as their modules have them.
func (q *quick) define() error {
	for _, m := range definitions {
		dir, err := do("go", "mod", "download", "-json", m.path)
		if err != nil {
			return err
		}
		_, dir, _ = strings.Cut(dir, `"Dir": "`)
		dir, _, _ = strings.Cut(dir, `"`)
		files, err := filepath.Glob(filepath.Join(dir, m.folder, m.pattern))
		if err != nil {
			return err
		}
		found := 0
		for _, file := range files {
			for _, kind := range wanted {
				if !strings.HasSuffix(file, "_"+kind+".yaml") {
					continue
				}
				if _, err := q.kubectl("", "apply", "--server-side", "-f", file); err != nil {
					return err
				}
				name := kind + "." + strings.Split(filepath.Base(file), "_")[0]
				if _, err := q.kubectl("", "wait", "--for=condition=Established", "--timeout=60s", "crd/"+name); err != nil {
					return err
				}
				found++
			}
		}
		if found == 0 {
			return fmt.Errorf("%s has no definitions in %s", m.path, m.folder)
		}
	}
	return nil
}
