package main

import (
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"nabat/loadtest/checker"
)

// space is the namespace of the release: one that takes restricted pods only.
const (
	space   = "e2e"
	release = "nabat"
	limit   = "10m" // of everything that helm or kubectl wait for
)

// values are what the test installs with: small pods, quick drains, history, and
// policies for the network that let the test's own publishers reach NATS.
const values = `image: {registry: nabat.test, repository: nabat, tag: e2e}
policies:
  rooms:
    - match: "e2e.>"
      history: {messages: 2000, age: 1h}
      anonymous: {subscribe: true}
    - match: "talk.>"
      history: {messages: 2000, age: 1h}
      publish: true
      anonymous: {subscribe: true, publish: true}
    - match: ">"
edge: {replicas: 3, drainSeconds: 10, preStopSeconds: 3, resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {memory: 512Mi}}}
control: {replicas: 2, resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {memory: 256Mi}}}
nats: {replicas: 3, storage: {size: 5Gi}, resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {memory: 512Mi}}}
networkPolicy:
  enabled: true
  natsFrom: [{ipBlock: {cidr: ` + routerIP + `/32}}]
`

// e2e is one run of the test.
type e2e struct {
	*cluster
	chart   string
	file    string // of the values
	fleet   *fleet
	clients int // of the checker
	rows    []row

	pending []time.Duration // absences since the last line
}

// row is a line of the result.
type row struct {
	what     string
	took     time.Duration
	absences []time.Duration
}

func e2eCommand(ctx context.Context, args []string) (err error) {
	f := flag.NewFlagSet("e2e", flag.ContinueOnError)
	e := &e2e{}
	root := f.String("root", "../..", "the repository, for the image and the chart")
	f.IntVar(&e.clients, "clients", 2000, "clients that the checker has, over WebSocket")
	talkers := f.Int("talkers", 50, "clients of the Go library that publish, too")
	nodes := f.Int("nodes", 2, "how many nodes")
	only := f.String("steps", "", "only the steps whose names match this expression")
	keep := f.Bool("keep", false, "leave the cluster running after a failure, until ctrl-C")
	if err := flags(f, args); err != nil {
		return err
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-steps: %w", err)
	}
	e.chart = filepath.Join(*root, "charts", "nabat")
	begin := time.Now()
	if e.cluster, err = up(ctx, *root, *nodes); err != nil {
		return err
	}
	defer func() {
		if err != nil && *keep {
			say("failed: %v\nthe cluster stays until ctrl-C: %s", err, e.inside(e.tool("kindless"), "kubectl", "--kubeconfig", e.kubeconfig()))
			<-ctx.Done()
		}
		if e.fleet != nil {
			e.fleet.kill()
		}
		err = errors.Join(err, e.down())
	}()
	e.note("cluster up", begin, nil)
	if err := e.install(); err != nil {
		return errors.Join(err, e.explain())
	}
	if err := e.begin(ctx, *talkers); err != nil {
		return errors.Join(err, e.explain())
	}
	for _, s := range e.steps() {
		if !wanted.MatchString(s.name) {
			continue
		}
		if err := e.step(ctx, s); err != nil {
			e.print()
			return errors.Join(fmt.Errorf("%s: %w", s.name, err), e.explain())
		}
	}
	return e.end()
}

// note adds a line to the result.
func (e *e2e) note(what string, begin time.Time, absences []time.Duration) {
	r := row{what, time.Since(begin), absences}
	e.rows = append(e.rows, r)
	say("%s", r)
}

// install installs the chart and lets it test itself.
func (e *e2e) install() error {
	e.file = filepath.Join(e.dir, "values.yaml")
	if err := os.WriteFile(e.file, []byte(values), 0o644); err != nil {
		return err
	}
	err := e.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: " + space + ", labels: {pod-security.kubernetes.io/enforce: restricted}}\n")
	if err != nil {
		return err
	}
	begin := time.Now()
	if _, err := e.helm("install", release, e.chart, "-n", space, "-f", e.file, "--wait", "--timeout", limit); err != nil {
		return err
	}
	e.note("helm install --wait", begin, nil)
	begin = time.Now()
	if out, err := e.helm("test", release, "-n", space, "--timeout", limit); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	e.note("helm test", begin, nil)
	return nil
}

// begin starts the fleet and waits until all of it is there.
func (e *e2e) begin(ctx context.Context, talkers int) error {
	edge, err := e.address("edge")
	if err != nil {
		return err
	}
	nats, err := e.address("nats")
	if err != nil {
		return err
	}
	secret, err := e.get("secret", release+"-nats-auth", "{.data.backend}")
	if err != nil {
		return err
	}
	password, err := base64.StdEncoding.DecodeString(secret)
	if err != nil {
		return err
	}
	var rooms []string
	for i := range 40 {
		rooms = append(rooms, fmt.Sprintf("e2e.%d", i))
	}
	begin := time.Now()
	e.fleet, err = e.startFleet(fleetPlan{Edge: "http://" + edge, Talkers: talkers, Check: checker.Plan{
		NATS: "nats://backend:" + string(password) + "@" + nats, Rooms: rooms, Every: 2 * time.Second, Window: 2000,
		Edges: []string{edge}, Clients: e.clients, RoomsEach: 2, Seed: uint64(time.Now().UnixNano()),
	}})
	if err != nil {
		return err
	}
	if err := e.gathered(ctx); err != nil {
		return err
	}
	e.note(fmt.Sprintf("%d clients in their rooms", e.clients+talkers), begin, nil)
	return nil
}

// gathered waits until all clients are in their rooms.
func (e *e2e) gathered(ctx context.Context) error {
	return within(5*time.Minute, "all clients to be in their rooms", func() error {
		p, err := e.fleet.pulse()
		if err != nil {
			return err
		}
		if e.pending = append(e.pending, p.Absences...); p.Present < e.clients {
			return fmt.Errorf("%d of %d are there", p.Present, e.clients)
		}
		return ctx.Err()
	}, e.alive)
}

// get is one value of an object.
func (e *e2e) get(kind, name, path string) (string, error) {
	return e.kubectl("-n", space, "get", kind, name, "-o", "jsonpath="+path)
}

// address is where a part's Service is reached.
func (e *e2e) address(part string) (string, error) {
	ip, err := e.get("service", release+"-"+part, "{.spec.clusterIP}:{.spec.ports[0].port}")
	return strings.TrimSpace(ip), err
}

// explain collects what a person would ask for first.
func (e *e2e) explain() error {
	pods, _ := e.kubectl("-n", space, "get", "pods", "-o", "wide")
	events, _ := e.kubectl("-n", space, "get", "events", "--sort-by=.lastTimestamp")
	lines := strings.Split(strings.TrimSpace(events), "\n")
	logs, _ := e.kubectl("-n", space, "logs", "-l", "app.kubernetes.io/name=nabat", "--all-containers", "--tail=8", "--prefix", "--max-log-requests=20")
	return fmt.Errorf("pods:\n%s\nevents:\n%s\nlogs:\n%s\nfleet: %s", pods, strings.Join(lines[max(0, len(lines)-25):], "\n"), logs, tail(filepath.Join(e.logs(), "fleet.log")))
}
