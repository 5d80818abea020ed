package orders

import (
	"context"
	"encoding/json"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/bus"
)

// Leases tells which edges are alive by the leases that they keep. It reads them
// anew for each question: orders are rare, and the list must be true.
type Leases struct {
	js jetstream.JetStream

	// mu guards kv.
	mu sync.Mutex
	kv jetstream.KeyValue
}

var _ Nodes = (*Leases)(nil)

// NewLeases reads leases through js.
func NewLeases(js jetstream.JetStream) *Leases { return &Leases{js: js} }

// Alive implements Nodes. Without the bucket, or without any lease in it, nobody
// knows.
func (l *Leases) Alive(ctx context.Context) ([]string, bool) {
	kv, err := l.bucket(ctx)
	if err != nil {
		return nil, false
	}
	w, err := kv.Watch(ctx, "edge.>")
	if err != nil {
		return nil, false
	}
	defer func() { _ = w.Stop() }()
	var names []string
	for {
		select {
		case <-ctx.Done():
			return nil, false
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return nil, false
			case e == nil:
				return names, len(names) > 0
			case e.Operation() == jetstream.KeyValuePut:
				var lease bus.Lease
				if json.Unmarshal(e.Value(), &lease) == nil && lease.Node != "" {
					names = append(names, lease.Node)
				} else {
					names = append(names, strings.TrimPrefix(e.Key(), "edge."))
				}
			}
		}
	}
}

func (l *Leases) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kv != nil {
		return l.kv, nil
	}
	kv, err := l.js.KeyValue(ctx, bus.BucketNodes)
	if err == nil {
		l.kv = kv
	}
	return kv, err
}
