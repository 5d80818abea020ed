// Package target starts the servers that scenarios measure, or takes running
// ones, and says how clients and publishers reach them.
package target

import (
	"context"
	"errors"
	"strings"

	"nabat/loadtest/floor"
	"nabat/loadtest/swarm"
)

// Names of the targets that can be started.
const (
	NameNabat = "nabat"
	NameFloor = "floor"
)

// Publisher sends messages to the members of the room.
type Publisher interface {
	// Publish sends one message of size bytes with this stamp. It does not
	// wait for the deliveries.
	Publish(ctx context.Context, s swarm.Stamp, size int) error
}

// Target is a running server. Methods are for one goroutine.
type Target struct {
	Name      string
	URL       string        // without rooms
	Dialect   swarm.Dialect // that it speaks
	NoQuery   bool          // rooms do not stand in the URL
	PID       int           // of the process that serves the clients; 0: unknown
	Ops       string        // base URL of its operations port; "": unknown
	Control   string        // base URL of control's API; "": none
	Edges     []*Edge       // of a system that was started here, the first of which URL, PID and Ops name
	Publisher Publisher     // nil: messages cannot be published
	// NATS is where messages are published; "" when they are not, or elsewhere.
	NATS      string
	subjects  subjects // there
	processes []*process
	closers   []func() error
}

// Edge is one edge of a system that was started here.
type Edge struct {
	URL, Secure string // without rooms; Secure with TLS, "" without
	Ops         string
	PID         int
	process     *process
	args        []string
}

// Nabat reports whether it speaks Nabat's own protocol, resume included.
func (t *Target) Nabat() bool { return len(t.Edges) > 0 }

// Kill ends an edge of t without a word, as a crash does.
func (t *Target) Kill(e *Edge) error {
	e.process.expected.Store(true)
	err := e.process.command.Process.Kill()
	<-e.process.done
	return err
}

// ClientURL is where clients connect: a template; see swarm.Dialect.
func (t *Target) ClientURL() string { return t.At(t.URL) }

// At is ClientURL with another base, such as that of another edge.
func (t *Target) At(base string) string {
	if t.Name == NameFloor || t.NoQuery {
		return base
	}
	const query = "<<room={room}|&>>"
	switch base, has, found := strings.Cut(base, "?"); {
	case found && strings.Contains("&"+has, "&room="):
		return base + "?" + has
	case found:
		return base + "?" + has + "&" + query
	}
	return base + "?" + query
}

// Watch returns a context that ends, with the reason, when a process of the
// target ends before it was told to.
func (t *Target) Watch(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	for _, p := range t.processes {
		go func() {
			select {
			case <-p.done:
				if !p.expected.Load() {
					cancel(p.death())
				}
			case <-ctx.Done():
			}
		}()
	}
	return ctx, func() { cancel(nil) }
}

// Close stops what was started for the target.
func (t *Target) Close() error {
	var err error
	for i := len(t.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, t.closers[i]())
	}
	for i := len(t.processes) - 1; i >= 0; i-- {
		err = errors.Join(err, t.processes[i].stop())
	}
	return err
}

// floorPublisher orders the floor to send. The size is the floor's own.
type floorPublisher struct{ server *floor.Server }

func (p floorPublisher) Publish(ctx context.Context, s swarm.Stamp, _ int) error {
	return p.server.Broadcast(ctx, s, 1)
}
