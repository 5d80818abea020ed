package bus

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Bucket is who follows a whole bucket. Calls come one at a time.
type Bucket interface {
	// Replace takes everything that is in the bucket.
	Replace(all map[string][]byte)
	// Set takes one change behind that; a nil value deletes.
	Set(key string, value []byte)
}

// followLife bounds one watch of a whole bucket, as watchLife does of a key; each
// begins with reading all of it. Variable for tests.
var followLife = 10 * time.Minute

// firstRead bounds the wait for what is in a bucket at first. A consumer that was
// made while its stream changed leaders may stay silent for good.
// Variable for tests.
var firstRead = 10 * time.Second

var errSilent = errors.New("the watch tells nothing")

// Follow tells b what is in a bucket and what changes in it, until ctx ends. It
// waits for the bucket to appear, and after any failure begins anew with
// Replace. It blocks.
func Follow(ctx context.Context, js jetstream.JetStream, bucket string, b Bucket) {
	for ctx.Err() == nil {
		// As in Watch: an error passes, and readiness tells of it.
		_ = followOnce(ctx, js, bucket, b)
		select {
		case <-ctx.Done():
		case <-time.After(250*time.Millisecond + rand.N(250*time.Millisecond)):
		}
	}
}

func followOnce(ctx context.Context, js jetstream.JetStream, bucket string, b Bucket) error {
	ctx, cancel := context.WithTimeout(ctx, followLife)
	defer cancel()
	kv, err := js.KeyValue(ctx, bucket)
	if err != nil {
		return err
	}
	closed := js.Conn().StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer js.Conn().RemoveStatusListener(closed)
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = w.Stop() }()
	first := make(map[string][]byte)
	limit := time.After(firstRead)
	for {
		select {
		case <-limit:
			if first != nil {
				return errSilent
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-closed:
			return errors.New("NATS connection lost")
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return errors.New("the watch ended")
			case e == nil: // what was there has been read
				b.Replace(first)
				first = nil
			case first != nil && e.Operation() == jetstream.KeyValuePut:
				first[e.Key()] = e.Value()
			case first != nil:
				delete(first, e.Key())
			case e.Operation() == jetstream.KeyValuePut:
				b.Set(e.Key(), e.Value())
			default:
				b.Set(e.Key(), nil)
			}
		}
	}
}
