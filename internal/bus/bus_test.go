package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/natsdev"
)

const patience = 60 * time.Second

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in %s: %s", patience, what)
		}
	}
}

func start(t *testing.T) *natsdev.Server {
	t.Helper()
	s, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

func connect(t *testing.T, url string, extra ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := Connect(t.Context(), Options{URL: url, Name: "test"}, extra...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// secured runs a server that wants a token; a port of 0 picks one.
func secured(t *testing.T, port int, token string) (*server.Server, int) {
	t.Helper()
	if port == 0 {
		port = server.RANDOM_PORT
	}
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true, Authorization: token})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("NATS did not start")
	}
	return s, s.Addr().(*net.TCPAddr).Port
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func TestErrorsOfConnectSayWhereAndWhy(t *testing.T) {
	_, port := secured(t, 0, "right")
	address := fmt.Sprintf("127.0.0.1:%d", port)
	none := free(t)
	credentials := filepath.Join(t.TempDir(), "none.creds")
	for _, c := range []struct {
		rule string
		opts Options
		wait time.Duration
		want string // in the error
	}{
		{"nobody listens: it waits as long as it may", Options{URL: none}, time.Millisecond, "connect to NATS at " + none + ": nats: no servers available for connection (context deadline exceeded)"},
		{"a name that nobody knows may come to be known", Options{URL: "nats://nabat.invalid:4222"}, time.Millisecond, "(context deadline exceeded)"},
		{"a wrong token is an error at once", Options{URL: address, Token: "wrong"}, patience, "connect to NATS at " + address + ": nats: Authorization Violation"},
		{"no token", Options{URL: address}, patience, "Authorization Violation"},
		{"a missing credentials file", Options{URL: address, Credentials: credentials}, patience, credentials},
		{"no URL that is one", Options{URL: "nats://%zz"}, patience, "connect to NATS at nats://%zz: "},
		{"secrets in the URL stay out of it", Options{URL: "nats://secret@" + none + ",nats://user:secret@" + none}, time.Millisecond, "connect to NATS at nats://…@" + none + ",nats://…@" + none},
	} {
		t.Run(c.rule, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), c.wait)
			defer cancel()
			nc, err := Connect(ctx, c.opts)
			if err == nil {
				nc.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret@") {
				t.Fatalf("got  %v\nwant %s", err, c.want)
			}
			if waited := errors.Is(err, context.DeadlineExceeded); waited != (c.wait < patience) {
				t.Fatalf("waited: %t (%v)", waited, err)
			}
		})
	}
	if nc, err := Connect(t.Context(), Options{URL: address, Token: "right"}); err != nil {
		t.Fatal(err)
	} else {
		nc.Close()
	}
}

