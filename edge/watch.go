package edge

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/edge/internal/loop"
	"nabat/edge/internal/transport"
	"nabat/internal/auth"
	"nabat/internal/bus"
	"nabat/proto/wire"
)

// watch follows policies, keys and blocks until ctx ends.
func (e *Edge) watch(ctx context.Context, js jetstream.JetStream) {
	keys := newKeyRing(e.verifier, e.log, func() { e.keyed.Store(true) })
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { bus.Watch(ctx, js, bus.BucketConfig, bus.KeyPolicies, e.setPolicies) })
	wg.Go(func() { bus.Watch(ctx, js, bus.BucketConfig, bus.KeyPurges, e.setPurges) })
	wg.Go(func() { bus.Watch(ctx, js, bus.BucketConfig, bus.KeyJWKS, keys.setPublic) })
	wg.Go(func() { bus.Watch(ctx, js, bus.BucketKeys, bus.KeySymmetric, keys.setSymmetric) })
	wg.Go(func() { bus.Watch(ctx, js, bus.BucketKeys, bus.KeyIssuers, keys.setIssuers) })
	wg.Go(func() { bus.Follow(ctx, js, bus.BucketBlocks, blockWatch{e}) })
}

// informed reports whether policies, keys and blocks have arrived: before that
// nobody can be told what is allowed. Safe from any goroutine.
func (e *Edge) informed() bool {
	return e.policies.Load() != nil && e.keyed.Load() && e.blocks.Known()
}

// keyRing joins the documents that keys come in.
type keyRing struct {
	verifier *auth.Verifier
	log      *slog.Logger
	ready    func()

	// mu guards the sets.
	mu                         sync.Mutex
	public, symmetric, issuers *auth.KeySet
}

func newKeyRing(v *auth.Verifier, log *slog.Logger, ready func()) *keyRing {
	return &keyRing{verifier: v, log: log, ready: ready}
}

func (k *keyRing) setPublic(value []byte, _ uint64) {
	k.set(&k.public, bus.KeyJWKS, value, auth.ParseJWKS)
}

func (k *keyRing) setSymmetric(value []byte, _ uint64) {
	k.set(&k.symmetric, bus.KeySymmetric, value, auth.ParseSymmetric)
}

func (k *keyRing) setIssuers(value []byte, _ uint64) {
	k.set(&k.issuers, bus.KeyIssuers, value, auth.ParseIssuers)
}

func (k *keyRing) set(to **auth.KeySet, document string, value []byte, parse func([]byte) (*auth.KeySet, error)) {
	set, err := parse(value)
	if err != nil {
		k.log.Error("keys from control are not usable; the old ones stay", "document", document, "error", err)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	*to = set
	k.verifier.SetKeys(auth.Merge(k.public, k.symmetric, k.issuers))
	if k.public != nil && k.symmetric != nil && k.issuers != nil {
		k.ready()
	}
}

// blockWatch takes the bucket of blocks.
type blockWatch struct{ *Edge }

var _ bus.Bucket = blockWatch{}

// Replace implements bus.Bucket.
func (b blockWatch) Replace(all map[string][]byte) {
	stricter, bad := b.blocks.Replace(all)
	for _, err := range bad {
		b.log.Error("an entry of the blocks is not usable and left out", "error", err)
	}
	if stricter {
		b.obey()
	}
}

// Set implements bus.Bucket.
func (b blockWatch) Set(key string, value []byte) {
	stricter, err := b.blocks.Set(key, value)
	if err != nil {
		b.log.Error("an entry of the blocks is not usable and left out", "error", err)
		return
	}
	if stricter {
		b.obey()
	}
}

// obey makes each loop end the connections that may not be here any more. The
// list has changed before: who is admitted from now on has been asked for.
func (e *Edge) obey() {
	for _, w := range e.workers {
		// An error of Post means that the loop has stopped.
		_ = w.loop.Post(w.blocked.begin)
	}
}

const (
	// sweepSlots is how many connections are looked at in a turn: some 100 µs.
	sweepSlots = 1024
	// sweepPause keeps a stream of revocations from sweeping without end.
	sweepPause = 200 * time.Millisecond
)

// blockSweep walks over all connections of a loop and ends those whose token or
// user may not be here any more. An index by user and token would cost each idle
// connection memory for what is rare. Owned by loop.
type blockSweep struct {
	w     *worker
	at    uint32 // the next slot
	busy  bool   // under way, or pausing after it
	again bool   // the list has changed since this walk began
}

func (s *blockSweep) begin() {
	if s.busy {
		s.again = true
		return
	}
	s.busy, s.again, s.at = true, false, 0
	s.step()
}

func (s *blockSweep) step() {
	now := s.w.loop.Now()
	s.at = s.w.loop.Each(s.at, sweepSlots, func(ref loop.Ref, h loop.Handler) {
		c, ok := h.(transport.Client)
		if !ok || c.Leaving() {
			return
		}
		if err := s.w.edge.blocks.Check(c.Identity(), now); err != nil {
			c.Close(wire.CloseFor(err))
		}
	})
	if s.at != 0 {
		// An error of Post means that the loop has stopped.
		_ = s.w.loop.Post(s.step)
		return
	}
	s.w.loop.After(sweepPause, func() {
		s.busy = false
		if s.again {
			s.begin()
		}
	})
}
