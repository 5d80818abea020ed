package events

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ackWait bounds the wait for the acknowledgements of a batch.
const ackWait = 5 * time.Second

// flush publishes what waits, batch by batch and in order, until nothing waits
// or ctx ends. What was not acknowledged is published again: the stream keeps
// each id once.
func (s *Speaker) flush(ctx context.Context) {
	pause := 100 * time.Millisecond
	for ctx.Err() == nil {
		s.mu.Lock()
		missing := s.problem != nil
		list := s.queue[:min(batch, len(s.queue))]
		s.mu.Unlock()
		if missing && s.ensure(ctx) == nil {
			missing = false
		}
		if !missing && len(list) == 0 {
			return
		}
		done := 0
		if !missing {
			done = s.publish(ctx, list)
		}
		if done > 0 {
			s.shift(list[done-1].id, done)
		}
		if done == len(list) && !missing {
			pause = 100 * time.Millisecond
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, 2*time.Second)
	}
}

// shift removes what was published from the queue, unless the queue was cut
// meanwhile because it was full.
func (s *Speaker) shift(last string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range min(n, len(s.queue)) {
		if s.queue[i].id == last {
			s.queue = s.queue[i+1:]
			break
		}
	}
	if len(s.queue) == 0 {
		s.queue = nil // let go of the array
	}
}

// publish sends a batch and returns how many of its first events are stored.
func (s *Speaker) publish(ctx context.Context, list []said) int {
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	acks := make([]jetstream.PubAckFuture, len(list))
	for i := range list {
		m, err := message(&list[i])
		if err != nil {
			s.opts.Log.Error("an event can not be written", "event", list[i].String(), "error", err)
			continue
		}
		if acks[i], err = s.opts.JetStream.PublishMsgAsync(m); err != nil {
			list = list[:i]
			break
		}
	}
	for i := range list {
		if acks[i] == nil {
			continue
		}
		select {
		case ack := <-acks[i].Ok():
			if ack.Duplicate {
				s.opts.Counts.Announcement("duplicate", 1)
			} else {
				s.opts.Counts.Announcement(string(list[i].Kind), 1)
			}
		case err := <-acks[i].Err():
			s.failed(err)
			return i
		case <-ctx.Done():
			return i
		}
	}
	return len(list)
}

// failed looks at why an event was not stored: the stream may be gone.
func (s *Speaker) failed(err error) {
	s.opts.Counts.Announcement("failed", 1)
	if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) {
		s.mu.Lock()
		s.problem = err // it is made again
		s.mu.Unlock()
	}
}
