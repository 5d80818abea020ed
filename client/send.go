package client

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"

	"nabat/proto/wire"
)

// ErrQueueFull is what Send says when Options.Outbox publications wait already.
var ErrQueueFull = errors.New("too many publications wait to be sent")

const defaultOutbox = 256

// Receipt is what becomes of a publication that Send took.
type Receipt struct {
	done chan struct{}
	at   wire.Position
	err  error
}

// Done is closed when the publication is published or given up.
func (r *Receipt) Done() <-chan struct{} { return r.done }

// Wait returns the publication's position, or why it was given up.
func (r *Receipt) Wait(ctx context.Context) (wire.Position, error) {
	select {
	case <-r.done:
		return r.at, r.err
	case <-ctx.Done():
		return wire.Position{}, ctx.Err()
	}
}

// outbox holds the publications that Send took, in order for each room.
type outbox struct {
	workers crew

	mu      sync.Mutex // guards what is below
	waiting int
	rooms   map[string][]*sending // of each room that has a worker, what it has yet to take
	empty   chan struct{}         // closed when nothing waits; nil while it does not
}

type sending struct {
	ctx         context.Context
	publication wire.Publication
	receipt     *Receipt
}

// Send is Publish for those who do not wait: it takes the publication at once, also
// while there is no connection, and publishes it when it can. The order is kept in
// each room: the next one is sent when the one before is answered. An answer that
// was lost with its connection does not make two of it in a room with history, if
// the connection is back within the server's time for that (two minutes); ctx may
// bound how long is tried. At most Options.Outbox publications wait, else the error
// is ErrQueueFull. Close drops those that wait: Flush before.
func (k *Keeper) Send(ctx context.Context, p wire.Publication) (*Receipt, error) {
	if err := k.Err(); err != nil {
		return nil, err
	}
	k.outlet.otherwise()
	if p.MessageID == "" {
		p.MessageID = rand.Text()
	}
	p.Body = slices.Clone(p.Body)
	s := &sending{ctx, p, &Receipt{done: make(chan struct{})}}
	o := &k.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiting == k.options.Outbox {
		return nil, ErrQueueFull
	}
	o.waiting++
	queue, busy := o.rooms[p.Room]
	o.rooms[p.Room] = append(queue, s)
	if !busy && !o.workers.run(func() { k.sendAll(p.Room) }) {
		o.waiting--
		delete(o.rooms, p.Room)
		return nil, ErrClosed
	}
	return s.receipt, nil
}

// sendAll is a room's worker: it ends when nothing waits.
func (k *Keeper) sendAll(room string) {
	for s := k.outbox.take(room); s != nil; s = k.outbox.take(room) {
		s.receipt.at, s.receipt.err = k.Publish(s.ctx, s.publication)
		close(s.receipt.done)
		k.outbox.sent()
	}
}

func (o *outbox) take(room string) *sending {
	o.mu.Lock()
	defer o.mu.Unlock()
	queue := o.rooms[room]
	if len(queue) == 0 {
		delete(o.rooms, room)
		return nil
	}
	o.rooms[room] = queue[1:]
	return queue[0]
}

func (o *outbox) sent() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiting--; o.waiting == 0 && o.empty != nil {
		close(o.empty)
		o.empty = nil
	}
}

// Flush waits until all that Send took is published or given up.
func (k *Keeper) Flush(ctx context.Context) error {
	o := &k.outbox
	o.mu.Lock()
	if o.waiting == 0 {
		o.mu.Unlock()
		return nil
	}
	if o.empty == nil {
		o.empty = make(chan struct{})
	}
	empty := o.empty
	o.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
