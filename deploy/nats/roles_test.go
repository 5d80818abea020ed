// Package nats_test runs the programs on a NATS server with the configuration of
// this folder, and holds the roles to what they must not do.
package nats_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"nabat/client"
	"nabat/control"
	"nabat/edge"
	"nabat/internal/bus"
	"nabat/proto/wire"
)

const patience = 60 * time.Second

// site is a server with this folder's configuration, and the seeds of its roles.
type site struct {
	t   *testing.T
	dir string
	url string
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir()}
	var keys strings.Builder
	for _, role := range []string{"edge", "control", "backend", "admin", "publisher"} {
		pair, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		seed, _ := pair.Seed()
		public, _ := pair.PublicKey()
		s.write(role+".nk", string(seed))
		fmt.Fprintf(&keys, "NABAT_NKEY_%s: %s\n", strings.ToUpper(role), public)
	}
	s.write("nkeys.conf", keys.String())
	for _, name := range []string{"nabat.conf", "accounts.conf"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		s.write(name, string(text))
	}
	options := new(server.Options)
	if err := options.ProcessConfigFile(filepath.Join(s.dir, "nabat.conf")); err != nil {
		t.Fatal(err)
	}
	options.Host, options.Port, options.StoreDir, options.NoSigs, options.NoLog = "127.0.0.1", server.RANDOM_PORT, s.dir, true, true
	ns, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	s.url = ns.ClientURL()
	return s
}

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) seed(role string) string { return filepath.Join(s.dir, role+".nk") }

// role is a connection with a role's key, and what NATS refused it.
type role struct {
	t      *testing.T
	nc     *nats.Conn
	js     jetstream.JetStream
	denied chan error
}

func (s *site) as(name string) *role {
	s.t.Helper()
	r := &role{t: s.t, denied: make(chan error, 16)}
	key, err := nats.NkeyOptionFromSeed(s.seed(name))
	if err != nil {
		s.t.Fatal(err)
	}
	if r.nc, err = nats.Connect(s.url, key, nats.CustomInboxPrefix("_INBOX_"+name),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { r.denied <- err })); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(r.nc.Close)
	if r.js, err = jetstream.New(r.nc); err != nil {
		s.t.Fatal(err)
	}
	return r
}

// refused wants NATS to say that the act was not permitted.
func (r *role) refused(what string, act func() error) {
	r.t.Helper()
	go func() { _ = act() }() // requests that are not permitted only time out
	select {
	case err := <-r.denied:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			r.t.Errorf("%s: %v", what, err)
		}
	case <-time.After(patience):
		r.t.Errorf("%s: was permitted", what)
	}
}

func (r *role) publish(subject string) func() error {
	return func() error { return errors.Join(r.nc.Publish(subject, []byte("{}")), r.nc.Flush()) }
}

// ask sends a request that has no answer if it is not permitted.
func (r *role) ask(subject, body string) func() error {
	return func() error { _, err := r.nc.Request(subject, []byte(body), patience); return err }
}

func (r *role) listen(subject string) func() error {
	return func() error {
		_, err := r.nc.SubscribeSync(subject)
		return errors.Join(err, r.nc.Flush())
	}
}

func until(t *testing.T, what string, ok func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); ; {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// run runs a program until the test ends.
func (s *site) run(program interface{ Run(context.Context) error }) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := program.Run(ctx); err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(func() { cancel(); wg.Wait() })
}

// violations counts what the programs log of permissions.
type violations struct {
	slog.Handler
	t *testing.T
}

func (v violations) Handle(ctx context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if strings.Contains(strings.ToLower(a.Value.String()), "permissions violation") {
			v.t.Errorf("%s: %s", r.Message, a.Value)
		}
		return true
	})
	return nil
}

func (v violations) Enabled(context.Context, slog.Level) bool { return true }
func (v violations) WithAttrs([]slog.Attr) slog.Handler       { return v }
func (v violations) WithGroup(string) slog.Handler            { return v }

const apiKey = "a-key-for-this-test-only-0123456789"

