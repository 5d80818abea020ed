package edge

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"nabat/edge/internal/loop"
	"nabat/edge/internal/session"
	"nabat/internal/bus"
	"nabat/proto/buspb"
	"nabat/proto/clientpb"
	"nabat/proto/grant"
	"nabat/proto/policy"
)

func presencePolicies() *policy.Set {
	return &policy.Set{Version: 1, Rooms: []policy.Policy{
		{Match: "chat.>", Publish: true, Anonymous: policy.Anonymous{Subscribe: true, Publish: true}, Presence: &policy.Presence{}},
		{Match: "open.>", Anonymous: policy.Anonymous{Subscribe: true}, Presence: &policy.Presence{Anonymous: true}},
		{Match: ">", Publish: true, Anonymous: policy.Anonymous{Subscribe: true, Publish: true}}}}
}

func often(cfg *Config) {
	cfg.Loops, cfg.ReportInterval, cfg.ReportHeartbeat, cfg.LeaseInterval = 3, 10*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond
}

// picture is what control would know, by the numbers alone.
type picture struct {
	t   *testing.T
	sub *nats.Subscription

	// mu guards the fields below.
	mu      sync.Mutex
	known   map[uint32]uint64            // by loop: the last event applied
	members map[uint32]map[uint64]string // by loop, then connection: user and rooms
	ends    []string                     // reasons, in order
	counts  map[string]*buspb.RoomCount
	stats   *buspb.NodeStats
	leaving bool
	holes   int
	faults  []string
}

func watchReports(c *cluster, node string) *picture {
	p := &picture{t: c.t.(*testing.T), known: make(map[uint32]uint64), members: make(map[uint32]map[uint64]string), counts: make(map[string]*buspb.RoomCount)}
	var err error
	if p.sub, err = c.nc.Subscribe(bus.ReportPrefix+node, func(m *nats.Msg) {
		r := new(buspb.Report)
		if err := proto.Unmarshal(m.Data, r); err != nil {
			p.faults = append(p.faults, err.Error())
			return
		}
		p.take(r)
	}); err != nil {
		c.t.Fatal(err)
	}
	if err := c.nc.Flush(); err != nil {
		c.t.Fatal(err)
	}
	return p
}

func (p *picture) take(r *buspb.Report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Stats != nil {
		p.stats = r.Stats
	}
	for _, c := range r.Counts {
		p.counts[c.Room] = c
	}
	p.leaving = p.leaving || r.Leaving
	for _, s := range r.Segments {
		if s.After != p.known[s.Loop] {
			p.holes++
		}
		for i, e := range s.Events {
			if number := s.After + uint64(i) + 1; number > p.known[s.Loop] {
				p.known[s.Loop] = number
				p.event(s.Loop, e)
			}
		}
	}
}

// entry is a user and their rooms, as one text.
func entry(user string, rooms []string) string {
	slices.Sort(rooms)
	return user + "|" + strings.Join(rooms, ",")
}

func (p *picture) event(loop uint32, e *buspb.Event) {
	if p.members[loop] == nil {
		p.members[loop] = make(map[uint64]string)
	}
	old, here := p.members[loop][e.Connection]
	user, list, _ := strings.Cut(old, "|")
	rooms := strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
	if here == (e.Kind == buspb.Event_CONNECT) {
		p.faults = append(p.faults, fmt.Sprintf("%s of a connection that is there: %v", e.Kind, here))
	}
	switch e.Kind {
	case buspb.Event_CONNECT, buspb.Event_IDENTITY:
		user = e.User
	case buspb.Event_JOIN:
		if slices.Contains(rooms, e.Room) {
			p.faults = append(p.faults, "joined twice: "+e.Room)
		}
		rooms = append(rooms, e.Room)
	case buspb.Event_LEAVE:
		i := slices.Index(rooms, e.Room)
		if i < 0 {
			p.faults = append(p.faults, "left without having joined: "+e.Room)
			return
		}
		rooms = slices.Delete(rooms, i, i+1)
	case buspb.Event_DISCONNECT:
		p.ends = append(p.ends, e.Reason)
		delete(p.members[loop], e.Connection)
		return
	}
	p.members[loop][e.Connection] = entry(user, rooms)
}

