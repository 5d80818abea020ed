package edge

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/proto/grant"
	"nabat/proto/policy"
)

// asked is a question as a backend gets it.
type asked struct {
	Node, Connection, User, Address, Room, Text, Event string
	TokenID                                            string `json:"token_id"`
	Data, Info                                         json.RawMessage
}

// hook answers the questions of one event, and records them.
type hookBackend struct {
	t testing.TB

	// mu guards the fields below.
	mu     sync.Mutex
	asked  []asked
	waits  []*nats.Msg
	answer func(asked) string // "" keeps the question waiting
}

func (c *cluster) hook(event string, answer func(asked) string) *hookBackend {
	c.t.Helper()
	nc, err := nats.Connect(c.nats.URL())
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(nc.Close)
	b := &hookBackend{t: c.t, answer: answer}
	if _, err := nc.Subscribe("hook."+event, b.take); err != nil {
		c.t.Fatal(err)
	}
	if err := nc.FlushTimeout(patience); err != nil {
		c.t.Fatal(err)
	}
	return b
}

func (b *hookBackend) take(m *nats.Msg) {
	var q asked
	if err := json.Unmarshal(m.Data, &q); err != nil {
		b.t.Errorf("%s: %v", m.Data, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, q)
	if a := b.answer(q); a != "" {
		_ = m.Respond([]byte(a)) // an edge that is gone
		return
	}
	b.waits = append(b.waits, m)
}

func (b *hookBackend) seen() []asked {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]asked(nil), b.asked...)
}

// release answers what waits, the newest first.
func (b *hookBackend) release(answer string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := len(b.waits) - 1; i >= 0; i-- {
		_ = b.waits[i].Respond([]byte(answer))
	}
	b.waits = nil
}

const allowed, deniedBySomebody = `{"allow":true}`, `{"allow":false,"reason":"you owe us money"}`

func always(answer string) func(asked) string { return func(asked) string { return answer } }

func open(rooms string, h *policy.Hooks) policy.Policy {
	return policy.Policy{Match: rooms, Publish: true, Anonymous: policy.Anonymous{Subscribe: true, Publish: true}, Hooks: h}
}

// hooked is a set where rooms under ask. are asked about, and others are not.
func hooked() *policy.Set {
	return &policy.Set{Rooms: []policy.Policy{open("ask.>", &policy.Hooks{Subscribe: true, Publish: true}), open(">", nil)}}
}

// hooks counts the answers of hooks with this label, and those that wait.
func (e *Edge) hookCount(label string) (n uint64, waiting int64) {
	for _, w := range e.workers {
		waiting += w.counts.HooksWaiting.Load()
		w.counts.Hooks.Each(func(l string, k uint64) {
			if l == label {
				n += k
			}
		})
	}
	return n, waiting
}

// nothingLeft waits until no loop keeps anything of hooks.
func (e *Edge) nothingLeft(t testing.TB) {
	t.Helper()
	until(t, "nothing of hooks is left", func() bool {
		left := 0
		for _, w := range e.workers {
			if w.loop.Do(func() { left += len(w.outboxes) + len(w.came) }) != nil {
				t.Fatal("a loop has stopped")
			}
		}
		_, waiting := e.hookCount("")
		return left == 0 && waiting == 0
	})
}

