package tokens

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/auth"
	"nabat/internal/bus"
)

// tendInterval is how often a replica looks whether a key is due. Variable for
// tests.
var tendInterval = 10 * time.Second

// Rotation is how new keys come into use.
type Rotation struct {
	// AtOnce lets them sign without waiting until every edge has them.
	AtOnce bool
	// Drop removes all others at once, because they are known to somebody who
	// should not: their tokens are good no longer. It implies AtOnce.
	Drop bool
}

// change makes another ring out of one, nil for no change.
type change func(ring) (ring, error)

// Prepare loads the signing keys, making them if this is the first start of the
// cluster, and publishes what verifies them. Replicas that start together agree:
// the first to create the key wins.
func (i *Issuer) Prepare(ctx context.Context, config, secrets jetstream.KeyValue) error {
	i.mu.Lock()
	i.config, i.secrets = config, secrets
	i.mu.Unlock()
	now := time.Now()
	if _, err := secrets.Get(ctx, bus.KeySigning); errors.Is(err, jetstream.ErrKeyNotFound) {
		var first ring
		for _, algorithm := range algorithms {
			k, err := generate(algorithm, now, now, i.opts.MaxTTL)
			if err != nil {
				return fmt.Errorf("signing keys: %w", err)
			}
			first = append(first, k)
		}
		if _, err := secrets.Create(ctx, bus.KeySigning, auth.EncodeSigning(first...)); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
			return fmt.Errorf("signing keys: %w", err)
		}
	}
	return i.tend(ctx, now)
}

// Run rotates and removes keys when they are due, and follows what other
// replicas do, until ctx ends. Call it after Prepare.
func (i *Issuer) Run(ctx context.Context, js jetstream.JetStream) {
	kick := make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		bus.Watch(ctx, js, bus.BucketKeys, bus.KeySigning, func([]byte, uint64) {
			select {
			case kick <- struct{}{}:
			default:
			}
		})
	})
	tick := time.NewTicker(tendInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-kick:
		}
		if err := i.tend(ctx, time.Now()); err != nil && ctx.Err() == nil {
			i.opts.Log.Warn("keys can not be looked after now", "error", err)
		}
	}
}

// tend does what is due.
func (i *Issuer) tend(ctx context.Context, now time.Time) error {
	return i.update(ctx, now, func(r ring) (ring, error) {
		r, changed := r.tidied(now, i.opts.MaxTTL)
		due := r.aged(now, i.opts.KeyAge)
		for _, algorithm := range due {
			k, err := generate(algorithm, now, now.Add(i.opts.KeyLead), i.opts.MaxTTL)
			if err != nil {
				return nil, err
			}
			r = append(r, k)
		}
		if !changed && len(due) == 0 {
			return nil, nil
		}
		return r, nil
	})
}

// Rotate makes new keys. They are published now and sign from KeyLead on; those
// before them verify until the longest of their tokens has ended.
func (i *Issuer) Rotate(ctx context.Context, o Rotation, now time.Time) ([]Fact, error) {
	err := i.update(ctx, now, func(r ring) (ring, error) {
		from := now.Add(i.opts.KeyLead)
		if o.AtOnce || o.Drop {
			from = now
		}
		if o.Drop {
			r = nil
		}
		var next ring
		for _, algorithm := range algorithms {
			keys := r.of(algorithm)
			if len(keys) > 0 && keys[len(keys)-1].SignsFrom > now.Unix() {
				if !o.AtOnce {
					return nil, &Error{fmt.Sprintf("key %s waits already and signs from %s: rotate at_once to use it now",
						keys[len(keys)-1].ID, time.Unix(keys[len(keys)-1].SignsFrom, 0).UTC().Format(time.RFC3339))}
				}
				hurried := *keys[len(keys)-1]
				hurried.SignsFrom = now.Unix()
				keys[len(keys)-1] = &hurried
			} else {
				k, err := generate(algorithm, now, from, i.opts.MaxTTL)
				if err != nil {
					return nil, err
				}
				keys = append(keys, k)
			}
			next = append(next, keys...)
		}
		return next, nil
	})
	if err != nil {
		return nil, err
	}
	return i.Keys(now)
}

// Keys lists the keys.
func (i *Issuer) Keys(now time.Time) ([]Fact, error) {
	keys := i.keys.Load()
	if keys == nil {
		return nil, ErrNotReady
	}
	return keys.facts(now), nil
}

// update changes the ring and publishes what follows from it, again while other
// replicas are faster.
func (i *Issuer) update(ctx context.Context, now time.Time, fn change) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.secrets == nil {
		return ErrNotReady
	}
	for {
		changed, err := i.compareAndSet(ctx, now, fn)
		if changed {
			fn = func(ring) (ring, error) { return nil, nil } // once is enough
		}
		if !bus.Raced(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(20 * time.Millisecond)):
		}
	}
}

// compareAndSet fails with what bus.Raced knows when another replica was faster.
// The documents that edges read are looked at before the ring that they follow
// from: whoever writes them by an older ring then finds them changed.
func (i *Issuer) compareAndSet(ctx context.Context, now time.Time, fn change) (changed bool, err error) {
	public, err := read(ctx, i.config, bus.KeyJWKS)
	if err != nil {
		return false, fmt.Errorf("public keys: %w", err)
	}
	symmetric, err := read(ctx, i.secrets, bus.KeySymmetric)
	if err != nil {
		return false, fmt.Errorf("symmetric keys: %w", err)
	}
	signing, err := i.secrets.Get(ctx, bus.KeySigning)
	if err != nil {
		return false, fmt.Errorf("signing keys: %w", err)
	}
	list, err := auth.ParseSigning(signing.Value())
	if err != nil {
		return false, fmt.Errorf("signing keys: %w", err)
	}
	keys := ring(list)
	next, err := fn(keys)
	if err != nil {
		return false, err
	}
	if next != nil {
		if _, err := i.secrets.Update(ctx, bus.KeySigning, auth.EncodeSigning(next...), signing.Revision()); err != nil {
			return false, fmt.Errorf("signing keys: %w", err)
		}
		changed, keys = true, next
		i.opts.Log.Info("the keys have changed", "keys", keys.facts(now))
	}
	if err := symmetric.publish(ctx, auth.EncodeSymmetric(keys...)); err != nil {
		return changed, fmt.Errorf("publish symmetric keys: %w", err)
	}
	if err := public.publish(ctx, auth.EncodeJWKS(keys...)); err != nil {
		return changed, fmt.Errorf("publish public keys: %w", err)
	}
	i.keys.Store(&keys)
	return changed, nil
}

// document is a key of a bucket as it was.
type document struct {
	kv       jetstream.KeyValue
	key      string
	value    []byte
	revision uint64 // 0: it is not there
}

func read(ctx context.Context, kv jetstream.KeyValue, key string) (*document, error) {
	e, err := kv.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return &document{kv: kv, key: key}, nil
	case err != nil:
		return nil, err
	}
	return &document{kv, key, e.Value(), e.Revision()}, nil
}

func (d *document) publish(ctx context.Context, value []byte) (err error) {
	switch {
	case d.revision == 0:
		_, err = d.kv.Create(ctx, d.key, value)
	case !bytes.Equal(value, d.value):
		_, err = d.kv.Update(ctx, d.key, value, d.revision)
	}
	return err
}
