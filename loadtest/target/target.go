// Package target starts the servers that scenarios measure, or takes running
// ones, and says how clients and publishers reach them.
package target

import (
	"context"
	"errors"
	"fmt"
	"net/url"
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

// Peers are the servers of the nested module loadtest/peers.
var Peers = []string{"naive", "gorilla", "gws"}

// Publisher sends messages to the members of the room.
type Publisher interface {
	// Publish sends one message of size bytes with this stamp. It does not
	// wait for the deliveries.
	Publish(ctx context.Context, s swarm.Stamp, size int) error
}

// Target is a running server. Methods are for one goroutine.
type Target struct {
	Name      string
	URL       string    // without rooms
	Greeting  string    // in the first message of an open connection
	PID       int       // of the process that serves the clients; 0: unknown
	Ops       string    // base URL of its operations port; "": unknown
	Publisher Publisher // nil: messages cannot be published
	processes []*process
	closers   []func() error
}

// Room is the name of room i of a scenario.
func Room(i int) string { return fmt.Sprintf("loadtest.%d", i) }

// ClientURL is where a client of rooms 0 … n−1 connects.
func (t *Target) ClientURL(n int) string {
	if t.Name == NameFloor {
		return t.URL
	}
	values := make([]string, n)
	for i := range values {
		values[i] = "room=" + url.QueryEscape(Room(i))
	}
	query := strings.Join(values, "&")
	switch base, has, found := strings.Cut(t.URL, "?"); {
	case found && strings.Contains("&"+has, "&room="):
		return t.URL
	case found:
		return base + "?" + has + "&" + query
	}
	return t.URL + "?" + query
}

// Watch returns a context that ends, with the reason, when a process of the
// target ends before it was told to.
func (t *Target) Watch(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	for _, p := range t.processes {
		go func() {
			select {
			case <-p.done:
				cancel(p.death())
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
	t := &Target{Name: e.Name, URL: e.URL, Greeting: e.Greeting, PID: e.PID, Ops: e.Ops}
	if address.Path == "" || address.Path == "/" {
		t.URL = "ws://" + address.Host + "/ws"
	}
	if e.NATS == "" {
		return t, nil
	}
	return t, t.connect(e.NATS, e.SubjectPrefix)
}

// connect makes t's publisher.
func (t *Target) connect(url, prefix string) error {
	conn, err := nats.Connect(url, nats.Name("nabat-loadtest"), nats.MaxReconnects(-1))
	if err != nil {
		return fmt.Errorf("NATS at %s: %w", url, err)
	}
	t.Publisher = &natsPublisher{conn: conn, subject: prefix + Room(0)}
	t.closers = append(t.closers, func() error { conn.Close(); return nil })
	return nil
}

// natsPublisher publishes like any backend would.
type natsPublisher struct {
	conn    *nats.Conn
	subject string
	payload []byte
}

func (p *natsPublisher) Publish(_ context.Context, s swarm.Stamp, size int) error {
	if len(p.payload) != max(size, swarm.MinPayload) {
		p.payload = swarm.AppendPayload(nil, s, size)
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
