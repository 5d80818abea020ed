package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"nabat/control"
	"nabat/edge"
	"nabat/internal/bus"
	"nabat/internal/natsdev"
	"nabat/loadtest/checker"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

// tail keeps the end of what a process says.
type tail struct {
	mu   sync.Mutex // guards text
	text []byte
}

func (o *tail) Write(p []byte) (int, error) {
	const most = 16 << 10
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.text = append(o.text, p...); len(o.text) > most {
		o.text = o.text[len(o.text)-most:]
	}
	return len(p), nil
}

func (o *tail) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

// farm is a NATS cluster and edges, each a process, and controls in this one.
type farm struct {
	t       *testing.T
	members []member
	nats    []*process
	edges   []*process
	configs []edge.Config
	nc      *nats.Conn
	js      jetstream.JetStream
	window  int
}

// newFarm starts everything; history is kept of all rooms.
func newFarm(t *testing.T, servers, edges int, h policy.History) *farm {
	t.Helper()
	f := newServers(t, servers, edges)
	f.window = h.Messages
	f.startControls(f.configs[0].NATSURL, h, servers)
	return f
}

// newServers starts NATS servers, and chooses where edges will listen.
func newServers(t *testing.T, servers, edges int) *farm {
	t.Helper()
	f := &farm{t: t}
	addresses, err := natsdev.FreeAddresses(2*servers + 2*edges)
	if err != nil {
		t.Fatal(err)
	}
	var urls []string
	for i := range servers {
		f.members = append(f.members, member{Index: i, Routes: addresses[:servers], Listen: addresses[servers+i], Dir: filepath.Join(t.TempDir(), strconv.Itoa(i))})
		urls = append(urls, "nats://"+addresses[servers+i])
	}
	var starting sync.WaitGroup
	f.nats = make([]*process, servers)
	for i := range f.members { // a server is ready only with the others
		starting.Go(func() { f.startNATS(i) })
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	if f.nc, err = bus.Connect(ctx, bus.Options{URL: strings.Join(urls, ","), Name: "test"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.nc.Close)
	if f.js, err = jetstream.New(f.nc); err != nil {
		t.Fatal(err)
	}
	f.until("JetStream has a leader", func() bool {
		short, cancel := context.WithTimeout(ctx, 500*time.Millisecond) // nobody answers before there is one
		defer cancel()
		_, err := f.js.AccountInfo(short)
		return err == nil
	})
	for i := range edges {
		cfg := edge.Defaults()
		cfg.Listen, cfg.OpsListen = addresses[2*servers+i], addresses[2*servers+edges+i]
		cfg.NATSURL, cfg.Node, cfg.Dev, cfg.LogLevel = strings.Join(urls, ","), "edge-"+strconv.Itoa(i), true, "info"
		cfg.Drain = time.Second
		f.configs = append(f.configs, cfg)
	}
	return f
}

func (f *farm) startNATS(i int) {
	f.nats[i] = spawn(f.t, natsdev.MemberName(i), asNATS, f.members[i])
}

// startControls runs two replicas.
func (f *farm) startControls(urls string, h policy.History, replicas int) {
	f.t.Helper()
	file := filepath.Join(f.t.TempDir(), "policies.yaml")
	text := fmt.Sprintf("rooms:\n  - match: \">\"\n    history: {messages: %d, age: %s, replicas: %d}\n    anonymous: {subscribe: true}\n", h.Messages, h.Age, h.Replicas)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	for range 2 {
		cfg := control.Defaults()
		cfg.Listen, cfg.NATSURL, cfg.Dev, cfg.Policies, cfg.Replicas, cfg.StreamVerify = "127.0.0.1:0", urls, true, file, replicas, time.Second
		c, err := control.New(cfg, slog.New(slog.DiscardHandler), nil)
		if err != nil {
			f.t.Fatal(err)
		}
		run(f.t, c.Run)
		f.until("a control is ready", func() bool { return c.Ready() == nil })
	}
}

// startEdge returns when clients can come.
func (f *farm) startEdge(i int) {
	f.t.Helper()
	p := spawn(f.t, f.configs[i].Node, asEdge, f.configs[i])
	if i < len(f.edges) {
		f.edges[i] = p
	} else {
		f.edges = append(f.edges, p)
	}
	f.until(p.name+" is ready", func() bool {
		r, err := http.Get("http://" + f.configs[i].OpsListen + "/readyz")
		if err != nil {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
}

func (f *farm) addresses() (list []string) {
	for _, cfg := range f.configs {
		list = append(list, cfg.Listen)
	}
	return list
}

func (f *farm) until(what string, ok func() bool) {
	f.t.Helper()
	within(f.t, 3*patience, what, ok)
}

// within is until with a limit of its own.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(limit)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in %s: %s", limit, what)
		}
	}
}

// kept is the stream in the policies.
func (f *farm) kept() policy.Stream {
	f.t.Helper()
	var s *policy.Stream
	f.until("the policies name a stream", func() bool {
		kv, err := f.js.KeyValue(f.t.Context(), bus.BucketConfig)
		if err != nil {
			return false
		}
		e, err := kv.Get(f.t.Context(), bus.KeyPolicies)
		if err != nil {
			return false
		}
		set, err := policy.Decode(e.Value())
		if err != nil || len(set.Rooms) == 0 {
			return false
		}
		s = set.Rooms[0].Stream
		return s != nil
	})
	return *s
}

// info is what NATS says of a stream, nil when it says nothing.
func (f *farm) info(name string) *jetstream.StreamInfo {
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Second)
	defer cancel()
	s, err := f.js.Stream(ctx, name)
	if err != nil {
		return nil
	}
	return s.CachedInfo()
}

// healthy waits until both streams have all replicas, and the mirror follows.
func (f *farm) healthy() {
	f.t.Helper()
	kept := f.kept()
	whole := func(name string) *jetstream.StreamInfo {
		i := f.info(name)
		if i == nil || i.Cluster == nil || i.Cluster.Leader == "" {
			return nil
		}
		for _, r := range i.Cluster.Replicas {
			if !r.Current || r.Offline {
				return nil
			}
		}
		return i
	}
	f.until("stream and mirror are whole", func() bool {
		s := whole(kept.Name)
		if s == nil {
			return false
		}
		m := whole(kept.Mirror)
		return m != nil && m.State.LastSeq >= s.State.LastSeq
	})
}

func (f *farm) leader(stream string) int {
	f.t.Helper()
	leader := -1
	f.until(stream+" has a leader", func() bool {
		info := f.info(stream)
		for i := range f.members {
			if info != nil && info.Cluster != nil && info.Cluster.Leader == natsdev.MemberName(i) {
				leader = i
			}
		}
		return leader >= 0
	})
	return leader
}

// scale stretches the scenario: NABAT_FAULTS=10 plays it ten times over.
func scale(t *testing.T) int {
	text := os.Getenv("NABAT_FAULTS")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("NABAT_FAULTS is %q: must be how often the scenario is played", text)
	}
	return n
}