// snapshot asks for all loops and returns what they say, by loop, with the number.
func (p *picture) snapshot(c *cluster, e *Edge) (map[uint32]map[uint64]string, map[uint32]uint64, error) {
	inbox := c.nc.NewInbox()
	sub, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := c.nc.PublishRequest("nabat.order.node."+bus.NodeToken(e.cfg.Node)+".snapshot", inbox, nil); err != nil {
		return nil, nil, err
	}
	states, numbers := make(map[uint32]map[uint64]string), make(map[uint32]uint64)
	for done := 0; done < len(e.workers); {
		m, err := sub.NextMsg(patience)
		if err != nil {
			return nil, nil, err
		}
		part := new(buspb.Snapshot)
		if err := proto.Unmarshal(m.Data, part); err != nil {
			return nil, nil, err
		}
		if states[part.Loop] == nil {
			states[part.Loop] = make(map[uint64]string)
		}
		numbers[part.Loop] = part.Number
		for _, one := range part.Connections {
			var rooms []string
			for _, place := range one.Rooms {
				rooms = append(rooms, part.Rooms[place])
			}
			states[part.Loop][one.Connection] = entry(one.User, rooms)
		}
		if part.Last {
			done++
		}
	}
	return states, numbers, nil
}

// truth is what the hubs know.
func truth(e *Edge) (map[uint32]map[uint64]string, map[uint32]uint64) {
	states, numbers := make(map[uint32]map[uint64]string), make(map[uint32]uint64)
	for i, w := range e.workers {
		_ = w.loop.Do(func() {
			states[uint32(i)] = make(map[uint64]string)
			numbers[uint32(i)] = w.presence.log.Number()
			w.loop.Each(0, math.MaxInt32, func(ref loop.Ref, h loop.Handler) {
				c, ok := h.(interface{ Leaving() bool })
				if !ok || c.Leaving() {
					return
				}
				var rooms []string
				for _, room := range w.hub.RoomsOf(ref.Slot) {
					if p := e.policy(room); p != nil && p.Presence != nil {
						rooms = append(rooms, room)
					}
				}
				user := ""
				if id := w.client(session.Ref(ref)).Identity(); id != nil {
					user = id.User
				}
				states[uint32(i)][connection(ref)] = entry(user, rooms)
			})
		})
	}
	return states, numbers
}

