package client_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nabat/client"
	"nabat/internal/bus"
	"nabat/proto/grant"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

// relay is a TCP load balancer in front of edges, whose connections can be cut.
type relay struct {
	listener net.Listener

	mu     sync.Mutex // guards what is below
	target string     // an edge; empty: nobody gets through
	open   []net.Conn
}

func newRelay(t rig, target string) *relay {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: l, target: target}
	t.Cleanup(func() { _ = l.Close(); r.aim("") })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.pass(c)
		}
	}()
	return r
}

func (r *relay) pass(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.target == "" {
		_ = c.Close()
		return
	}
	e, err := net.Dial("tcp", r.target)
	if err != nil {
		_ = c.Close()
		return
	}
	r.open = append(r.open, c, e)
	move := func(to, from net.Conn) {
		buffer := make([]byte, 4<<10)
		for {
			n, err := from.Read(buffer)
			if _, werr := to.Write(buffer[:n]); err != nil || werr != nil {
				_ = to.Close()
				_ = from.Close()
				return
			}
		}
	}
	go move(c, e)
	go move(e, c)
}

// aim cuts all connections; later ones go to target.
func (r *relay) aim(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.open {
		_ = c.Close()
	}
	r.open, r.target = nil, target
}

func (r *relay) address() string { return r.listener.Addr().String() }

// await returns the next event that is wanted, and skips others.
func await[T any](t *testing.T, k *client.Keeper, want func(client.Event) *T) *T {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case e, ok := <-k.Events():
			if !ok {
				t.Fatalf("ended: %v", k.Err())
			}
			if found := want(e); found != nil {
				return found
			}
		case <-deadline:
			t.Fatal("waited in vain")
		}
	}
}

func isConnected(e client.Event) *wire.Connected { return e.Connected }
func isMessage(e client.Event) *wire.Message     { return e.Message }
func isRecovery(e client.Event) *client.Recovery { return e.Recovered }
func isReset(e client.Event) *wire.Position      { return e.Reset }

// A rolling deploy with broken connections between, while numbered messages are
// published by a backend and by the client itself.
func TestKeeperGetsEachMessageOnceWhileEdgesComeAndGo(t *testing.T) {
	t.Run("JSON", func(t *testing.T) { testComingAndGoing(t, client.Options{}) })
	t.Run("Protobuf, batched", func(t *testing.T) { testComingAndGoing(t, client.Options{Protobuf: true, Batch: true}) })
}

