package control

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"nabat/internal/bus"
	"nabat/proto/buspb"
)

// played is an edge of one loop that says what a test wants, over a real NATS.
type played struct {
	r     *rig
	name  string
	epoch uint64
	nc    *nats.Conn

	// mu guards the fields below.
	mu        sync.Mutex
	number    uint64
	conns     map[uint64]*buspb.Connection
	rooms     []string
	snapshots int // that it was asked for
}

// edge starts one that keeps a lease, and answers orders for snapshots.
func (r *rig) edge(name string, epoch uint64) *played {
	r.t.Helper()
	e := &played{r: r, name: name, epoch: epoch, conns: make(map[uint64]*buspb.Connection)}
	var err error
	if e.nc, err = bus.Connect(r.t.Context(), bus.Options{URL: r.nats.URL()}); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(e.nc.Close)
	if _, err := e.nc.Subscribe("nabat.order.node."+name+".snapshot", func(m *nats.Msg) { e.answer(m.Reply) }); err != nil {
		r.t.Fatal(err)
	}
	if err := e.nc.FlushTimeout(patience); err != nil {
		r.t.Fatal(err)
	}
	return e
}

// lease is written once: it lives for longer than a test.
func (e *played) lease() {
	e.r.t.Helper()
	kv, err := e.r.js.KeyValue(e.r.t.Context(), bus.BucketNodes)
	if err != nil {
		e.r.t.Fatal(err)
	}
	value := fmt.Sprintf(`{"node":%q,"epoch":"%x","role":"edge","state":"ready","version":"v9","listen":"127.0.0.1:1","started":1}`, e.name, e.epoch)
	if _, err := kv.Put(e.r.t.Context(), bus.LeaseEdge+e.name, []byte(value)); err != nil {
		e.r.t.Fatal(err)
	}
}

func (e *played) answer(reply string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.snapshots++
	s := &buspb.Snapshot{Node: e.name, Epoch: e.epoch, Loops: 1, Number: e.number, Rooms: e.rooms}
	for _, c := range e.conns {
		s.Connections = append(s.Connections, c)
		if len(s.Connections) == 2 {
			e.publish(reply, s)
			s = &buspb.Snapshot{Node: e.name, Epoch: e.epoch, Loops: 1, Number: e.number, Rooms: e.rooms, Part: s.Part + 1}
		}
	}
	s.Last = true
	e.publish(reply, s)
}

func (e *played) publish(subject string, m proto.Message) {
	data, err := proto.Marshal(m)
	if err == nil {
		err = e.nc.Publish(subject, data)
	}
	if err != nil && e.r.t.Context().Err() == nil { // at the end NATS goes first
		e.r.t.Error(err)
	}
}

// happen applies events to the edge, and reports them unless lost.
func (e *played) happen(lost bool, events ...*buspb.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	seg := &buspb.Segment{After: e.number, Events: events}
	for _, ev := range events {
		e.number++
		ev.At = 1_790_000_000_000
		switch c := e.conns[ev.Connection]; ev.Kind {
		case buspb.Event_CONNECT:
			e.conns[ev.Connection] = &buspb.Connection{Connection: ev.Connection, User: ev.User, Info: ev.Info, At: ev.At}
		case buspb.Event_DISCONNECT:
			delete(e.conns, ev.Connection)
		case buspb.Event_JOIN:
			c.Rooms = append(c.Rooms, uint32(len(e.rooms)))
			e.rooms = append(e.rooms, ev.Room)
		}
	}
	if !lost {
		e.publish(bus.ReportPrefix+e.name, &buspb.Report{Node: e.name, Epoch: e.epoch, Segments: []*buspb.Segment{seg}})
	}
}

func (e *played) heartbeat(counts ...*buspb.RoomCount) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.publish(bus.ReportPrefix+e.name, &buspb.Report{Node: e.name, Epoch: e.epoch, Segments: []*buspb.Segment{{After: e.number}},
		Stats: &buspb.NodeStats{Connections: uint32(len(e.conns)), State: "ready"}, Counts: counts})
}