// Reports alone, and a snapshot with what is reported behind it, both come to what
// the hubs hold, while clients come, join, leave and go on several loops.
func TestReportsAndSnapshotsComeToWhatTheHubsHold(t *testing.T) {
	c := newCluster(t, presencePolicies())
	p := watchReports(c, "edge-0")
	e := c.edge(often)
	until(t, "a heartbeat has come", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.stats != nil })
	var wg sync.WaitGroup
	g := &grant.Grant{Subscribe: []string{">"}, Presence: []string{"chat.>"}}
	for n := range 12 {
		tokens := []string{c.token(c.hs, fmt.Sprint("user-", n), time.Hour, g), c.token(c.hs, fmt.Sprint("user-", n), time.Hour, &grant.Grant{Subscribe: []string{"chat.1", "x"}, Info: []byte(`{"n":1}`)})}
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(n), 2))
			for round := range 6 {
				path := "/ws?room=chat.1&room=x"
				if n%3 != 0 {
					path += "&token=" + tokens[0]
				}
				one, err := tryDial(t, e.Addr(), path, nil)
				if err != nil {
					t.Error(err)
					return
				}
				for i := range 15 {
					room := fmt.Sprint("chat.", random.IntN(8))
					command := fmt.Sprintf(`{"id":%d,"subscribe":{"rooms":[{"room":%q,"presence":%v},{"room":"y"}]}}`, i, room, n%3 != 0)
					switch random.IntN(4) {
					case 0:
						command = fmt.Sprintf(`{"id":%d,"unsubscribe":{"rooms":[%q]}}`, i, room)
					case 1:
						if n%3 == 1 {
							command = fmt.Sprintf(`{"id":%d,"auth":{"token":%q}}`, i, tokens[random.IntN(2)])
						}
					}
					one.send(command)
					for answered := false; !answered; {
						text, err := one.next()
						if err != nil {
							t.Error(err)
							return
						}
						answered = strings.HasPrefix(text, fmt.Sprintf(`{"id":%d,`, i))
					}
				}
				if round < 5 {
					_ = one.conn.Close()
				}
			}
		})
	}
	stop := make(chan struct{})
	snapshots := make(chan int, 1)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				snapshots <- n
				return
			default:
			}
			states, numbers, err := p.snapshot(c, e)
			if err != nil {
				t.Error(err)
			}
			for l := range states {
				// The events up to the number come to the same.
				until(t, "the events of a snapshot have come", func() bool {
					p.mu.Lock()
					defer p.mu.Unlock()
					if p.known[l] < numbers[l] {
						return false
					}
					if p.known[l] == numbers[l] && !maps.Equal(p.members[l], states[l]) {
						t.Errorf("loop %d at %d: reports say %v, the snapshot %v", l, numbers[l], p.members[l], states[l])
					}
					return true
				})
			}
			n++
		}
	}()
	wg.Wait()
	close(stop)
	n := <-snapshots
	want, numbers := truth(e)
	until(t, "all events have come", func() bool {
		want, numbers = truth(e) // connections that the kernel still closes
		p.mu.Lock()
		defer p.mu.Unlock()
		return maps.Equal(p.known, numbers) && e.connections() == 12
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	events := uint64(0)
	for l := range want {
		events += numbers[l]
		if !maps.Equal(p.members[l], want[l]) {
			t.Errorf("loop %d: reports say %v, the hub %v", l, p.members[l], want[l])
		}
	}
	if p.holes != 0 || len(p.faults) > 0 || n == 0 {
		t.Errorf("%d holes, %d snapshots, %v", p.holes, n, p.faults)
	}
	t.Logf("%d events, %d snapshots", events, n)
	if last, _, err := p.snapshot(c, e); err != nil || fmt.Sprint(last) != fmt.Sprint(want) {
		t.Errorf("the last snapshot: %v, %v; want %v", last, err, want)
	}
}

// A policy that gains presence shows who is in its rooms, one that loses it ends that.
func TestPresenceFollowsThePolicy(t *testing.T) {
	set := presencePolicies()
	c := newCluster(t, set)
	p := watchReports(c, "edge-0")
	e := c.edge(often)
	a := dial(t, e, "/ws?room=news.1&room=chat.1")
	a.connected("news.1", "chat.1")
	is := func(want string) func() bool {
		return func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, list := range p.members {
				for _, one := range list {
					return one == want
				}
			}
			return false
		}
	}
	until(t, "chat is shown", is("|chat.1"))
	set.Version, set.Rooms[0].Presence, set.Rooms[2].Presence = 2, nil, &policy.Presence{}
	c.put(bus.BucketConfig, bus.KeyPolicies, set.Encode())
	until(t, "news is shown instead", is("|news.1"))
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.faults) > 0 || p.holes > 0 {
		t.Error(p.faults, p.holes)
	}
}

