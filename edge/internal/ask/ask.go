// Package ask asks backends over NATS: one subscription for the replies to
// all requests, and no goroutine for each.
package ask

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Why a request has no reply.
var (
	ErrNoResponders = errors.New("nobody answers there")
	ErrTimeout      = errors.New("no reply in time")
	ErrNotSent      = errors.New("NATS is not reachable")
)

// tick is how exact a timeout is.
const tick = 20 * time.Millisecond

// Asker asks over one NATS connection, which it owns.
type Asker struct {
	// Set at creation, never changed.
	nc    *nats.Conn
	max   int
	inbox string // prefix of reply subjects
	queue chan *asked

	// mu guards the fields below.
	mu      sync.Mutex
	closed  bool
	waiting map[string]*asked // by the last token of the reply subject
	order   []*asked          // by deadline, the first to end first; also some that are over
	timeout time.Duration
}

// asked is one request. done is nil once it is over.
type asked struct {
	token   string
	message *nats.Msg
	until   time.Time
	done    func(*nats.Msg, error)
}

// New asks over nc, at most max requests at a time.
func New(nc *nats.Conn, max int, timeout time.Duration) (*Asker, error) {
	a := &Asker{nc: nc, max: max, timeout: timeout, inbox: nc.NewInbox() + ".", queue: make(chan *asked, max), waiting: make(map[string]*asked)}
	if _, err := nc.Subscribe(a.inbox+"*", a.replied); err != nil {
		return nil, fmt.Errorf("subscribe to replies: %w", err)
	}
	return a, nil
}

// MaxPayload is the largest message that NATS takes, in bytes.
func (a *Asker) MaxPayload() int64 { return a.nc.MaxPayload() }

// Ask sends m, whose reply subject it sets. done is called once, from another
// goroutine, with the reply, or with an error of this package or of NATS. Ask
// reports false, without calling done, when too many requests wait already, or
// when Run has ended. Safe from any goroutine; never blocks.
func (a *Asker) Ask(m *nats.Msg, done func(*nats.Msg, error)) bool {
	// A backend sees the reply subject of its own requests: it must not be able to
	// tell those of others from it.
	q := &asked{token: strconv.FormatUint(rand.Uint64(), 36), message: m, done: done}
	m.Reply = a.inbox + q.token
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || len(a.waiting) >= a.max || a.waiting[q.token] != nil {
		return false
	}
	select {
	case a.queue <- q:
	default:
		return false
	}
	q.until = time.Now().Add(a.timeout)
	a.waiting[q.token] = q
	a.order = append(a.order, q)
	return true
}

// Run serves until ctx ends, then closes the NATS connection.
func (a *Asker) Run(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			a.close()
			return
		case now := <-ticker.C:
			a.expire(now)
		case q := <-a.queue:
			a.send(q)
		}
	}
}

func (a *Asker) send(q *asked) {
	a.mu.Lock()
	over := q.done == nil
	a.mu.Unlock()
	if over {
		return // it has waited too long already
	}
	err := a.nc.PublishMsg(q.message)
	q.message = nil
	switch {
	case err == nil:
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed):
		a.finish(q.token, nil, ErrNotSent)
	default:
		a.finish(q.token, nil, err)
	}
}

func (a *Asker) replied(m *nats.Msg) {
	token := strings.TrimPrefix(m.Subject, a.inbox)
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		a.finish(token, nil, ErrNoResponders)
		return
	}
	a.finish(token, m, nil)
}

// finish ends a request. One that is over already is left alone: the reply came
// late, or twice.
func (a *Asker) finish(token string, m *nats.Msg, err error) {
	a.mu.Lock()
	done := a.end(a.waiting[token])
	// Those that are over leave the list when they come to its head. Where one
	// keeps many behind it, all are looked through.
	if len(a.order) > 2*len(a.waiting)+1024 {
		kept := a.order[:0]
		for _, q := range a.order {
			if q.done != nil {
				kept = append(kept, q)
			}
		}
		clear(a.order[len(kept):])
		a.order = kept
	}
	a.mu.Unlock()
	if done != nil {
		done(m, err)
	}
}

// end takes q, which may be nil, off the table. The caller has mu.
func (a *Asker) end(q *asked) (done func(*nats.Msg, error)) {
	if q == nil {
		return nil
	}
	delete(a.waiting, q.token)
	done, q.done = q.done, nil
	return done
}

// expire gives up on replies that did not come.
func (a *Asker) expire(now time.Time) {
	var late []func(*nats.Msg, error)
	a.mu.Lock()
	for len(a.order) > 0 && (a.order[0].done == nil || now.After(a.order[0].until)) {
		if a.order[0].done != nil {
			late = append(late, a.end(a.order[0]))
		}
		a.order[0] = nil
		a.order = a.order[1:]
	}
	a.mu.Unlock()
	for _, done := range late {
		done(nil, ErrTimeout)
	}
}

func (a *Asker) close() {
	a.mu.Lock()
	a.closed = true
	var left []func(*nats.Msg, error)
	for _, q := range a.waiting {
		left = append(left, a.end(q))
	}
	a.order = nil
	a.mu.Unlock()
	a.nc.Close()
	for _, done := range left {
		done(nil, nats.ErrConnectionClosed)
	}
}
