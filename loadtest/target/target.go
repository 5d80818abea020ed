// Package target starts the servers that scenarios measure, or takes running
// ones, and says how clients and publishers reach them.
package target

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

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
	NATS, prefix string
	processes    []*process
	closers      []func() error
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

// External describes a target that somebody else started.
type External struct {
	Name          string // in the table
	URL           string // of its WebSocket endpoint; the path is /ws when there is none
	NATS          string // where messages are published; "": none are
	SubjectPrefix string // before the room
	Greeting      string
	PID           int
	Ops           string
}

// Open connects to NATS and completes the URL. It starts nothing.
func (e *External) Open(context.Context) (*Target, error) {
	address, err := swarm.Resolve(e.URL)
	if err != nil {
		return nil, err
	}
	t := &Target{Name: e.Name, URL: e.URL, Dialect: swarm.Dialect{Greeting: e.Greeting}, PID: e.PID, Ops: e.Ops}
	if address.Path == "" || address.Path == "/" {
		scheme := "ws://"
		if address.TLS {
			scheme = "wss://"
		}
		t.URL = scheme + address.Host + "/ws"
	}
	if e.NATS == "" {
		return t, nil
	}
	return t, t.connect(e.NATS, e.SubjectPrefix)
}

// connect makes t's publisher.
func (t *Target) connect(url, prefix string) (err error) {
	t.NATS, t.prefix = url, prefix
	t.Publisher, err = t.NewPublisher()
	return err
}

// NewPublisher is a further publisher, for another goroutine.
func (t *Target) NewPublisher() (Publisher, error) {
	if t.NATS == "" {
		return nil, errors.New("messages are published over NATS: say where with --nats")
	}
	conn, err := nats.Connect(t.NATS, nats.Name("nabat-loadtest"), nats.MaxReconnects(-1))
	if err != nil {
		return nil, fmt.Errorf("NATS at %s: %w", t.NATS, err)
	}
	t.closers = append(t.closers, func() error { conn.Close(); return nil })
	return &natsPublisher{conn: conn, prefix: t.prefix}, nil
}

// natsPublisher publishes like any backend would.
type natsPublisher struct {
	conn    *nats.Conn
	prefix  string
	room    uint32
	subject string // of room; "": not made yet
	payload []byte
}

// Publish implements Publisher.
func (p *natsPublisher) Publish(_ context.Context, s swarm.Stamp, size int) error {
	if len(p.payload) != max(size, swarm.MinPayload) {
		p.payload = swarm.AppendPayload(nil, s, size)
	}
	if p.subject == "" || p.room != s.Room {
		p.room, p.subject = s.Room, p.prefix+swarm.RoomName(int(s.Room))
	}
	swarm.Restamp(p.payload, s)
	if err := p.conn.Publish(p.subject, p.payload); err != nil { // copies the payload
		return fmt.Errorf("publish to %s: %w", p.subject, err)
	}
	return nil
}

// floorPublisher orders the floor to send. The size is the floor's own.
type floorPublisher struct{ server *floor.Server }

func (p floorPublisher) Publish(ctx context.Context, s swarm.Stamp, _ int) error {
	return p.server.Broadcast(ctx, s, 1)
}