func TestCountsOfRoomsAndReasonsOfEnds(t *testing.T) {
	c := newCluster(t, presencePolicies())
	p := watchReports(c, "edge-0")
	e := c.edge(often)
	a := dial(t, e, "/ws?room=news.1&room=chat.1")
	a.connected("news.1", "chat.1")
	b := dial(t, e, "/ws?room=news.1")
	b.connected("news.1")
	c.publish("news.1", "1", nil)
	c.publish("news.1", "2", nil)
	counted := func(room string, members uint32, messages uint64) func() bool {
		return func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			c := p.counts[room]
			return c != nil && c.Members == members && c.Messages == messages
		}
	}
	until(t, "both are counted", counted("news.1", 2, 2))
	until(t, "the other room, too", counted("chat.1", 1, 0))
	_ = b.conn.Close()
	until(t, "one is gone", counted("news.1", 1, 2))
	for range 10 {
		a.send(`{}`)
	}
	a.wantClose(4010, "protocol")
	until(t, "nobody is there", counted("news.1", 0, 2))
	// Who asks for a snapshot gets the counts again.
	d := dial(t, e, "/ws?room=news.2")
	d.connected("news.2")
	until(t, "a new room is counted", counted("news.2", 1, 0))
	p.mu.Lock()
	clear(p.counts)
	p.mu.Unlock()
	if _, _, err := p.snapshot(c, e); err != nil {
		t.Fatal(err)
	}
	until(t, "it is counted again", counted("news.2", 1, 0))
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Equal(p.ends, []string{"lost", "protocol"}) {
		t.Errorf("ends: %v", p.ends)
	}
	if p.stats.State != "ready" || p.stats.MemoryBytes == 0 || p.stats.CpuSeconds == 0 {
		t.Errorf("%v", p.stats)
	}
}

func TestANodeThatStopsTellsItsLastEventsAndGivesItsLeaseBack(t *testing.T) {
	c := newCluster(t, presencePolicies())
	js, err := jetstream.New(c.nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: bus.BucketNodes, TTL: bus.LeaseTTL, Storage: jetstream.MemoryStorage})
	if err != nil {
		t.Fatal(err)
	}
	p := watchReports(c, bus.NodeToken("edge.0"))
	e, stop := c.start(func(cfg *Config) { often(cfg); cfg.Node = "edge.0" })
	a := dial(t, e, "/ws?room=chat.1")
	a.connected("chat.1")
	var l bus.Lease
	until(t, "the lease says that the node is ready", func() bool {
		one, err := kv.Get(t.Context(), bus.EdgeLease("edge.0"))
		return err == nil && json.Unmarshal(one.Value(), &l) == nil && l.State == "ready"
	})
	if l.Node != "edge.0" || l.Role != "edge" || l.Epoch != fmt.Sprintf("%016x", e.instance) || l.Listen != e.Addr() || l.Started == 0 {
		t.Errorf("%+v", l)
	}
	stop()
	until(t, "the node has said that it leaves", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.leaving })
	until(t, "the lease is given back", func() bool {
		_, err := kv.Get(t.Context(), bus.EdgeLease("edge.0"))
		return errors.Is(err, jetstream.ErrKeyNotFound)
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	left := 0
	for _, list := range p.members {
		left += len(list)
	}
	if left != 0 || !slices.Equal(p.ends, []string{"drain"}) || p.holes != 0 {
		t.Errorf("%d connections left, ends %v, %d holes", left, p.ends, p.holes)
	}
}

// The test answers as control does: once it knows what the caller has reported.
func TestPresenceCommand(t *testing.T) {
	c := newCluster(t, presencePolicies())
	p := watchReports(c, "edge-0")
	e := c.edge(often)
	g := &grant.Grant{Subscribe: []string{">"}, Presence: []string{"chat.*"}, Info: []byte(`{ "name": "Alice" }`)}
	a := dial(t, e, "/ws?room=chat.1&token="+c.token(c.hs, "alice", time.Hour, g))
	a.connected("chat.1")
	a.send(`{"id":1,"presence":{"room":"chat.1"}}`)
	a.wantPrefix(`{"id":1,"error":{"code":"unavailable","reason":"presence can not be read now: no control service answers","retry_ms":1000}}`)
	if _, err := c.nc.Subscribe(bus.APIPrefix+"presence", func(m *nats.Msg) {
		var epoch uint64
		var l uint32
		var number uint64
		if _, err := fmt.Sscanf(m.Header.Get(bus.HeaderSeen), "%x.%d.%d", &epoch, &l, &number); err != nil || epoch != e.instance || number == 0 {
			t.Errorf("%s is %q: %v", bus.HeaderSeen, m.Header.Get(bus.HeaderSeen), err)
		}
		go func() { // reports come on the same connection
			until(t, "what the caller did is known", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.known[l] >= number })
			reply := `{"room":"chat.1","users":2,"anonymous":1,"connections":4,"members":[{"user":"alice","connections":2,"info":{"name": "A"}},{"user":"bob","connections":1}],"next":"bob"}`
			if string(m.Data) != `{"room":"chat.1","limit":2,"after":"a"}` {
				reply = fmt.Sprintf(`{"error":{"code":"bad_request","reason":%q}}`, "asked "+string(m.Data))
			}
			_ = m.Respond([]byte(reply))
		}()
	}); err != nil || c.nc.Flush() != nil {
		t.Fatal(err)
	}
	a.send(`{"id":2,"presence":{"room":"chat.1","limit":2,"after":"a"}}`)
	a.want(`{"id":2,"presence":{"room":"chat.1","users":2,"anonymous":1,"connections":4,"members":[{"user":"alice","connections":2,"info":{"name":"A"}},{"user":"bob","connections":1}],"next":"bob"}}`)
	a.send(`{"id":3,"presence":{"room":"chat.2"}}`)
	a.want(`{"id":3,"error":{"code":"bad_command","reason":"asked {\"room\":\"chat.2\",\"limit\":100}","retry_ms":0}}`)
	a.send(`{"id":4,"presence":{"room":"news.1"}}`)
	a.want(`{"id":4,"error":{"code":"not_allowed","reason":"the policy of news.1 has no presence","retry_ms":0}}`)
}

