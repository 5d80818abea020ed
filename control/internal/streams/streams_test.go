package streams

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"nabat/control/internal/metrics"
	"nabat/control/internal/policies"
	"nabat/internal/bus"
	"nabat/internal/natsdev"
	"nabat/proto/policy"
	"nabat/proto/subject"
)

const patience = 60 * time.Second

type rig struct {
	t  *testing.T
	nc *nats.Conn
	js jetstream.JetStream
	kv jetstream.KeyValue
}

func setup(t *testing.T) *rig {
	t.Helper()
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	return connect(t, server.URL(), 1)
}

func connect(t *testing.T, url string, replicas int) *rig {
	t.Helper()
	nc, err := bus.Connect(t.Context(), bus.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := bus.EnsureBucket(t.Context(), js, bus.BucketConfig, "", replicas)
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t, nc, js, kv}
}

// replica is one control's part in this.
type replica struct {
	*rig
	*Keeper
	publisher *publisher
	log       *strings.Builder
}

// publisher is that of the newest file.
type publisher struct{ *policies.Publisher }

func (r *rig) replica(change func(*Options)) *replica {
	log := &strings.Builder{}
	logger := slog.New(slog.NewTextHandler(log, nil))
	p := &publisher{}
	o := Options{JetStream: r.js, Policies: p, Prefix: subject.RoomPrefix, Live: bus.LivePrefix,
		Interval: 10 * time.Second, Grace: time.Hour, Counts: metrics.New(), Log: logger}
	if change != nil {
		change(&o)
	}
	return &replica{r, New(o), p, log}
}

// publish puts policies in force, as a control that reads them from its file.
func (r *replica) publish(rooms ...policy.Policy) {
	r.t.Helper()
	if err := r.tryPublish(rooms...); err != nil {
		r.t.Fatal(err)
	}
}

func (r *replica) tryPublish(rooms ...policy.Policy) error {
	r.publisher.Publisher = policies.New(&policy.Set{Rooms: rooms}, slog.New(slog.DiscardHandler))
	return r.publisher.Publish(r.t.Context(), r.kv)
}

// verified returns the streams that are marked, by pattern, once all is well.
func (r *replica) verified() map[string]policy.Stream {
	r.t.Helper()
	var err error
	for begin := time.Now(); time.Since(begin) < patience; {
		if err = r.Verify(r.t.Context()); err == nil {
			return r.marked()
		}
	}
	r.t.Fatal(err)
	return nil
}

func (r *replica) marked() map[string]policy.Stream {
	r.t.Helper()
	set, _, err := r.publisher.InForce(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	streams := make(map[string]policy.Stream)
	for _, p := range set.Rooms {
		if p.Stream != nil {
			streams[p.Match] = *p.Stream
		}
	}
	return streams
}

func keeps(pattern string, messages int) policy.Policy {
	return policy.Policy{Match: pattern, History: &policy.History{Messages: messages, Age: time.Hour}}
}

func (r *rig) config(name string) jetstream.StreamConfig {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), name)
	if err != nil {
		r.t.Fatalf("stream %s: %v", name, err)
	}
	return s.CachedInfo().Config
}

func (r *rig) send(room string) uint64 {
	r.t.Helper()
	subj, err := subject.Encode(subject.RoomPrefix, room)
	if err != nil {
		r.t.Fatal(err)
	}
	ack, err := r.js.Publish(r.t.Context(), subj, []byte(room))
	if err != nil {
		r.t.Fatalf("publish to %s: %v", subj, err)
	}
	return ack.Sequence
}

