package issuers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/control/internal/metrics"
	"nabat/internal/auth"
	"nabat/internal/bus"
)

// pollInterval is how often the file is compared. Variable for tests.
var pollInterval = 2 * time.Second

// firstPause is the pause after a fetch that failed; it doubles up to the
// refresh interval. Variable for tests.
var firstPause = time.Second

// Options of a Keeper.
type Options struct {
	Config *Config
	File   string // followed for changes; empty: none
	Counts *metrics.Counts
	Log    *slog.Logger
}

// Keeper publishes the issuers. Safe from any goroutine.
type Keeper struct {
	opts Options

	// mu guards the fields below.
	mu     sync.Mutex
	config *Config
	kv     jetstream.KeyValue
}

// New returns a keeper; Publish gives it a bucket.
func New(o Options) *Keeper { return &Keeper{opts: o, config: o.Config} }

// Publish puts the rules of all issuers into kv. Those whose source has not
// changed keep their keys, also when they cannot be fetched now.
func (k *Keeper) Publish(ctx context.Context, kv jetstream.KeyValue) error {
	k.mu.Lock()
	k.kv = kv
	k.mu.Unlock()
	return k.publish(ctx)
}

func (k *Keeper) publish(ctx context.Context) error {
	config, kv := k.state()
	return update(ctx, kv, func(old *auth.IssuerSet) *auth.IssuerSet {
		next := &auth.IssuerSet{}
		for _, s := range config.sources {
			i := s.rules
			if s.secret != nil {
				i.Keys = []auth.Key{*s.secret}
			} else if had := find(old, &s); had != nil {
				i.Keys = had.Keys
			}
			next.Issuers = append(next.Issuers, i)
		}
		return next
	})
}

func (k *Keeper) state() (*Config, jetstream.KeyValue) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.config, k.kv
}

// find is the issuer of a source, nil when it is not there, or from elsewhere.
func find(set *auth.IssuerSet, s *source) *auth.Issuer {
	for n := range set.Issuers {
		if i := &set.Issuers[n]; i.Name == s.rules.Name && i.Source == s.rules.Source {
			return i
		}
	}
	return nil
}

// update puts what change makes of the set in NATS, again while other writers
// are faster; nil leaves it as it is.
func update(ctx context.Context, kv jetstream.KeyValue, change func(*auth.IssuerSet) *auth.IssuerSet) error {
	for {
		old, revision := &auth.IssuerSet{}, uint64(0) // when there is none, or none that can be read
		e, err := kv.Get(ctx, bus.KeyIssuers)
		switch {
		case err == nil:
			revision = e.Revision()
			if set, decodeErr := auth.DecodeIssuers(e.Value()); decodeErr == nil {
				old = set
			}
		case !errors.Is(err, jetstream.ErrKeyNotFound):
			return fmt.Errorf("read issuers: %w", err)
		}
		next := change(old)
		if next == nil || revision != 0 && bytes.Equal(next.Encode(), e.Value()) {
			return nil
		}
		if revision == 0 {
			_, err = kv.Create(ctx, bus.KeyIssuers, next.Encode())
		} else {
			_, err = kv.Update(ctx, bus.KeyIssuers, next.Encode(), revision)
		}
		if err == nil {
			return nil
		}
		if !bus.Raced(err) {
			return fmt.Errorf("publish issuers: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(20 * time.Millisecond)):
		}
	}
}

// Run fetches keys and follows the file until ctx ends. Call it after Publish.
func (k *Keeper) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	start := func() context.CancelFunc {
		inner, cancel := context.WithCancel(ctx)
		config, _ := k.state()
		for n := range config.sources {
			if s := &config.sources[n]; s.secret == nil {
				wg.Go(func() { k.follow(inner, s) })
			}
		}
		return cancel
	}
	cancel := start()
	defer func() { cancel() }()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	config, _ := k.state()
	last, again := config.file, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if k.opts.File == "" {
			continue
		}
		data, _ := os.ReadFile(k.opts.File) // reload tells of an error
		if !again && bytes.Equal(data, last) {
			continue
		}
		last = data
		usable, err := k.reload(ctx)
		again = err != nil && usable
		if err != nil && ctx.Err() == nil {
			k.opts.Log.Error("the issuers stay as they were", "error", err)
		}
		if usable {
			cancel()
			cancel = start()
		}
	}
}

// reload reads the file and publishes it. usable is false for a file that will
// not become better by trying again.
func (k *Keeper) reload(ctx context.Context) (usable bool, err error) {
	config, err := ReadFile(k.opts.File)
	if err != nil {
		return false, err
	}
	k.mu.Lock()
	k.config = config
	k.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	return true, k.publish(ctx)
}

// follow fetches the keys of one issuer again and again.
func (k *Keeper) follow(ctx context.Context, s *source) {
	log := k.opts.Log.With("issuer", s.rules.Name)
	f, err := newFetcher(s)
	if err != nil {
		log.Error("the keys of an issuer can not be fetched", "error", err)
		return
	}
	failing := false
	for pause := firstPause; ; {
		changed, err := k.refresh(ctx, f)
		wait := s.refresh
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			k.opts.Counts.Issuer(s.rules.Name, "failed")
			if !failing {
				log.Warn("the keys of an issuer can not be fetched now; those that are known stay", "error", err)
			}
			failing = true
			wait, pause = min(pause, s.refresh), min(2*pause, s.refresh)
		default:
			if changed {
				log.Info("the keys of an issuer have changed", "keys", ids(f.keys))
			} else if failing {
				log.Info("the keys of an issuer can be fetched again")
			}
			k.opts.Counts.Issuer(s.rules.Name, map[bool]string{true: "changed", false: "same"}[changed])
			failing, pause = false, firstPause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait - rand.N(wait/10+1)): // replicas do not all ask at once
		}
	}
}

func ids(keys []auth.Key) (list []string) {
	for _, k := range keys {
		list = append(list, k.ID)
	}
	return list
}

// refresh fetches once and publishes what is new. What another replica has put
// there since the fetch began is newer, and stays.
func (k *Keeper) refresh(ctx context.Context, f *fetcher) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*fetchTimeout)
	defer cancel()
	_, kv := k.state()
	before, err := k.published(ctx, kv, f.source)
	if err != nil {
		return false, err
	}
	keys, err := f.fetch(ctx)
	if err != nil {
		return false, err
	}
	err = update(ctx, kv, func(old *auth.IssuerSet) *auth.IssuerSet {
		changed = false
		i := find(old, f.source)
		if i == nil || !same(i.Keys, before) || same(i.Keys, keys) {
			return nil
		}
		i.Keys, changed = keys, true
		return old
	})
	return changed && err == nil, err
}

// published is what edges have of an issuer.
func (k *Keeper) published(ctx context.Context, kv jetstream.KeyValue, s *source) ([]auth.Key, error) {
	e, err := kv.Get(ctx, bus.KeyIssuers)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		err = k.publish(ctx) // somebody deleted it
		if err == nil {
			e, err = kv.Get(ctx, bus.KeyIssuers)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read issuers: %w", err)
	}
	set, err := auth.DecodeIssuers(e.Value())
	if err != nil {
		return nil, err
	}
	if i := find(set, s); i != nil {
		return i.Keys, nil
	}
	return nil, nil
}

func same(a, b []auth.Key) bool { return slices.EqualFunc(a, b, auth.Key.Equal) }