func TestInfoThatIsTooLongIsLeftOutAndCounted(t *testing.T) {
	c := newCluster(t, presencePolicies())
	sub, err := c.nc.SubscribeSync(bus.ReportPrefix + "edge-0")
	if err != nil || c.nc.Flush() != nil {
		t.Fatal(err)
	}
	e := c.edge(often)
	info := func(n int) []byte { return []byte(`"` + strings.Repeat("x", n-2) + `"`) }
	for _, n := range []int{maxShownInfo, maxShownInfo + 1} {
		a := dial(t, e, "/ws?room=chat.1&token="+c.token(c.hs, "alice", time.Hour, &grant.Grant{Subscribe: []string{">"}, Info: info(n)}))
		a.connected("chat.1")
		for told := false; !told; {
			m, err := sub.NextMsg(patience)
			r := new(buspb.Report)
			if err != nil || proto.Unmarshal(m.Data, r) != nil {
				t.Fatal(err)
			}
			for _, s := range r.Segments {
				for _, one := range s.Events {
					if one.Kind == buspb.Event_CONNECT {
						told = true
						if want := n <= maxShownInfo; (len(one.Info) > 0) != want || one.User != "alice" {
							t.Errorf("info of %d bytes: %d told", n, len(one.Info))
						}
					}
				}
			}
		}
	}
	dropped := uint64(0)
	for _, w := range e.workers {
		dropped += w.counts.InfoDropped.Load()
	}
	if dropped != 1 {
		t.Errorf("%d counted", dropped)
	}
}

