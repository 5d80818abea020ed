// Package policies publishes the policy file to the edges.
package policies

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/bus"
	"nabat/proto/policy"
)

// pollInterval is how often the policy file is looked at. A mounted file is
// often replaced behind a symbolic link, which file notification misses.
// Variable for tests.
var pollInterval = 2 * time.Second

// maxPause bounds the random pause that lets one of several replicas go first.
const maxPause = 50 * time.Millisecond

// Publisher puts policies into NATS. Safe from any goroutine.
type Publisher struct {
	log *slog.Logger

	set atomic.Pointer[policy.Set] // as last seen in NATS: also says where messages are stored

	// mu guards the fields below, and all changes of set.
	mu   sync.Mutex
	file *policy.Set // as the operator wrote it
	kv   jetstream.KeyValue
}

// New returns a publisher of set.
func New(set *policy.Set, log *slog.Logger) *Publisher {
	p := &Publisher{file: set, log: log}
	p.set.Store(set)
	return p
}

// fileError is a policy file that cannot be used as it is.
type fileError struct{ err error }

func (e *fileError) Error() string { return "policies: " + e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }

// ReadFile reads a policy file. Errors begin with file:line:.
func ReadFile(file string) (*policy.Set, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, &fileError{err}
	}
	set, err := policy.ParseYAML(file, data)
	if err != nil {
		return nil, &fileError{err}
	}
	return set, nil
}

// Set is the set in force. It never waits.
func (p *Publisher) Set() *policy.Set { return p.set.Load() }

// Publish puts the set into kv with the next version, unless the same policies
// are there already. Compare-and-set keeps replicas from overwriting a newer set
// with an older one. A policy that had a stream keeps it.
func (p *Publisher) Publish(ctx context.Context, kv jetstream.KeyValue) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kv = kv
	return p.publish(ctx)
}

func (p *Publisher) publish(ctx context.Context) error {
	return p.update(ctx, func(old *policy.Set, _ uint64) []policy.Policy {
		streams := make(map[string]*policy.Stream)
		for i := range old.Rooms {
			streams[old.Rooms[i].Match] = old.Rooms[i].Stream
		}
		return withStreams(p.file.Rooms, streams)
	})
}

// withStreams returns rooms with the streams of those that keep history.
func withStreams(rooms []policy.Policy, streams map[string]*policy.Stream) []policy.Policy {
	rooms = slices.Clone(rooms)
	for i := range rooms {
		if rooms[i].Stream = nil; rooms[i].History != nil {
			rooms[i].Stream = streams[rooms[i].Match]
		}
	}
	return rooms
}

// InForce reads the set that lies in NATS, whichever replica put it there, and
// its revision. It must be called after Publish.
func (p *Publisher) InForce(ctx context.Context) (*policy.Set, uint64, error) {
	p.mu.Lock()
	kv := p.kv
	p.mu.Unlock()
	e, err := kv.Get(ctx, bus.KeyPolicies)
	if err != nil {
		return nil, 0, fmt.Errorf("read policies: %w", err)
	}
	set, err := policy.Decode(e.Value())
	if err != nil {
		return nil, 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if set.Version > p.set.Load().Version {
		p.set.Store(set)
	}
	return set, e.Revision(), nil
}

// Mark says in the set in force where messages are stored, by pattern; a
// pattern that is missing has no stream. It does nothing when the set is no
// longer the one of that revision: who asks has judged by older policies.
func (p *Publisher) Mark(ctx context.Context, revision uint64, streams map[string]*policy.Stream) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.update(ctx, func(old *policy.Set, at uint64) []policy.Policy {
		if at != revision {
			return nil
		}
		return withStreams(old.Rooms, streams)
	})
}

// update puts what change makes of the set in force, with the next version;
// nil leaves it as it is. It tries again while other replicas are faster.
func (p *Publisher) update(ctx context.Context, change func(old *policy.Set, revision uint64) []policy.Policy) error {
	for {
		err := p.compareAndSet(ctx, change)
		if !bus.Raced(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(maxPause)):
		}
	}
}

// compareAndSet fails with what bus.Raced knows when another replica was faster.
func (p *Publisher) compareAndSet(ctx context.Context, change func(old *policy.Set, revision uint64) []policy.Policy) error {
	old, revision := &policy.Set{}, uint64(0) // when there is none, or none that can be read
	e, err := p.kv.Get(ctx, bus.KeyPolicies)
	if err == nil {
		revision = e.Revision()
		if set, decodeErr := policy.Decode(e.Value()); decodeErr == nil {
			old = set
		}
	}
	next := &policy.Set{Version: old.Version, Rooms: change(old, revision)}
	if next.Rooms == nil {
		return nil
	}
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		next.Version = 1
		_, err = p.kv.Create(ctx, bus.KeyPolicies, next.Encode())
	case err == nil && old.Version > 0 && bytes.Equal(next.Encode(), old.Encode()):
		p.set.Store(next)
		return nil
	case err == nil:
		next.Version = old.Version + 1
		_, err = p.kv.Update(ctx, bus.KeyPolicies, next.Encode(), revision)
	}
	if err != nil {
		return fmt.Errorf("publish policies: %w", err)
	}
	p.set.Store(next)
	p.log.Info("policies published", "version", next.Version, "policies", len(next.Rooms))
	return nil
}

// Follow publishes the file again whenever it changes or SIGHUP arrives, until
// ctx ends. A file that cannot be used changes nothing but the log; one that
// NATS did not take is tried again.
func (p *Publisher) Follow(ctx context.Context, file string) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	// The first look publishes: the file may have changed since it was read for
	// the set that is in force.
	again := true
	var last []byte
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			again = true
		case <-tick.C:
		}
		data, _ := os.ReadFile(file) // Reload tells of an error
		if !again && bytes.Equal(data, last) {
			continue
		}
		last = data
		err := p.Reload(ctx, file)
		var unusable *fileError
		again = err != nil && !errors.As(err, &unusable)
		if err != nil && ctx.Err() == nil {
			p.log.Error("the policies stay as they were", "error", err)
		}
	}
}

// Reload reads the file and publishes it.
func (p *Publisher) Reload(ctx context.Context, file string) error {
	set, err := ReadFile(file)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.file
	p.file = set
	if err := p.publish(ctx); err != nil {
		p.file = old
		return err
	}
	return nil
}