func testComingAndGoing(t *testing.T, o client.Options) {
	r := newEdges(t, &policy.History{Messages: 100000, Age: time.Hour})
	first, stopFirst := r.start("127.0.0.1:0")
	second, stopSecond := r.start("127.0.0.1:0")
	between := newRelay(t, first)
	rooms := []string{"a", "b", "own"}
	o.Rooms, o.Queue = rooms, 16
	k := keep(t, between.address(), o)
	await(t, k, isConnected)

	enough := make(chan struct{})
	published := make(chan map[string]int, 2)
	publish := func(rooms []string, one func(room string, n int) error) {
		for n := 0; ; n++ {
			for _, room := range rooms {
				if err := one(room, n); err != nil {
					t.Error(err)
					published <- nil
					return
				}
			}
			select {
			case <-enough:
				counts := map[string]int{}
				for _, room := range rooms {
					counts[room] = n + 1
				}
				published <- counts
				return
			default:
			}
		}
	}
	go publish(rooms[:2], func(room string, n int) error { // a backend
		_, err := r.js.Publish(t.Context(), "room."+room, fmt.Append(nil, n))
		return err
	})
	var mu sync.Mutex // guards offsets
	var offsets []uint64
	go publish(rooms[2:], func(room string, n int) error {
		at, err := k.Publish(t.Context(), wire.Publication{Room: room, Body: fmt.Append(nil, n)})
		mu.Lock()
		defer mu.Unlock()
		offsets = append(offsets, at.Offset)
		return err
	})
	disturb := []func(){
		func() { between.aim(second) },
		func() { between.aim(second) },
		func() { between.aim(first) },
		func() { third, _ := r.start("127.0.0.1:0"); between.retarget(third); go stopFirst() },
		func() { between.aim(second) },
		func() { fourth, _ := r.start("127.0.0.1:0"); between.retarget(fourth); go stopSecond() },
		func() { close(enough) },
	}
	next, left := map[string]int{}, map[string]int{}
	var got []uint64 // the offsets of the client's own
	for since, steps := 0, 0; steps < len(disturb) || len(left) < len(rooms) || !maps.Equal(next, left); {
		select {
		case counts := <-published:
			maps.Copy(left, counts)
		case e, ok := <-k.Events():
			switch {
			case !ok:
				t.Fatalf("ended: %v", k.Err())
			case e.Message != nil:
				m := e.Message
				if want := fmt.Sprint(next[m.Room]); string(m.Body) != want || m.Offset == 0 || m.Epoch != "k1" {
					t.Fatalf("room %s: got %s at %s:%d, want %s", m.Room, m.Body, m.Epoch, m.Offset, want)
				}
				if m.Room == "own" {
					got = append(got, m.Offset)
				}
				next[m.Room]++
				if since++; since == 60 && steps < len(disturb) {
					disturb[steps]()
					steps++
				}
			case e.Connected != nil:
				since = 0
			case e.Recovered != nil && !e.Recovered.OK:
				t.Errorf("not recovered: %+v", e.Recovered)
			case e.Gap != nil || e.Reset != nil || e.Error != nil:
				t.Errorf("%s", e.Raw)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("got %v of %v, after %d disturbances", next, left, steps)
		}
	}
	if diff := cmp.Diff(offsets, got); diff != "" {
		t.Errorf("the answers to publish and the messages (-answers +messages):\n%s", diff)
	}
}

// retarget sends later connections to target, and leaves those that are.
func (r *relay) retarget(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = target
}

func TestKeeperSaysWhatCameOfEachRoom(t *testing.T) {
	r := newEdges(t, &policy.History{Messages: 5, Age: time.Hour})
	address, _ := r.start("127.0.0.1:0")
	between := newRelay(t, address)
	token := r.token(time.Hour, &grant.Grant{Subscribe: []string{"*"}, Rooms: []string{"mine"}})
	k := keep(t, between.address(), client.Options{Token: token, Rooms: []string{"few", "many", "fresh"}})
	await(t, k, isConnected)
	r.store("few", "0")
	r.store("many", "0")
	r.store("mine", "0")
	for range 3 {
		await(t, k, isMessage)
	}
	between.aim("")
	for n := range 3 {
		r.store("few", fmt.Sprint(n+1))
	}
	r.store("mine", "1")
	r.store("fresh", "1")
	for n := range 20 {
		r.store("many", fmt.Sprint(n+1))
	}
	another, _ := r.start("127.0.0.1:0") // whose memory holds nothing
	between.aim(another)
	got := map[string]client.Recovery{}
	for range 4 {
		rec := await(t, k, isRecovery)
		got[rec.Room] = *rec
	}
	want := map[string]client.Recovery{
		"few": {"few", true, ""}, "mine": {"mine", true, ""}, "fresh": {"fresh", true, ""}, "many": {"many", false, wire.HistoryCut},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	bodies := map[string][]string{}
	for range 3 + 1 + 1 + 5 {
		m := await(t, k, isMessage)
		bodies[m.Room] = append(bodies[m.Room], string(m.Body))
	}
	if diff := cmp.Diff(map[string][]string{"few": {"1", "2", "3"}, "mine": {"1"}, "fresh": {"1"}, "many": {"16", "17", "18", "19", "20"}}, bodies); diff != "" {
		t.Errorf("what was missed (-want +got):\n%s", diff)
	}
}

func TestKeeperLeavesOutWhatItsNextTokenDoesNotGrant(t *testing.T) {
	r := newEdges(t, &policy.History{Messages: 100, Age: time.Hour})
	address, _ := r.start("127.0.0.1:0")
	inEachEncoding(t, func(t *testing.T, o client.Options) {
		between := newRelay(t, address)
		a, b := "a."+strconv.FormatBool(o.Protobuf)+strconv.FormatBool(o.Batch), "b"
		granted := []string{"a.*", b}
		o.Rooms = []string{a, b}
		o.TokenSource = func(context.Context) (string, error) {
			token := r.token(time.Hour, &grant.Grant{Subscribe: granted})
			granted = granted[:1]
			return token, nil
		}
		k := keep(t, between.address(), o)
		await(t, k, isConnected)
		between.aim("")
		r.store(a, "missed")
		between.aim(address)
		if rec := await(t, k, isRecovery); rec.Room != a || !rec.OK {
			t.Errorf("got %+v", rec)
		}
		message, ended := "", ""
		for message == "" || ended == "" {
			await(t, k, func(e client.Event) *client.Event {
				if e.Message != nil {
					message = string(e.Message.Body)
				}
				if len(e.Unsubscribed) > 0 {
					ended = e.Unsubscribed[0] + " " + string(e.Reason)
				}
				return &e
			})
		}
		if message != "missed" || ended != "b not_allowed" {
			t.Errorf("got the message %q, and ended %q", message, ended)
		}
	})
}

func TestKeeperFollowsANewEpoch(t *testing.T) {
	r := newEdges(t, &policy.History{Messages: 100, Age: time.Hour})
	address, _ := r.start("127.0.0.1:0")
	between := newRelay(t, address)
	k := keep(t, between.address(), client.Options{Rooms: []string{"a"}})
	await(t, k, isConnected)
	r.store("a", "0")
	await(t, k, isMessage)
	for _, stream := range []string{r.set.Rooms[0].Stream.Mirror, r.set.Rooms[0].Stream.Name} {
		if err := r.js.DeleteStream(t.Context(), stream); err != nil {
			t.Fatal(err)
		}
	}
	r.keep("k2", policy.History{Messages: 100, Age: time.Hour})
	kv, err := r.js.KeyValue(t.Context(), bus.BucketConfig)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), bus.KeyPolicies, r.set.Encode()); err != nil {
		t.Fatal(err)
	}
	if at := await(t, k, isReset); at.Epoch != "k2" {
		t.Fatalf("reset to %+v", at)
	}
	r.store("a", "1")
	if m := await(t, k, isMessage); m.Epoch != "k2" || m.Offset != 1 {
		t.Errorf("got %+v", m)
	}
	between.aim(address)
	if rec := await(t, k, isRecovery); !rec.OK {
		t.Errorf("came back with a position of the old epoch: %+v", rec)
	}
}

