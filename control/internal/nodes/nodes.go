// Package nodes keeps the picture of presence true: it takes in what edges
// report, asks for snapshots where something is missing, knows by leases which
// edges and control replicas are alive, and which replica speaks for a room.
package nodes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"nabat/control/internal/metrics"
	"nabat/control/internal/presence"
	"nabat/internal/bus"
	"nabat/proto/buspb"
)

// Announcer tells the world. It is called in order, on one goroutine, and must
// not block.
type Announcer interface {
	Announce(events []presence.Event)
	Show(pushes []presence.Push)
}

// Options of a keeper.
type Options struct {
	NATS      *nats.Conn // for reports; a busy one, so not that of the API
	JetStream jetstream.JetStream
	ID        string // of this replica, unique
	Version   string
	Listen    string // of this replica's API
	Replicas  int    // copies of the leases in NATS
	Rule      func(room string) presence.Rule
	Announcer Announcer
	Counts    *metrics.Counts
	Log       *slog.Logger
}

// Keeper keeps the picture. Its exported methods are safe from any goroutine.
type Keeper struct {
	// Set at creation, never changed.
	opts    Options
	leases  *leases
	started time.Time
	tell    chan struct{} // our lease should be renewed at once

	built atomic.Bool
	spoke time.Time // when it was built; owned by Run

	// mu guards the picture.
	mu      sync.Mutex
	picture *presence.Picture
	changed chan struct{} // closed when a report was applied; nil when nobody waits

	// Owned by Run.
	inbox  string
	asked  map[string]*request // by node
	counts time.Time           // when the metrics were last set
}

// How long things take.
const (
	tickEvery  = 50 * time.Millisecond
	quietFor   = 5 * time.Second  // after the picture is built, for nodes whose leases came late
	buildLimit = 30 * time.Second // for nodes that have a lease and do not answer
	queue      = 16384            // reports and parts of snapshots that wait
)

// New returns a keeper. Call Run.
func New(o Options) *Keeper {
	return &Keeper{opts: o, leases: newLeases(bus.LeaseControl + o.ID), started: time.Now(), tell: make(chan struct{}, 1),
		picture: presence.New(o.Rule), asked: make(map[string]*request)}
}

// Run keeps the picture until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	messages := make(chan *nats.Msg, queue)
	k.inbox = k.opts.NATS.NewInbox()
	for _, subject := range []string{bus.ReportPrefix + "*", k.inbox + ".*"} {
		sub, err := k.opts.NATS.ChanSubscribe(subject, messages)
		if err != nil {
			return fmt.Errorf("subscribe %s: %w", subject, err)
		}
		defer func() { _ = sub.Unsubscribe() }() // an error means that NATS is gone
	}
	k.mu.Lock()
	k.picture.Quiet(true)
	k.mu.Unlock()
	wg.Go(func() { k.renew(ctx) })
	wg.Go(func() { k.follow(ctx) })
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-messages:
			k.take(m)
		case now := <-tick.C:
			k.tick(now)
		}
	}
}

// take takes in a report or a part of a snapshot.
func (k *Keeper) take(m *nats.Msg) {
	if strings.HasPrefix(m.Subject, k.inbox) {
		part := new(buspb.Snapshot)
		if m.Header.Get("Status") != "" || proto.Unmarshal(m.Data, part) != nil || part.Node == "" {
			return // nobody there: asked again
		}
		k.mu.Lock()
		whole := k.picture.Snapshot(part, time.Now().UnixMilli())
		k.mu.Unlock()
		if r := k.asked[part.Node]; r != nil {
			r.heard(whole)
		}
		k.speak()
		return
	}
	r := new(buspb.Report)
	if err := proto.Unmarshal(m.Data, r); err != nil || bus.ReportPrefix+bus.NodeToken(r.Node) != m.Subject {
		k.opts.Counts.BadReport()
		return
	}
	k.mu.Lock()
	k.picture.Report(r, time.Now().UnixMilli())
	if k.changed != nil {
		close(k.changed)
		k.changed = nil
	}
	k.mu.Unlock()
	k.speak()
}

