package nodes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/bus"
)

// stateReady is the state of a control replica that has the whole picture: only
// such ones announce.
const stateReady = "ready"

// held is a lease as this replica sees it.
type held struct {
	bus.Lease
	revision uint64
	seen     time.Time // when it was renewed, by the clock of this replica
}

// leases follows NABAT_NODES. Safe from any goroutine.
//
// NATS does not tell when a key expires, and a watch can be silent because it is
// broken. So this replica's own lease is the measure: another is gone when ours
// came back through the watch for LeaseTTL after its last renewal.
type leases struct {
	own string // key

	// mu guards the fields below.
	mu    sync.Mutex
	all   map[string]held // by key
	echo  time.Time       // when our own was last seen
	whole bool            // the watch has told what there is
}

func newLeases(own string) *leases { return &leases{own: own, all: make(map[string]held)} }

func (l *leases) put(key string, value []byte, revision uint64, now time.Time) {
	var one bus.Lease
	if json.Unmarshal(value, &one) != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.all[key]; ok && old.revision == revision {
		return // a new watch repeats it
	}
	l.all[key] = held{one, revision, now}
	if key == l.own {
		l.echo = now
	}
}

func (l *leases) remove(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, key)
}

// settled says that the watch has told everything that there was.
func (l *leases) settled() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.whole = true
}

// known reports whether the leases are known at all: our own has come back.
func (l *leases) known() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.whole && !l.echo.IsZero()
}

// stale reports whether the watch seems to be broken.
func (l *leases) stale(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.echo.IsZero() && now.Sub(l.echo) > 2*bus.LeaseEvery+time.Second
}

// live returns the leases under a prefix that are not gone, by key.
func (l *leases) live(prefix string) []bus.Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []bus.Lease
	for _, key := range slices.Sorted(maps.Keys(l.all)) {
		h := l.all[key]
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		if l.echo.Sub(h.seen) > bus.LeaseTTL {
			delete(l.all, key)
			continue
		}
		list = append(list, h.Lease)
	}
	return list
}

// gone reports whether an edge's lease is known to have ended.
func (l *leases) gone(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, ok := l.all[bus.EdgeLease(node)]
	if !ok {
		return l.whole
	}
	return l.echo.Sub(h.seen) > bus.LeaseTTL
}

// first is the one of ids that rendezvous hashing puts first for a key. It moves
// no key between replicas that stay.
func first(ids []string, key string) (best string) {
	var most uint64
	for _, id := range ids {
		h := fnv.New64a()
		_, _ = h.Write([]byte(key)) // a hash does not fail
		_, _ = h.Write([]byte{0})
		_, _ = h.Write([]byte(id))
		if v := mix(h.Sum64()); best == "" || v > most || v == most && id < best {
			best, most = id, v
		}
	}
	return best
}

// mix spreads the last bytes over all bits, which FNV does not.
func mix(v uint64) uint64 {
	v = (v ^ v>>33) * 0xff51afd7ed558ccd
	v = (v ^ v>>33) * 0xc4ceb9fe1a85ec53
	return v ^ v>>33
}

// bucket opens NABAT_NODES, or makes it: it holds nothing worth a disk.
func bucket(ctx context.Context, js jetstream.JetStream, replicas int) (jetstream.KeyValue, error) {
	kv, err := js.KeyValue(ctx, bus.BucketNodes)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: bus.BucketNodes, Description: "Nabat: leases of running nodes",
			TTL: bus.LeaseTTL, History: 1, Storage: jetstream.MemoryStorage, Replicas: max(replicas, 1)})
		if errors.Is(err, jetstream.ErrBucketExists) {
			kv, err = js.KeyValue(ctx, bus.BucketNodes)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", bus.BucketNodes, err)
	}
	return kv, nil
}

// renew keeps our own lease until ctx ends, then gives it back.
func (k *Keeper) renew(ctx context.Context) {
	tick := time.NewTicker(bus.LeaseEvery)
	defer tick.Stop()
	logged := false
	for {
		pause := tick.C
		if err := k.write(ctx); err != nil && ctx.Err() == nil {
			if !logged {
				k.opts.Log.Warn("the lease of this replica can not be renewed", "error", err)
			}
			logged = true
			retry := time.NewTimer(500 * time.Millisecond)
			defer retry.Stop()
			pause = retry.C
		} else {
			logged = false
		}
		select {
		case <-pause:
		case <-k.tell: // our state has changed
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if kv, err := k.opts.JetStream.KeyValue(end, bus.BucketNodes); err == nil {
				_ = kv.Delete(end, k.leases.own) // else it expires
			}
			return
		}
	}
}

func (k *Keeper) write(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	kv, err := bucket(ctx, k.opts.JetStream, k.opts.Replicas)
	if err != nil {
		return err
	}
	one := bus.Lease{Node: k.opts.ID, Role: "control", Version: k.opts.Version, Started: k.started.UnixMilli(), Listen: k.opts.Listen, State: "starting"}
	if k.built.Load() {
		one.State = stateReady
	}
	value, err := json.Marshal(one)
	if err != nil {
		return err
	}
	_, err = kv.Put(ctx, k.leases.own, value)
	return err
}

// follow watches the leases until ctx ends.
func (k *Keeper) follow(ctx context.Context) {
	for ctx.Err() == nil {
		// An error is an outage, or that the bucket is not there yet: both pass,
		// and meanwhile nobody is taken for dead.
		_ = k.watch(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

func (k *Keeper) watch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // a consumer that was lost unseen is replaced
	defer cancel()
	kv, err := k.opts.JetStream.KeyValue(ctx, bus.BucketNodes)
	if err != nil {
		return err
	}
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = w.Stop() }()
	check := time.NewTicker(time.Second)
	defer check.Stop()
	begun := time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-check.C:
			if now.Sub(begun) > 2*bus.LeaseEvery && (k.leases.stale(now) || !k.leases.known()) {
				return errors.New("the watch of leases is silent")
			}
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return errors.New("the watch of leases ended")
			case e == nil:
				k.leases.settled()
			case e.Operation() == jetstream.KeyValuePut:
				k.leases.put(e.Key(), e.Value(), e.Revision(), time.Now())
			default:
				k.leases.remove(e.Key())
			}
		}
	}
}
