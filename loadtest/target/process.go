package target

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	stopTimeout  = 15 * time.Second
	startTimeout = 60 * time.Second
	tailBytes    = 2000
)

// process is a program that was started for one run.
type process struct {
	// Set at creation, never changed.
	name    string // for errors
	command *exec.Cmd
	stdin   io.WriteCloser
	lines   chan string   // of standard output; closed at its end
	done    chan struct{} // closed when it has ended
	tail    tail          // of standard error

	expected atomic.Bool // its end is no surprise

	err error // of its end; read after done is closed
}

// startProcess starts cmd, whose pipes must not be set. What it writes to
// standard error also goes to log, unless that is nil. The caller must stop it.
func startProcess(name string, cmd *exec.Cmd, log io.Writer) (*process, error) {
	p := &process{name: name, command: cmd, lines: make(chan string, 64), done: make(chan struct{})}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.stdin = stdin
	cmd.Stderr = &p.tail
	if log != nil {
		cmd.Stderr = io.MultiWriter(&p.tail, log)
	}
	// Nothing that we start outlives us, also when we are killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go p.read(stdout)
	return p, nil
}

// read is the goroutine that drains standard output; it ends with the process.
func (p *process) read(stdout io.Reader) {
	scan := bufio.NewScanner(stdout)
	for scan.Scan() {
		select {
		case p.lines <- scan.Text():
		default: // nobody reads beyond the first
		}
	}
	_, _ = io.Copy(io.Discard, stdout)
	close(p.lines)
	p.err = p.command.Wait()
	close(p.done)
}

// first reads the first line of standard output as a JSON object into v.
func (p *process) first(ctx context.Context, v any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("%s told no address within %s", p.name, startTimeout))
	defer cancel()
	select {
	case line, open := <-p.lines:
		if !open {
			<-p.done
			return p.death()
		}
		if err := json.Unmarshal([]byte(line), v); err != nil {
			return fmt.Errorf("%s said %q: %w", p.name, line, err)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// death is the error for a process that ended before it was told to; call it
// after done is closed.
func (p *process) death() error {
	reason := "exit status 0"
	if p.err != nil {
		reason = p.err.Error()
	}
	if text := p.tail.String(); text != "" {
		reason += ": " + text
	}
	return fmt.Errorf("%s ended: %s", p.name, reason)
}

// stop asks the process to end, and kills it if it does not.
func (p *process) stop() error {
	_ = p.stdin.Close()
	_ = p.command.Process.Signal(syscall.SIGTERM) // it may be gone already
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTimeout):
		err := fmt.Errorf("%s did not end within %s of SIGTERM and was killed", p.name, stopTimeout)
		err = errors.Join(err, p.command.Process.Kill())
		<-p.done
		return err
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex // guards text
	text []byte
}

// Write implements io.Writer. Safe from any goroutine.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if extra := len(t.text) - tailBytes; extra > 0 {
		t.text = append(t.text[:0], t.text[extra:]...)
	}
	return len(p), nil
}

// String is safe from any goroutine.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}
