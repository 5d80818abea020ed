// Package bus is how edges and control use NATS: the names that both know, one
// way to connect, and watches that survive outages.
package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Names on the bus. proto/BUS.md describes each.
const (
	BucketConfig = "NABAT_CONFIG" // what every edge may read
	KeyPolicies  = "policies"
	KeyJWKS      = "jwks"
	KeyStreams   = "streams" // only control reads it
	KeyPurges    = "purges"  // what was removed from history by hand

	KeyRebalance = "rebalance" // how far a rebalance is; only control reads it

	BucketKeys   = "NABAT_KEYS" // secrets: only edges and control may read
	KeySymmetric = "keys"
	KeyIssuers   = "issuers"
	KeySigning   = "signing" // only control may read
	KeyAPIKeys   = "apikeys" // digests of the keys of the HTTP API; only control may read

	BucketBlocks = "NABAT_BLOCKS" // revoked tokens and blocked users

	APIPrefix   = "nabat.api."
	OrderPrefix = "nabat.order." // all.<verb>, and node.<node>.<verb>
	TapPrefix   = "nabat.tap."   // what taps tell, behind it one token of who listens

	LivePrefix   = "live."         // default prefix of the stored copies, before shard and room
	StreamPrefix = "NABAT_"        // of the names of history streams
	MirrorSuffix = "_H"            // of the mirror that answers reads of history
	ParkedPrefix = "nabat.parked." // subjects of streams that no policy uses any more
)

// Headers of a published message.
const (
	HeaderEvent      = "Nabat-Event"
	HeaderExclude    = "Nabat-Exclude"
	HeaderKey        = "Nabat-Key"
	HeaderUser       = "Nabat-User"
	HeaderConnection = "Nabat-Connection"
	HeaderBody       = "Nabat-Body"
	HeaderInfo       = "Nabat-Info"  // of requests: what the token says of the user, JSON
	HeaderError      = "Nabat-Error" // of replies: the code of an error
)

// Options of a connection.
type Options struct {
	URL         string // one server or several, separated by commas
	Credentials string // file; empty for none
	NKey        string // file with a seed; empty for none
	Token       string
	Inbox       string // prefix of the subjects that replies come to; empty for NATS's own
	Name        string
	Log         *slog.Logger
}

// Connect connects, trying until ctx ends, and stays connected for ever: it
// reconnects with a pause and jitter, and buffers nothing meanwhile, so that
// callers learn of an outage. What waiting cannot cure, such as wrong
// credentials or a certificate that is not trusted, is an error at once when it
// meets the first connection; later it may be one server's, and is waited out.
func Connect(ctx context.Context, o Options, extra ...nats.Option) (*nats.Conn, error) {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	options := []nats.Option{
		nats.Name(o.Name), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(), nats.ReconnectBufSize(-1),
		nats.PingInterval(5 * time.Second), nats.MaxPingsOutstanding(2), nats.Timeout(2 * time.Second),
		nats.CustomReconnectDelay(func(attempts int) time.Duration {
			return min(100*time.Millisecond<<min(attempts, 5), 2*time.Second)/2 + rand.N(100*time.Millisecond)
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil: we closed it ourselves
				log.Warn("NATS connection lost", "connection", o.Name, "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("NATS connection is back", "connection", o.Name, "server", nc.ConnectedUrlRedacted())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Warn("NATS reported an error", "connection", o.Name, "error", err)
		}),
	}
	identity, err := o.identity()
	if err != nil {
		return nil, err
	}
	options = append(options, identity...)
	options = append(options, extra...)
	for {
		nc, err := nats.Connect(o.URL, options...)
		if err == nil {
			return nc, nil
		}
		if !passes(err) {
			return nil, fmt.Errorf("connect to NATS at %s: %w", redact(o.URL), err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to NATS at %s: %w (%w)", redact(o.URL), err, context.Cause(ctx))
		case <-time.After(200*time.Millisecond + rand.N(200*time.Millisecond)):
		}
	}
}

// passes reports whether err is one that a server that starts, or a name that is
// not known yet, causes.
func passes(err error) bool {
	var network *net.OpError
	return errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, io.EOF) || errors.As(err, &network)
}

// redact takes user, password and token out of a list of URLs.
func redact(urls string) string {
	list := strings.Split(urls, ",")
	for i, u := range list {
		scheme, rest, ok := strings.Cut(u, "://")
		if !ok {
			scheme, rest = "", u
		}
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			rest = "…" + rest[at:]
		}
		if list[i] = rest; ok {
			list[i] = scheme + "://" + rest
		}
	}
	return strings.Join(list, ",")
}

// EnsureBucket returns a key-value bucket, creating it if it is not there.
func EnsureBucket(ctx context.Context, js jetstream.JetStream, bucket, description string, replicas int) (jetstream.KeyValue, error) {
	kv, err := js.KeyValue(ctx, bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: bucket, Description: description,
			History: 8, Storage: jetstream.FileStorage, Replicas: max(replicas, 1)})
		if errors.Is(err, jetstream.ErrBucketExists) {
			kv, err = js.KeyValue(ctx, bucket) // another replica was faster
		}
	}
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", bucket, err)
	}
	return kv, nil
}

// Raced reports whether a Create or an Update of a key failed because another
// writer was faster, or because what was read before it was stale.
func Raced(err error) bool {
	return errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch)
}

// Watch calls fn with the newest value of a key, at first and at every change,
// until ctx ends. It waits for the bucket to appear and begins again after any
// failure, with which fn is not bothered unless the value has changed. A key
// that is deleted keeps its last value. It blocks.
func Watch(ctx context.Context, js jetstream.JetStream, bucket, key string, fn func(value []byte, revision uint64)) {
	var last []byte
	var at uint64
	changed := func(value []byte, revision uint64) {
		// A bucket that was made again begins at revision 1.
		if revision == at && bytes.Equal(value, last) {
			return
		}
		last, at = bytes.Clone(value), revision
		fn(value, revision)
	}
	for ctx.Err() == nil {
		// An error means an outage, or that control has not started yet: both
		// pass, and readiness tells of them.
		_ = watchOnce(ctx, js, bucket, key, changed)
		select {
		case <-ctx.Done():
		case <-time.After(250*time.Millisecond + rand.N(250*time.Millisecond)):
		}
	}
}

// watchLife bounds one watch: a consumer that was lost unseen is replaced.
// Variable for tests.
var watchLife = time.Minute

func watchOnce(ctx context.Context, js jetstream.JetStream, bucket, key string, fn func([]byte, uint64)) error {
	ctx, cancel := context.WithTimeout(ctx, watchLife)
	defer cancel()
	kv, err := js.KeyValue(ctx, bucket)
	if err != nil {
		return err
	}
	w, err := kv.Watch(ctx, key)
	if err != nil {
		return err
	}
	defer func() { _ = w.Stop() }()
	closed := js.Conn().StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer js.Conn().RemoveStatusListener(closed)
	limit, silent := time.After(firstRead), true
	for {
		select {
		case <-limit:
			if silent {
				return errSilent
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-closed:
			return errors.New("NATS connection lost")
		case e, ok := <-w.Updates():
			if silent = false; !ok {
				return errors.New("the watch ended")
			}
			if e != nil && e.Operation() == jetstream.KeyValuePut {
				fn(e.Value(), e.Revision())
			}
		}
	}
}
