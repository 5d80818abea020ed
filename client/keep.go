package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"nabat/proto/wire"
)

// Keeper holds a connection over the ends of connections.
type Keeper struct {
	Address string
	// Options is asked before each Dial, so that a token can be fresh.
	Options func(context.Context) (Options, error)
	// Retrying, if set, is told why the connection ended and how long Run waits.
	Retrying func(err error, wait time.Duration)
}

// Back-off of a client whose server says nothing about when to return.
const (
	firstWait = 200 * time.Millisecond
	lastWait  = 20 * time.Second
)

// Run dials and calls use with the connection; when that ends it dials again,
// as the close code says: after the server's delay, elsewhere, or not at all.
// It returns when ctx ends, when use returns though the connection lives, or
// when the server said not to come back.
func (k Keeper) Run(ctx context.Context, use func(*Conn) error) error {
	if _, _, err := parseAddress(k.Address); err != nil {
		return err
	}
	previous, backoff := "", firstWait
	for {
		began := time.Now()
		ended, err := k.once(ctx, &previous, use)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !ended {
			return err
		}
		wait, again := retry(err)
		if !again {
			return err
		}
		if time.Since(began) > lastWait {
			backoff = firstWait
		}
		// Everyone of a dead edge is on the way at the same time: spread out.
		wait += rand.N(backoff)
		backoff = min(2*backoff, lastWait)
		if k.Retrying != nil {
			k.Retrying(err, wait)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// once is one connection. ended tells that err is why it ended, or did not
// come about.
func (k Keeper) once(ctx context.Context, previous *string, use func(*Conn) error) (ended bool, err error) {
	options, err := k.Options(ctx)
	if err != nil {
		return false, err
	}
	options.Previous = *previous
	c, err := Dial(ctx, k.Address, options)
	if err != nil {
		return true, err
	}
	defer c.Close()
	*previous = c.Connected().Session
	err = use(c)
	if over := c.Err(); over != nil && !errors.Is(over, ErrClosed) {
		return true, over
	}
	return false, err
}

// retry is the server's advice about coming back after err.
func retry(err error) (wait time.Duration, again bool) {
	var closed *CloseError
	var refused *wire.Error
	switch {
	case errors.As(err, &closed):
		return closed.Retry()
	case errors.As(err, &refused):
		return time.Duration(refused.RetryMS) * time.Millisecond, refused.RetryMS > 0
	}
	return 0, true // nobody answered
}
