package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"nabat/loadtest/floor"
)

// Kinds of children that the program itself can be.
const (
	ChildSwarm  = "swarm-worker"
	ChildRelay  = "swarm-relay" // of a worker elsewhere
	ChildBroker = "broker"
	ChildFloor  = "floor-server"
	ChildTLS    = "floor-tls-server"
)

// Launcher starts targets. Methods are for one goroutine.
type Launcher struct {
	// Self returns a command that runs this program as a child of that kind.
	Self func(kind string) *exec.Cmd
	// Say tells the user what is going on.
	Say func(format string, args ...any)
	// Log gets what the targets write to standard error; nil: only the end of
	// it is kept, for errors.
	Log io.Writer

	dir   string            // temporary, for what is built
	built map[string]string // path by what was built
}

// Close removes what was built.
func (l *Launcher) Close() error {
	if l.dir == "" {
		return nil
	}
	return os.RemoveAll(l.dir)
}

// root finds the repository: the folder whose go.mod says module nabat.
func root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("working directory: %w", err)
	}
	for start := dir; ; {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(text, []byte("module nabat\n")) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("%s is not in the nabat repository, so nothing can be built: go there, or measure a running server with --target", start)
		}
		dir = parent
	}
}

// folder makes the temporary folder.
func (l *Launcher) folder() (err error) {
	if l.dir == "" {
		if l.dir, err = os.MkdirTemp("", "nabat-loadtest-"); err != nil {
			return fmt.Errorf("temporary folder: %w", err)
		}
	}
	return nil
}

// build compiles a package once. module and pkg are relative to the
// repository.
func (l *Launcher) build(ctx context.Context, module, pkg, name string) (string, error) {
	if path, done := l.built[name]; done {
		return path, nil
	}
	repository, err := root()
	if err != nil {
		return "", err
	}
	if err := l.folder(); err != nil {
		return "", err
	}
	l.Say("building %s", name)
	path := filepath.Join(l.dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, pkg)
	cmd.Dir = filepath.Join(repository, module)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, bytes.TrimSpace(text))
	}
	if l.built == nil {
		l.built = make(map[string]string)
	}
	l.built[name] = path
	return path, nil
}

// Start starts a target by its name: nabat or one of Peers. The caller must
// Close it.
func (l *Launcher) Start(ctx context.Context, name string) (*Target, error) {
	if name == NameNabat {
		return l.Nabat(ctx, Shape{})
	}
	if !slices.Contains(Peers, name) {
		return nil, fmt.Errorf("there is no target %q: choose from %s, %s", name, NameNabat, strings.Join(Peers, ", "))
	}
	t := &Target{Name: name}
	if err := l.peer(ctx, t); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// Floor starts the floor, which sends frames of frameBytes.
func (l *Launcher) Floor(ctx context.Context, frameBytes int) (*Target, error) {
	server, err := floor.Start(ctx, l.Self(ChildFloor), frameBytes)
	if err != nil {
		return nil, err
	}
	return &Target{
		Name: NameFloor, URL: "ws://" + server.Address() + "/", PID: server.PID(), Publisher: floorPublisher{server},
		closers: []func() error{server.Close},
	}, nil
}

// FloorTLS starts the floor of handshakes with TLS; it sends nothing.
func (l *Launcher) FloorTLS(ctx context.Context) (*Target, error) {
	server, err := floor.Start(ctx, l.Self(ChildTLS), 0)
	if err != nil {
		return nil, err
	}
	return &Target{Name: NameFloor, URL: "wss://" + server.Address() + "/", PID: server.PID(), closers: []func() error{server.Close}}, nil
}

// add starts a process of t. The caller's NABAT_ settings are not for it.
func (l *Launcher) add(t *Target, name string, cmd *exec.Cmd) (*process, error) {
	cmd.Env = slices.DeleteFunc(cmd.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "NABAT_") && !strings.HasPrefix(entry, "NABAT_LOADTEST_")
	})
	p, err := startProcess(name, cmd, l.Log)
	if err == nil {
		t.processes = append(t.processes, p)
	}
	return p, err
}

// broker starts NATS in a process of its own and connects t's publisher.
func (l *Launcher) broker(ctx context.Context, t *Target) (url string, err error) {
	p, err := l.add(t, "NATS", l.Self(ChildBroker))
	if err != nil {
		return "", err
	}
	var told struct{ URL string }
	if err := p.first(ctx, &told); err != nil {
		return "", err
	}
	return told.URL, t.connect(told.URL, subjectPrefix)
}

// ready waits until the operations port at base says so.
func (t *Target) ready(ctx context.Context, base string) error {
	ctx, cancel := t.Watch(ctx)
	defer cancel()
	last := "nothing listens there"
	ctx, stop := context.WithTimeout(ctx, startTimeout)
	defer stop()
	for {
		status, text := probe(ctx, base+"/readyz")
		if status == http.StatusOK {
			return nil
		}
		if text != "" {
			last = text
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, context.DeadlineExceeded) {
				return cause
			}
			return fmt.Errorf("%s/readyz is not ready after %s: %s", base, startTimeout, last)
		}
	}
}

func probe(ctx context.Context, url string) (status int, text string) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err.Error()
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, ""
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(answer.Body, 1000))
	return answer.StatusCode, string(bytes.TrimSpace(body))
}
