package client_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"nabat/client"
	"nabat/edge"
	"nabat/internal/auth"
	"nabat/internal/bus"
	"nabat/internal/natsdev"
	"nabat/proto/grant"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

// realEdges are edges on an embedded NATS server with one key.
type realEdges struct {
	t    rig
	nats *natsdev.Server
	nc   *nats.Conn
	js   jetstream.JetStream
	key  *auth.SigningKey
	set  *policy.Set
}

// rig is what realEdges need of a test; an example has one too.
type rig interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
	Cleanup(func())
	Context() context.Context
}

// newEdges prepares edges on whose rooms everybody may do everything, with
// history if that is not nil.
func newEdges(t rig, history *policy.History) *realEdges {
	t.Helper()
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	nc, err := bus.Connect(t.Context(), bus.Options{URL: server.URL(), Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	key, err := auth.GenerateHS256("h")
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	r := &realEdges{t, server, nc, js, key, policy.Dev()}
	if history != nil {
		r.keep("k1", *history)
	}
	for _, d := range []struct {
		bucket, key string
		value       []byte
	}{
		{bus.BucketConfig, bus.KeyPolicies, r.set.Encode()},
		{bus.BucketConfig, bus.KeyJWKS, auth.EncodeJWKS()},
		{bus.BucketKeys, bus.KeySymmetric, auth.EncodeSymmetric(key)},
		{bus.BucketKeys, bus.KeyIssuers, new(auth.IssuerSet).Encode()},
		{bus.BucketBlocks, "token.none", []byte("{}")}, // makes the bucket; edges leave it out
	} {
		kv, err := bus.EnsureBucket(t.Context(), js, d.bucket, "", 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kv.Put(t.Context(), d.key, d.value); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// keep makes the stream and the mirror of a policy as control does, and puts
// them into the set.
func (r *realEdges) keep(epoch string, h policy.History) {
	r.t.Helper()
	s := policy.Stream{Name: "NABAT_all_" + epoch, Mirror: "NABAT_all_" + epoch + bus.MirrorSuffix, Epoch: epoch}
	limits := jetstream.StreamConfig{Name: s.Name, Subjects: []string{"room.>"}, MaxAge: h.Age, MaxMsgsPerSubject: int64(h.Messages), AllowDirect: true,
		RePublish: &jetstream.RePublish{Source: "room.>", Destination: bus.LivePrefix + "{{partition(1024)}}.>"}}
	mirror := limits
	mirror.Name, mirror.Subjects, mirror.RePublish, mirror.Mirror = s.Mirror, nil, nil, &jetstream.StreamSource{Name: s.Name}
	for _, c := range []jetstream.StreamConfig{limits, mirror} {
		if _, err := r.js.CreateStream(r.t.Context(), c); err != nil {
			r.t.Fatal(err)
		}
	}
	r.set.Version++
	r.set.Rooms[0].History, r.set.Rooms[0].Stream = &h, &s
}

// store publishes with an acknowledgement and returns the offset.
func (r *realEdges) store(room, body string) uint64 {
	r.t.Helper()
	ack, err := r.js.Publish(r.t.Context(), "room."+room, []byte(body))
	if err != nil {
		r.t.Fatal(err)
	}
	return ack.Sequence
}

// start runs an edge and returns when it is ready.
func (r *realEdges) start(listen string) (address string, stop func()) {
	r.t.Helper()
	cfg := edge.Defaults()
	cfg.Listen, cfg.NATSURL, cfg.Node, cfg.Drain = listen, r.nats.URL(), "edge-0", 50*time.Millisecond
	e, err := edge.New(cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Fatal(err)
		}
	})
	r.t.Cleanup(stop)
	deadline := time.After(20 * time.Second)
	for e.Ready() != nil {
		select {
		case <-deadline:
			r.t.Fatalf("the edge is not ready: %v", e.Ready())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return e.Addr(), stop
}

func (r *realEdges) token(ttl time.Duration, g *grant.Grant) string {
	r.t.Helper()
	token, err := auth.Sign(r.key, auth.Claims{User: "alice", Expires: time.Now().Add(ttl), Grant: g})
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

// next is the next message, without its raw form.
func next(t *testing.T, c *client.Conn) *wire.Message {
	t.Helper()
	return nextEvent(t, c).Message
}

// nextEvent is the next event, which is a message.
func nextEvent(t *testing.T, c *client.Conn) client.Event {
	t.Helper()
	select {
	case e := <-c.Events():
		if e.Message == nil {
			t.Fatalf("not a message: %s, %v", e.Raw, c.Err())
		}
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("no message")
		return client.Event{}
	}
}

// inEachEncoding runs a test with options of each encoding.
func inEachEncoding(t *testing.T, test func(t *testing.T, o client.Options)) {
	for name, o := range map[string]client.Options{
		"JSON": {}, "Protobuf": {Protobuf: true}, "JSON, batched": {Batch: true}, "Protobuf, batched": {Protobuf: true, Batch: true},
	} {
		t.Run(name, func(t *testing.T) { test(t, o) })
	}
}

func TestWithARealEdge(t *testing.T) {
	r := newEdges(t, nil)
	address, _ := r.start("127.0.0.1:0")
	inEachEncoding(t, func(t *testing.T, o client.Options) { testWithARealEdge(t, r, address, o) })
}

func testWithARealEdge(t *testing.T, r *realEdges, address string, o client.Options) {
	token := r.token(time.Hour, &grant.Grant{Subscribe: []string{"chat.*"}, Publish: []string{"chat.42"}, Rooms: []string{"user.alice"}})
	o.Token, o.Rooms = token, []string{"chat.42"}
	c := dial(t, address, o)
	got := c.Connected()
	if got.User != "alice" || got.Node != "edge-0" || got.Expires == 0 || got.Session == "" || len(got.Rooms) != 2 {
		t.Fatalf("connected: %+v", got)
	}
	if _, err := c.Subscribe(limit(t), []string{"chat.1"}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []wire.Publication{
		{Room: "chat.42", Kind: wire.Data, Body: []byte(`{"n":1}`), Event: "said"},
		{Room: "chat.42", Kind: wire.Text, Body: []byte("two\nlines")},
		{Room: "chat.42", Kind: wire.Binary, Body: []byte{0, 255}},
	} {
		if _, err := c.Publish(limit(t), p); err != nil {
			t.Fatal(err)
		}
		want := &wire.Message{Room: "chat.42", Kind: p.Kind, Body: p.Body, Event: p.Event, User: "alice"}
		if diff := cmp.Diff(want, next(t, c)); diff != "" {
			t.Errorf("message (-want +got):\n%s", diff)
		}
	}
	if err := r.nc.Publish("room.user.alice", []byte("for you")); err != nil {
		t.Fatal(err)
	}
	e := nextEvent(t, c)
	if m := e.Message; m.Room != "user.alice" || string(m.Body) != "for you" {
		t.Errorf("got %+v", m)
	}
	if want := `{"room":"user.alice","text":"for you"}`; !o.Protobuf && string(e.Raw) != want || o.Protobuf && e.Raw != nil {
		t.Errorf("raw %q", e.Raw)
	}
	var refused *wire.Error
	if _, err := c.Publish(limit(t), wire.Publication{Room: "chat.1", Body: []byte("1")}); !errors.As(err, &refused) || refused.Code != wire.NotAllowed {
		t.Errorf("publish without a grant: %v", err)
	}
	if err := c.Auth(limit(t), r.token(time.Hour, &grant.Grant{Subscribe: []string{"chat.*"}, Publish: []string{"chat.*"}})); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publish(limit(t), wire.Publication{Room: "chat.1", Body: []byte("1")}); err != nil {
		t.Errorf("publish with the new token: %v", err)
	}
	if err := c.Unsubscribe(limit(t), "chat.42"); err != nil {
		t.Error(err)
	}
	c.Close()
	if err := c.Err(); !errors.Is(err, client.ErrClosed) {
		t.Errorf("ended with %v", err)
	}
}

func TestCallsOfARealEdge(t *testing.T) {
	r := newEdges(t, nil)
	for subject, answer := range map[string]func(*nats.Msg) *nats.Msg{
		"rpc.echo": func(m *nats.Msg) *nats.Msg { return &nats.Msg{Data: m.Data} },
		"rpc.fails": func(*nats.Msg) *nats.Msg {
			return &nats.Msg{Data: []byte("sold out"), Header: nats.Header{"Nabat-Error": {"409"}}}
		},
		"rpc.caller": func(m *nats.Msg) *nats.Msg { return &nats.Msg{Data: []byte(m.Header.Get("Nabat-User"))} },
	} {
		if _, err := r.nc.Subscribe(subject, func(m *nats.Msg) { _ = m.RespondMsg(answer(m)) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	address, _ := r.start("127.0.0.1:0")
	inEachEncoding(t, func(t *testing.T, o client.Options) {
		o.Token = r.token(time.Hour, &grant.Grant{RPC: []string{"*"}})
		testCalls(t, address, o)
	})
}

func testCalls(t *testing.T, address string, o client.Options) {
	c := dial(t, address, o)
	k, err := client.Keep(limit(t), address, o)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	go func() {
		for range k.Events() {
		}
	}()
	for _, call := range []func(context.Context, string, any) (wire.Result, error){c.Call, k.Call} {
		for _, p := range []struct {
			method string
			data   any
			want   wire.Result
		}{
			{"echo", map[string]int{"n": 1}, wire.Result{Kind: wire.Data, Body: []byte(`{"n":1}`)}},
			{"echo", client.Text("1"), wire.Result{Kind: wire.Data, Body: []byte("1")}},
			{"echo", []byte{0xff}, wire.Result{Kind: wire.Binary, Body: []byte{0xff}}},
			{"echo", nil, wire.Result{Kind: wire.Text, Body: []byte{}}},
			{"caller", nil, wire.Result{Kind: wire.Text, Body: []byte("alice")}},
		} {
			if got, err := call(limit(t), p.method, p.data); err != nil || got.Kind != p.want.Kind || string(got.Body) != string(p.want.Body) {
				t.Errorf("%s(%v): %v %q, %v", p.method, p.data, got.Kind, got.Body, err)
			}
		}
		var refused *wire.Error
		if _, err := call(limit(t), "fails", nil); !errors.As(err, &refused) || refused.Code != wire.RPCFailed || refused.Backend != "409" || refused.Reason != "sold out" {
			t.Errorf("fails: %v", err)
		}
		if _, err := call(limit(t), "nobody", nil); !errors.As(err, &refused) || refused.Code != wire.NoResponders {
			t.Errorf("nobody: %v", err)
		}
	}
}

func TestRefusalsOfARealEdge(t *testing.T) {
	r := newEdges(t, nil)
	address, _ := r.start("127.0.0.1:0")
	inEachEncoding(t, func(t *testing.T, o client.Options) { testRefusals(t, r, address, o) })
}

func testRefusals(t *testing.T, r *realEdges, address string, o client.Options) {
	for rule, c := range map[string]struct {
		address string
		options client.Options
		code    wire.Code
	}{
		"a token that expired":          {address, client.Options{Token: r.token(-time.Hour, nil)}, wire.TokenExpired},
		"a token that is none":          {address, client.Options{Token: "x"}, wire.TokenMalformed},
		"a room that is not granted":    {address, client.Options{Token: r.token(time.Hour, &grant.Grant{}), Rooms: []string{"a"}}, wire.NotAllowed},
		"a room that breaks a rule":     {address, client.Options{Rooms: []string{"a..b"}}, wire.BadRoom},
		"a path where there is nothing": {address + "/nothing", client.Options{}, wire.NotFound},
	} {
		c.options.Protobuf, c.options.Batch = o.Protobuf, o.Batch
		_, err := client.Dial(limit(t), c.address, c.options)
		var refused *wire.Error
		if !errors.As(err, &refused) || refused.Code != c.code {
			t.Errorf("%s: got %v, want %s", rule, err, c.code)
		}
	}
}
