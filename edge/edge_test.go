package edge

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/edge/internal/session"
	"nabat/proto/grant"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

func TestAPlainNATSPublishReachesTheRoom(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	a := dial(t, e, "/ws?room=sports.news&room=chat.42")
	a.connected("sports.news", "chat.42")
	b := dial(t, e, "/ws?room=other")
	b.connected("other")

	c.publish("sports.news", `{"title": "Goal"}`, nil)
	a.want(`{"room":"sports.news","data":{"title":"Goal"}}`)
	c.publish("chat.42", "plain text", nats.Header{"Nabat-User": {"bob"}, "Nabat-Event": {"said"}})
	a.want(`{"room":"chat.42","text":"plain text","event":"said","user":"bob"}`)
	c.publish("chat.42", "\xff\xfe", nil)
	a.want(`{"room":"chat.42","base64":"//4="}`)
	c.publish("other", "1", nil)
	b.want(`{"room":"other","data":1}`)
}

func TestEncodedRoomNames(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	a := dial(t, e, "/ws?room=team%20chat%201")
	a.connected("team chat 1")
	c.publish("team%20chat%201", "hi", nil)
	a.want(`{"room":"team chat 1","text":"hi"}`)
}

func TestCommands(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	a := dial(t, e, "/ws")
	a.send(`{"id":1,"subscribe":{"rooms":[{"room":"a"}]}}`)
	a.want(`{"id":1,"error":{"code":"not_connected","reason":"send connect first","retry_ms":0}}`)
	a.send(`{"id":2,"connect":{"rooms":[{"room":"a"}]}}`)
	a.wantPrefix(`{"id":2,"connected":{"session":"c`)
	a.send(`{"id":3,"subscribe":{"rooms":[{"room":"b"},{"room":"c"}]}}`)
	a.want(`{"id":3,"subscribed":{"rooms":[{"room":"b"},{"room":"c"}]}}`)
	a.send(`{"id":4,"publish":{"room":"c","data":{"x": 1}}}`)
	// The reply and the message itself travel apart: either may be first.
	got := []string{}
	for range 2 {
		s, err := a.next()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, s)
	}
	if all := strings.Join(got, " "); !strings.Contains(all, `{"id":4,"published":{"room":"c"}}`) || !strings.Contains(all, `{"room":"c","data":{"x":1}}`) {
		t.Fatalf("got %s", all)
	}
	a.send(`{"id":5,"unsubscribe":{"rooms":["c"]}}`)
	a.want(`{"id":5,"unsubscribed":{"rooms":["c"]}}`)
	a.send(`{"id":6,"ping":{}}`)
	a.want(`{"id":6,"pong":{}}`)
	a.send(`{"id":7,"history":{"room":"a"}}`)
	a.wantPrefix(`{"id":7,"error":{"code":"no_history"`)
	a.send(`{"id":8,"presence":{"room":"a"}}`)
	a.wantPrefix(`{"id":8,"error":{"code":"unavailable","reason":"presence can not be read now: no control service answers"`)
	c.publish("c", "unseen", nil)
	c.publish("b", "seen", nil)
	a.want(`{"room":"b","text":"seen"}`)
}