func TestABackendDecidesWhoConnects(t *testing.T) {
	c := newCluster(t, hooked())
	b := c.hook("connect", func(q asked) string {
		switch q.User {
		case "mallory":
			return deniedBySomebody
		case "":
			return `{"allow":true,"user":"guest","grant":{"subscribe":["lobby"]},"rooms":["welcome"],"info":{"n":1}}`
		case "alice":
			return `{"allow":true,"rooms":["inbox"]}`
		}
		return allowed
	})
	e := c.edge(func(cfg *Config) { cfg.HookConnect = true })
	g := &grant.Grant{Rooms: []string{"a"}, Info: json.RawMessage(`{"vip":true}`)}

	bob := dial(t, e, "/ws?token="+c.token(c.hs, "bob", time.Hour, g))
	session := bob.connected("a")
	q := b.seen()[0]
	if q.User != "bob" || q.Connection != session || q.Node != "edge-0" || q.Address != "127.0.0.1" || q.TokenID == "" || string(q.Info) != `{"vip":true}` {
		t.Errorf("asked %+v", q)
	}
	dial(t, e, "/ws?token="+c.token(c.ed, "alice", time.Hour, g)).connected("inbox") // also where the token is checked elsewhere
	dial(t, e, "/ws?room=lobby").connected("lobby", "welcome")

	status, body, _ := get(t, e, "/sse?token="+c.token(c.hs, "mallory", time.Hour, g))
	if status != 403 || !strings.Contains(body, `"code":"not_allowed","reason":"you owe us money"`) {
		t.Errorf("%d %s", status, body)
	}
	// The same for those who connect by the command.
	late := dial(t, e, "/ws")
	late.send(`{"id":1,"connect":{"rooms":[{"room":"lobby"}]}}`)
	late.wantPrefix(`{"id":1,"connected":{"session":"`)
	late.send(`{"id":2,"subscribe":{"rooms":[{"room":"b"}]}}`)
	late.want(`{"id":2,"error":{"code":"not_allowed","reason":"subscribe to b is not granted by the token","retry_ms":0}}`)
	if all := b.seen(); all[len(all)-1].Address != "127.0.0.1" {
		t.Errorf("asked %+v", all[len(all)-1])
	}
	never := dial(t, e, "/ws")
	never.send(`{"id":1,"connect":{"token":"` + c.token(c.hs, "mallory", time.Hour, g) + `"}}`)
	never.want(`{"id":1,"error":{"code":"not_allowed","reason":"you owe us money","retry_ms":0}}`)
	never.wantClose(4002, "not_allowed")
	// A new token is asked about; the old one stays when it is denied.
	bob.send(`{"id":3,"auth":{"token":"` + c.token(c.hs, "bob", time.Hour, &grant.Grant{Subscribe: []string{"b"}}) + `"}}`)
	bob.wantPrefix(`{"id":3,"authed":{"user":"bob"`)
	for label, want := range map[string]uint64{"connect allowed": 5, "connect denied": 2} {
		if n, _ := e.hookCount(label); n != want {
			t.Errorf("%s: %d, want %d", label, n, want)
		}
	}
}

func TestABackendDecidesWhoSubscribes(t *testing.T) {
	c := newCluster(t, hooked())
	b := c.hook("subscribe", func(q asked) string {
		if q.Room == "ask.vault" {
			return deniedBySomebody
		}
		return `{"allow":true,"ttl_ms":600000}`
	})
	e := c.edge(func(cfg *Config) { cfg.Loops = 2 })
	g := &grant.Grant{Subscribe: []string{">"}}
	token := c.token(c.hs, "alice", time.Hour, g)
	a := dial(t, e, "/ws?room=free&room=ask.a&token="+token)
	a.connected("free", "ask.a")
	if q := b.seen(); len(q) != 1 || q[0].Room != "ask.a" || q[0].User != "alice" {
		t.Errorf("asked %+v", q)
	}
	a.send(`{"id":1,"subscribe":{"rooms":[{"room":"ask.b"},{"room":"ask.vault"}]}}`)
	a.want(`{"id":1,"error":{"code":"not_allowed","reason":"you owe us money","retry_ms":0}}`)
	a.send(`{"id":2,"subscribe":{"rooms":[{"room":"ask.a"},{"room":"ask.b"}]}}`)
	a.want(`{"id":2,"subscribed":{"rooms":[{"room":"ask.a"},{"room":"ask.b"}]}}`)
	c.publish("ask.b", `1`, nil)
	a.want(`{"room":"ask.b","data":1}`)
	// Another connection of the user lives by the answer that was kept.
	dial(t, e, "/ws?room=ask.a&token="+token).connected("ask.a")
	if q := b.seen(); len(q) != 3 {
		t.Errorf("asked %d times: %+v", len(q), q)
	}
	// Rooms of the URL that are denied end the connection, as others do.
	denied := dial(t, e, "/ws?room=ask.vault")
	denied.wantClose(4002, "not_allowed")
	for label, want := range map[string]uint64{"subscribe allowed": 2, "subscribe denied": 2, "subscribe cached": 2} {
		if n, _ := e.hookCount(label); n != want {
			t.Errorf("%s: %d, want %d", label, n, want)
		}
	}
	if e.refusals("not_allowed") == 0 {
		t.Error("not counted")
	}
}

func TestABackendDecidesWhatIsPublished(t *testing.T) {
	c := newCluster(t, hooked())
	b := c.hook("publish", func(q asked) string {
		if strings.Contains(q.Text, "swear") {
			return `{"allow":false}`
		}
		return allowed
	})
	c.hook("subscribe", always(allowed))
	e := c.edge(nil)
	a := dial(t, e, "/ws?room=ask.a")
	a.connected("ask.a")
	a.send(`{"id":1,"publish":{"room":"ask.b","text":"hello","event":"said"}}`)
	a.want(`{"id":1,"published":{"room":"ask.b"}}`)
	a.send(`{"id":2,"publish":{"room":"ask.b","text":"swear"}}`)
	a.want(`{"id":2,"error":{"code":"not_allowed","reason":"the backend does not allow it","retry_ms":0}}`)
	a.send(`{"id":3,"publish":{"room":"ask.b","data":{"n": 1}}}`)
	a.want(`{"id":3,"published":{"room":"ask.b"}}`)
	q := b.seen()
	if len(q) != 3 || q[0].Room != "ask.b" || q[0].Text != "hello" || q[0].Event != "said" || string(q[2].Data) != `{"n":1}` {
		t.Errorf("asked %+v", q)
	}
}

