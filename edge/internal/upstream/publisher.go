package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Publication is what a client publishes: a complete NATS message, and whom to
// tell. Done is called from another goroutine, with a nil error once NATS has it
// and, where Stream names a stream, once it is stored there, at offset.
type Publication struct {
	Message *nats.Msg
	Stream  string
	Done    func(offset uint64, err error)
}

// publisher sends what clients publish, many with one round trip.
type publisher struct {
	// Set at creation, never changed.
	nc    *nats.Conn
	opts  Options
	queue chan Publication
	inbox string // prefix of acknowledgement subjects

	// mu guards the fields below.
	mu      sync.Mutex
	next    uint64
	closed  bool
	waiting map[string]storing // by acknowledgement subject
}

// storing is a message that the stream has not acknowledged yet.
type storing struct {
	done  func(uint64, error)
	until time.Time
}

func newPublisher(nc *nats.Conn, opts Options) (*publisher, error) {
	p := &publisher{nc: nc, opts: opts, queue: make(chan Publication, opts.PublishWait), inbox: nc.NewInbox() + ".",
		waiting: make(map[string]storing)}
	if _, err := nc.Subscribe(p.inbox+"*", p.acknowledged); err != nil {
		return nil, fmt.Errorf("subscribe to acknowledgements: %w", err)
	}
	return p, nil
}

// Publish hands p over. It reports false, without calling Done, when too many
// wait already, or when Run has ended. Safe from any goroutine; never blocks.
func (u *Upstream) Publish(p Publication) bool {
	u.publish.mu.Lock() // so that nothing gets into the queue once it was emptied
	defer u.publish.mu.Unlock()
	if u.publish.closed {
		return false
	}
	select {
	case u.publish.queue <- p:
		return true
	default:
		return false
	}
}

// MaxPayload is the largest message that NATS takes, in bytes.
func (u *Upstream) MaxPayload() int64 { return u.publish.nc.MaxPayload() }

func (p *publisher) run(ctx context.Context) {
	batch := make([]Publication, 0, batchMessages)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			p.expire(now)
			continue
		case one := <-p.queue:
			batch = append(batch[:0], one)
		}
	more:
		for len(batch) < batchMessages {
			select {
			case one := <-p.queue:
				batch = append(batch, one)
			default:
				break more
			}
		}
		p.send(ctx, batch)
		clear(batch)
	}
}

// send publishes a batch. An error of one message is its own; an error of the
// flush is everyone's, for nobody knows what arrived.
func (p *publisher) send(ctx context.Context, batch []Publication) {
	sent := batch[:0]
	for _, one := range batch {
		if one.Stream != "" {
			p.store(one)
			continue
		}
		if err := p.nc.PublishMsg(one.Message); err != nil {
			one.Done(0, notSent(err))
			continue
		}
		sent = append(sent, one)
	}
	if len(sent) == 0 {
		return
	}
	err := flush(ctx, p.nc, p.opts.Confirm)
	for _, one := range sent {
		one.Done(0, err)
	}
}

// store publishes a message that a stream has to acknowledge.
func (p *publisher) store(one Publication) {
	p.mu.Lock()
	p.next++
	reply := p.inbox + strconv.FormatUint(p.next, 36)
	p.waiting[reply] = storing{one.Done, time.Now().Add(p.opts.Confirm)}
	p.mu.Unlock()
	one.Message.Reply = reply
	one.Message.Header.Set(nats.ExpectedStreamHdr, one.Stream)
	if err := p.nc.PublishMsg(one.Message); err != nil {
		p.finish(reply, 0, notSent(err))
	}
}

// notSent names errors after which a message is known not to be on its way.
func notSent(err error) error {
	if errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("%w: the message was not sent", ErrUnavailable)
	}
	return err
}

// close answers what was never sent, and what was not acknowledged yet.
func (p *publisher) close() {
	p.mu.Lock()
	p.closed = true
	waiting := p.waiting
	p.waiting = nil
	p.mu.Unlock()
	for _, s := range waiting {
		s.done(0, nats.ErrConnectionClosed)
	}
	for {
		select {
		case one := <-p.queue:
			one.Done(0, ErrUnavailable)
		default:
			return
		}
	}
}

func (p *publisher) finish(reply string, offset uint64, err error) {
	p.mu.Lock()
	s, ok := p.waiting[reply]
	delete(p.waiting, reply)
	p.mu.Unlock()
	if ok {
		s.done(offset, err)
	}
}

var errNotStored = errors.New("the stream did not store the message")

// acknowledged takes a stream's answer: the offset, which is that of the first
// copy when the message was a duplicate.
func (p *publisher) acknowledged(m *nats.Msg) {
	var ack struct {
		Sequence uint64 `json:"seq"`
		Error    *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	switch err := json.Unmarshal(m.Data, &ack); {
	case strings.HasPrefix(m.Header.Get("Status"), "503"):
		p.finish(m.Subject, 0, nats.ErrNoResponders)
	case err != nil:
		p.finish(m.Subject, 0, fmt.Errorf("%w: %w", errNotStored, err))
	case ack.Error != nil:
		p.finish(m.Subject, 0, fmt.Errorf("%w: %s", errNotStored, ack.Error.Description))
	default:
		p.finish(m.Subject, ack.Sequence, nil)
	}
}

// expire gives up on acknowledgements that did not come.
func (p *publisher) expire(now time.Time) {
	var late []storing
	p.mu.Lock()
	for reply, s := range p.waiting {
		if now.After(s.until) {
			late = append(late, s)
			delete(p.waiting, reply)
		}
	}
	p.mu.Unlock()
	for _, s := range late {
		s.done(0, nats.ErrTimeout)
	}
}
