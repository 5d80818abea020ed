package streams

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/proto/subject"
)

// ErrNoHistory says that nothing is stored of a room.
var ErrNoHistory = errors.New("the room has no history")

// Purge removes what is stored of room up to now, from the stream and from its
// mirror, which would not follow. Messages that come meanwhile stay in both.
func (k *Keeper) Purge(ctx context.Context, room string) error {
	subj, err := subject.Encode(k.opts.Prefix, room)
	if err != nil {
		return err
	}
	set, _, err := k.opts.Policies.InForce(ctx)
	if err != nil {
		return err
	}
	p := set.For(room)
	if p == nil || p.Stream == nil {
		return ErrNoHistory
	}
	s, err := k.opts.JetStream.Stream(ctx, p.Stream.Name)
	if err != nil {
		return fmt.Errorf("stream %s: %w", p.Stream.Name, err)
	}
	mirror, err := k.opts.JetStream.Stream(ctx, p.Stream.Mirror)
	if err != nil {
		return fmt.Errorf("stream %s: %w", p.Stream.Mirror, err)
	}
	// A mirror that is behind would bring back what was purged before it came.
	last := s.CachedInfo().State.LastSeq
	if err := follow(ctx, mirror, last); err != nil {
		return err
	}
	for _, s := range []jetstream.Stream{s, mirror} {
		if err := s.Purge(ctx, jetstream.WithPurgeSubject(subj), jetstream.WithPurgeSequence(last+1)); err != nil {
			return fmt.Errorf("purge %s: %w", s.CachedInfo().Config.Name, err)
		}
	}
	return nil
}

// follow waits until a mirror holds all up to an offset, or until it has heard
// for a while that its origin has no more: what came last may have been removed
// before the mirror was made.
func follow(ctx context.Context, mirror jetstream.Stream, last uint64) error {
	const patience, pause = 10 * time.Second, 20 * time.Millisecond
	const heard = 3 * time.Second // a mirror hears from its origin every second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for calm := time.Now(); ; {
		info, err := mirror.Info(ctx)
		if err != nil {
			return fmt.Errorf("mirror: %w", err)
		}
		m := info.Mirror
		if m == nil || m.Error != nil || m.Lag > 0 || m.Active < 0 || m.Active >= heard {
			calm = time.Now()
		}
		if info.State.LastSeq >= last || time.Since(calm) >= heard {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the mirror %s is at %d of %d: nothing was purged", info.Config.Name, info.State.LastSeq, last)
		case <-time.After(pause):
		}
	}
}
