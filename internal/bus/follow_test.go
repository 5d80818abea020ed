package bus

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/natsdev"
)

// mirror is a bucket as Follow tells of it.
type mirror struct {
	mu       sync.Mutex
	now      map[string]string
	replaced int
}

func (m *mirror) Replace(all map[string][]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = make(map[string]string)
	for k, v := range all {
		m.now[k] = string(v)
	}
	m.replaced++
}

func (m *mirror) Set(key string, value []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if value == nil {
		delete(m.now, key)
	} else {
		m.now[key] = string(value)
	}
}

func (m *mirror) is(want map[string]string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.replaced > 0 && maps.Equal(m.now, want)
}

func (m *mirror) times() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.replaced
}

func TestAFollowerHasTheBucketWhateverHappens(t *testing.T) {
	old := followLife
	followLife = 300 * time.Millisecond
	s, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	nc, err := Connect(t.Context(), Options{URL: s.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	m := new(mirror)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); Follow(ctx, js, "B", m) }()
	t.Cleanup(func() { cancel(); <-done; followLife = old })
	wait := func(what string, ok func() bool) {
		t.Helper()
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.After(20 * time.Second); !ok(); {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("%s: %v", what, fmt.Sprint(m.now))
			}
		}
	}
	kv, err := EnsureBucket(t.Context(), js, "B", "", 1)
	if err != nil {
		t.Fatal(err)
	}
	wait("an empty bucket has been read", func() bool { return m.is(map[string]string{}) })
	put := func(key, value string) {
		t.Helper()
		if _, err := kv.PutString(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	put("user.a", "1")
	put("user.b", "2")
	put("token.c", "3")
	wait("what was put", func() bool { return m.is(map[string]string{"user.a": "1", "user.b": "2", "token.c": "3"}) })
	put("user.a", "4")
	if err := kv.Delete(t.Context(), "user.b"); err != nil {
		t.Fatal(err)
	}
	if err := kv.Purge(t.Context(), "token.c"); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"user.a": "4"}
	wait("what was changed and deleted", func() bool { return m.is(want) })
	n := m.times()
	wait("the watch is replaced", func() bool { return m.times() > n+1 && m.is(want) })
	s.Stop()
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	n = m.times()
	wait("NATS is back", func() bool { return m.times() > n && m.is(want) })
}

// A watch that never tells what is there is begun anew: here nothing of it is let
// through.
func TestAWatchThatSaysNothingIsBegunAnew(t *testing.T) {
	old := firstRead
	firstRead = 50 * time.Millisecond
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(),
		Users: []*server.User{{Username: "admin", Password: "a"}, {Username: "deaf", Password: "d", Permissions: &server.Permissions{
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX_deaf.*.*"}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("NATS did not start")
	}
	dial := func(user, password string, options ...nats.Option) jetstream.JetStream {
		nc, err := nats.Connect(s.ClientURL(), append(options, nats.UserInfo(user, password))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return js
	}
	kv, err := EnsureBucket(t.Context(), dial("admin", "a"), "B", "", 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.PutString(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	denied := make(chan struct{}, 1000)
	js := dial("deaf", "d", nats.CustomInboxPrefix("_INBOX_deaf"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) { denied <- struct{}{} }))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait(); firstRead = old })
	for name, follow := range map[string]func(context.Context){
		"a bucket": func(ctx context.Context) { Follow(ctx, js, "B", new(mirror)) },
		"a key":    func(ctx context.Context) { Watch(ctx, js, "B", "k", func([]byte, uint64) {}) },
	} {
		inner, stop := context.WithCancel(ctx)
		running.Go(func() { follow(inner) })
		for range 3 {
			select {
			case <-denied:
			case <-time.After(patience):
				t.Fatalf("%s: the watch is not begun anew", name)
			}
		}
		stop()
	}
}