// mirrored waits until history up to an offset can be read.
func (r *realEdges) mirrored(offset uint64) {
	r.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		s, err := r.js.Stream(r.t.Context(), r.set.Rooms[0].Stream.Mirror)
		if err == nil && s.CachedInfo().State.LastSeq >= offset {
			return
		}
		select {
		case <-deadline:
			r.t.Fatalf("the mirror has not got to %d: %v", offset, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestHistoryOfARealEdge(t *testing.T) {
	r := newEdges(t, &policy.History{Messages: 100, Age: time.Hour})
	address, _ := r.start("127.0.0.1:0")
	var last uint64
	for n := range 10 {
		last = r.store("a", fmt.Sprint(n))
		r.store("b", "x")
	}
	r.mirrored(last + 1)
	inEachEncoding(t, func(t *testing.T, o client.Options) { testHistory(t, address, o) })
}

func testHistory(t *testing.T, address string, o client.Options) {
	c := dial(t, address, o)
	walk := func(options ...client.HistoryOption) (offsets []uint64) {
		t.Helper()
		for m, err := range c.Messages(limit(t), "a", append(options, client.Limit(3))...) {
			if err != nil {
				t.Fatal(err)
			}
			if m.Epoch != "k1" || string(m.Body) != fmt.Sprint((m.Offset-1)/2) {
				t.Errorf("got %+v", m)
			}
			offsets = append(offsets, m.Offset)
		}
		return offsets
	}
	all := []uint64{1, 3, 5, 7, 9, 11, 13, 15, 17, 19}
	if diff := cmp.Diff(all, walk()); diff != "" {
		t.Errorf("from the beginning (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(all[7:], walk(client.After(13))); diff != "" {
		t.Errorf("after 13 (-want +got):\n%s", diff)
	}
	backwards := slices.Clone(all[:7])
	slices.Reverse(backwards)
	if diff := cmp.Diff(backwards, walk(client.Before(14))); diff != "" {
		t.Errorf("before 14 (-want +got):\n%s", diff)
	}
}

func TestSubscriptionsBeginWhereTheySay(t *testing.T) {
	r := newEdges(t, &policy.History{Messages: 100, Age: time.Hour})
	address, _ := r.start("127.0.0.1:0")
	other := dial(t, address, client.Options{Rooms: []string{"a"}})
	for n := range 5 {
		r.store("a", fmt.Sprint(n))
		next(t, other)
	}
	r.mirrored(5)
	inEachEncoding(t, func(t *testing.T, o client.Options) { testBeginnings(t, address, o) })
	none := newEdges(t, nil)
	address, _ = none.start("127.0.0.1:0")
	var refused *wire.Error
	if _, err := dial(t, address, client.Options{}).History(limit(t), "a"); !errors.As(err, &refused) || refused.Code != wire.NoHistoryKept {
		t.Errorf("history where there is none: %v", err)
	}
}

func testBeginnings(t *testing.T, address string, base client.Options) {
	for _, c := range []struct {
		rule   string
		option client.SubscribeOption
		first  uint64
	}{
		{"behind a position", client.From(wire.Position{Room: "a", Epoch: "k1", Offset: 2}), 3},
		{"since a while", client.Since(time.Hour), 1},
		{"since a time", client.SinceTime(time.Now().Add(-time.Hour)), 1},
		{"with the newest", client.Latest(), 5},
	} {
		for _, how := range []string{"at once", "later"} {
			t.Run(c.rule+", "+how, func(t *testing.T) {
				o := base
				if how == "at once" {
					o.Rooms, o.Begin = []string{"a"}, []client.SubscribeOption{c.option}
				}
				conn := dial(t, address, o)
				if how == "later" {
					if _, err := conn.Subscribe(limit(t), []string{"a"}, c.option); err != nil {
						t.Fatal(err)
					}
				}
				for offset := c.first; offset <= 5; offset++ {
					if m := next(t, conn); m.Offset != offset || m.Epoch != "k1" {
						t.Fatalf("got %+v, want offset %d", m, offset)
					}
				}
			})
		}
	}
}
