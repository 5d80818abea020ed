// Package remote lets the workers of a swarm run on other machines. What parent
// and worker say to each other, lines of JSON over pipes, goes over NATS in
// between: an agent on each machine starts workers, and a relay stands in for
// each of them where the parent is.
package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
)

// Subjects. All agents answer a call; a start is for one.
const (
	call  = "loadtest.agents"
	start = "loadtest.agent." // before the agent's id
)

const (
	chunk = 256 << 10 // bytes of a pipe in one message
	// alive is how often both ends say that they are there, in messages without a
	// body; silence is when they are given up.
	alive   = time.Second
	silence = 15 * time.Second
	// headerEnd marks the end of a pipe; its value is why, empty for no reason.
	headerEnd = "Loadtest-End"
)

// Agent is one that answered.
type Agent struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Off  int64  `json:"-"` // what its clock shows more than this one, nanoseconds
	Err  int64  `json:"-"` // by how much Off may be wrong: half of the round trip
	Now  int64  `json:"now"`
}

// order starts a worker.
type order struct {
	In     string `json:"in"`     // the worker's standard input comes here
	Out    string `json:"out"`    // what it says goes there
	Adjust int64  `json:"adjust"` // nanoseconds to add to its clock
}

// Find asks who is there, waits for as long as patience, and measures how far
// the clocks of those that answered are from now, a clock of this machine in
// nanoseconds. The least round trip of several counts.
func Find(ctx context.Context, nc *nats.Conn, patience time.Duration, now func() int64) ([]*Agent, error) {
	inbox, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return nil, fmt.Errorf("agents: %w", err)
	}
	defer func() { _ = inbox.Unsubscribe() }()
	if err := nc.PublishRequest(call, inbox.Subject, nil); err != nil {
		return nil, fmt.Errorf("agents: %w", err)
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var list []*Agent
	for {
		m, err := inbox.NextMsgWithContext(limited)
		switch {
		case errors.Is(err, nats.ErrNoResponders), errors.Is(err, context.DeadlineExceeded) && len(list) == 0 && ctx.Err() == nil:
			return nil, errors.New("no agent answers: start loadtest agent on the machines of the clients, with the same NATS server")
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			for _, a := range list {
				if err := a.measure(ctx, nc, now); err != nil {
					return nil, err
				}
			}
			return list, nil
		case err != nil:
			return nil, fmt.Errorf("agents: %w", err)
		}
		a := new(Agent)
		if err := json.Unmarshal(m.Data, a); err != nil {
			return nil, fmt.Errorf("an agent answers %.100q: %w", m.Data, err)
		}
		list = append(list, a)
	}
}

// rounds is how often a clock is asked.
const rounds = 50

func (a *Agent) measure(ctx context.Context, nc *nats.Conn, now func() int64) error {
	a.Err = -1
	for range rounds {
		ctx, cancel := context.WithTimeout(ctx, silence)
		before := now()
		m, err := nc.RequestWithContext(ctx, start+a.ID+".clock", nil)
		after := now()
		cancel()
		if err != nil {
			return fmt.Errorf("the clock of agent %s: %w", a.Name, err)
		}
		var at Agent
		if err := json.Unmarshal(m.Data, &at); err != nil {
			return fmt.Errorf("agent %s answers %.100q: %w", a.Name, m.Data, err)
		}
		if e := (after - before) / 2; a.Err < 0 || e < a.Err {
			a.Err, a.Off = e, at.Now-(before+after)/2
		}
	}
	return nil
}

// send writes the bytes of r to a subject in chunks, and then its end.
func send(nc *nats.Conn, to string, r io.Reader) error {
	buf := make([]byte, chunk)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := nc.Publish(to, buf[:n]); err != nil {
				return fmt.Errorf("relay: %w", err)
			}
		}
		if err != nil {
			return nc.PublishMsg(&nats.Msg{Subject: to, Header: nats.Header{headerEnd: {""}}})
		}
	}
}

// receive writes what comes to w until its end, which may have a reason, or until
// nobody says anything any more.
func receive(ctx context.Context, sub *nats.Subscription, w io.Writer) error {
	for {
		limited, cancel := context.WithTimeout(ctx, silence)
		m, err := sub.NextMsgWithContext(limited)
		cancel()
		switch {
		case err != nil && ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("the other end has said nothing for %s", silence)
		case err != nil:
			return fmt.Errorf("relay: %w", err)
		}
		if len(m.Data) > 0 {
			if _, err := w.Write(m.Data); err != nil {
				return fmt.Errorf("relay: %w", err)
			}
		}
		if end, ok := m.Header[headerEnd]; ok {
			if end[0] != "" {
				return errors.New(end[0])
			}
			return nil
		}
	}
}

// beat says that this end is there until ctx ends.
func beat(ctx context.Context, nc *nats.Conn, to string) {
	tick := time.NewTicker(alive)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = nc.Publish(to, nil) // the other end notices the silence
		}
	}
}

// subscribe takes everything: a worker may be told more than NATS holds by itself.
func subscribe(nc *nats.Conn, subject string) (*nats.Subscription, error) {
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	return sub, nil
}

// Relay starts a worker at an agent and stands in for it: in is its standard
// input, out its output. It returns when the worker has ended. adjust is added to
// the worker's clock.
func Relay(ctx context.Context, nc *nats.Conn, agent string, adjust int64, in io.Reader, out io.Writer) error {
	o := order{In: nc.NewInbox(), Out: nc.NewInbox(), Adjust: adjust}
	sub, err := subscribe(nc, o.Out)
	if err != nil {
		return err
	}
	body, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	limited, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	m, err := nc.RequestWithContext(limited, start+agent, body)
	if err != nil {
		return fmt.Errorf("agent %s: %w", agent, err)
	}
	if len(m.Data) > 0 {
		return fmt.Errorf("agent %s: %s", agent, m.Data)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go beat(ctx, nc, o.In)
	go func() { _ = send(nc, o.In, in) }() // its failure shows in the silence; in ends with the parent
	return receive(ctx, sub, out)
}
