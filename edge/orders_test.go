package edge

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gobwas/ws/wsutil"
	"github.com/nats-io/nats.go"

	"nabat/internal/bus"
	"nabat/proto/grant"
	"nabat/proto/order"
	"nabat/proto/policy"
)

// order gives an order to all nodes, of which so many must answer.
func (c *cluster) order(nodes int, verb string, request any) (answers []order.Answer) {
	c.t.Helper()
	body, err := json.Marshal(request)
	if err != nil {
		c.t.Fatal(err)
	}
	inbox := c.nc.NewInbox()
	sub, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := c.nc.PublishRequest(bus.OrderPrefix+"all."+verb, inbox, body); err != nil {
		c.t.Fatal(err)
	}
	for range nodes {
		m, err := sub.NextMsg(patience)
		if err != nil {
			c.t.Fatal(verb, err)
		}
		var a order.Answer
		if err := json.Unmarshal(m.Data, &a); err != nil {
			c.t.Fatal(err)
		}
		answers = append(answers, a)
	}
	slices.SortFunc(answers, func(a, b order.Answer) int { return compareText(a.Node, b.Node) })
	return answers
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// obeying starts a node that takes orders.
func (c *cluster) obeying(name string, loops int) *Edge {
	c.t.Helper()
	e := c.edge(func(cfg *Config) { cfg.Node, cfg.Loops = name, loops })
	subject := bus.OrderPrefix + "node." + bus.NodeToken(name) + "." + order.Status
	until(c.t, "the node takes orders", func() bool {
		_, err := c.nc.Request(subject, []byte(`{}`), time.Second)
		return err == nil
	})
	return e
}

func (c *cluster) dialAs(e *Edge, user, room string) (*client, string) {
	c.t.Helper()
	token := c.token(c.hs, user, time.Hour, &grant.Grant{Subscribe: []string{"*"}})
	conn := dial(c.t, e, "/ws?room="+room+"&token="+token)
	return conn, conn.connected(room)
}

func TestDisconnectByUserActsOverAllLoopsAndNodes(t *testing.T) {
	c := newCluster(t, policy.Dev())
	edges := []*Edge{c.obeying("edge-0", 3), c.obeying("edge 1", 2)}
	var alice, bob []*client
	for _, e := range edges {
		for range 8 {
			a, _ := c.dialAs(e, "alice", "a")
			b, _ := c.dialAs(e, "bob", "a")
			alice, bob = append(alice, a), append(bob, b)
		}
		for _, w := range e.workers {
			if w.loop.Connections() == 0 {
				t.Fatal("a loop has no connections: the test proves nothing")
			}
		}
	}
	got := c.order(2, order.Disconnect, order.DisconnectRequest{Target: order.Target{User: "alice"}, Reason: "the account is closed"})
	if got[0].Node != "edge 1" || got[0].Affected != 8 || got[1].Node != "edge-0" || got[1].Affected != 8 {
		t.Fatalf("%+v", got)
	}
	for _, a := range alice {
		a.wantClose(4005, `{"code":"kicked","retry_ms":0,"reason":"the account is closed"}`)
	}
	for _, b := range bob {
		b.quiet()
	}
	for _, e := range edges {
		if e.closes("kicked") != 8 {
			t.Errorf("%d closes were counted", e.closes("kicked"))
		}
	}
	if got := c.order(2, order.Disconnect, order.DisconnectRequest{}); got[0].Affected+got[1].Affected != 0 {
		t.Fatalf("an order about nobody met %+v", got)
	}
}

func TestOneSessionIsSentElsewhere(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.obeying("edge-0", 2)
	a, session := c.dialAs(e, "alice", "a")
	other, _ := c.dialAs(e, "alice", "a")
	for _, id := range []string{"c00", session[:len(session)-1], "c" + "00000000" + session[9:]} {
		if got := c.order(1, order.Disconnect, order.DisconnectRequest{Target: order.Target{Session: id}}); got[0].Affected != 0 {
			t.Fatalf("%s: %+v", id, got)
		}
	}
	if got := c.order(1, order.Disconnect, order.DisconnectRequest{Target: order.Target{Session: session}, Returns: true}); got[0].Affected != 1 {
		t.Fatalf("%+v", got)
	}
	a.wantClose(4201, `{"code":"moved","retry_ms":`)
	other.quiet()
}

func TestTheServerSubscribesAndUnsubscribes(t *testing.T) {
	c := newHistory(t, kept100())
	e := c.readyForHistory(c.obeying("edge-0", 2))
	a, _ := c.dialAs(e, "alice", "a")
	offset := c.store("chat.1", "1")
	target := order.Target{User: "alice"}
	if got := c.order(1, order.Subscribe, order.RoomsRequest{Target: target, Rooms: []string{"chat.1", "a"}}); got[0].Affected != 1 || got[0].Error != nil {
		t.Fatalf("%+v", got)
	}
	a.want(fmt.Sprintf(`{"subscribed":{"rooms":[{"room":"chat.1","epoch":"k1","offset":%d}]}}`, offset))
	a.want(message("chat.1", c.store("chat.1", "2"), 2))
	// In all of them already: nothing to do, and no notice.
	if got := c.order(1, order.Subscribe, order.RoomsRequest{Target: target, Rooms: []string{"chat.1"}}); got[0].Affected != 0 || got[0].Error != nil {
		t.Fatalf("%+v", got)
	}
	if got := c.order(1, order.Unsubscribe, order.RoomsRequest{Target: target, Rooms: []string{"chat.1", "never"}}); got[0].Affected != 1 {
		t.Fatalf("%+v", got)
	}
	a.want(`{"unsubscribed":{"rooms":["chat.1"],"reason":"removed"}}`)
	c.store("chat.1", "3")
	a.quiet()
	many := make([]string, 2*e.cfg.MaxRooms)
	for i := range many {
		many[i] = fmt.Sprint("r", i)
	}
	if got := c.order(1, order.Subscribe, order.RoomsRequest{Target: target, Rooms: many}); got[0].Affected != 0 || got[0].Error == nil || got[0].Error.Code != "too_many_rooms" {
		t.Fatalf("%+v", got)
	}
	a.quiet()
}

func TestStatusTellsOfNodesAndConnections(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.obeying("edge-0", 2)
	_, session := c.dialAs(e, "alice", "a")
	if got := c.order(1, order.Status, order.StatusRequest{}); got[0].Status == nil || *got[0].Status != (order.Figures{Connections: 1, Rooms: 1, State: "ready", Address: e.Addr()}) {
		t.Fatalf("%+v", got[0].Status)
	}
	got := c.order(1, order.Status, order.StatusRequest{Target: order.Target{User: "alice"}, Grants: true})[0].Connections
	if len(got) != 1 || got[0].Session != session || got[0].Transport != "websocket" || fmt.Sprint(got[0].Rooms) != "[a]" || got[0].Grant == nil || got[0].TokenID == "" || got[0].Expires == 0 {
		t.Fatalf("%+v", got)
	}
	if got := c.order(1, order.Status, json.RawMessage(`[`+"]")); got[0].Error == nil || got[0].Error.Code != "bad_request" {
		t.Fatalf("%+v", got)
	}
}

func TestMoveSendsSoManyElsewhere(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.obeying("edge-0", 3)
	closed := make(chan error)
	for range 20 {
		a, _ := c.dialAs(e, "alice", "a")
		go func() {
			_, err := a.next()
			closed <- err
		}()
	}
	if got := c.order(1, order.Move, order.MoveRequest{Connections: 7}); got[0].Affected != 7 {
		t.Fatalf("%+v", got)
	}
	for range 7 {
		var end wsutil.ClosedError
		if err := <-closed; !errors.As(err, &end) || end.Code != 4201 {
			t.Fatal(err)
		}
	}
	if n := e.closes("moved"); n != 7 {
		t.Fatalf("%d were moved", n)
	}
	if got := c.order(1, order.Drain, order.DrainRequest{OverMS: 1}); got[0].Affected < 13 {
		t.Fatalf("%+v", got)
	}
	for range 13 {
		var end wsutil.ClosedError
		if err := <-closed; !errors.As(err, &end) || end.Code != 4200 {
			t.Fatal(err)
		}
	}
	if err := e.Ready(); err == nil || err.Error() != "edge: draining" {
		t.Fatal(err)
	}
	if got := c.order(1, order.Status, order.StatusRequest{}); got[0].Status.State != "draining" {
		t.Fatalf("%+v", got[0].Status)
	}
}

// tapped collects what a tap tells until its end.
func tapped(t *testing.T, sub *nats.Subscription, kind string) (e order.TapEvent) {
	t.Helper()
	for {
		m, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatal(kind, err)
		}
		e = order.TapEvent{}
		if err := json.Unmarshal(m.Data, &e); err != nil {
			t.Fatal(err)
		}
		if e.Kind == kind {
			return e
		}
	}
}

