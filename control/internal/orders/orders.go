// Package orders sends orders to edges and gathers what they answer.
package orders

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/internal/bus"
	"nabat/proto/order"
)

// Nodes tells which nodes are alive; known is false while that is not known.
type Nodes interface {
	Alive(ctx context.Context) (names []string, known bool)
}

// Options of a Sender.
type Options struct {
	NATS  *nats.Conn
	Nodes Nodes         // nil: nobody knows
	Limit time.Duration // longest wait for the slowest node; default 3 s
	Quiet time.Duration // where nobody knows the nodes: wait behind the last answer; default 500 ms
}

// Sender sends orders. Safe from any goroutine.
type Sender struct{ opts Options }

// New returns a sender.
func New(o Options) *Sender {
	if o.Limit <= 0 {
		o.Limit = 3 * time.Second
	}
	if o.Quiet <= 0 {
		o.Quiet = 500 * time.Millisecond
	}
	return &Sender{o}
}

// Result is what the nodes answered, by name.
type Result struct {
	Answers []order.Answer
	Missing []string // nodes that are alive and did not answer
}

// Affected is the number of connections that obeyed.
func (r *Result) Affected() (n int) {
	for i := range r.Answers {
		n += r.Answers[i].Affected
	}
	return n
}

// ErrNoNode says that no such node answers.
var ErrNoNode = errors.New("no such node answers")

// Node gives one node an order.
func (s *Sender) Node(ctx context.Context, node, verb string, request any) (order.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Limit)
	defer cancel()
	body, err := json.Marshal(request)
	if err != nil {
		return order.Answer{}, err
	}
	m, err := s.opts.NATS.RequestWithContext(ctx, bus.OrderPrefix+"node."+bus.NodeToken(node)+"."+verb, body)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return order.Answer{}, fmt.Errorf("%w: %s", ErrNoNode, node)
	case err != nil:
		return order.Answer{}, fmt.Errorf("order %s to %s: %w", verb, node, err)
	}
	return read(m.Data)
}

// All gives every node an order. It returns once all nodes that are alive have
// answered, or the limit is over. That no node is there is no error.
func (s *Sender) All(ctx context.Context, verb string, request any) (*Result, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Limit)
	defer cancel()
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	answers := make(chan *nats.Msg, 1024)
	inbox := s.opts.NATS.NewInbox()
	sub, err := s.opts.NATS.ChanSubscribe(inbox, answers)
	if err != nil {
		return nil, fmt.Errorf("order %s: %w", verb, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // an error means that NATS is gone
	if err := s.opts.NATS.PublishRequest(bus.OrderPrefix+"all."+verb, inbox, body); err != nil {
		return nil, fmt.Errorf("order %s: %w", verb, err)
	}
	r := new(Result)
	var alive []string
	known := false
	if s.opts.Nodes != nil {
		alive, known = s.opts.Nodes.Alive(ctx)
	}
	s.gather(ctx, r, answers, alive, known)
	if !s.opts.NATS.IsConnected() {
		return nil, fmt.Errorf("order %s: %w", verb, nats.ErrConnectionClosed)
	}
	slices.SortFunc(r.Answers, func(a, b order.Answer) int { return compare(a.Node, b.Node) })
	return r, nil
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// gather takes answers until nobody is missing.
func (s *Sender) gather(ctx context.Context, r *Result, answers <-chan *nats.Msg, alive []string, known bool) {
	missing := make(map[string]bool, len(alive))
	for _, node := range alive {
		missing[node] = true
	}
	quiet := time.NewTimer(s.opts.Quiet)
	defer quiet.Stop()
	silent := (<-chan time.Time)(nil)
	if !known {
		silent = quiet.C
	}
	for !known || len(missing) > 0 {
		select {
		case <-ctx.Done():
			for node := range missing {
				r.Missing = append(r.Missing, node)
			}
			slices.Sort(r.Missing)
			return
		case <-silent:
			return
		case m := <-answers:
			if m.Header.Get("Status") == "503" { // nobody listens
				known = true
				for node := range missing {
					r.Missing = append(r.Missing, node)
				}
				slices.Sort(r.Missing)
				return
			}
			a, err := read(m.Data)
			if err != nil || a.Node == "" {
				continue
			}
			r.Answers = append(r.Answers, a)
			delete(missing, a.Node)
			quiet.Reset(s.opts.Quiet)
		}
	}
	// A node that has just come has no lease yet, but it may have answered.
	for {
		select {
		case m := <-answers:
			if a, err := read(m.Data); err == nil && a.Node != "" {
				r.Answers = append(r.Answers, a)
			}
		default:
			return
		}
	}
}

func read(data []byte) (a order.Answer, err error) {
	if err := json.Unmarshal(data, &a); err != nil {
		return a, fmt.Errorf("an edge answered what this program does not understand: %w", err)
	}
	return a, nil
}