func TestAClientPublishesWithItsIdentityInHeaders(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	sub, err := c.nc.SubscribeSync("room.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	token := c.token(c.hs, "alice", time.Hour, &grant.Grant{Subscribe: []string{"chat.*"}, Publish: []string{"chat.42"}})
	a := dial(t, e, "/ws?room=chat.1&token="+token)
	id := a.connected("chat.1")
	a.send(`{"id":1,"publish":{"room":"chat.42","text":"hi","event":"said","key":"k","message_id":"m1"}}`)
	a.want(`{"id":1,"published":{"room":"chat.42"}}`)
	m, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	if m.Subject != "room.chat.42" || string(m.Data) != "hi" || m.Header.Get("Nabat-User") != "alice" || m.Header.Get("Nabat-Connection") != id ||
		m.Header.Get("Nabat-Event") != "said" || m.Header.Get("Nabat-Body") != "text" || m.Header.Get("Nats-Msg-Id") == "" {
		t.Fatalf("%s %q %v", m.Subject, m.Data, m.Header)
	}
	a.send(`{"id":2,"publish":{"room":"chat.1","text":"hi"}}`)
	a.want(`{"id":2,"error":{"code":"not_allowed","reason":"publish to chat.1 is not granted","retry_ms":0}}`)
}

func TestExcludeKeepsAMessageFromOneConnection(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	a, b := dial(t, e, "/ws?room=x"), dial(t, e, "/ws?room=x")
	id := a.connected("x")
	b.connected("x")
	c.publish("x", "1", nats.Header{"Nabat-Exclude": {id}})
	c.publish("x", "2", nil)
	a.want(`{"room":"x","data":2}`)
	b.want(`{"room":"x","data":1}`)
	b.want(`{"room":"x","data":2}`)
}

func TestTokensBeforeThe101(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	g := &grant.Grant{Subscribe: []string{"sports.>"}, Rooms: []string{"user.alice"}}
	for _, k := range []string{"HS256", "EdDSA"} {
		key := c.hs
		if k == "EdDSA" {
			key = c.ed
		}
		token := c.token(key, "alice", time.Hour, g)
		t.Run(k+" in the query", func(t *testing.T) { dial(t, e, "/ws?room=sports.a&token="+token).connected("sports.a", "user.alice") })
		t.Run(k+" as sub-protocol", func(t *testing.T) {
			dial(t, e, "/ws?room=sports.a", "nabat.v1.json", "nabat.token."+token).connected("sports.a", "user.alice")
		})
		t.Run(k+" as bearer", func(t *testing.T) {
			a, err := tryDial(t, e.Addr(), "/ws?room=sports.a", map[string][]string{"Authorization": {"Bearer " + token}})
			if err != nil {
				t.Fatal(err)
			}
			a.connected("sports.a", "user.alice")
		})
		t.Run(k+" as cookie", func(t *testing.T) {
			a, err := tryDial(t, e.Addr(), "/ws", map[string][]string{"Cookie": {"x=y; nabat_token=" + token}})
			if err != nil {
				t.Fatal(err)
			}
			a.connected("user.alice")
		})
		t.Run(k+" in connect", func(t *testing.T) {
			a := dial(t, e, "/ws")
			a.send(`{"id":1,"connect":{"token":"` + token + `","rooms":[{"room":"sports.b"}]}}`)
			a.send(`{"id":2,"ping":{}}`) // waits for its turn
			if got := a.wantPrefix(`{"id":1,"connected":{`); !strings.Contains(got, `"user":"alice"`) || !strings.Contains(got, `"expires":`) {
				t.Fatal(got)
			}
			a.want(`{"id":2,"pong":{}}`)
		})
	}
}

func upgradeHeaders() []string {
	return []string{"Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}
}

func TestRefusedHandshakes(t *testing.T) {
	c := newCluster(t, &policy.Set{Rooms: []policy.Policy{{Match: "open.>", Anonymous: policy.Anonymous{Subscribe: true}}, {Match: "sports.>"}}})
	e := c.edge(func(cfg *Config) {
		cfg.Dev = false
		cfg.Echo = false
		cfg.Origins = []string{"https://app.example.com"}
	})
	expired := c.token(c.hs, "a", -time.Hour, nil)
	good := c.token(c.hs, "a", time.Hour, &grant.Grant{Subscribe: []string{"sports.>"}})
	crowd := ""
	for i := range 129 {
		crowd += fmt.Sprintf("room=open.%d&", i)
	}
	for _, r := range []struct {
		rule, path string
		header     []string
		status     int
		body       string
	}{
		{"no upgrade headers", "/ws?room=open.a", nil, 426, `"upgrade_required"`},
		{"another WebSocket version", "/ws?room=open.a", []string{"Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}, 426, "must be 13"},
		{"a bad key", "/ws?room=open.a", []string{"Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: short"}, 400, "16 bytes"},
		{"an expired token", "/ws?token=" + expired, upgradeHeaders(), 401, `"token_expired"`},
		{"a malformed token", "/ws?token=x", upgradeHeaders(), 401, `"token_malformed"`},
		{"a room that is not granted", "/ws?room=open.a&token=" + good, upgradeHeaders(), 403, "subscribe to open.a is not granted by the token"},
		{"a room that is not open to everybody", "/ws?room=sports.a", upgradeHeaders(), 403, "not open to clients without a token"},
		{"a room without policy", "/ws?room=x", upgradeHeaders(), 403, "no policy matches room x"},
		{"a bad room name", "/ws?room=a..b", upgradeHeaders(), 400, `"bad_room"`},
		{"a bad escape", "/ws?room=%zz", upgradeHeaders(), 400, "two hexadecimal digits"},
		{"only a token offered", "/ws?room=sports.a", append(upgradeHeaders(), "Sec-WebSocket-Protocol: nabat.token."+good), 400, `offer \"nabat.v1.json\" or \"nabat.v1.proto\" beside the token`},
		{"an unknown sub-protocol", "/ws?room=open.a", append(upgradeHeaders(), "Sec-WebSocket-Protocol: mqtt"), 400, `"bad_subprotocol"`},
		{"a batch that is neither 1 nor 0", "/ws?room=open.a&batch=yes", upgradeHeaders(), 400, "batch must be 1 or 0"},
		{"an origin that is not listed", "/ws?room=open.a", append(upgradeHeaders(), "Origin: https://evil.example"), 403, `"origin_not_allowed"`},
		{"a bad Authorization", "/ws?room=open.a", append(upgradeHeaders(), "Authorization: Basic x"), 401, "Bearer TOKEN"},
		{"an event stream without rooms", "/sse", nil, 400, "at least one room"},
		{"too many rooms", "/ws?" + crowd, upgradeHeaders(), 400, "too_many_rooms"},
		{"another path", "/nope", nil, 404, "use /ws?room=NAME"},
		{"echo, which is off", "/echo", upgradeHeaders(), 404, "not_found"},
	} {
		t.Run(r.rule, func(t *testing.T) {
			status, body, _ := get(t, e, r.path, r.header...)
			if status != r.status || !strings.Contains(body, r.body) {
				t.Fatalf("%d %s", status, body)
			}
		})
	}
	status, body, _ := get(t, e, "/")
	if status != 200 || !strings.Contains(body, "/ws?room=") {
		t.Errorf("/: %d %s", status, body)
	}
	if status, body, _ := rawRequest(t, e.Addr(), "POST /ws HTTP/1.1\r\nHost: x\r\n\r\n"); status != 405 {
		t.Errorf("POST: %d %s", status, body)
	}
	status, _, header := get(t, e, "/sse?room=open.a2&room=a..b", "Origin: https://app.example.com")
	if status != 400 || header.Get("Access-Control-Allow-Origin") != "https://app.example.com" {
		t.Errorf("a refusal to a page carries CORS, so that the page can read it: %d %v", status, header)
	}
}

func TestEventStream(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	conn, err := net.Dial("tcp", e.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET /sse?room=a HTTP/1.1\r\nHost: x\r\nOrigin: http://localhost:3000\r\n\r\n")
	r := bufio.NewReader(conn)
	line := func() string {
		t.Helper()
		s, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimRight(s, "\r\n")
	}
	head := ""
	for s := line(); s != ""; s = line() {
		head += s + "\n"
	}
	if !strings.HasPrefix(head, "HTTP/1.1 200 OK\nContent-Type: text/event-stream") || !strings.Contains(head, "Access-Control-Allow-Origin: http://localhost:3000") {
		t.Fatal(head)
	}
	if s := line(); s != "retry: 2000" {
		t.Fatal(s)
	}
	if s := line(); s != "event: connected" {
		t.Fatal(s)
	}
	if s := line(); !strings.HasPrefix(s, `data: {"connected":{"session":"c`) {
		t.Fatal(s)
	}
	line()
	c.publish("a", "{\n\"x\": 1}", nats.Header{"Nabat-Event": {"goal"}})
	for _, want := range []string{"event: goal", `data: {"room":"a","data":{"x":1},"event":"goal"}`, ""} {
		if s := line(); s != want {
			t.Fatalf("got %q, want %q", s, want)
		}
	}
}

func TestEchoReturnsMessagesOfAnySizeUnchanged(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	a := dial(t, e, "/echo")
	for _, n := range []int{0, 1, 125, 126, 65535, 65536, 1 << 20} {
		text := strings.Repeat("x", n)
		go a.send(text)
		if got, err := a.next(); err != nil || got != text {
			t.Fatalf("%d bytes: %d came back, %v", n, len(got), err)
		}
	}
}

func TestExpiry(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.TokenLeeway = 0 })
	g := &grant.Grant{Subscribe: []string{"a", "b"}}
	a := dial(t, e, "/ws?room=a&token="+c.token(c.hs, "alice", 2*time.Second, g))
	a.connected("a")
	a.wantPrefix(`{"expiring":{"in":`)
	a.wantClose(4001, `"token_expired"`)

	b := dial(t, e, "/ws?room=a&room=b&token="+c.token(c.hs, "alice", 2*time.Second, g))
	b.connected("a", "b")
	b.wantPrefix(`{"expiring":{"in":`)
	b.send(`{"id":1,"auth":{"token":"` + c.token(c.hs, "bob", time.Hour, g) + `"}}`)
	b.wantPrefix(`{"id":1,"error":{"code":"not_allowed"`)
	b.send(`{"id":2,"auth":{"token":"` + c.token(c.ed, "alice", time.Hour, &grant.Grant{Subscribe: []string{"a"}}) + `"}}`)
	b.wantPrefix(`{"id":2,"authed":{"user":"alice","expires":`)
	b.want(`{"unsubscribed":{"rooms":["b"],"reason":"not_allowed"}}`)
	c.publish("b", "not for us", nil)
	c.publish("a", "for us", nil)
	b.want(`{"room":"a","text":"for us"}`)
}

func TestConnectTimeout(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.ConnectTimeout = time.Second })
	dial(t, e, "/ws").wantClose(4011, `"connect_timeout"`)
}

func TestBadCommandsCloseTheConnection(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	for range 9 {
		a.send("garbage")
		a.wantPrefix(`{"error":{"code":"bad_command"`)
	}
	a.send("garbage")
	a.wantClose(4010, `"protocol"`)
	if e.closes("protocol") != 1 {
		t.Error("the close is not counted")
	}
}

func TestPoliciesReachTheEdgeWithoutARestart(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	c.put("NABAT_CONFIG", "policies", (&policy.Set{Version: 1, Rooms: []policy.Policy{{Match: ">"}}}).Encode())
	until(t, "the new policies are in force", func() bool { return e.policies.Load().Version == 1 })
	a.send(`{"id":1,"subscribe":{"rooms":[{"room":"b"}]}}`)
	a.wantPrefix(`{"id":1,"error":{"code":"not_allowed"`)
	c.put("NABAT_CONFIG", "policies", (&policy.Set{Version: 0, Rooms: policy.Dev().Rooms}).Encode())
	c.put("NABAT_CONFIG", "policies", []byte("broken"))
	c.put("NABAT_CONFIG", "policies", (&policy.Set{Version: 2, Rooms: policy.Dev().Rooms}).Encode())
	until(t, "the newest policies are in force", func() bool { return e.policies.Load().Version == 2 })
	a.send(`{"id":2,"subscribe":{"rooms":[{"room":"b"}]}}`)
	a.want(`{"id":2,"subscribed":{"rooms":[{"room":"b"}]}}`)
}

func TestWhoLeavesWhileJoiningDoesNotTakeTheRoomFromTheNext(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.Loops = 1 })
	a, b := dial(t, e, "/ws?room=a"), dial(t, e, "/ws?room=a")
	_, _, first, _ := parseSession(a.connected("a"))
	_, _, second, _ := parseSession(b.connected("a"))
	w := e.workers[0]
	joined := make(chan *wire.Error, 1)
	if err := w.loop.Do(func() { // both wait for the same answer of NATS
		w.host().Join(session.Ref(first), session.Want{Room: "r"}, func(wire.Position, bool, *wire.Error) { w.host().Leave(session.Ref(first), "r") })
		w.host().Join(session.Ref(second), session.Want{Room: "r"}, func(_ wire.Position, _ bool, err *wire.Error) { joined <- err })
	}); err != nil {
		t.Fatal(err)
	}
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
	c.publish("r", "hi", nil)
	b.want(`{"room":"r","text":"hi"}`)
}

func TestDrainSaysGoodbye(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e, stop := c.start(nil)
	var clients []*client
	for range 20 {
		a := dial(t, e, "/ws?room=a")
		a.connected("a")
		clients = append(clients, a)
	}
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	for _, a := range clients {
		a.wantClose(4200, `"drain"`)
	}
	if err := e.Ready(); err == nil || !strings.Contains(err.Error(), "draining") {
		t.Errorf("ready: %v", err)
	}
	<-stopped
}

// The longest time from a message's arrival to its writes is there to be asked
// for, once.
func TestLatencyIsTold(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	e.Lags()
	c.publish("a", "1", nil)
	a.wantPrefix(`{"room":"a"`)
	var got time.Duration
	until(t, "it is told", func() bool { got = e.Lags().Latency; return got > 0 })
	if again := e.Lags().Latency; got > patience || again != 0 {
		t.Errorf("%s, and then %s", got, again)
	}
}
