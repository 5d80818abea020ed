// Package checker proves from outside that a cluster keeps its promises: it
// publishes numbered messages, lets clients come, go, stall and move between
// edges, and holds what each was told against what was stored. It shares no
// code with what it checks.
package checker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Plan says what a run does. Every room must have history.
type Plan struct {
	NATS      string        `json:"nats"`
	Prefix    string        `json:"prefix"` // of room subjects; default room.
	Rooms     []string      `json:"rooms"`  // plain names: they are their own subjects
	Every     time.Duration `json:"every"`  // between two messages of a room
	Padding   int           `json:"padding"`
	Window    int           `json:"window"` // messages that the policy keeps of a room
	Edges     []string      `json:"edges"`  // host:port
	Clients   int           `json:"clients"`
	RoomsEach int           `json:"rooms_each"`
	Together  bool          `json:"together"` // all clients begin at the first edge
	Restless  bool          `json:"restless"` // clients come, go, stall and move by themselves
	Patience  int           `json:"patience"` // messages that a client takes before it does, on average; default 40
	Absence   int           `json:"absence"`  // messages of all rooms that it misses meanwhile, at most; default 200
	Dialing   int           `json:"dialing"`  // clients that begin at a time; default 64
	Seed      uint64        `json:"seed"`
}

// Run is a plan under way.
type Run struct {
	// Set by Start, never changed.
	plan    Plan
	nc      *nats.Conn
	ledger  *ledger
	clients []*client
	ctx     context.Context // of the clients
	cancel  context.CancelFunc
	stop    chan struct{} // closed when nothing more is published

	publishers, players sync.WaitGroup

	// Atomic.
	settling atomic.Bool

	// mu guards what follows.
	mu      sync.Mutex
	present map[int]bool // clients that are in all of their rooms
	done    map[int]bool // clients that have everything, at the end

	absences absences
}

// Start begins to publish and to read. Call Finish.
func Start(ctx context.Context, p Plan) (*Run, error) {
	p.complete()
	if len(p.Rooms) == 0 || len(p.Edges) == 0 || p.Window <= 0 || p.Every <= 0 {
		return nil, errors.New("checker: rooms, edges, a window and a pace are needed")
	}
	nc, err := nats.Connect(p.NATS, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.Name("nabat-checker"))
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	r := &Run{plan: p, nc: nc, ledger: newLedger(p.Rooms), stop: make(chan struct{}), present: make(map[int]bool), done: make(map[int]bool)}
	r.ctx, r.cancel = context.WithCancel(ctx)
	for i := range p.Clients {
		r.clients = append(r.clients, newClient(r, i))
	}
	run := fmt.Sprintf("%d-%d", p.Seed, time.Now().UnixNano())
	for _, room := range p.Rooms {
		w := &publisher{js: js, ledger: r.ledger, room: room, subject: p.Prefix + room, run: run, padding: padding(p.Padding), every: p.Every}
		r.publishers.Go(func() { w.publish(r.ctx, r.stop) })
	}
	r.players.Go(r.dial)
	return r, nil
}

func (p *Plan) complete() {
	if p.Prefix == "" {
		p.Prefix = "room."
	}
	for _, v := range []struct {
		to       *int
		standard int
	}{{&p.RoomsEach, 1}, {&p.Patience, 40}, {&p.Absence, 200}, {&p.Dialing, 64}} {
		if *v.to <= 0 {
			*v.to = v.standard
		}
	}
}

// dial lets the clients begin, a few at a time.
func (r *Run) dial() {
	for i, c := range r.clients {
		if i >= r.plan.Dialing {
			if err := r.Until(r.ctx, func() bool { return r.Present() > i-r.plan.Dialing }); err != nil {
				return
			}
		}
		r.players.Go(func() { c.live(r.ctx) })
	}
}

// here notes whether a client is in all of its rooms.
func (r *Run) here(c *client, yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if yes {
		r.absences.end(c.id)
		r.present[c.id] = true
	} else {
		if r.present[c.id] {
			r.absences.begin(c.id)
		}
		delete(r.present, c.id)
		delete(r.done, c.id)
	}
}

// finished notes that a client has everything, and that nothing was on its way
// to it behind that.
func (r *Run) finished(c *client) {
	r.mu.Lock()
	r.done[c.id] = true
	r.mu.Unlock()
}

// Present is the number of clients that are in all of their rooms now.
func (r *Run) Present() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.present)
}

// Published is the number of messages that were stored so far.
func (r *Run) Published() int {
	n, _ := r.ledger.size()
	return n
}

// Purged notes that what was stored of a room up to an offset of a stream may be
// gone: clients may be told of its loss, and must be when it is one.
func (r *Run) Purged(room, stream string, offset uint64) { r.ledger.purge(room, stream, offset) }

// Until waits for a condition.
func (r *Run) Until(ctx context.Context, ok func() bool) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
	return nil
}

func (r *Run) finishing() bool { return r.settling.Load() }

// grown waits until so many messages are stored, or nothing more comes.
func (r *Run) grown(ctx context.Context, size int) {
	for {
		n, more := r.ledger.size()
		if n >= size {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-r.stop:
			return
		case <-more:
		}
	}
}

// Finish publishes no more, waits until every client has everything or ctx ends,
// and judges.
func (r *Run) Finish(ctx context.Context) *Report {
	close(r.stop)
	r.publishers.Wait()
	r.settling.Store(true)
	// Who is not done when ctx ends is found by the judge.
	_ = r.Until(ctx, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.done) == len(r.clients)
	})
	r.cancel()
	r.players.Wait()
	r.nc.Close()
	return r.judge()
}

func (r *Run) judge() *Report {
	report := newReport()
	report.Published, report.Retried = r.ledger.total, r.ledger.failed
	for _, c := range r.clients {
		report.Connections += c.dials
		for act, n := range c.acts {
			report.Acts[act] += n
		}
		for code, n := range c.errors {
			report.Errors[code] += n
		}
		for _, room := range c.rooms {
			j := judge{client: c.id, room: room, story: r.ledger.rooms[room], window: r.plan.Window, report: report}
			j.run(c.log[room])
		}
	}
	return report
}