// serve starts control and an edge and returns the edge's address.
func (s *site) serve() string {
	s.t.Helper()
	s.write("policies.yaml", `
rooms:
  - match: "chat.>"
    publish: true
    history: { messages: 10 }
  - match: ">"
    publish: true
    anonymous: { subscribe: true }
`)
	log := slog.New(violations{slog.DiscardHandler, s.t})
	cc := control.Defaults()
	cc.Listen, cc.OpsListen, cc.NATSURL, cc.NATSNKey, cc.APIKey = "127.0.0.1:0", "", s.url, s.seed("control"), apiKey
	cc.Policies, cc.StreamVerify = filepath.Join(s.dir, "policies.yaml"), 200*time.Millisecond
	c, err := control.New(cc, log, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.run(c)
	ec := edge.Defaults()
	ec.Listen, ec.OpsListen, ec.NATSURL, ec.NATSNKey, ec.Node, ec.Drain = "127.0.0.1:0", "", s.url, s.seed("edge"), "edge-0", 0
	e, err := edge.New(ec, log, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.run(e)
	until(s.t, "control is ready", c.Ready)
	until(s.t, "the edge is ready", e.Ready)
	return e.Addr()
}

func next(t *testing.T, c *client.Conn) *wire.Message {
	t.Helper()
	for {
		select {
		case e, ok := <-c.Events():
			if !ok {
				t.Fatal(c.Err())
			}
			if e.Message != nil {
				return e.Message
			}
		case <-time.After(patience):
			t.Fatal("no message")
		}
	}
}

func TestTheProgramsWorkUnderTheirRoles(t *testing.T) {
	s := newSite(t)
	backend := s.as("backend")
	address := s.serve()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answer, err := backend.nc.Request(bus.APIPrefix+"token.issue", []byte(`{"sub":"alice","subscribe":["chat.*"],"publish":["chat.*"],"history":["chat.*"],"rpc":["*"]}`), patience)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(answer.Data), `"token":"`)
	token, _, _ := strings.Cut(rest, `"`)
	if token == "" {
		t.Fatalf("%s", answer.Data)
	}
	var c *client.Conn
	var at wire.Position
	until(t, "chat.42 has history", func() error { // control makes the stream
		if c != nil {
			c.Close()
		}
		if c, err = client.Dial(ctx, address, client.Options{Token: token, Rooms: []string{"chat.42"}}); err != nil {
			return err
		}
		if at = c.Connected().Rooms[0]; at.Epoch == "" {
			return errors.New("no epoch")
		}
		return nil
	})
	t.Cleanup(func() { c.Close() })

	// A client publishes, a backend does, a publisher that is not trusted does.
	if at, err = c.Publish(ctx, wire.Publication{Room: "chat.42", Kind: wire.Text, Body: []byte("one")}); err != nil || at.Offset == 0 {
		t.Fatalf("%+v, %v", at, err)
	}
	for i, who := range []string{"backend", "publisher"} {
		m, err := s.as(who).nc.Request("room.chat.42", []byte("by "+who), patience)
		if err != nil || !strings.Contains(string(m.Data), fmt.Sprintf(`"seq":%d`, at.Offset+uint64(i)+1)) {
			t.Fatalf("%s: %v, %+v", who, err, m)
		}
	}
	for _, want := range []string{"one", "by backend", "by publisher"} {
		if m := next(t, c); string(m.Body) != want {
			t.Errorf("got %s, want %s", m.Body, want)
		}
	}
	// Come back, and page.
	again, err := client.Dial(ctx, address, client.Options{Token: token, Rooms: []string{"chat.42"}, Begin: []client.SubscribeOption{client.From(at)}})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if p := again.Connected().Rooms[0]; p.Recovered == nil || !*p.Recovered || string(next(t, again).Body) != "by backend" {
		t.Errorf("%+v", p)
	}
	if page, err := c.History(ctx, "chat.42"); err != nil || len(page.Messages) != 3 {
		t.Errorf("%+v, %v", page, err)
	}
	// Call a backend.
	if _, err := backend.nc.Subscribe("rpc.echo", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		t.Fatal(err)
	}
	if err := backend.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Call(ctx, "echo", 7); err != nil || string(got.Body) != "7" {
		t.Errorf("%s, %v", got.Body, err)
	}
	operate(t, c, backend)
	events(t, address, backend)
	select {
	case err := <-backend.denied:
		t.Error(err)
	default:
	}
}

// events reads an event stream of a room without history.
func events(t *testing.T, address string, backend *role) {
	t.Helper()
	request, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/sse?room=news", nil)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, `data: {"connected"`):
			if err := backend.publish("room.news")(); err != nil {
				t.Fatal(err)
			}
		case line == `data: {"room":"news","data":{}}`:
			return
		}
	}
	t.Error("the stream ended:", lines.Err())
}

