package upstream

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// denials are the subscriptions of one connection that NATS refused. Safe from
// any goroutine.
type denials struct {
	heard chan struct{} // 1 buffered: one was added

	// mu guards the fields below.
	mu       sync.Mutex
	subjects map[string]bool
	newest   error // as nats.go keeps it
}

func newDenials() *denials {
	return &denials{heard: make(chan struct{}, 1), subjects: make(map[string]bool)}
}

// add notes a refusal. nats.go calls it after the fact and from a goroutine of
// its own.
func (d *denials) add(err error) {
	d.mu.Lock()
	if _, rest, ok := strings.Cut(err.Error(), `Subscription to "`); ok {
		subj, _, _ := strings.Cut(rest, `"`)
		d.subjects[subj] = true
	}
	d.newest = err
	d.mu.Unlock()
	signal(d.heard)
}

// take returns the refused subjects, and forgets them, once add has heard of
// every refusal before a flush. NATS refuses before it answers the flush, but
// nats.go calls add later; its last error, which is set in order, tells whether
// there is something to wait for.
func (d *denials) take(ctx context.Context, nc *nats.Conn, limit time.Duration) map[string]bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		last := nc.LastError()
		d.mu.Lock()
		if last == d.newest || !errors.Is(last, nats.ErrPermissionViolation) || ctx.Err() != nil {
			subjects := d.subjects
			d.subjects = make(map[string]bool)
			d.mu.Unlock()
			return subjects
		}
		d.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-d.heard:
		}
	}
}
