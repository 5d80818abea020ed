// Package events tells the world what presence saw: durable events in the stream
// NABAT_EVENTS for backends, and changes of rooms for the clients in them.
//
// Every replica sees everything, and for each room one speaks. The others keep
// what they would have said until they see it in the stream; whoever takes a
// room over says again what is not there, under the same Nats-Msg-Id, so that
// nothing is lost and nothing stands twice.
package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"nabat/control/internal/metrics"
	"nabat/control/internal/presence"
	"nabat/internal/bus"
	"nabat/proto/buspb"
	"nabat/proto/subject"
)

// Rooms is what the speaker needs to know of the picture.
type Rooms interface {
	Owns(key string) bool // whether this replica speaks for a room, or for a node
	Shown(room string, came, left []string) presence.Push
}

// Options of a speaker.
type Options struct {
	NATS      *nats.Conn
	JetStream jetstream.JetStream
	Rooms     Rooms
	Replicas  int
	MaxAge    time.Duration // of the stream
	MaxBytes  int64
	Counts    *metrics.Counts
	Log       *slog.Logger
}

// Window is for how long the stream knows a Nats-Msg-Id.
const Window = 2 * time.Minute

// Bounds of what waits. Variables for tests.
var (
	maxQueue   = 1 << 18 // to be said by us
	maxPending = 1 << 17 // to be said by others
	sweepEvery = time.Second
)

// batch is how many events are on their way at once.
const batch = 512

// said is one event with its id and its body.
type said struct {
	presence.Event
	id string
	at time.Time // when this replica saw it
}

// Speaker announces. Announce and Show are for one goroutine; the rest is safe
// from any.
type Speaker struct {
	opts Options
	wake chan struct{}

	// mu guards the fields below.
	mu      sync.Mutex
	queue   []said
	pending ledger
	problem error // why the stream is not there
}

// New returns a speaker. Call Run.
func New(o Options) *Speaker {
	return &Speaker{opts: o, wake: make(chan struct{}, 1), pending: newLedger(), problem: errors.New("the stream of events is not there yet")}
}

// key is what an event is owned by.
func key(e *presence.Event) string {
	if e.Room != "" {
		return e.Room
	}
	return e.Node
}

// Announce takes events, in order.
func (s *Speaker) Announce(list []presence.Event) {
	now := time.Now()
	mine := make(map[string]bool)
	s.mu.Lock()
	for i := range list {
		k := key(&list[i])
		own, known := mine[k]
		if !known {
			own = s.opts.Rooms.Owns(k)
			mine[k] = own
		}
		one := said{list[i], list[i].ID(), now}
		if own {
			s.push(one)
		} else if s.pending.add(one, maxPending) {
			s.opts.Counts.Announcement("forgotten", 1)
		}
	}
	s.mu.Unlock()
	s.poke()
}

// push queues an event. Of a queue that is full the oldest go: NATS has been
// away for long. s.mu is held.
func (s *Speaker) push(one said) {
	if len(s.queue) >= maxQueue {
		s.queue = s.queue[batch:]
		s.opts.Counts.Announcement("dropped", batch)
	}
	s.queue = append(s.queue, one)
}

func (s *Speaker) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Show tells clients of the rooms that this replica speaks for.
func (s *Speaker) Show(list []presence.Push) {
	for i := range list {
		if s.opts.Rooms.Owns(list[i].Room) {
			s.show(&list[i])
		}
	}
}

func (s *Speaker) show(p *presence.Push) {
	subj, err := subject.Encode(bus.PresencePrefix, p.Room)
	if err != nil {
		return // no client is in such a room
	}
	body, err := proto.Marshal(&buspb.PresenceChange{Room: p.Room, Users: p.Users, Anonymous: p.Anonymous, Join: members(p.Join), Leave: members(p.Leave)})
	if err == nil {
		err = s.opts.NATS.Publish(subj, body)
	}
	if err != nil {
		s.opts.Counts.Announcement("not_shown", 1)
		return
	}
	s.opts.Counts.Announcement("shown", 1)
}

func members(list []presence.Member) (out []*buspb.Member) {
	for _, m := range list {
		out = append(out, &buspb.Member{User: m.User, Connections: m.Connections, Info: []byte(m.Info)})
	}
	return out
}