// few is the first of a list where time is short, as under the race detector.
func few(list []*process) []*process {
	if raceEnabled {
		return list[:1]
	}
	return list
}

// Every client gets every message once and in order, whatever dies.
func TestNothingIsLostWhateverDies(t *testing.T) {
	if testing.Short() {
		t.Skip("it plays for a minute")
	}
	f := newFarm(t, 3, 3, policy.History{Messages: 2000, Age: time.Hour, Replicas: 3})
	for i := range f.configs {
		// A slow reader is to lag soon.
		f.configs[i].LagQueueBytes, f.configs[i].SendBuffer = 16<<10, 8<<10
		f.startEdge(i)
	}
	f.healthy()
	plan := checker.Plan{NATS: f.configs[0].NATSURL, Every: 100 * time.Millisecond, Padding: 300, Window: f.window, Edges: f.addresses(),
		Clients: 48, RoomsEach: 3, Restless: true, Seed: 1}
	if raceEnabled {
		plan.Clients = 24
	}
	for i := range 12 {
		plan.Rooms = append(plan.Rooms, "game."+strconv.Itoa(i))
	}
	run, err := checker.Start(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	step := func(what string, fault func()) {
		t.Helper()
		// Every fault meets clients that are where they want to be, and traffic.
		f.until("messages flow again", func() func() bool {
			from := run.Published()
			return func() bool { return run.Published() >= from+5*len(plan.Rooms) && run.Present() >= plan.Clients/3 }
		}())
		t.Logf("%5.1f s, %5d messages: %s", time.Since(began).Seconds(), run.Published(), what)
		fault()
	}
	kept := f.kept()
	for range scale(t) {
		for i := range few(f.edges) {
			step(fmt.Sprintf("edge %d is killed", i), func() { f.edges[i].kill() })
			step(fmt.Sprintf("edge %d is back", i), func() { f.startEdge(i) })
		}
		var i int
		step("the stream's leader is killed", func() { i = f.leader(kept.Name); f.nats[i].kill() })
		step("it is back", func() { f.startNATS(i); f.healthy() })
		if !raceEnabled {
			step("the mirror's leader is killed", func() { i = f.leader(kept.Mirror); f.nats[i].kill() })
			step("it is back", func() { f.startNATS(i); f.healthy() })
		}
		for i := range few(f.nats) {
			step(fmt.Sprintf("NATS %d is a lame duck", i), func() { f.nats[i].stop() })
			step(fmt.Sprintf("NATS %d is back", i), func() { f.startNATS(i); f.healthy() })
		}
		step("a room is purged, and an edge forgets it", func() { f.purge(run, plan.Rooms[0]); f.edges[1].kill() })
		step("it is back", func() { f.startEdge(1) })
		step("an edge drains", func() { f.edges[2].stop() })
		step("it is back", func() { f.startEdge(2) })
	}
	step("the end", func() {})
	f.report(run.Finish(f.limit()))
}

// purge removes what is stored of a room, as control does. Clients that have it
// go on; those that have not must be told.
func (f *farm) purge(run *checker.Run, room string) {
	f.t.Helper()
	kept := f.kept()
	last := f.info(kept.Name).State.LastSeq
	f.until("the mirror follows", func() bool { m := f.info(kept.Mirror); return m != nil && m.State.LastSeq >= last })
	run.Purged(room, kept.Name, last)
	for _, name := range []string{kept.Name, kept.Mirror} {
		f.until(name+" is purged", func() bool {
			s, err := f.js.Stream(f.t.Context(), name)
			return err == nil && s.Purge(f.t.Context(), jetstream.WithPurgeSubject("room."+room), jetstream.WithPurgeSequence(last+1)) == nil
		})
	}
}

func (f *farm) limit() context.Context {
	ctx, cancel := context.WithTimeout(f.t.Context(), 2*patience)
	f.t.Cleanup(cancel)
	return ctx
}

// report fails unless nothing was lost.
func (f *farm) report(r *checker.Report) {
	f.t.Helper()
	f.t.Logf("%s", r)
	// A loss that was announced is no broken promise only where a room was purged,
	// or more came than is kept; the checker knows both.
	if r.Broken > 0 {
		f.t.Errorf("%d promises broken", r.Broken)
	}
	for code, n := range r.Errors {
		if code != string(wire.Unavailable) {
			f.t.Errorf("%d errors: %s", n, code)
		}
	}
	for reason, n := range r.Unrecovered {
		if reason != wire.HistoryCut {
			f.t.Errorf("%d times not recovered: %s", n, reason)
		}
	}
	if r.Delivered == 0 || r.Recovered == 0 {
		f.t.Error("nothing was tried")
	}
}

// storm asks a checker in a process of its own for its report.
func stormReport(t *testing.T, p *process) *checker.Report {
	t.Helper()
	r := new(checker.Report)
	if err := json.Unmarshal([]byte(p.ask("finish 1m")), r); err != nil {
		t.Fatal(err)
	}
	return r
}