func TestConnectWaitsForAServerThatStarts(t *testing.T) {
	s := start(t)
	url := s.URL()
	s.Stop()
	got := make(chan error, 1)
	go func() {
		nc, err := Connect(t.Context(), Options{URL: url})
		if err == nil {
			nc.Close()
		}
		got <- err
	}()
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

func TestAServerThatRefusesUsForAWhileDoesNotEndTheConnection(t *testing.T) {
	s, port := secured(t, 0, "right")
	var log lockedBuffer
	var refused atomic.Int64
	nc, err := Connect(t.Context(), Options{URL: s.ClientURL(), Token: "right", Name: "test", Log: slog.New(slog.NewTextHandler(&log, nil))},
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrAuthorization) {
				refused.Add(1)
			}
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	s.Shutdown()
	s.WaitForShutdown()
	s, _ = secured(t, port, "another")
	until(t, "the server refuses more than twice", func() bool { return refused.Load() > 2 })
	if err := nc.Publish("a", nil); !errors.Is(err, nats.ErrReconnectBufExceeded) {
		t.Fatalf("a publish while away: %v", err)
	}
	s.Shutdown()
	s.WaitForShutdown()
	secured(t, port, "right")
	until(t, "the connection is back", nc.IsConnected)
	until(t, "the log says both", func() bool {
		return strings.Contains(log.String(), "NATS connection lost") && strings.Contains(log.String(), "NATS connection is back")
	})
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestManyReplicasMakeOneBucket(t *testing.T) {
	s := start(t)
	_, js := connect(t, s.URL())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			kv, err := EnsureBucket(t.Context(), js, "B", "test", 0)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := kv.Create(t.Context(), fmt.Sprint("k", i), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	kv, err := js.KeyValue(t.Context(), "B")
	if err != nil {
		t.Fatal(err)
	}
	status, err := kv.Status(t.Context())
	if err != nil || status.Values() != 8 || status.History() != 8 {
		t.Fatalf("%+v %v", status, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := EnsureBucket(ctx, js, "three copies", "", 3); err == nil || !strings.Contains(err.Error(), "bucket three copies: ") {
		t.Fatalf("a bucket that cannot be: %v", err)
	}
}

func TestOfTwoWritersOneWins(t *testing.T) {
	s := start(t)
	_, js := connect(t, s.URL())
	kv, err := EnsureBucket(t.Context(), js, "B", "", 1)
	if err != nil {
		t.Fatal(err)
	}
	revision, err := kv.Create(t.Context(), "k", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(t.Context(), "k", []byte("2")); !errors.Is(err, jetstream.ErrKeyExists) {
		t.Fatalf("create: %v", err)
	}
	if _, err := kv.Update(t.Context(), "k", []byte("3"), revision); err != nil {
		t.Fatal(err)
	}
	// policies.Publisher counts on this error.
	if _, err := kv.Update(t.Context(), "k", []byte("4"), revision); !errors.Is(err, jetstream.ErrKeyExists) {
		t.Fatalf("update: %v", err)
	}
	if e, err := kv.Get(t.Context(), "k"); err != nil || string(e.Value()) != "3" {
		t.Fatalf("%v %v", e, err)
	}
}

// watcher keeps what a watch says.
type watcher struct {
	mu     sync.Mutex
	values []string
}

func (w *watcher) put(value []byte, _ uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.values = append(w.values, string(value))
}

func (w *watcher) seen() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.values, " ")
}

func TestWatchSurvivesWhatHappensToNATS(t *testing.T) {
	s := start(t)
	watchLife = 20 * time.Millisecond // so that it also begins again by itself
	t.Cleanup(func() { watchLife = time.Minute })
	wire, watching := connect(t, s.URL())
	nc, js := connect(t, s.URL())
	ctx, cancel := context.WithCancel(t.Context())
	w, done := &watcher{}, make(chan struct{})
	go func() { Watch(ctx, watching, "B", "k", w.put); close(done) }()
	step := func(what, want string) {
		t.Helper()
		until(t, what+": "+want, func() bool { return w.seen() == want })
	}
	put := func(key, value string) {
		t.Helper()
		var kv jetstream.KeyValue
		until(t, "JetStream answers", func() (ok bool) { // not at once after a restart
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var err error
			kv, err = EnsureBucket(ctx, js, "B", "", 1)
			return err == nil
		})
		if _, err := kv.PutString(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	if w.seen() != "" {
		t.Fatal("a value before there is a bucket")
	}
	put("k", "1")
	step("the bucket comes late", "1")
	asked := wire.Stats().OutMsgs
	until(t, "the watch begins again", func() bool { return wire.Stats().OutMsgs > asked+6 })
	put("other", "x")
	put("k", "2")
	step("a change", "1 2")
	put("k", "2")
	step("the same value with another revision", "1 2 2")
	s.Stop()
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	until(t, "we are connected", nc.IsConnected)
	put("k", "3")
	step("NATS was away, and what is known comes once", "1 2 2 3")
	kv, err := js.KeyValue(t.Context(), "B")
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	put("k", "4")
	step("a deleted key keeps its value until there is another", "1 2 2 3 4")
	if err := js.DeleteKeyValue(t.Context(), "B"); err != nil {
		t.Fatal(err)
	}
	put("k", "5")
	step("the bucket was made again", "1 2 2 3 4 5")
	cancel()
	<-done
	until(t, "no watch leaves a consumer behind", func() bool {
		stream, err := js.Stream(t.Context(), "KV_B")
		return err == nil && stream.CachedInfo().State.Consumers == 0
	})
}

func TestWatchEndsWithItsContextWhileNATSIsAway(t *testing.T) {
	s := start(t)
	nc, js := connect(t, s.URL())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { Watch(ctx, js, "B", "k", func([]byte, uint64) { t.Error("a value") }); close(done) }()
	s.Stop()
	until(t, "NATS is away", func() bool { return !nc.IsConnected() })
	cancel()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
}

func TestTheNamesAreThoseOfTheContract(t *testing.T) {
	text, err := os.ReadFile("../../proto/BUS.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{BucketConfig, KeyPolicies, KeyJWKS, KeyStreams, LivePrefix, StreamPrefix, MirrorSuffix, ParkedPrefix, BucketKeys, KeySymmetric, KeySigning, APIPrefix,
		HeaderEvent, HeaderExclude, HeaderKey, HeaderUser, HeaderConnection, HeaderBody} {
		if !bytes.Contains(text, []byte(name)) {
			t.Errorf("BUS.md does not know %s", name)
		}
	}
}
