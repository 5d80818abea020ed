package report

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"nabat/internal/bus"
	"nabat/proto/buspb"
)

// Source is what a heartbeat tells beside events. Safe from any goroutine.
type Source interface {
	Stats() *buspb.NodeStats
	// Counts returns at most limit rooms that have changed since they were told;
	// the others wait.
	Counts(limit int) []*buspb.RoomCount
	// Untold takes back rooms that could not be told.
	Untold(rooms []*buspb.RoomCount)
}

// maxCounts bounds the rooms of one heartbeat.
const maxCounts = 4096

// Options of a reporter.
type Options struct {
	NATS      *nats.Conn
	Node      string
	Epoch     uint64
	Loops     int
	Interval  time.Duration // at most so long do events wait
	Heartbeat time.Duration // a report at least so often
	Source    Source
	Log       *slog.Logger
}

// Reporter sends what the logs of a node's loops hold. Safe from any goroutine.
type Reporter struct {
	// Set at creation, never changed.
	opts    Options
	subject string
	logs    []*Log
	wake    chan struct{} // 1 buffered: events wait

	// mu guards sending: reports leave in the order of their numbers.
	mu sync.Mutex

	// Atomic.
	reports atomic.Uint64
	away    atomic.Bool // the last report was not sent
}

// New returns a reporter with an empty log for each loop.
func New(o Options) *Reporter {
	r := &Reporter{opts: o, subject: bus.ReportPrefix + bus.NodeToken(o.Node), wake: make(chan struct{}, 1)}
	for range o.Loops {
		r.logs = append(r.logs, NewLog(r.kick))
	}
	return r
}

func (r *Reporter) kick() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Loop is the log of one loop.
func (r *Reporter) Loop(i int) *Log { return r.logs[i] }

// Run reports until ctx ends.
func (r *Reporter) Run(ctx context.Context) {
	heartbeat := time.NewTicker(r.opts.Heartbeat)
	defer heartbeat.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	<-pause.C
	waiting := false
	r.beat()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
			if !waiting {
				waiting = true
				pause.Reset(r.opts.Interval)
			}
		case <-pause.C:
			waiting = false
			r.Flush()
		case <-heartbeat.C:
			r.beat()
		}
	}
}

// Flush sends the events that wait.
func (r *Reporter) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	segments := slices.DeleteFunc(r.take(), func(s *buspb.Segment) bool { return len(s.Events) == 0 })
	if len(segments) > 0 {
		r.send(pack(r.opts.Node, r.opts.Epoch, segments, nil))
	}
}

// beat sends a heartbeat.
func (r *Reporter) beat() {
	stats, counts := r.opts.Source.Stats(), r.opts.Source.Counts(maxCounts) // they ask the loops: not under mu
	r.mu.Lock()
	defer r.mu.Unlock()
	list := pack(r.opts.Node, r.opts.Epoch, r.take(), counts)
	list[0].Stats = stats
	if !r.send(list) {
		r.opts.Source.Untold(counts)
	}
}

// Leave sends the last events, and that the node has gone. Nothing may follow.
func (r *Reporter) Leave(ctx context.Context) error {
	r.Flush()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.send([]*buspb.Report{{Node: r.opts.Node, Epoch: r.opts.Epoch, Leaving: true}})
	if err := r.opts.NATS.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("last report: %w", err)
	}
	return nil
}

// take empties the logs. mu is held.
func (r *Reporter) take() []*buspb.Segment {
	list := make([]*buspb.Segment, len(r.logs))
	for i, l := range r.logs {
		list[i] = l.take()
		list[i].Loop = uint32(i)
	}
	return list
}

// send sends reports; mu is held. While NATS is away nothing waits for it: the
// events are lost, their numbers stay, and control asks for a snapshot.
func (r *Reporter) send(list []*buspb.Report) (sent bool) {
	for i, one := range list {
		b, err := proto.Marshal(one)
		if err == nil {
			err = r.opts.NATS.Publish(r.subject, b)
		}
		if err != nil {
			for _, lost := range list[i:] {
				for _, s := range lost.Segments {
					r.logs[s.Loop].drop(len(s.Events))
				}
			}
			if !r.away.Swap(true) {
				r.opts.Log.Warn("control can not be told what happens at this node: it will ask", "error", err)
			}
			return false
		}
		r.reports.Add(1)
	}
	r.away.Store(false)
	return true
}

// Counts returns the reports that were sent, and the events that were dropped.
func (r *Reporter) Counts() (reports, dropped uint64) {
	for _, l := range r.logs {
		dropped += l.dropped()
	}
	return r.reports.Load(), dropped
}