// Run makes the stream and says what there is to say until ctx ends, and then
// for a moment more what is still waiting.
func (s *Speaker) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.listen(ctx) })
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		s.flush(ctx)
		select {
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			s.flush(end)
			return
		case <-s.wake:
		case <-sweep.C:
			s.sweep()
		}
	}
}

// Ready says why events can not be stored, nil when they can.
func (s *Speaker) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

// ensure makes the stream, or brings it in line with the settings.
func (s *Speaker) ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cfg := jetstream.StreamConfig{Name: bus.StreamEvents, Description: "Nabat: who connects, and who is where", Subjects: []string{bus.EventPrefix + ">"},
		Storage: jetstream.FileStorage, MaxAge: s.opts.MaxAge, MaxBytes: s.opts.MaxBytes, Duplicates: min(Window, s.opts.MaxAge), Replicas: max(s.opts.Replicas, 1),
		Discard: jetstream.DiscardOld, AllowDirect: true}
	_, err := s.opts.JetStream.CreateOrUpdateStream(ctx, cfg)
	if err != nil {
		err = fmt.Errorf("stream %s: %w", bus.StreamEvents, err)
	}
	s.mu.Lock()
	s.problem = err
	s.mu.Unlock()
	return err
}

// sweep takes over what others should have said and have not, and forgets what
// the stream would no longer know to be the same.
func (s *Speaker) sweep() {
	s.mu.Lock()
	taken := s.pending.take(time.Now().Add(-Window*3/4), func(e *said) bool { return s.opts.Rooms.Owns(key(&e.Event)) })
	for _, one := range taken {
		s.push(one)
	}
	var oldest float64
	if len(s.queue) > 0 {
		oldest = time.Since(s.queue[0].at).Seconds()
	}
	s.opts.Counts.Waiting(len(s.queue), s.pending.size(), oldest)
	s.mu.Unlock()
	if len(taken) > 0 {
		s.opts.Counts.Announcement("taken_over", len(taken))
		s.opts.Log.Info("announcements of another replica are taken over", "events", len(taken))
		s.showTaken(taken)
		s.poke()
	}
}

// showTaken shows rooms whose last changes nobody may have shown.
func (s *Speaker) showTaken(taken []said) {
	type change struct{ came, left []string }
	rooms := make(map[string]*change)
	for i := range taken {
		e := &taken[i]
		if e.Room == "" {
			continue
		}
		if rooms[e.Room] == nil {
			rooms[e.Room] = new(change)
		}
		switch e.Kind {
		case presence.Join:
			rooms[e.Room].came = append(rooms[e.Room].came, e.User)
		case presence.Leave:
			rooms[e.Room].left = append(rooms[e.Room].left, e.User)
		}
	}
	for room, c := range rooms {
		push := s.opts.Rooms.Shown(room, c.came, c.left)
		s.show(&push)
	}
}

// Event is the body of an event in the stream.
type Event struct {
	Kind    presence.Kind `json:"kind"`
	Room    string        `json:"room,omitempty"`
	User    string        `json:"user,omitempty"`
	Session string        `json:"session,omitempty"`
	Node    string        `json:"node"`
	Epoch   string        `json:"epoch"`
	Number  uint64        `json:"number"`
	Reason  string        `json:"reason,omitempty"`
	At      int64         `json:"at"`
	Users   *uint32       `json:"users,omitempty"`
}

// message is an event as it is published.
func message(e *said) (*nats.Msg, error) {
	body := Event{Kind: e.Kind, Room: e.Room, User: e.User, Session: buspb.SessionID(e.Epoch, e.Loop, e.Connection), Node: e.Node,
		Epoch: fmt.Sprintf("%016x", e.Epoch), Number: e.Number, Reason: e.Reason, At: e.At}
	if e.Kind == presence.NodeStarted || e.Kind == presence.NodeStopped {
		body.Session = "" // it is about no connection
	}
	subj := bus.EventPrefix + string(e.Kind) + "." + bus.NodeToken(e.Node)
	if e.Room != "" {
		var err error
		if subj, err = subject.Encode(bus.EventPrefix+string(e.Kind)+".", e.Room); err != nil {
			return nil, err
		}
		body.Users = &e.Users
	}
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return &nats.Msg{Subject: subj, Data: data, Header: nats.Header{nats.MsgIdHdr: {e.id}}}, nil
}
