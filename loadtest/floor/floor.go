package floor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"nabat/loadtest/swarm"
)

// Server is the parent's side of a floor server in a process of its own. Not
// safe for concurrent use.
type Server struct {
	command *exec.Cmd
	stdin   io.WriteCloser
	lines   chan told // closed when the process ends
	address string
	size    int
	ended   error // of the process; read after lines is closed
}

// Start starts a process that runs Serve. cmd is not started yet and its
// pipes are not set. frameBytes is the size of the frames it will send.
func Start(ctx context.Context, cmd *exec.Cmd, frameBytes int) (*Server, error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the floor: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the floor: %w", err)
	}
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the floor: %w", err)
	}
	s := &Server{command: cmd, stdin: stdin, lines: make(chan told, 1024), size: frameBytes}
	go s.read(stdout)
	first, err := s.next(ctx)
	if err == nil && first.Listening == "" {
		err = errors.New("the floor did not tell its address")
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.address = first.Listening
	return s, nil
}

// read is the goroutine that takes what the process says; it ends with it.
func (s *Server) read(stdout io.Reader) {
	defer close(s.lines)
	scan := bufio.NewScanner(stdout)
	for scan.Scan() {
		var t told
		if err := json.Unmarshal(scan.Bytes(), &t); err != nil {
			break
		}
		s.lines <- t // bounded by the commands that are outstanding
	}
	s.ended = s.command.Wait()
}

func (s *Server) next(ctx context.Context) (told, error) {
	select {
	case t, open := <-s.lines:
		if !open {
			return t, fmt.Errorf("the floor ended: %w", errors.Join(s.ended, io.ErrUnexpectedEOF))
		}
		return t, nil
	case <-ctx.Done():
		return told{}, context.Cause(ctx)
	}
}

// Address is where clients connect; any path is right.
func (s *Server) Address() string { return s.address }

// PID is the process whose time counts.
func (s *Server) PID() int { return s.command.Process.Pid }

// Broadcast sends count messages to all members, the first with this stamp,
// and returns when the kernel has taken them.
func (s *Server) Broadcast(ctx context.Context, first swarm.Stamp, count int) error {
	order, err := json.Marshal(send{Run: first.Run, First: first.Sequence, At: first.At, Count: count, Size: s.size})
	if err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	if _, err := s.stdin.Write(append(order, '\n')); err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	answer, err := s.next(ctx)
	if err != nil {
		return err
	}
	if answer.Sent == nil {
		return errors.New("floor: it answered a send with something else")
	}
	if answer.Sent.Failed > 0 {
		return fmt.Errorf("floor: %d sends failed", answer.Sent.Failed)
	}
	return nil
}

// Close ends the process.
func (s *Server) Close() error {
	_ = s.stdin.Close()
	for range s.lines { // until it is closed
	}
	if s.ended != nil {
		return fmt.Errorf("floor: %w", s.ended)
	}
	return nil
}