func TestATapShowsWhatAUserGetsForAWhile(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.obeying("edge-0", 2)
	_, session := c.dialAs(e, "alice", "a")
	c.dialAs(e, "bob", "a")
	subs := make(map[string]*nats.Subscription)
	for name, r := range map[string]order.TapRequest{
		"user": {Target: order.Target{User: "alice"}}, "session": {Target: order.Target{Session: session}}, "room": {Room: "a"},
	} {
		r.Reply, r.ForMS = bus.TapPrefix+name, 3000
		sub, err := c.nc.SubscribeSync(r.Reply)
		if err != nil {
			t.Fatal(err)
		}
		subs[name] = sub
		if got := c.order(1, order.Tap, r); got[0].Error != nil || got[0].Affected != map[string]int{"user": 1, "session": 1, "room": 2}[name] {
			t.Fatalf("%s: %+v", name, got)
		}
	}
	c.publish("a", `{"n":1}`, nil)
	for _, name := range []string{"user", "session"} {
		if got := tapped(t, subs[name], order.TapMessage); got.Session != session || got.User != "alice" || got.Room != "a" || string(got.Frame) != `{"room":"a","data":{"n":1}}` || got.Node != "edge-0" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	members := 0
	for members < 2 { // one event for each loop that has members
		members += tapped(t, subs["room"], order.TapMessage).Members
	}
	c.order(1, order.Unsubscribe, order.RoomsRequest{Target: order.Target{User: "alice"}, Rooms: []string{"a"}})
	if got := tapped(t, subs["user"], order.TapNotice); string(got.Frame) != `{"unsubscribed":{"rooms":["a"],"reason":"removed"}}` {
		t.Errorf("%+v", got)
	}
	for _, sub := range subs {
		tapped(t, sub, order.TapEnd)
	}
	for _, w := range e.workers {
		_ = w.loop.Do(func() {
			if w.ears.list != nil {
				t.Error("the loop goes on listening")
			}
		})
	}
	if got := c.order(1, order.Tap, order.TapRequest{Room: "a", ForMS: 1}); got[0].Error == nil {
		t.Fatal("a tap without a reply subject is taken")
	}
}

func TestATapEndsBeforeItsTimeWhenItsCallerSaysSo(t *testing.T) {
	c := newCluster(t, policy.Dev())
	c.obeying("edge-0", 2)
	reply := bus.TapPrefix + "mine"
	sub, err := c.nc.SubscribeSync(bus.TapPrefix + "*")
	if err != nil {
		t.Fatal(err)
	}
	c.order(1, order.Tap, order.TapRequest{Room: "a", ForMS: order.MaxTap.Milliseconds(), Reply: bus.TapPrefix + "other"})
	for range 2 * maxTaps { // so many are not on at once: each has ended
		if got := c.order(1, order.Tap, order.TapRequest{Room: "a", ForMS: order.MaxTap.Milliseconds(), Reply: reply}); got[0].Error != nil {
			t.Fatalf("%+v", got)
		}
		if got := c.order(1, order.Tap, order.TapRequest{Reply: reply, Stop: true}); got[0].Error != nil || got[0].Affected != 1 {
			t.Fatalf("%+v", got)
		}
		tapped(t, sub, order.TapEnd)
		until(t, "the tap is over", func() bool {
			return c.order(1, order.Tap, order.TapRequest{Reply: reply, Stop: true})[0].Affected == 0
		})
	}
	if got := c.order(1, order.Tap, order.TapRequest{Reply: bus.TapPrefix + "other", Stop: true}); got[0].Affected != 1 {
		t.Fatalf("another's tap has ended, too: %+v", got)
	}
}

// What is purged leaves the memory of nodes, too.
func TestAPurgeThatIsRecordedIsForgotten(t *testing.T) {
	c := newHistory(t, kept100())
	e := c.readyForHistory(c.edge(nil))
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	var last uint64
	for n := range 4 {
		last = c.store("a", fmt.Sprint(n))
		a.want(message("a", last, n))
	}
	record := (&policy.Purges{}).With(policy.Purge{Room: "a", Stream: c.set.Rooms[0].Stream.Name, UpTo: last, At: time.Now()})
	c.put(bus.BucketConfig, bus.KeyPurges, record.Encode())
	c.purge("a", last)
	until(t, "the node has read the list", func() bool { return e.purges.Load() != nil })
	c.resumed(e, resumeFrom("a", "k1", last), fmt.Sprintf(`{"room":"a","epoch":"k1","offset":%d,"recovered":true}`, last))
	// A node that opens the room now knows that time proves nothing: what left the
	// store was not too old for it.
	fresh := c.readyForHistory(c.edge(nil))
	until(t, "the other node has read the list", func() bool { return fresh.purges.Load() != nil })
	c.resumed(fresh, resumeAfter(1000, "a", 2), `{"room":"a","epoch":"k1","offset":0,"recovered":false,"reason":"history_cut"}`)
	next := c.store("a", "4")
	a.want(message("a", next, 4))
	c.mirrored(next)
	c.resumed(e, resumeFrom("a", "k1", 2), fmt.Sprintf(`{"room":"a","epoch":"k1","offset":%d,"recovered":false,"reason":"history_cut"}`, next-1), message("a", next, 4))
	// Who saw nothing and was away for so short a time that all would still be
	// kept can not be told that all of it follows.
	r := dial(t, e, "/ws")
	r.send(`{"id":1,"connect":{"away_ms":1000,"rooms":[{"room":"a","epoch":"k1","offset":0}]}}`)
	r.wantConnected(fmt.Sprintf(`{"room":"a","epoch":"k1","offset":%d,"recovered":false,"reason":"history_cut"}`, next-1))
	r.want(message("a", next, 4))
}
