package target

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"nabat/internal/natsdev"
	"nabat/loadtest/certificate"
)

// Shape says what kind of Nabat system is started. The zero value is one edge
// under the development policy.
type Shape struct {
	Edges int  // 0: 1
	TLS   bool // edges listen with TLS, too
	Long  bool // rooms keep 10,000 messages, not 100
	Quick bool // edges take connections at any rate
	Pace  int  // connections that an edge takes in a second; 0: its default
	Procs int  // processors that each edge uses; 0: all
	// Still edges ping nobody for an hour: on one machine the pings of a million
	// clients, and their answers, would take all of its processors.
	Still bool
}

// longPolicies keep more of a room than a scenario publishes.
const longPolicies = `rooms:
  - match: ">"
    publish: true
    anonymous: {subscribe: true, publish: true}
    history: {messages: 10000, age: 1h, replicas: 1}
`

// Nabat starts NATS, control and edges, each in a process of its own, so that
// an edge's processor time is the edge's alone. The caller must Close it.
func (l *Launcher) Nabat(ctx context.Context, shape Shape) (*Target, error) {
	t := &Target{Name: NameNabat}
	if err := l.system(ctx, t, shape); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (l *Launcher) system(ctx context.Context, t *Target, shape Shape) error {
	binary, err := l.build(ctx, ".", "./deploy/nabat", "nabat")
	if err != nil {
		return err
	}
	nats, err := l.broker(ctx, t)
	if err != nil {
		return err
	}
	ports, err := natsdev.FreeAddresses(2)
	if err != nil {
		return err
	}
	args := []string{"control", "--dev", "--listen", ports[0], "--ops-listen", ports[1], "--nats-url", nats}
	if shape.Long {
		file, err := l.write("policies.yaml", []byte(longPolicies))
		if err != nil {
			return err
		}
		args = append(args, "--policies", file)
	}
	if _, err := l.add(t, "nabat control", exec.Command(binary, args...)); err != nil {
		return err
	}
	if err := t.ready(ctx, "http://"+ports[1]); err != nil {
		return err
	}
	t.Control, t.Dialect.Greeting = "http://"+ports[0], `"connected"`
	var common []string
	if shape.TLS {
		if common, err = l.certificate(); err != nil {
			return err
		}
	}
	if shape.Quick {
		common = append(common, "--accept-rate", "0")
	}
	if shape.Pace > 0 {
		common = append(common, "--accept-rate", fmt.Sprint(shape.Pace), "--accept-wait", "30s", "--backlog", "65535")
	}
	if shape.Still {
		common = append(common, "--ping-interval", "1h")
	}
	for i := range max(shape.Edges, 1) {
		if err := l.edge(t, binary, nats, i, shape, common); err != nil {
			return err
		}
	}
	for _, e := range t.Edges {
		if err := t.ready(ctx, e.Ops); err != nil {
			return err
		}
	}
	first := t.Edges[0]
	t.URL, t.Ops, t.PID = first.URL, first.Ops, first.PID
	return nil
}

// edge starts one edge; it is not ready yet.
func (l *Launcher) edge(t *Target, binary, nats string, number int, shape Shape, common []string) error {
	ports, err := natsdev.FreeAddresses(3)
	if err != nil {
		return err
	}
	e := &Edge{URL: "ws://" + ports[0] + "/ws", Ops: "http://" + ports[1]}
	e.args = append([]string{"edge", "--listen", ports[0], "--ops-listen", ports[1], "--nats-url", nats,
		"--node", fmt.Sprintf("loadtest-%d", number)}, common...)
	if shape.TLS {
		e.Secure = "wss://" + ports[2] + "/ws"
		e.args = append(e.args, "--tls-listen", ports[2])
	}
	cmd := exec.Command(binary, e.args...)
	if shape.Procs > 0 {
		cmd.Env = append(os.Environ(), fmt.Sprintf("GOMAXPROCS=%d", shape.Procs))
		cmd.Args = append(cmd.Args, "--loops", fmt.Sprint(min(shape.Procs, runtime.NumCPU())))
	}
	if e.process, err = l.add(t, fmt.Sprintf("nabat edge %d", number), cmd); err != nil {
		return err
	}
	e.PID = e.process.command.Process.Pid
	t.Edges = append(t.Edges, e)
	return nil
}

// certificate makes a certificate and returns the edge's flags for it.
func (l *Launcher) certificate() ([]string, error) {
	chain, key, err := certificate.New()
	if err != nil {
		return nil, err
	}
	chainFile, err := l.write("cert.pem", chain)
	if err != nil {
		return nil, err
	}
	keyFile, err := l.write("key.pem", key)
	return []string{"--tls-cert", chainFile, "--tls-key", keyFile}, err
}

// write stores a file for as long as the launcher lives.
func (l *Launcher) write(name string, text []byte) (string, error) {
	if err := l.folder(); err != nil {
		return "", err
	}
	path := filepath.Join(l.dir, name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return path, nil
}

// tokensAtOnce is how many tokens are asked for at a time.
const tokensAtOnce = 8

// Tokens asks control for n tokens, each of its own user.
func (t *Target) Tokens(ctx context.Context, n int) ([]string, error) {
	if t.Control == "" {
		return nil, fmt.Errorf("%s has no API that issues tokens", t.Name)
	}
	list := make([]string, n)
	var asking sync.WaitGroup
	errs := make([]error, tokensAtOnce)
	for k := range tokensAtOnce {
		asking.Go(func() {
			for i := k; i < n && errs[k] == nil; i += tokensAtOnce {
				list[i], errs[k] = t.token(ctx, fmt.Sprintf("user-%d", i))
			}
		})
	}
	asking.Wait()
	return list, errors.Join(errs...)
}

func (t *Target) token(ctx context.Context, user string) (string, error) {
	body, err := json.Marshal(map[string]any{"sub": user, "subscribe": []string{"loadtest.>"}, "ttl": "24h"})
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, t.Control+"/v1/tokens", bytes.NewReader(body))
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	var issued struct{ Token string }
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("control answered %s: %s", answer.Status, bytes.TrimSpace(text))
	}
	if err == nil {
		err = json.Unmarshal(text, &issued)
	}
	if err == nil && strings.Count(issued.Token, ".") != 2 {
		err = fmt.Errorf("control answered no token: %s", bytes.TrimSpace(text))
	}
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	return issued.Token, nil
}

// Dev starts nabat dev, everything in one process, as a newcomer does.
func (l *Launcher) Dev(ctx context.Context) (*Target, error) {
	t := &Target{Name: "nabat dev"}
	if err := l.dev(ctx, t); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (l *Launcher) dev(ctx context.Context, t *Target) error {
	binary, err := l.build(ctx, ".", "./deploy/nabat", "nabat")
	if err != nil {
		return err
	}
	ports, err := natsdev.FreeAddresses(4)
	if err != nil {
		return err
	}
	p, err := l.add(t, t.Name, exec.Command(binary, "dev", "--edge-listen", ports[0], "--control-listen", ports[1], "--nats-listen", ports[2], "--ops-listen", ports[3]))
	if err != nil {
		return err
	}
	t.URL, t.Ops, t.PID, t.Dialect.Greeting = "ws://"+ports[0]+"/ws", "http://"+ports[3], p.command.Process.Pid, `"connected"`
	if err := t.ready(ctx, t.Ops); err != nil {
		return err
	}
	return t.connect("nats://"+ports[2], subjectPrefix)
}
