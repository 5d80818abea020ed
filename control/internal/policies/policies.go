// Package policies publishes the policy file to the edges.
package policies

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
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

// Publisher puts policies into NATS. Safe from any goroutine.
type Publisher struct {
	log *slog.Logger

	// mu guards the fields below.
	mu  sync.Mutex
	set *policy.Set
	kv  jetstream.KeyValue
}

// New returns a publisher of set.
func New(set *policy.Set, log *slog.Logger) *Publisher { return &Publisher{set: set, log: log} }

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

// Set is the set in force.
func (p *Publisher) Set() *policy.Set {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.set
}

// Publish puts the set into kv with the next version, unless the same policies
// are there already. Compare-and-set keeps replicas from overwriting a newer set
// with an older one.
func (p *Publisher) Publish(ctx context.Context, kv jetstream.KeyValue) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kv = kv
	return p.publish(ctx)
}

func (p *Publisher) publish(ctx context.Context) error {
	for {
		err := p.compareAndSet(ctx)
		if !errors.Is(err, jetstream.ErrKeyExists) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// compareAndSet returns ErrKeyExists when another replica was faster.
func (p *Publisher) compareAndSet(ctx context.Context) error {
	next := &policy.Set{Version: 1, Rooms: p.set.Rooms}
	e, err := p.kv.Get(ctx, bus.KeyPolicies)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		_, err = p.kv.Create(ctx, bus.KeyPolicies, next.Encode())
	} else if err == nil {
		if old, oldErr := policy.Decode(e.Value()); oldErr == nil {
			next.Version = old.Version
			if bytes.Equal(next.Encode(), old.Encode()) {
				p.set = next
				return nil
			}
			next.Version = old.Version + 1
		}
		_, err = p.kv.Update(ctx, bus.KeyPolicies, next.Encode(), e.Revision())
	}
	if err != nil {
		return fmt.Errorf("publish policies: %w", err)
	}
	p.set = next
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
	old := p.set
	p.set = set
	if err := p.publish(ctx); err != nil {
		p.set = old
		return err
	}
	return nil
}