func TestWhatTheRolesMustNotDo(t *testing.T) {
	s := newSite(t)
	s.serve()
	admin := s.as("admin")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := admin.js.CreateStream(ctx, jetstream.StreamConfig{Name: "NABAT_x_e", Subjects: []string{"some.x"}}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{bus.StreamEvents, "KV_NABAT_BLOCKS", "KV_NABAT_NODES"} {
		until(t, "control has made "+name, func() error { _, err := admin.js.Stream(ctx, name); return err })
	}
	const filtered = `{"stream_name":"KV_%[1]s","config":{"filter_subject":"$KV.%[1]s.%[2]s","deliver_subject":"_INBOX_edge.x","ack_policy":"none"}}`
	secrets := fmt.Sprintf(filtered, "NABAT_KEYS", "signing")
	for name, may := range map[string]struct{ publish, ask, listen []string }{
		"edge": {
			publish: []string{"live.1.chat.42", "nabat.order.x", "nabat.event.x", "nabat.presence.x", "nabat.api.x", "$KV.NABAT_CONFIG.policies", "$KV.NABAT_KEYS.keys",
				"$KV.NABAT_BLOCKS.x", "other", "_INBOX_control.x", "$JS.ACK.NABAT_EVENTS.x"},
			ask: []string{"$JS.API.STREAM.CREATE.NEW", "$JS.API.STREAM.UPDATE.NABAT_x_e", "$JS.API.STREAM.DELETE.NABAT_x_e", "$JS.API.STREAM.PURGE.NABAT_x_e",
				"$JS.API.STREAM.MSG.DELETE.NABAT_x_e", "$JS.API.STREAM.MSG.GET.KV_NABAT_KEYS", "$JS.API.DIRECT.GET.KV_NABAT_KEYS",
				"$JS.API.DIRECT.GET.KV_NABAT_KEYS.$KV.NABAT_KEYS.signing", "$JS.API.CONSUMER.CREATE.KV_NABAT_KEYS", "$JS.API.CONSUMER.CREATE.KV_NABAT_KEYS.c",
				"$JS.API.CONSUMER.CREATE.KV_NABAT_KEYS.c.$KV.NABAT_KEYS.signing", "$JS.API.CONSUMER.CREATE.KV_NABAT_KEYS.c.$KV.NABAT_KEYS.>",
				"$JS.API.CONSUMER.DURABLE.CREATE.KV_NABAT_KEYS.c", "$JS.API.STREAM.SNAPSHOT.KV_NABAT_KEYS"},
			listen: []string{"_INBOX.>", "_INBOX_control.>", "_INBOX_backend.>", ">", "rpc.>", "nabat.report.>", "$KV.NABAT_KEYS.>", "nabat.api.>"},
		},
		"backend": {
			publish: []string{"live.1.chat.42", "nabat.order.x", "nabat.event.x", "nabat.report.x", "$KV.NABAT_CONFIG.policies", "$KV.NABAT_KEYS.keys", "rpc.echo", "_INBOX_edge.x"},
			ask: []string{"$JS.API.STREAM.CREATE.NEW", "$JS.API.STREAM.DELETE.NABAT_x_e", "$JS.API.STREAM.PURGE.NABAT_x_e", "$JS.API.STREAM.INFO.KV_NABAT_KEYS",
				"$JS.API.DIRECT.GET.KV_NABAT_KEYS", "$JS.API.DIRECT.GET.KV_NABAT_KEYS.$KV.NABAT_KEYS.keys", "$JS.API.STREAM.MSG.GET.KV_NABAT_KEYS",
				"$JS.API.CONSUMER.CREATE.KV_NABAT_KEYS.c.$KV.NABAT_KEYS.keys"},
			listen: []string{"_INBOX.>", "_INBOX_edge.>", "_INBOX_control.>", "live.>", "nabat.order.>", "$KV.NABAT_KEYS.>", "nabat.api.>", ">"},
		},
		"control": {listen: []string{"_INBOX_edge.>", ">"}, publish: []string{"live.1.chat.42", "_INBOX_edge.x", "rpc.echo"}},
		"publisher": {
			publish: []string{"live.1.chat.42", "rpc.echo", "nabat.api.publish", "nabat.order.x", "$KV.NABAT_CONFIG.policies", "other"},
			ask:     []string{"$JS.API.STREAM.INFO.KV_NABAT_KEYS", "$JS.API.STREAM.NAMES"},
			listen:  []string{"room.>", "live.>", ">", "_INBOX_edge.>", "_INBOX.>"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := s.as(name)
			r.t = t
			for _, subject := range may.publish {
				r.refused("publish "+subject, r.publish(subject))
			}
			for _, subject := range may.ask {
				r.refused("request "+subject, r.ask(subject, secrets))
			}
			for _, subject := range may.listen {
				r.refused("subscribe "+subject, r.listen(subject))
			}
		})
	}
	// A filter in the request that is not the one in the subject.
	m, err := s.as("edge").nc.Request("$JS.API.CONSUMER.CREATE.KV_NABAT_KEYS.c.$KV.NABAT_KEYS.keys", []byte(secrets), patience)
	if err != nil || !strings.Contains(string(m.Data), `"error"`) {
		t.Errorf("a consumer of signing: %v, %s", err, m.Data)
	}
}

// operate uses what control tells edges, and reads through control.
func operate(t *testing.T, c *client.Conn, backend *role) {
	t.Helper()
	api := func(verb, body, want string) {
		t.Helper()
		if m, err := backend.nc.Request(bus.APIPrefix+verb, []byte(body), patience); err != nil || !strings.Contains(string(m.Data), want) {
			t.Errorf("%s: %s, %v; want %s", verb, m.Data, err, want)
		}
	}
	taps, err := backend.nc.SubscribeSync(bus.TapPrefix + "x")
	if err != nil {
		t.Fatal(err)
	}
	api("tap", `{"session":"`+c.Connected().Session+`","for":"2s","reply":"`+bus.TapPrefix+`x"}`, `"affected":1`)
	api("publish", `{"room":"chat.42","text":"by the API"}`, `"offset":`)
	if m := next(t, c); string(m.Body) != "by the API" {
		t.Errorf("got %s", m.Body)
	}
	if m, err := taps.NextMsg(patience); err != nil || !strings.Contains(string(m.Data), "by the API") {
		t.Errorf("the tap tells %+v, %v", m, err)
	}
	api("history", `{"room":"chat.42","limit":1}`, "by the API")
	api("snapshot", `{"rooms":["chat.42"]}`, "by the API")
	api("user.status", `{"user":"alice"}`, `"node":`)
	api("apikey.create", `{"scopes":["read"]}`, `"secret":"nabat_`)
	api("history.purge", `{"room":"chat.42"}`, `"up_to":`)
}

// What the other parts need of the roles: leases, reports, orders and events.
func TestWhatTheRolesMayDo(t *testing.T) {
	s := newSite(t)
	s.serve()
	admin, e, c, b := s.as("admin"), s.as("edge"), s.as("control"), s.as("backend")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, bucket := range []string{"NABAT_BLOCKS", "NABAT_NODES"} {
		if _, err := bus.EnsureBucket(ctx, c.js, bucket, "", 1); err != nil {
			t.Fatal(err)
		}
		kv, err := e.js.KeyValue(ctx, bucket)
		if err != nil {
			t.Fatal(err)
		}
		w, err := kv.Watch(ctx, ">")
		if err != nil {
			t.Fatal(err)
		}
		<-w.Updates()
		if err := w.Stop(); err != nil {
			t.Error(err)
		}
	}
	nodes, err := e.js.KeyValue(ctx, "NABAT_NODES")
	if err != nil {
		t.Fatal(err)
	}
	at, err := nodes.Create(ctx, "edge-0", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nodes.Update(ctx, "edge-0", []byte("2"), at); err != nil {
		t.Error(err)
	}
	if got, err := nodes.Get(ctx, "edge-0"); err != nil || string(got.Value()) != "2" {
		t.Error(got, err)
	}
	// An order, answered in parts; a report; presence.
	listen := func(r *role, subject string) *nats.Subscription {
		t.Helper()
		sub, err := r.nc.SubscribeSync(subject)
		if err == nil {
			err = r.nc.Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
		return sub
	}
	orders, reports, shown := listen(e, "nabat.order.>"), listen(c, "nabat.report.>"), listen(e, "nabat.presence.>")
	reply := listen(c, c.nc.NewInbox())
	if err := c.nc.PublishRequest("nabat.order.node.edge-0.snapshot", reply.Subject, nil); err != nil {
		t.Fatal(err)
	}
	order, err := orders.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := order.Respond([]byte("part")); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if _, err := reply.NextMsg(patience); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = e.publish("nabat.report.edge-0")(), c.publish("nabat.presence.a")()
	for _, sub := range []*nats.Subscription{reports, shown} {
		if _, err := sub.NextMsg(patience); err != nil {
			t.Error(err)
		}
	}
	// Events: control makes the stream, a backend consumes it.
	until(t, "control has made the stream", func() error { _, err := admin.js.Stream(ctx, bus.StreamEvents); return err })
	if _, err := c.js.Publish(ctx, "nabat.event.join.a", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	consumer, err := b.js.CreateOrUpdateConsumer(ctx, "NABAT_EVENTS", jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	m, err := consumer.Next(jetstream.FetchMaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.DoubleAck(ctx); err != nil {
		t.Error(err)
	}
	for _, r := range []*role{admin, e, c, b} {
		select {
		case err := <-r.denied:
			t.Error(err)
		default:
		}
	}
}
