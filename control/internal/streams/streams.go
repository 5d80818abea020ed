// Package streams keeps one JetStream stream, with a mirror for reads, for each
// policy with history. Any number of control replicas do it at once.
package streams

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/control/internal/metrics"
	"nabat/internal/bus"
	"nabat/proto/policy"
)

// Policies is where the policies in force lie, and where it is marked what is
// stored.
type Policies interface {
	InForce(ctx context.Context) (*policy.Set, uint64, error)
	Mark(ctx context.Context, revision uint64, streams map[string]*policy.Stream) error
}

// Options of a keeper.
type Options struct {
	JetStream jetstream.JetStream
	Policies  Policies
	Prefix    string        // of room subjects
	Live      string        // of the subjects of stored copies
	Interval  time.Duration // between verifications
	Grace     time.Duration // for which a stream captures on when its policy is gone
	Counts    *metrics.Counts
	Log       *slog.Logger
}

// Keeper makes, verifies and mends streams.
type Keeper struct {
	opts Options

	problem atomic.Pointer[error] // why it is not ready; points to nil when it is

	// Owned by Run.
	logged string // the problem that was logged last
}

// New returns a keeper. Call Run.
func New(o Options) *Keeper {
	k := &Keeper{opts: o}
	starting := errors.New("streams: not verified yet")
	k.problem.Store(&starting)
	return k
}

// Ready says why a policy with history has no stream, nil once all have one. A
// problem that comes later shows in the log and the metrics only: a control that
// starts with one holds up a rollout, one that serves goes on with the rest of
// its work. Safe from any goroutine.
func (k *Keeper) Ready() error { return *k.problem.Load() }

// retryInterval is the first pause after a pass that left a problem; it doubles
// up to Interval.
const retryInterval = 250 * time.Millisecond

// Run verifies the streams at every change of the policies and in every
// interval, until ctx ends. The policies must have been published once.
func (k *Keeper) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wake := make(chan struct{}, 1)
	wg.Go(func() {
		bus.Watch(ctx, k.opts.JetStream, bus.BucketConfig, bus.KeyPolicies, func([]byte, uint64) {
			select {
			case wake <- struct{}{}:
			default:
			}
		})
	})
	retry := min(retryInterval, k.opts.Interval)
	for {
		pause := k.opts.Interval
		if err := k.Verify(ctx); err != nil {
			pause, retry = retry, min(2*retry, k.opts.Interval)
		} else {
			retry = min(retryInterval, k.opts.Interval)
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-time.After(pause):
		}
	}
}

// Verify makes one pass: it brings what lies in NATS in line with the policies
// in force and marks in them what is ready. Run calls it.
func (k *Keeper) Verify(ctx context.Context) error {
	err := k.verify(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		err = fmt.Errorf("streams: %w", err)
	}
	if *k.problem.Load() != nil {
		k.problem.Store(&err)
	}
	switch {
	case err == nil && k.logged != "":
		k.logged = ""
		k.opts.Log.Info("every policy with history has its stream")
	case err != nil && err.Error() != k.logged:
		k.logged = err.Error()
		k.opts.Log.Error("the streams of history are not as the policies say", "error", err)
	}
	return err
}

// errAgain asks for another pass at once.
var errAgain = errors.New("the list of streams has changed meanwhile")

// maxRounds bounds the passes of one verification: each ends early only when
// another replica changed the list, when a read was stale, or when a stream was
// found to be lost. A random pause lets one of several replicas go first.
const (
	maxRounds = 20
	maxPause  = 50 * time.Millisecond
)

func (k *Keeper) verify(ctx context.Context) error {
	kv, err := k.opts.JetStream.KeyValue(ctx, bus.BucketConfig)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", bus.BucketConfig, err)
	}
	for range maxRounds {
		err = (&pass{Keeper: k, kv: kv}).run(ctx)
		if !errors.Is(err, errAgain) && !bus.Raced(err) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(maxPause)):
		}
	}
	return err
}