func connect(conn uint64, user string) *buspb.Event {
	e := &buspb.Event{Kind: buspb.Event_CONNECT, Connection: conn<<32 | 1, User: user}
	if user != "" {
		e.Info = []byte(`{"name":"` + user + `"}`)
	}
	return e
}

func join(conn uint64, room string) *buspb.Event {
	return &buspb.Event{Kind: buspb.Event_JOIN, Connection: conn<<32 | 1, Room: room}
}

func disconnect(conn uint64) *buspb.Event {
	return &buspb.Event{Kind: buspb.Event_DISCONNECT, Connection: conn<<32 | 1, Reason: "closed"}
}

// ask is a request over NATS, and what it is answered.
func (r *rig) ask(verb, body string, header ...string) string {
	r.t.Helper()
	m := &nats.Msg{Subject: bus.APIPrefix + verb, Data: []byte(body), Header: nats.Header{}}
	for i := 0; i < len(header); i += 2 {
		m.Header.Set(header[i], header[i+1])
	}
	reply, err := r.nc.RequestMsg(m, patience)
	if err != nil {
		r.t.Fatal(verb, err)
	}
	return string(reply.Data)
}

func (r *rig) presence(room string) (p struct {
	Users, Anonymous, Connections int
	Members                       []struct {
		User        string
		Connections int
		Info        json.RawMessage
	}
	Next string
}) {
	r.t.Helper()
	if err := json.Unmarshal([]byte(r.ask("presence", `{"room":"`+room+`"}`)), &p); err != nil {
		r.t.Fatal(err)
	}
	return p
}

func TestPresenceIsAnsweredOverNATSAndHTTP(t *testing.T) {
	r := setup(t)
	c := r.start(nil)
	e := r.edge("edge-0", 0xabc)
	e.happen(false, connect(1, "bob"), connect(2, "alice"), connect(3, ""), connect(4, "bob"), join(1, "chat.42"), join(2, "chat.42"), join(3, "chat.42"), join(4, "chat.42"))
	// The question says what its caller has reported: no waiting here.
	got := r.ask("presence", `{"room":"chat.42"}`, bus.HeaderSeen, "abc.0.8")
	const want = `{"room":"chat.42","users":2,"anonymous":1,"connections":4,"members":[{"user":"alice","connections":1,"info":{"name":"alice"}},{"user":"bob","connections":2,"info":{"name":"bob"}}]}`
	if got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	e.heartbeat(&buspb.RoomCount{Room: "news", Members: 7, Messages: 10}, &buspb.RoomCount{Room: "chat.42", Members: 4})
	until(t, "the rooms are counted", func() bool { return strings.Contains(r.ask("rooms", `{}`), `"news"`) })
	for _, q := range []struct{ verb, body, path, want string }{
		{"presence", `{"room":"chat.42","limit":1}`, "/v1/rooms/chat.42/presence?limit=1",
			`{"room":"chat.42","users":2,"anonymous":1,"connections":4,"members":[{"user":"alice","connections":1,"info":{"name":"alice"}}],"next":"alice"}`},
		{"presence", `{"room":"chat.42","limit":1,"after":"alice"}`, "/v1/rooms/chat.42/presence?limit=1&after=alice",
			`{"room":"chat.42","users":2,"anonymous":1,"connections":4,"members":[{"user":"bob","connections":2,"info":{"name":"bob"}}]}`},
		{"presence", `{"room":"chat.42","limit":0}`, "/v1/rooms/chat.42/presence?limit=0", `{"room":"chat.42","users":2,"anonymous":1,"connections":4,"members":[]}`},
		{"presence", `{"room":"empty"}`, "/v1/rooms/empty/presence", `{"room":"empty","users":0,"anonymous":0,"connections":0,"members":[]}`},
		{"presence", `{"room":"a.>"}`, "/v1/rooms/a.%3E/presence", `bad_room`},
		{"presence", `{"room":"a","limit":1001}`, "/v1/rooms/a/presence?limit=1001", `limit is 1001: must be 0 to 1000`},
		{"presence", `{"room":"a","limit":-1}`, "/v1/rooms/a/presence?limit=-1", `limit is -1`},
		{"rooms", `{"sort":"members"}`, "/v1/rooms?sort=members",
			`{"rooms":[{"room":"news","members":7,"rate":0,"nodes":1},{"room":"chat.42","members":4,"users":2,"anonymous":1,"rate":0,"nodes":1}],"total":2}`},
		{"rooms", `{"limit":1}`, "/v1/rooms?limit=1", `{"rooms":[{"room":"chat.42","members":4,"users":2,"anonymous":1,"rate":0,"nodes":1}],"total":2,"next":"chat.42"}`},
		{"rooms", `{"prefix":"ne"}`, "/v1/rooms?prefix=ne", `{"rooms":[{"room":"news","members":7,"rate":0,"nodes":1}],"total":2}`},
		{"rooms", `{"search":"42"}`, "/v1/rooms?search=42", `{"rooms":[{"room":"chat.42","members":4,"users":2,"anonymous":1,"rate":0,"nodes":1}],"total":2}`},
		{"rooms", `{"sort":"size"}`, "/v1/rooms?sort=size", `sort is \"size\": must be name, members or rate`},
		{"user.presence", `{"user":"alice"}`, "/v1/users/alice/presence",
			`{"user":"alice","connections":1,"nodes":["edge-0"],"sessions":[{"session":"c0000000000000abc000000000200000001","node":"edge-0","connected":1790000000000,"rooms":["chat.42"],"info":{"name":"alice"}}]}`},
		{"user.presence", `{"user":"nobody"}`, "/v1/users/nobody/presence", `{"user":"nobody","connections":0,"nodes":[],"sessions":[]}`},
		{"user.presence", `{}`, "", `user must have 1 to 256 bytes`},
		{"nodes", `{}`, "/v1/nodes", `{"nodes":[{"node":"edge-0","epoch":"abc","state":"ready","connections":4,`},
	} {
		if got := r.ask(q.verb, q.body); !strings.Contains(got, q.want) {
			t.Errorf("%s %s\ngot  %s\nwant %s", q.verb, q.body, got, q.want)
		}
		if q.path == "" {
			continue
		}
		res, err := http.Get("http://" + c.Addr() + q.path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if !strings.Contains(string(body), q.want) {
			t.Errorf("%s\ngot  %s\nwant %s", q.path, body, q.want)
		}
	}
}

// events reads what the stream of events holds, as its bodies.
func (r *rig) events() (list []map[string]any) {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), bus.StreamEvents)
	if err != nil {
		r.t.Fatal(err)
	}
	info, err := s.Info(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		m, err := s.GetMsg(r.t.Context(), seq)
		if err != nil {
			r.t.Fatal(err)
		}
		var e map[string]any
		if err := json.Unmarshal(m.Data, &e); err != nil {
			r.t.Fatal(err)
		}
		e["subject"] = m.Subject
		list = append(list, e)
	}
	return list
}

