package policies

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/bus"
	"nabat/internal/natsdev"
	"nabat/proto/policy"
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

type rig struct {
	t    *testing.T
	nats *natsdev.Server
	nc   *nats.Conn
	kv   jetstream.KeyValue
}

func setup(t *testing.T) *rig {
	t.Helper()
	s, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	nc, err := bus.Connect(t.Context(), bus.Options{URL: s.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := bus.EnsureBucket(t.Context(), js, bus.BucketConfig, "", 1)
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t, s, nc, kv}
}

// inForce is what edges read: version and patterns.
func (r *rig) inForce() string {
	e, err := r.kv.Get(r.t.Context(), bus.KeyPolicies)
	if err != nil {
		return err.Error()
	}
	set, err := policy.Decode(e.Value())
	if err != nil {
		return err.Error()
	}
	text := fmt.Sprint(set.Version, ":")
	for _, p := range set.Rooms {
		text += " " + p.Match
	}
	return text
}

func (r *rig) want(text string) {
	r.t.Helper()
	if got := r.inForce(); got != text {
		r.t.Fatalf("in force %q, want %q", got, text)
	}
}

func set(matches ...string) *policy.Set {
	s := &policy.Set{}
	for _, m := range matches {
		s.Rooms = append(s.Rooms, policy.Policy{Match: m})
	}
	return s
}

func (r *rig) publish(s *policy.Set) *Publisher {
	r.t.Helper()
	p := New(s, slog.New(slog.DiscardHandler))
	if err := p.Publish(r.t.Context(), r.kv); err != nil {
		r.t.Fatal(err)
	}
	return p
}

func TestVersionsGrowWithEveryChangeAndOnlyThen(t *testing.T) {
	r := setup(t)
	r.publish(set("a"))
	r.want("1: a")
	if p := r.publish(set("a")); p.Set().Version != 1 {
		t.Fatalf("version %d", p.Set().Version)
	}
	r.want("1: a")
	r.publish(set("b", "c"))
	r.want("2: b c")
	if p := r.publish(set("a")); p.Set().Version != 3 {
		t.Fatalf("version %d", p.Set().Version)
	}
	r.want("3: a")
	// What cannot be read is replaced, and what was deleted is written again.
	if _, err := r.kv.PutString(t.Context(), bus.KeyPolicies, "{"); err != nil {
		t.Fatal(err)
	}
	r.publish(set("d"))
	if got := r.inForce(); !strings.HasSuffix(got, ": d") {
		t.Fatal(got)
	}
	if err := r.kv.Delete(t.Context(), bus.KeyPolicies); err != nil {
		t.Fatal(err)
	}
	r.publish(set("e"))
	if got := r.inForce(); !strings.HasSuffix(got, ": e") {
		t.Fatal(got)
	}
}

func TestReplicasThatPublishTogetherOverwriteNothingUnseen(t *testing.T) {
	r := setup(t)
	const replicas = 8
	var wg sync.WaitGroup
	versions := make([]uint64, replicas)
	for i := range replicas {
		wg.Go(func() {
			p := New(set(fmt.Sprintf("r%d", i)), slog.New(slog.DiscardHandler))
			if err := p.Publish(t.Context(), r.kv); err != nil {
				t.Error(err)
			}
			versions[i] = p.Set().Version
		})
	}
	wg.Wait()
	seen := make(map[uint64]bool)
	for i, v := range versions {
		if v < 1 || v > replicas || seen[v] {
			t.Fatalf("replica %d published version %d: %v", i, v, versions)
		}
		seen[v] = true
	}
	history, err := r.kv.History(t.Context(), bus.KeyPolicies)
	if err != nil || len(history) != replicas {
		t.Fatal(len(history), err)
	}
	for i, e := range history {
		if s, err := policy.Decode(e.Value()); err != nil || s.Version != uint64(i+1) {
			t.Fatalf("entry %d: %+v %v", i, s, err)
		}
	}
}

func TestAReloadThatFailsChangesNothing(t *testing.T) {
	r := setup(t)
	p := r.publish(set("a"))
	file := filepath.Join(t.TempDir(), "p.yaml")
	for rule, c := range map[string]struct{ text, want string }{
		"no YAML":      {"rooms: [", "policies: " + file + ":1: "},
		"a bad policy": {"rooms:\n - match: a\n - match: a\n", "policies: " + file + ":"},
	} {
		t.Run(rule, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := p.Reload(t.Context(), file); err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Fatalf("got %v, want %s", err, c.want)
			}
		})
	}
	if err := p.Reload(t.Context(), file+"x"); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("rooms:\n - match: b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Reload(ctx, file); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if s := p.Set(); len(s.Rooms) != 1 || s.Rooms[0].Match != "a" || s.Version != 1 {
		t.Fatalf("%+v", s)
	}
	r.want("1: a")
}

// follow runs Follow on a file and returns its log.
func (r *rig) follow(p *Publisher, file string) *lockedBuffer {
	r.t.Helper()
	pollInterval = 5 * time.Millisecond
	log := &lockedBuffer{}
	p.log = slog.New(slog.NewTextHandler(log, nil))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { p.Follow(ctx, file); close(done) }()
	r.t.Cleanup(func() { cancel(); <-done; pollInterval = 2 * time.Second })
	return log
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

func (l *lockedBuffer) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// replace writes a file as a whole, as those who mount files do.
func replace(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func TestFollow(t *testing.T) {
	r := setup(t)
	file := filepath.Join(t.TempDir(), "p.yaml")
	replace(t, file, "rooms:\n - match: a\n")
	first, err := ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// The file changes between the start of the program and that of Follow.
	replace(t, file, "rooms:\n - match: b\n")
	p := r.publish(first)
	r.want("1: a")
	log := r.follow(p, file)
	until(t, "the change is published", func() bool { return r.inForce() == "2: b" })
	replace(t, file, "rooms:\n - nonsense\n")
	until(t, "the log says what is wrong", func() bool { return log.count("p.yaml:2: ") == 1 })
	replace(t, file, "rooms:\n - match: c\n")
	until(t, "the change is published", func() bool { return r.inForce() == "3: c" })
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	until(t, "the log says that it is gone", func() bool { return log.count("no such file") == 1 })
	replace(t, file, "rooms:\n - match: d\n")
	until(t, "the change is published", func() bool { return r.inForce() == "4: d" })
	if log.count("p.yaml:2: ") != 1 || log.count("no such file") != 1 {
		t.Error("one mistake was reported more than once")
	}
}

func TestAChangeDuringAnOutageIsPublishedAfterIt(t *testing.T) {
	r := setup(t)
	file := filepath.Join(t.TempDir(), "p.yaml")
	replace(t, file, "rooms:\n - match: a\n")
	p := r.publish(set("a"))
	log := r.follow(p, file)
	r.nats.Stop()
	until(t, "NATS is away", func() bool { return !r.nc.IsConnected() })
	replace(t, file, "rooms:\n - match: b\n")
	until(t, "NATS did not take it", func() bool { return log.count("publish policies") > 0 })
	if err := r.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	until(t, "it is published", func() bool { return r.inForce() == "2: b" })
}
