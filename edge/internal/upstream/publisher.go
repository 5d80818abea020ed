package upstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
)

// Publication is what a client publishes: a complete NATS message, and whom to
// tell. Done is called once from another goroutine: with nil once NATS has the
// message, with ErrUnavailable when it was not sent, with another error when
// nobody knows.
type Publication struct {
	Message *nats.Msg
	Done    func(error)
}

// publisher sends what clients publish, many with one round trip.
type publisher struct {
	nc    *nats.Conn
	opts  Options
	queue chan Publication
}

func newPublisher(nc *nats.Conn, opts Options) *publisher {
	return &publisher{nc: nc, opts: opts, queue: make(chan Publication, opts.PublishWait)}
}

// Publish hands p over. It reports false, without calling Done, when too many
// wait already, or when Run has ended. Safe from any goroutine; never blocks.
func (u *Upstream) Publish(p Publication) bool {
	u.mu.RLock() // so that nothing gets into the queue once Run has emptied it
	defer u.mu.RUnlock()
	if u.closed {
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
	for {
		select {
		case <-ctx.Done():
			return
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
		if err := p.nc.PublishMsg(one.Message); err != nil {
			if errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrConnectionClosed) {
				err = fmt.Errorf("%w: the message was not sent", ErrUnavailable)
			}
			one.Done(err)
			continue
		}
		sent = append(sent, one)
	}
	if len(sent) == 0 {
		return
	}
	err := flush(ctx, p.nc, p.opts.Confirm)
	for _, one := range sent {
		one.Done(err)
	}
}

// refuseAll answers what was never sent.
func (p *publisher) refuseAll() {
	for {
		select {
		case one := <-p.queue:
			one.Done(ErrUnavailable)
		default:
			return
		}
	}
}