// speak hands over what there is to tell.
func (k *Keeper) speak() {
	k.mu.Lock()
	events := k.picture.Events()
	k.mu.Unlock()
	if len(events) > 0 {
		k.opts.Announcer.Announce(events)
	}
}

// show hands over what clients should be shown: on the tick, so that changes
// that come together are shown together.
func (k *Keeper) show(now time.Time) {
	k.mu.Lock()
	pushes := k.picture.Pushes(now.UnixMilli())
	k.mu.Unlock()
	if len(pushes) > 0 {
		k.opts.Announcer.Show(pushes)
	}
}

func (k *Keeper) tick(now time.Time) {
	k.mu.Lock()
	k.picture.Tick(now.UnixMilli())
	k.bury(now)
	if k.built.Load() && now.Sub(k.spoke) > quietFor {
		k.picture.Quiet(false)
	}
	wants, names := k.picture.Wants(), k.picture.Nodes()
	complete := k.complete(names)
	k.mu.Unlock()
	k.ask(now, wants, names)
	k.speak()
	k.show(now)
	if !k.built.Load() && (complete || now.Sub(k.started) > buildLimit) && k.leases.known() {
		k.finish(now, complete)
	}
	if now.Sub(k.counts) > time.Second {
		k.counts = now
		k.mu.Lock()
		t := k.picture.Totals()
		k.mu.Unlock()
		k.opts.Counts.Presence(metrics.Presence{Connections: t.Connections, Members: t.Members, Users: t.Users, Rooms: t.Rooms, Nodes: t.Nodes,
			Holes: t.Holes, Rebuilds: t.Rebuilds})
	}
}

// bury forgets nodes that have neither a lease nor spoken. k.mu is held.
func (k *Keeper) bury(now time.Time) {
	if !k.leases.known() {
		return
	}
	for _, n := range k.picture.Nodes() {
		if now.UnixMilli()-n.Heard > bus.NodeTimeout.Milliseconds() && k.leases.gone(n.Node) {
			k.opts.Log.Warn("a node is lost", "node", n.Node, "connections", n.Connections)
			k.picture.Lost(n.Node, now.UnixMilli())
		}
	}
}

// complete reports whether every node that lives is in the picture. k.mu is held.
func (k *Keeper) complete(known []presence.NodeInfo) bool {
	for _, n := range known {
		if !n.Whole {
			return false
		}
	}
	for _, l := range k.leases.live(bus.LeaseEdge) {
		if !k.picture.Whole(l.Node) && !k.picture.Left(l.Node) {
			return false
		}
	}
	return true
}

func (k *Keeper) finish(now time.Time, complete bool) {
	if !complete {
		k.opts.Log.Warn("some nodes have a lease and send no snapshot: the picture of presence goes on without them")
	}
	k.mu.Lock()
	k.picture.Speak()
	t := k.picture.Totals()
	k.mu.Unlock()
	k.spoke = now
	k.built.Store(true)
	k.opts.Log.Info("the picture of presence is built", "nodes", t.Nodes, "connections", t.Connections, "members", t.Members, "after", now.Sub(k.started).Round(time.Millisecond))
	select {
	case k.tell <- struct{}{}:
	default:
	}
}

// ErrNotBuilt says that the picture of presence is not whole yet.
var ErrNotBuilt = errors.New("the picture of presence is not built yet")

// Ready says why presence can not be answered yet, nil when it can.
func (k *Keeper) Ready() error {
	if !k.built.Load() {
		return ErrNotBuilt
	}
	return nil
}

// Owns reports whether this replica speaks for a room, or for a node.
func (k *Keeper) Owns(key string) bool {
	if !k.built.Load() {
		return false
	}
	ids := []string{k.opts.ID}
	for _, l := range k.leases.live(bus.LeaseControl) {
		if l.State == stateReady && l.Node != k.opts.ID {
			ids = append(ids, l.Node)
		}
	}
	return first(ids, key) == k.opts.ID
}

// Shown is what clients should be shown of a room by whoever takes it over.
func (k *Keeper) Shown(room string, came, left []string) presence.Push {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.picture.Shown(room, came, left)
}
