package streams

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/bus"
	"nabat/proto/policy"
	"nabat/proto/subject"
)

// ErrNoHistory says that nothing is stored of a room.
var ErrNoHistory = errors.New("the room has no history")

// Purge removes what is stored of room up to now, from the stream and from its
// mirror, which would not follow. Messages that come meanwhile stay in both. It
// returns the last offset that may be gone. That is written down first: edges
// forget what they have in memory, and tell who comes back from before it.
func (k *Keeper) Purge(ctx context.Context, room string) (upTo uint64, err error) {
	subj, err := subject.Encode(k.opts.Prefix, room)
	if err != nil {
		return 0, err
	}
	set, _, err := k.opts.Policies.InForce(ctx)
	if err != nil {
		return 0, err
	}
	p := set.For(room)
	if p == nil || p.Stream == nil {
		return 0, ErrNoHistory
	}
	s, err := k.opts.JetStream.Stream(ctx, p.Stream.Name)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", p.Stream.Name, err)
	}
	mirror, err := k.opts.JetStream.Stream(ctx, p.Stream.Mirror)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", p.Stream.Mirror, err)
	}
	// A mirror that is behind would bring back what was purged before it came.
	last := s.CachedInfo().State.LastSeq
	if err := follow(ctx, mirror, last); err != nil {
		return 0, err
	}
	if err := k.record(ctx, policy.Purge{Room: room, Stream: p.Stream.Name, UpTo: last, At: time.Now().UTC()}); err != nil {
		return 0, err
	}
	for _, s := range []jetstream.Stream{s, mirror} {
		if err := s.Purge(ctx, jetstream.WithPurgeSubject(subj), jetstream.WithPurgeSequence(last+1)); err != nil {
			return 0, fmt.Errorf("purge %s: %w", s.CachedInfo().Config.Name, err)
		}
	}
	return last, nil
}

// record puts a purge on the list that edges read, by compare-and-set.
func (k *Keeper) record(ctx context.Context, one policy.Purge) error {
	kv, err := k.opts.JetStream.KeyValue(ctx, bus.BucketConfig)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", bus.BucketConfig, err)
	}
	for {
		list, revision := new(policy.Purges), uint64(0)
		e, err := kv.Get(ctx, bus.KeyPurges)
		switch {
		case err == nil:
			revision = e.Revision()
			if list, err = policy.DecodePurges(e.Value()); err != nil {
				return err
			}
		case !errors.Is(err, jetstream.ErrKeyNotFound):
			return fmt.Errorf("read the list of purges: %w", err)
		}
		if data := list.With(one).Encode(); revision == 0 {
			_, err = kv.Create(ctx, bus.KeyPurges, data)
		} else {
			_, err = kv.Update(ctx, bus.KeyPurges, data, revision)
		}
		if err == nil {
			return nil
		}
		if !bus.Raced(err) {
			return fmt.Errorf("write the list of purges: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(maxPause)):
		}
	}
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