func (r *rig) messages(name string) uint64 {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), name)
	if err != nil {
		r.t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func (r *rig) names() []string {
	r.t.Helper()
	var names []string
	list := r.js.StreamNames(r.t.Context())
	for name := range list.Name() {
		if strings.HasPrefix(name, bus.StreamPrefix) {
			names = append(names, name)
		}
	}
	if list.Err() != nil {
		r.t.Fatal(list.Err())
	}
	return names
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

func TestAMessageIsStoredAndRepublishedOnTheShardThatEdgesReckon(t *testing.T) {
	for _, c := range []struct {
		policies []string
		rooms    []string
	}{
		{[]string{"chat.>", "news", "team chat.50%.>", "a.b", "été.x*.>"}, []string{"chat.1", "chat.a b*", "chat.x.y.z", "news", "team chat.50%.1", "a.b", "été.x*.ü"}},
		{[]string{">"}, []string{"a", "a.$1.{{wildcard(1)}}", "sports.news", "x.%"}},
	} {
		t.Run(c.policies[0], func(t *testing.T) {
			r := setup(t).replica(nil)
			var rooms []policy.Policy
			for _, pattern := range c.policies {
				rooms = append(rooms, keeps(pattern, 10))
			}
			r.publish(rooms...)
			streams := r.verified()
			if len(streams) != len(c.policies) {
				t.Fatalf("marked %v", streams)
			}
			live, err := r.nc.SubscribeSync("live.>")
			if err != nil {
				t.Fatal(err)
			}
			if err := r.nc.Flush(); err != nil {
				t.Fatal(err)
			}
			for _, room := range c.rooms {
				offset := r.send(room)
				subj, _ := subject.Encode("room.", room)
				m, err := live.NextMsg(patience)
				if err != nil {
					t.Fatalf("%s: %v", room, err)
				}
				set, _, _ := r.publisher.InForce(t.Context())
				stream := set.For(room).Stream
				want := fmt.Sprintf("live.%d.%s", subject.Shard(subj), strings.TrimPrefix(subj, "room."))
				if m.Subject != want || m.Header.Get("Nats-Stream") != stream.Name || m.Header.Get("Nats-Subject") != subj ||
					m.Header.Get("Nats-Sequence") != fmt.Sprint(offset) || string(m.Data) != room {
					t.Errorf("got %s %v, want %s from %s", m.Subject, m.Header, want, stream.Name)
				}
				reply, err := r.nc.Request("$JS.API.DIRECT.GET."+stream.Mirror, []byte(`{"last_by_subj":"`+subj+`"}`), patience)
				for err == nil && reply.Header.Get("Nats-Sequence") == "" && t.Context().Err() == nil { // the mirror is behind
					reply, err = r.nc.Request("$JS.API.DIRECT.GET."+stream.Mirror, []byte(`{"last_by_subj":"`+subj+`"}`), patience)
				}
				if err != nil || reply.Header.Get("Nats-Stream") != stream.Mirror || reply.Header.Get("Nats-Subject") != subj {
					t.Errorf("from the mirror of %s: %v, %v", room, reply, err)
				}
			}
		})
	}
}

func TestStreamAndMirrorHaveTheLimitsOfTheirPolicy(t *testing.T) {
	r := setup(t).replica(nil)
	p := policy.Policy{Match: "chat.>", History: &policy.History{Messages: 7, Age: time.Minute, Bytes: 2 << 20, Replicas: 1}}
	r.publish(p)
	stream := r.verified()["chat.>"]
	check := func(messages, bytes int64, age, duplicates time.Duration) {
		t.Helper()
		for _, name := range []string{stream.Name, stream.Mirror} {
			c := r.config(name)
			if c.MaxMsgsPerSubject != messages || c.MaxAge != age || c.MaxBytes != bytes || c.MaxMsgs != -1 || c.Storage != jetstream.FileStorage ||
				!c.AllowDirect || c.AllowRollup || c.AllowMsgTTL || c.AllowMsgSchedules || c.Discard != jetstream.DiscardOld ||
				c.Metadata["nabat.pattern"] != "chat.>" || c.Metadata["nabat.epoch"] != stream.Epoch {
				t.Errorf("%s: %+v", name, c)
			}
		}
		if c := r.config(stream.Name); c.Duplicates != duplicates || !strings.HasPrefix(c.Name, "NABAT_chat_"+stream.Epoch) {
			t.Errorf("%+v", c)
		}
	}
	check(7, 2<<20, time.Minute, time.Minute)

	// A policy that changes keeps its stream, and what lies there.
	r.send("chat.1")
	p.History = &policy.History{Messages: 9, Age: time.Hour}
	r.publish(p)
	if again := r.marked()["chat.>"]; again != stream {
		t.Fatalf("published with %+v, had %+v", again, stream)
	}
	if again := r.verified()["chat.>"]; again != stream {
		t.Fatalf("verified as %+v, was %+v", again, stream)
	}
	check(9, -1, time.Hour, 2*time.Minute)
	if n := r.messages(stream.Name); n != 1 {
		t.Fatalf("%d messages", n)
	}

	// What somebody changed by hand is put right, and what is theirs is left.
	c := r.config(stream.Name)
	c.MaxMsgsPerSubject, c.RePublish, c.AllowRollup, c.Compression, c.Subjects = 1, nil, true, jetstream.S2Compression, []string{"room.x"}
	c.Metadata = map[string]string{"owner": "me"}
	if _, err := r.js.UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	m := r.config(stream.Mirror)
	m.MaxAge, m.AllowDirect = time.Second, false
	if _, err := r.js.UpdateStream(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	r.verified()
	check(9, -1, time.Hour, 2*time.Minute)
	if c := r.config(stream.Name); c.Compression != jetstream.S2Compression || c.Metadata["owner"] != "me" || c.RePublish == nil || c.Subjects[0] != "room.chat.>" {
		t.Errorf("%+v", c)
	}
	for _, name := range []string{"republish", "subjects", "max_msgs_per_subject", "allow_rollup_hdrs", "metadata", "max_age", "allow_direct"} {
		if !strings.Contains(r.log.String(), name) {
			t.Errorf("the log does not name %s: %s", name, r.log)
		}
	}

	// A mirror that was deleted is made again and holds what its stream holds.
	if err := r.js.DeleteStream(t.Context(), stream.Mirror); err != nil {
		t.Fatal(err)
	}
	if again := r.verified()["chat.>"]; again != stream {
		t.Fatalf("verified as %+v, was %+v", again, stream)
	}
	until(t, "the mirror has the message", func() bool { return r.messages(stream.Mirror) == 1 })
}

func TestALostStreamIsReplacedUnderANewEpoch(t *testing.T) {
	r := setup(t).replica(nil)
	r.publish(keeps("chat.>", 10))
	first := r.verified()["chat.>"]
	r.send("chat.1")
	until(t, "the mirror has the message", func() bool { return r.messages(first.Mirror) == 1 })
	if err := r.js.DeleteStream(t.Context(), first.Name); err != nil {
		t.Fatal(err)
	}
	second := r.verified()["chat.>"]
	if second.Epoch == first.Epoch || second.Name == first.Name || second.Epoch == "" {
		t.Fatalf("was %+v, is %+v", first, second)
	}
	if n := r.messages(first.Mirror); n != 1 {
		t.Fatalf("the old mirror holds %d messages, want 1", n)
	}
	if offset := r.send("chat.1"); offset != 1 {
		t.Fatalf("offset %d", offset)
	}

	// Made again by hand under its old name, it is not the same either.
	list, err := load(t.Context(), r.kv)
	if err != nil {
		t.Fatal(err)
	}
	list.Streams["chat.>"].Created = list.Streams["chat.>"].Created.Add(-time.Minute)
	if err := list.save(t.Context(), r.kv, list.Policies); err != nil {
		t.Fatal(err)
	}
	third := r.verified()["chat.>"]
	if third.Epoch == second.Epoch {
		t.Fatalf("still %+v", third)
	}
	if subjects := r.config(second.Name).Subjects; !reflect.DeepEqual(subjects, []string{"nabat.parked." + second.Name}) {
		t.Fatalf("the old stream captures %v", subjects)
	}
}

func TestAPolicyThatGoesAndComes(t *testing.T) {
	other := policy.Policy{Match: "other"}
	t.Run("back at once has lost nothing", func(t *testing.T) {
		r := setup(t).replica(nil)
		r.publish(keeps("chat.>", 10))
		stream := r.verified()["chat.>"]
		r.publish(other)
		if streams := r.verified(); len(streams) != 0 {
			t.Fatalf("marked %v", streams)
		}
		r.send("chat.1")
		r.publish(keeps("chat.>", 10), other)
		if again := r.verified()["chat.>"]; again != stream || r.messages(stream.Name) != 1 {
			t.Fatalf("was %+v, is %+v", stream, again)
		}
	})
	t.Run("without history for long is parked, and gets a new epoch", func(t *testing.T) {
		r := setup(t).replica(func(o *Options) { o.Grace = 0 })
		r.publish(keeps("chat.>", 10))
		stream := r.verified()["chat.>"]
		r.send("chat.1")
		r.publish(policy.Policy{Match: "chat.>"}, other)
		r.verified()
		if c := r.config(stream.Name); c.RePublish != nil || c.Subjects[0] != "nabat.parked."+stream.Name || c.MaxMsgsPerSubject != 10 {
			t.Fatalf("%+v", c)
		}
		if !strings.Contains(r.log.String(), "a stream is parked") {
			t.Errorf("the log says nothing: %s", r.log)
		}
		if _, err := r.js.Publish(t.Context(), "room.chat.1", nil); !errors.Is(err, jetstream.ErrNoStreamResponse) {
			t.Fatalf("a parked stream stores: %v", err)
		}
		r.publish(keeps("chat.>", 10), other)
		again := r.verified()["chat.>"]
		if again.Epoch == stream.Epoch || again.Epoch == "" || r.messages(stream.Name) != 1 || r.messages(again.Name) != 0 {
			t.Fatalf("was %+v, is %+v", stream, again)
		}
		// Deleted by hand, it is forgotten.
		for _, name := range []string{stream.Name, stream.Mirror} {
			if err := r.js.DeleteStream(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		list, err := load(t.Context(), r.kv)
		if err != nil || len(list.Parked) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		list.Parked[0].Orphaned = time.Now().Add(-2 * forgetAfter)
		if err := list.save(t.Context(), r.kv, list.Policies); err != nil {
			t.Fatal(err)
		}
		r.verified()
		if list, err = load(t.Context(), r.kv); err != nil || len(list.Parked) != 0 {
			t.Fatalf("%+v, %v", list, err)
		}
	})
	t.Run("under an overlapping pattern gives its subjects up at once", func(t *testing.T) {
		r := setup(t).replica(nil)
		r.publish(keeps("chat.>", 10))
		stream := r.verified()["chat.>"]
		r.send("chat.a.1")
		r.publish(keeps("chat.a.>", 10), keeps("chat.b.>", 10))
		streams := r.verified()
		if len(streams) != 2 || r.messages(stream.Name) != 1 {
			t.Fatalf("marked %v", streams)
		}
		r.send("chat.a.1")
		if r.messages(stream.Name) != 1 || r.messages(streams["chat.a.>"].Name) != 1 {
			t.Fatal("the message went elsewhere")
		}
	})
}

func TestReplicasThatRaceMakeOneStream(t *testing.T) { race(t, setup(t), 1) }

func TestReplicasThatRaceInACluster(t *testing.T) {
	servers, err := natsdev.StartCluster(3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(servers.Shutdown)
	r := connect(t, servers.URL(), 3)
	streams := race(t, r, 3)

	// Another leader does not make another stream of it.
	again := r.replica(nil)
	again.publish(keepsIn("chat.>", 3), keepsIn("news", 3))
	name := streams["chat.>"].Name
	cluster := func() *jetstream.ClusterInfo {
		ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond) // nobody answers without a leader
		defer cancel()
		s, err := r.js.Stream(ctx, name)
		if err != nil || s.CachedInfo().Cluster == nil {
			return &jetstream.ClusterInfo{}
		}
		return s.CachedInfo().Cluster
	}
	var before *jetstream.ClusterInfo
	until(t, "a leader and its heirs", func() bool { before = cluster(); return before.Leader != "" && len(before.Replicas) == 2 })
	heir := before.Replicas[0].Name // named, so that nobody waits for an election
	if _, err := r.nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+name, []byte(`{"placement":{"preferred":"`+heir+`"}}`), patience); err != nil {
		t.Fatal(err)
	}
	until(t, "another leader", func() bool { now := cluster().Leader; return now != "" && now != before.Leader })
	until(t, "the streams are the same", func() bool {
		return again.Verify(t.Context()) == nil && reflect.DeepEqual(again.marked(), streams)
	})
}

func keepsIn(pattern string, replicas int) policy.Policy {
	p := keeps(pattern, 10)
	p.History.Replicas = replicas
	return p
}

// race lets several replicas begin at once. In a cluster one of them has other
// limits, so that they also change what another made; a single nats-server 2.15
// reads the settings of a mirror's origin without a lock then, which the race
// detector rightly reports.
func race(t *testing.T, r *rig, copies int) map[string]policy.Stream {
	var wg sync.WaitGroup
	var all []*replica
	for i := range 4 {
		c := r.replica(nil)
		all = append(all, c)
		wg.Go(func() {
			p := keepsIn("chat.>", copies)
			if copies > 1 {
				p.History.Messages = 10 - i/3
			}
			// A control tries until it succeeds.
			err := c.tryPublish(p, keepsIn("news", copies))
			for begin := time.Now(); err != nil && time.Since(begin) < patience; {
				err = c.tryPublish(p, keepsIn("news", copies))
			}
			if err != nil {
				t.Error(err)
			}
			for range 3 {
				// A failure is another replica's turn.
				_ = c.Verify(t.Context())
			}
		})
	}
	wg.Wait()
	var streams map[string]policy.Stream
	for _, c := range all {
		until(t, "all is well", func() bool { return c.Verify(t.Context()) == nil })
		if c.Ready() != nil {
			t.Fatal(c.Ready())
		}
		if streams == nil {
			streams = c.marked()
		}
		if again := c.marked(); !reflect.DeepEqual(again, streams) || len(streams) != 2 {
			t.Fatalf("%v and %v", streams, again)
		}
	}
	if names := r.names(); len(names) != 4 {
		t.Fatalf("there are %v", names)
	}
	return streams
}

func TestAStreamThatCannotBeHad(t *testing.T) {
	r := setup(t).replica(nil)
	if _, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "MINE", Subjects: []string{"room.chat.7"}}); err != nil {
		t.Fatal(err)
	}
	r.publish(keeps("chat.>", 10), keeps("news", 10), keepsIn("many", 3))
	err := r.Verify(t.Context())
	if err == nil || !strings.Contains(err.Error(), `policy "chat.>"`) || !strings.Contains(err.Error(), "room.chat.> is captured by MINE (room.chat.7)") ||
		!strings.Contains(err.Error(), `policy "many"`) {
		t.Fatalf("%v", err)
	}
	if got := r.Ready(); got == nil || got.Error() != err.Error() {
		t.Fatalf("ready: %v", got)
	}
	if streams := r.marked(); len(streams) != 1 || streams["news"].Name == "" {
		t.Fatalf("marked %v", streams)
	}
	// Run goes on trying.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	defer func() { cancel(); <-done }()
	if err := r.js.DeleteStream(t.Context(), "MINE"); err != nil {
		t.Fatal(err)
	}
	until(t, "the stream is there", func() bool { return r.marked()["chat.>"].Name != "" })
	other := r.replica(nil)
	other.publish(keeps("chat.>", 10), keeps("news", 10))
	until(t, "ready without the third", func() bool { return r.Ready() == nil })
}

func TestStreamsAreFoundAgainWhenTheListIsLost(t *testing.T) {
	r := setup(t).replica(nil)
	r.publish(keeps("chat.>", 10), keeps("old.>", 10))
	streams := r.verified()
	r.send("chat.1")
	if err := r.kv.Purge(t.Context(), bus.KeyStreams); err != nil {
		t.Fatal(err)
	}
	if err := r.kv.Purge(t.Context(), bus.KeyPolicies); err != nil {
		t.Fatal(err)
	}
	r.publish(keeps("chat.>", 10), keeps("old.a", 10))
	again := r.verified()
	if again["chat.>"] != streams["chat.>"] || len(again) != 2 {
		t.Fatalf("was %v, is %v", streams, again)
	}
	if c := r.config(streams["old.>"].Name); c.Subjects[0] != bus.ParkedPrefix+c.Name {
		t.Fatalf("still captures %v", c.Subjects)
	}
}

func TestPurgeEmptiesStreamAndMirrorOfOneRoom(t *testing.T) {
	r := setup(t).replica(nil)
	r.publish(keeps("chat.>", 10), policy.Policy{Match: "plain"})
	stream := r.verified()["chat.>"]
	for range 3 {
		r.send("chat.a b")
		r.send("chat.c")
	}
	if _, err := r.Purge(t.Context(), "chat.a b"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{stream.Name, stream.Mirror} {
		if n := r.messages(name); n != 3 {
			t.Errorf("%s holds %d messages, want 3", name, n)
		}
	}
	if offset := r.send("chat.a b"); offset != 7 {
		t.Fatalf("offset %d", offset)
	}
	until(t, "the mirror follows", func() bool { return r.messages(stream.Mirror) == 4 })
	for _, room := range []string{"plain", "none"} {
		if _, err := r.Purge(t.Context(), room); !errors.Is(err, ErrNoHistory) {
			t.Errorf("%s: %v", room, err)
		}
	}
	if _, err := r.Purge(t.Context(), "a..b"); err == nil {
		t.Error("a bad room was purged")
	}
}

func TestOlderPoliciesAreNotObeyed(t *testing.T) {
	r := setup(t).replica(nil)
	r.publish(keeps("chat.>", 10))
	stream := r.verified()["chat.>"]
	_, revision, err := r.publisher.InForce(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.publisher.Mark(t.Context(), revision-1, nil); err != nil {
		t.Fatal(err)
	}
	if r.marked()["chat.>"] != stream {
		t.Fatal("a mark by older policies took the stream away")
	}
	list, err := load(t.Context(), r.kv)
	if err != nil {
		t.Fatal(err)
	}
	list.Streams["chat.>"].Ready = false
	if err := list.save(t.Context(), r.kv, revision+1); err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(t.Context()); !errors.Is(err, errAgain) {
		t.Fatalf("judged by policies that are older than the list: %v", err)
	}
}

func TestNamesAndSubjects(t *testing.T) {
	for _, c := range []struct{ pattern, slug, filter string }{
		{">", "all", "room.>"},
		{"chat.>", "chat", "room.chat.>"},
		{"a.b.c", "a-b-c", "room.a.b.c"},
		{"team chat.50%.>", "team-chat-50-", "room.team%20chat.50%25.>"},
		{"été", "--t--", "room.été"},
		{strings.Repeat("x", 40), strings.Repeat("x", 32), "room." + strings.Repeat("x", 40)},
	} {
		subj, err := filter("room.", c.pattern)
		if got := slug(c.pattern); got != c.slug || subj != c.filter || err != nil {
			t.Errorf("%s: %s, %s, %v", c.pattern, got, subj, err)
		}
	}
}
