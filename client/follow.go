package client

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"nabat/proto/wire"
)

// GapError is what a loop of Follow is told where messages may be missing: what
// comes next is behind the gap. Get the present state from where it is kept, and go
// on; or end the loop.
type GapError struct {
	wire.Gap // its Reason is one of PROTOCOL.md: history_cut, no_history, slow …
}

func (e *GapError) Error() string {
	return fmt.Sprintf("messages of %s may be missing: %s", e.Room, e.Reason)
}

// All is Events as an iterator: it goes through what the server says until the
// connection ends, whose reason is the last that it yields, or until ctx does. After
// Close it ends without a word. A loop that is left may be begun again.
func (c *Conn) All(ctx context.Context) iter.Seq2[Event, error] { return all(ctx, c, c.outlet) }

// All is Events as an iterator: it goes through what happens until the Keeper ends,
// whose reason is the last that it yields, or until ctx does. After Close it ends
// without a word. A loop that is left may be begun again.
func (k *Keeper) All(ctx context.Context) iter.Seq2[Event, error] { return all(ctx, k, k.outlet) }

func all(ctx context.Context, h host, o *outlet) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		events := o.listen()
		for {
			select {
			case e, ok := <-events:
				if !ok {
					if err := h.Err(); !errors.Is(err, ErrClosed) {
						yield(Event{}, err)
					}
					return
				}
				if !yield(e, nil) {
					return
				}
			case <-ctx.Done():
				yield(Event{}, ctx.Err())
				return
			}
		}
	}
}

// Follow joins a room and goes through its messages until the connection or ctx
// ends. An error is the last that it yields, unless it is a *GapError, which says
// that messages may be missing before the next one; after Close it ends without a
// word. A loop that ends leaves the room, if it was not joined otherwise; to begin
// again without a loss, begin behind the last message with From.
//
// Messages of a room that is followed are not in Events, nor is what else concerns
// it but Presence. Events, if nobody asks for it, need not be read beside.
//
// The queue of a loop has Options.Queue messages. When it is full the connection is
// not read on, for all rooms, and the server's slow rule applies: in a room with
// history it waits, and nothing is lost. So a loop that is slow should not wait
// for an answer by the same connection: publish by another goroutine, or with
// Keeper.Send.
func (c *Conn) Follow(ctx context.Context, room string, options ...SubscribeOption) iter.Seq2[*wire.Message, error] {
	return follow(ctx, c, c.outlet, c.options.Queue, room, options)
}

// Follow is Conn.Follow over the ends of connections: the loop goes on where it was,
// with each message of a room with history once and in order. Where that cannot be
// done, and in a room without history after each end of a connection, a *GapError
// says so.
func (k *Keeper) Follow(ctx context.Context, room string, options ...SubscribeOption) iter.Seq2[*wire.Message, error] {
	return follow(ctx, k, k.outlet, k.options.Queue, room, options)
}

func follow(ctx context.Context, h host, o *outlet, queue int, room string, options []SubscribeOption) iter.Seq2[*wire.Message, error] {
	return func(yield func(*wire.Message, error) bool) {
		f := &feed{topic: topic{room: room}, events: make(chan Event, queue), done: make(chan struct{})}
		at, err := o.open(ctx, h, f, options...)
		if err != nil {
			if !errors.Is(err, ErrClosed) {
				yield(nil, err)
			}
			return
		}
		defer o.close(h, f)
		if at.Recovered != nil && !*at.Recovered && !yield(nil, &GapError{wire.Gap{Room: room, Reason: at.Reason}}) {
			return
		}
		for {
			e, err := f.next(ctx, h)
			if err == nil {
				if e.Message != nil {
					if !yield(e.Message, nil) {
						return
					}
					continue
				}
				err = e.trouble(room)
			}
			var gap *GapError
			switch {
			case err == nil: // it is not about messages
			case errors.Is(err, ErrClosed):
				return
			case !yield(nil, err), !errors.As(err, &gap):
				return
			}
		}
	}
}

// next waits for an event. What came before the end comes first.
func (f *feed) next(ctx context.Context, h host) (Event, error) {
	select {
	case e := <-f.events:
		return e, nil
	default:
	}
	select {
	case e := <-f.events:
		return e, nil
	case <-ctx.Done():
		return Event{}, ctx.Err()
	case <-h.ended():
	}
	select {
	case e := <-f.events:
		return e, nil
	default:
		return Event{}, h.Err()
	}
}

// trouble is what a loop over a room is told of an event that is no message.
func (e *Event) trouble(room string) error {
	switch {
	case e.Gap != nil:
		return &GapError{*e.Gap}
	case e.Reset != nil:
		return &GapError{wire.Gap{Room: room, Reason: wire.EpochChanged}}
	case e.Recovered != nil && !e.Recovered.OK:
		return &GapError{wire.Gap{Room: room, Reason: e.Recovered.Reason}}
	case e.Unsubscribed != nil:
		return &wire.Error{Code: e.Reason, Reason: "the server ended the subscription of " + room}
	}
	return nil
}