func (r *rig) eventKinds() (text string) {
	for _, e := range r.events() {
		text += fmt.Sprintf("%s %v\n", e["subject"], e["user"])
	}
	return text
}

func TestEventsAreStoredOnceAndInOrder(t *testing.T) {
	r := setup(t)
	r.start(nil)
	r.start(nil) // a second replica: for each room one of both speaks
	e := r.edge("edge-0", 1)
	e.happen(false, connect(1, "bob"), join(1, "chat 42"), connect(2, "bob"), join(2, "chat 42"))
	e.happen(false, disconnect(1), disconnect(2))
	const want = "nabat.event.connect.edge-0 bob\nnabat.event.occupied.chat%2042 <nil>\nnabat.event.join.chat%2042 bob\nnabat.event.connect.edge-0 bob\n" +
		"nabat.event.disconnect.edge-0 bob\nnabat.event.disconnect.edge-0 bob\nnabat.event.leave.chat%2042 bob\nnabat.event.vacated.chat%2042 <nil>\n"
	sorted := func(of, text string) (lines string) {
		for line := range strings.Lines(text) {
			if strings.Contains(line, of) {
				lines += line
			}
		}
		return lines
	}
	until(t, "all events are stored", func() bool { return strings.Count(r.eventKinds(), "\n") >= strings.Count(want, "\n") })
	// Order is by room, and by node for connects: those may have different speakers.
	for _, of := range []string{"chat%2042", "edge-0"} {
		if got := sorted(of, r.eventKinds()); got != sorted(of, want) {
			t.Errorf("got\n%swant\n%s", got, sorted(of, want))
		}
	}
	for _, got := range r.events() {
		if got["kind"] == "leave" {
			if fmt.Sprint(got["room"], got["user"], got["session"], got["node"], got["epoch"], got["number"], got["users"], got["reason"]) !=
				fmt.Sprint("chat 42", "bob", "c0000000000000001000000000200000001", "edge-0", "0000000000000001", 6, 0, "closed") {
				t.Errorf("%v", got)
			}
		}
	}
}