// Backends may answer in any order: what they answer is published in the order in
// which it came, and so is what no backend is asked about.
func TestHooksKeepTheOrderOfPublishes(t *testing.T) {
	c := newCluster(t, hooked())
	b := c.hook("publish", always(""))
	e := c.edge(func(cfg *Config) { cfg.HookTimeout = 2 * patience; cfg.HandshakeTimeout = 3 * patience })
	reader, a := dial(t, e, "/ws?room=free"), dial(t, e, "/ws?room=other")
	reader.connected("free")
	a.connected("other")
	const n = 20
	for i := range n {
		room := "ask.x"
		if i%2 == 1 {
			room = "free"
		}
		a.send(fmt.Sprintf(`{"id":%d,"publish":{"room":"%s","data":%d}}`, i, room, i))
	}
	until(t, "the backend has all", func() bool { return len(b.seen()) == n/2 })
	a.send(`{"id":99,"ping":{}}`)
	a.want(`{"id":99,"pong":{}}`) // the loop goes on, and nothing is published yet
	b.release(allowed)
	for i := 1; i < n; i += 2 {
		reader.want(fmt.Sprintf(`{"room":"free","data":%d}`, i))
	}
	e.nothingLeft(t)
}

func TestAConnectionThatLeavesWhileAHookRunsLeavesNothing(t *testing.T) {
	c := newCluster(t, hooked())
	backends := map[string]*hookBackend{}
	for _, event := range []string{"connect", "subscribe", "publish"} {
		first := true
		answer := func(asked) string {
			if event == "connect" && first {
				first = false
				return allowed
			}
			return ""
		}
		backends[event] = c.hook(event, answer)
	}
	e := c.edge(func(cfg *Config) {
		cfg.HookConnect, cfg.HookTimeout, cfg.HandshakeTimeout = true, 2*patience, 3*patience
	})
	heard, err := c.nc.SubscribeSync("room.ask.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	a := dial(t, e, "/ws?room=free")
	a.connected("free")
	a.send(`{"id":1,"subscribe":{"rooms":[{"room":"ask.a"}]}}`)
	a.send(`{"id":2,"publish":{"room":"ask.b","data":1}}`)
	gone := make(chan error, 1)
	go func() { // waits in its handshake
		_, err := tryDial(t, e.Addr(), "/ws?room=free", http.Header{})
		gone <- err
	}()
	for event, want := range map[string]int{"connect": 2, "subscribe": 1, "publish": 1} {
		until(t, event+" is asked", func() bool { return len(backends[event].seen()) == want })
	}
	_ = a.conn.Close()
	until(t, "it has left", func() bool { return e.connections() == 1 })
	for event, b := range backends {
		if event != "connect" {
			b.release(allowed)
		}
	}
	backends["connect"].release(deniedBySomebody)
	if err := <-gone; err == nil {
		t.Error("who was denied is connected")
	}
	e.nothingLeft(t)
	until(t, "nobody is there", func() bool { return e.connections() == 0 })
	c.publish("ask.last", "1", nil)
	if m, err := heard.NextMsg(patience); err != nil || m.Subject != "room.ask.last" {
		t.Errorf("published for nobody: %v, %v", m, err)
	}
	for _, w := range e.workers {
		if err := w.loop.Do(func() {
			if w.hub.Has("ask.a") {
				t.Error("somebody is in the room")
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// What counts when a backend does not decide.
func TestAHookWithoutAnAnswer(t *testing.T) {
	for _, p := range []struct {
		name, unanswered string
		answer           func(asked) string // nil: nobody listens
		want, label      string
	}{
		{"nobody answers: denied", "deny", nil, `{"code":"hook_unavailable","reason":"hook.publish: nobody answers there","retry_ms":1000}`, "no_responders"},
		{"nobody answers: allowed where that is set", "allow", nil, "", "no_responders"},
		{"an answer that is late: denied", "deny", always(""), `{"code":"hook_unavailable","reason":"hook.publish: no reply in time","retry_ms":1000}`, "timeout"},
		{"an answer that is late: allowed where that is set", "allow", always(""), "", "timeout"},
		{"an answer that makes no sense: denied", "deny", always(`{"allowed":true}`), `{"code":"hook_unavailable","reason":"hook.publish: the answer makes no sense","retry_ms":1000}`, "bad_answer"},
		{"a denial counts in any case", "allow", always(deniedBySomebody), `{"code":"not_allowed","reason":"you owe us money","retry_ms":0}`, "denied"},
	} {
		t.Run(p.name, func(t *testing.T) {
			c := newCluster(t, hooked())
			if p.answer != nil {
				c.hook("publish", p.answer)
			}
			e := c.edge(func(cfg *Config) { cfg.HookUnanswered, cfg.HookTimeout = p.unanswered, 500*time.Millisecond })
			a := dial(t, e, "/ws?room=a")
			a.connected("a")
			a.send(`{"id":1,"publish":{"room":"ask.a","data":1}}`)
			if p.want == "" {
				a.want(`{"id":1,"published":{"room":"ask.a"}}`)
			} else {
				a.want(`{"id":1,"error":` + p.want + `}`)
			}
			if n, _ := e.hookCount("publish " + p.label); n != 1 {
				t.Errorf("%s: %d", p.label, n)
			}
			if p.unanswered == "deny" {
				if e.refusals("hook_unavailable") != 1 {
					t.Error("not counted")
				}
				// Who cannot join the rooms of the URL comes back.
				b := dial(t, e, "/ws?room=ask.a")
				b.wantClose(4105, "hook_unavailable")
			}
			e.nothingLeft(t)
		})
	}
}

func TestAFloodOfHooksIsBounded(t *testing.T) {
	c := newCluster(t, hooked())
	b := c.hook("publish", always(""))
	e := c.edge(func(cfg *Config) {
		cfg.MaxHooks, cfg.HookUnanswered, cfg.HookTimeout, cfg.HandshakeTimeout = 2, "allow", 2*patience, 3*patience
	})
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	for i := range 4 {
		a.send(fmt.Sprintf(`{"id":%d,"publish":{"room":"ask.a","data":%d}}`, i, i))
	}
	until(t, "the backend has as many as may wait", func() bool { return len(b.seen()) == 2 })
	b.release(allowed)
	got := map[string]int{}
	for range 4 {
		text, err := a.next()
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(text, ",")
		got[strings.SplitN(rest, `"reason"`, 2)[0]]++
	}
	if got[`"published":{"room":"ask.a"}}`] != 2 || got[`"error":{"code":"overloaded",`] != 2 {
		t.Errorf("%v", got)
	}
}

func TestWhoConnectsWhileTooManyAreAskedAboutComesBack(t *testing.T) {
	c := newCluster(t, policy.Dev())
	b := c.hook("connect", always(""))
	e := c.edge(func(cfg *Config) {
		cfg.Loops, cfg.HookConnect, cfg.MaxHooks = 1, true, 1
		cfg.HookTimeout, cfg.HandshakeTimeout, cfg.ConnectTimeout = 2*patience, 3*patience, 3*patience
	})
	first, second := dial(t, e, "/ws"), dial(t, e, "/ws")
	first.send(`{"id":1,"connect":{"rooms":[{"room":"a"}]}}`)
	until(t, "the backend is asked", func() bool { return len(b.seen()) == 1 })
	second.send(`{"id":1,"connect":{"rooms":[{"room":"a"}]}}`)
	second.wantPrefix(`{"id":1,"error":{"code":"overloaded"`)
	second.wantClose(4102, `{"code":"overloaded","retry_ms":1000}`)
	b.release(allowed)
	first.wantPrefix(`{"id":1,"connected":`)
}

func TestSettingsOfHooks(t *testing.T) {
	for _, p := range []struct {
		name   string
		change func(*Config)
		fault  string
	}{
		{"unanswered is deny or allow", func(c *Config) { c.HookUnanswered = "maybe" }, "hook_unanswered is"},
		{"the prefix ends with a dot", func(c *Config) { c.HookPrefix = "hook" }, "hook_prefix is"},
		{"the prefix is no wildcard", func(c *Config) { c.HookPrefix = "*." }, "hook_prefix is"},
		{"a handshake waits longer than its hook", func(c *Config) { c.HookConnect, c.HookTimeout = true, time.Minute }, "hook_timeout is"},
		{"there is a time", func(c *Config) { c.HookTimeout = 0 }, "hook_timeout is"},
		{"some may wait", func(c *Config) { c.MaxHooks = 0 }, "max_hooks is"},
	} {
		t.Run(p.name, func(t *testing.T) {
			cfg := Defaults()
			p.change(&cfg)
			if err := cfg.Check(); err == nil || !strings.HasPrefix(err.Error(), p.fault) {
				t.Errorf("got %v", err)
			}
		})
	}
}