func (c *cluster) change(room string, change *buspb.PresenceChange) {
	c.t.Helper()
	change.Room = room
	b, err := proto.Marshal(change)
	if err == nil {
		err = c.nc.Publish(bus.PresencePrefix+room, b)
	}
	if err == nil {
		err = c.nc.FlushTimeout(patience)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func TestPresenceIsPushedToThoseWhoAskedForIt(t *testing.T) {
	c := newCluster(t, presencePolicies())
	e := c.edge(func(cfg *Config) { often(cfg); cfg.Loops = 1 })
	a := dial(t, e, "/ws?room=open.1&presence=1")
	a.connected("open.1")
	b := dial(t, e, "/ws?room=open.1")
	b.connected("open.1")
	d := dial(t, e, "/ws?room=open.1&presence=1", "nabat.v1.proto")
	if _, err := d.next(); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", e.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "GET /sse?room=open.1&presence=1 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	stream := bufio.NewReader(conn)
	line := func(prefix string) string {
		for {
			s, err := stream.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(s, prefix) {
				return strings.TrimSpace(s)
			}
		}
	}
	line("event: connected")

	c.change("open.1", &buspb.PresenceChange{Users: 2, Anonymous: 3, Join: []*buspb.Member{{User: "bob", Connections: 1, Info: []byte(`{ "n": 1 }`)}}, Leave: []*buspb.Member{{User: "carol"}}})
	want := `{"presence":{"room":"open.1","join":[{"user":"bob","info":{"n":1}}],"leave":[{"user":"carol"}],"users":2,"anonymous":3}}`
	a.want(want)
	line("event: presence")
	if got := line("data: "); got != "data: "+want {
		t.Errorf("event stream: %s", got)
	}
	text, err := d.next()
	var o clientpb.Object
	if err != nil || proto.Unmarshal([]byte(text), &o) != nil || o.GetPresence().GetUsers() != 2 || string(o.GetPresence().GetJoin()[0].Info) != `{"n":1}` {
		t.Errorf("Protobuf: %v, %v", &o, err)
	}
	// What control did not write is dropped, and a room's messages stay apart.
	if err := c.nc.Publish(bus.PresencePrefix+"open.1", []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	c.publish("open.1", "1", nil)
	b.want(`{"room":"open.1","data":1}`)
	a.want(`{"room":"open.1","data":1}`)
	a.send(`{"id":1,"unsubscribe":{"rooms":["open.1"]}}`)
	a.want(`{"id":1,"unsubscribed":{"rooms":["open.1"]}}`)
	c.change("open.1", &buspb.PresenceChange{Users: 1})
	line("event: presence") // on the same loop: it has been handed out
	a.send(`{"id":2,"subscribe":{"rooms":[{"room":"open.1","presence":true}]}}`)
	a.want(`{"id":2,"subscribed":{"rooms":[{"room":"open.1"}]}}`)
	c.change("open.1", &buspb.PresenceChange{Users: 7})
	a.want(`{"presence":{"room":"open.1","users":7,"anonymous":0}}`)

	if status, body, _ := get(t, e, "/sse?room=chat.1&presence=1"); status != 403 || !strings.Contains(body, "presence of chat.1 is not open to clients without a token") {
		t.Errorf("%d %s", status, body)
	}
	if status, body, _ := get(t, e, "/sse?room=open.1&presence=yes"); status != 400 || !strings.Contains(body, `presence must be 1 or 0, and is \"yes\"`) {
		t.Errorf("%d %s", status, body)
	}
}

// After an outage of NATS those who watch are told that they may have missed
// something, and control sees the hole in the numbers.
func TestPresenceOverAnOutageOfNATS(t *testing.T) {
	c := newCluster(t, presencePolicies())
	e := c.edge(often)
	a := dial(t, e, "/ws?room=open.1&presence=1")
	a.connected("open.1")
	c.nats.Stop()
	if err := c.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for range 2 {
		s, err := a.next()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, s)
	}
	slices.Sort(got)
	if want := []string{`{"gap":{"room":"open.1","reason":"bus_reconnected"}}`, `{"presence":{"room":"open.1","lost":true}}`}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