func TestAReplicaThatStartsIsBuiltFromSnapshotsAndTellsNothing(t *testing.T) {
	r := setup(t)
	first := r.start(nil)
	e := r.edge("edge-0", 1)
	e.lease()
	e.happen(false, connect(1, "bob"), join(1, "chat.42"), connect(2, "ann"), join(2, "chat.42"), connect(3, "cid"))
	until(t, "the events are stored", func() bool { return len(r.events()) == 6 })
	second := r.start(nil)
	if e.snapshots == 0 {
		t.Error("the second replica was ready without having asked for a snapshot")
	}
	for range 20 { // both answer
		if p := r.presence("chat.42"); p.Users != 2 || p.Connections != 2 {
			t.Fatalf("%+v", p)
		}
	}
	// What is lost on the way is asked for, and told once.
	e.happen(true, connect(4, "dan"), join(4, "chat.42"))
	e.happen(false, connect(5, "eve"), join(5, "chat.42"))
	until(t, "the hole is filled", func() bool { return r.presence("chat.42").Users == 4 })
	until(t, "both joins are told", func() bool { return len(r.events()) >= 10 })
	seen := make(map[string]int)
	for _, ev := range r.events() {
		seen[fmt.Sprint(ev["kind"], ev["room"], ev["user"])]++
	}
	for what, n := range seen {
		if n != 1 {
			t.Errorf("%s was told %d times", what, n)
		}
	}
	_, _ = first, second
}

func TestClientsOfARoomAreShownItsChanges(t *testing.T) {
	r := setup(t)
	sub, err := r.nc.SubscribeSync("nabat.presence.>")
	if err != nil {
		t.Fatal(err)
	}
	r.start(nil)
	e := r.edge("edge-0", 1)
	e.happen(false, connect(1, "bob"), join(1, "chat 42"), connect(2, ""), join(2, "chat 42"))
	m, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	var c buspb.PresenceChange
	if err := proto.Unmarshal(m.Data, &c); err != nil {
		t.Fatal(err)
	}
	if m.Subject != "nabat.presence.chat%2042" || c.Room != "chat 42" || c.Users != 1 || c.Anonymous != 1 || len(c.Join) != 1 || c.Join[0].User != "bob" ||
		string(c.Join[0].Info) != `{"name":"bob"}` || len(c.Leave) != 0 {
		t.Errorf("%s %v", m.Subject, &c)
	}
}

// An ordinary durable consumer of JetStream is all that a backend needs.
func TestABackendGoesOnWhereItStopped(t *testing.T) {
	r := setup(t)
	r.start(nil)
	e := r.edge("edge-0", 1)
	consume := func(n int) (kinds []string) {
		t.Helper()
		c, err := r.js.CreateOrUpdateConsumer(t.Context(), bus.StreamEvents, jetstream.ConsumerConfig{Durable: "billing", FilterSubject: "nabat.event.join.>"})
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			m, err := c.Next(jetstream.FetchMaxWait(patience))
			if err != nil {
				t.Fatal(err)
			}
			kinds = append(kinds, m.Subject())
			if err := m.DoubleAck(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		return kinds
	}
	e.happen(false, connect(1, "bob"), join(1, "chat.1"))
	if got := fmt.Sprint(consume(1)); got != "[nabat.event.join.chat.1]" {
		t.Fatal(got)
	}
	e.happen(false, join(1, "chat.2"), join(1, "chat.3"))
	if got := fmt.Sprint(consume(2)); got != "[nabat.event.join.chat.2 nabat.event.join.chat.3]" {
		t.Fatal(got)
	}
}
