package edge

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"nabat/proto/grant"
	"nabat/proto/policy"
)

// backend is a NATS micro service with these endpoints.
func (c *cluster) backend(endpoints map[string]micro.HandlerFunc) micro.Service {
	c.t.Helper()
	nc, err := nats.Connect(c.nats.URL())
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(nc.Close)
	service, err := micro.AddService(nc, micro.Config{Name: "orders", Version: "1.0.0"})
	if err != nil {
		c.t.Fatal(err)
	}
	for method, handler := range endpoints {
		if err := service.AddEndpoint(strings.NewReplacer(".", "-", "%", "-").Replace(method), handler, micro.WithEndpointSubject("rpc."+method)); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := nc.FlushTimeout(patience); err != nil {
		c.t.Fatal(err)
	}
	return service
}

func respond(r micro.Request, body string, header ...string) {
	h := micro.Headers{}
	for i := 0; i < len(header); i += 2 {
		h[header[i]] = []string{header[i+1]}
	}
	_ = r.Respond([]byte(body), micro.WithHeaders(h)) // an edge that is gone
}

func echoCaller(r micro.Request) {
	h := r.Headers()
	answer, _ := json.Marshal(map[string]string{"user": h.Get("Nabat-User"), "kind": h.Get("Nabat-Body"), "info": h.Get("Nabat-Info"), "body": string(r.Data())})
	respond(r, string(answer), "Session", h.Get("Nabat-Connection"))
}

func TestClientsCallBackends(t *testing.T) {
	c := newCluster(t, policy.Dev())
	sessions := make(chan string, 2)
	c.backend(map[string]micro.HandlerFunc{
		"orders.create": func(r micro.Request) {
			sessions <- r.Headers().Get("Nabat-Connection")
			echoCaller(r)
		},
		"orders.text":    func(r micro.Request) { respond(r, "plain") },
		"orders.binary":  func(r micro.Request) { respond(r, "\xff\xfe") },
		"orders.as-text": func(r micro.Request) { respond(r, "12", "Nabat-Body", "text") },
		"orders.nothing": func(r micro.Request) { respond(r, "") },
		"orders.micro":   func(r micro.Request) { _ = r.Error("402", "the card was declined", nil) },
		"orders.header":  func(r micro.Request) { respond(r, "out of stock", "Nabat-Error", "sold_out") },
		"orders.bare":    func(r micro.Request) { respond(r, "", "Nabat-Error", "sold_out") },
		"my%20orders.x":  func(r micro.Request) { respond(r, "1") },
		"orders.never":   func(micro.Request) {},
	})
	e := c.edge(func(cfg *Config) { cfg.RPCTimeout = 200 * time.Millisecond })
	g := &grant.Grant{RPC: []string{"orders.*", "my orders.x", "nobody.*"}, Rooms: []string{"a"}, Info: json.RawMessage(`{"name": "Älice"}`)}
	a := dial(t, e, "/ws?token="+c.token(c.hs, "alice", time.Hour, g))
	session := a.connected("a")
	for _, p := range []struct{ command, want string }{
		{`"method":"orders.create","data":{"n": 1}`, `"result":{"data":{"body":"{\"n\":1}","info":"{\"name\":\"Älice\"}","kind":"json","user":"alice"}}`},
		{`"method":"orders.create","base64":"aGk="`, `"result":{"data":{"body":"hi","info":"{\"name\":\"Älice\"}","kind":"binary","user":"alice"}}`},
		{`"method":"orders.text"`, `"result":{"text":"plain"}`},
		{`"method":"orders.binary"`, `"result":{"base64":"//4="}`},
		{`"method":"orders.as-text"`, `"result":{"text":"12"}`},
		{`"method":"orders.nothing"`, `"result":{"text":""}`},
		{`"method":"my orders.x"`, `"result":{"data":1}`},
		{`"method":"orders.micro"`, `"error":{"code":"rpc_failed","reason":"the card was declined","retry_ms":0,"backend":"402"}`},
		{`"method":"orders.header"`, `"error":{"code":"rpc_failed","reason":"out of stock","retry_ms":0,"backend":"sold_out"}`},
		{`"method":"orders.bare"`, `"error":{"code":"rpc_failed","reason":"the backend answered with the error sold_out","retry_ms":0,"backend":"sold_out"}`},
		{`"method":"nobody.home"`, `"error":{"code":"no_responders","reason":"no backend answers nobody.home now","retry_ms":1000}`},
		{`"method":"orders.never"`, `"error":{"code":"rpc_timeout","reason":"the backend of orders.never did not answer in 200ms","retry_ms":0}`},
		{`"method":"billing.pay"`, `"error":{"code":"not_allowed","reason":"rpc billing.pay is not granted by the token","retry_ms":0}`},
	} {
		a.send(`{"id":7,"rpc":{` + p.command + `}}`)
		a.want(`{"id":7,` + p.want + `}`)
	}
	if got := <-sessions; got != session {
		t.Errorf("the backend was told the connection %s, it is %s", got, session)
	}
	for _, code := range []string{"rpc_failed", "no_responders", "rpc_timeout", "not_allowed"} {
		if e.refusals(code) == 0 {
			t.Errorf("%s was not counted", code)
		}
	}
}

func TestCallsInProtobuf(t *testing.T) {
	c := newCluster(t, policy.Dev())
	c.backend(map[string]micro.HandlerFunc{"who": func(r micro.Request) { respond(r, string(r.Data())+"!") }, "bad": func(r micro.Request) { _ = r.Error("9", "no", nil) }})
	e := c.edge(func(cfg *Config) { cfg.AnonymousRPC = []string{">"} })
	s := speak(t, e, "/ws?room=a")
	s.hello()
	s.command(say(t, `id: 1 rpc {method: "who" binary: "\377"}`))
	s.expect(`id: 1 result {binary: "\377!"}`)
	s.command(say(t, `id: 2 rpc {method: "bad" json: "1"}`))
	s.expect(`id: 2 error {code: "rpc_failed" reason: "no" backend: "9"}`)
}

func TestAnonymousClientsCallWhatTheNodeOpens(t *testing.T) {
	c := newCluster(t, policy.Dev())
	c.backend(map[string]micro.HandlerFunc{"public.who": echoCaller, "who": echoCaller})
	e := c.edge(func(cfg *Config) { cfg.AnonymousRPC = []string{"public.*"} })
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	a.send(`{"id":1,"rpc":{"method":"public.who"}}`)
	a.want(`{"id":1,"result":{"data":{"body":"","info":"","kind":"text","user":""}}}`)
	a.send(`{"id":2,"rpc":{"method":"who"}}`)
	a.want(`{"id":2,"error":{"code":"not_allowed","reason":"rpc who is not open to clients without a token","retry_ms":0}}`)
}

func TestAHugeReplyIsRefused(t *testing.T) {
	c := newCluster(t, policy.Dev())
	c.backend(map[string]micro.HandlerFunc{"big": func(r micro.Request) { respond(r, strings.Repeat("x", 2048)) },
		"fits": func(r micro.Request) { respond(r, strings.Repeat("x", 1024)) }})
	e := c.edge(func(cfg *Config) { cfg.MaxReplyBytes, cfg.AnonymousRPC = 1024, []string{">"} })
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	a.send(`{"id":1,"rpc":{"method":"big"}}`)
	a.want(`{"id":1,"error":{"code":"too_large","reason":"the backend's reply to big has 2048 bytes: at most 1024","retry_ms":0}}`)
	a.send(`{"id":2,"rpc":{"method":"fits"}}`)
	a.want(`{"id":2,"result":{"text":"` + strings.Repeat("x", 1024) + `"}}`)
}

// held is a backend that answers when it is told to.
type held struct {
	// mu guards requests.
	mu       sync.Mutex
	requests []micro.Request
	seen     atomic.Int64
}

func (h *held) take(r micro.Request) {
	h.mu.Lock()
	h.requests = append(h.requests, r)
	h.mu.Unlock()
	h.seen.Add(1)
}

func (h *held) answer(body string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.requests {
		respond(r, body)
	}
	h.requests = nil
}

func (e *Edge) waitingCalls() (n int64) {
	for _, w := range e.workers {
		n += w.counts.CallsWaiting.Load()
	}
	return n
}

func TestAFloodOfCallsIsBounded(t *testing.T) {
	c := newCluster(t, policy.Dev())
	h := new(held)
	c.backend(map[string]micro.HandlerFunc{"slow": h.take})
	e := c.edge(func(cfg *Config) { cfg.AnonymousRPC, cfg.MaxRPC, cfg.MaxNodeRPC = []string{">"}, 4, 6 })
	a, b := dial(t, e, "/ws?room=a"), dial(t, e, "/ws?room=a")
	a.connected("a")
	b.connected("a")
	flood := func(cl *client, n int) {
		for i := range n {
			cl.send(fmt.Sprintf(`{"id":%d,"rpc":{"method":"slow"}}`, i+1))
		}
	}
	flood(a, 20)
	for i := 5; i <= 20; i++ {
		a.wantPrefix(fmt.Sprintf(`{"id":%d,"error":{"code":"rate_limited"`, i))
	}
	flood(b, 4)
	b.wantPrefix(`{"id":3,"error":{"code":"overloaded"`)
	b.wantPrefix(`{"id":4,"error":{"code":"overloaded"`)
	until(t, "the backend has them", func() bool { return h.seen.Load() == 6 })
	// The node goes on serving meanwhile.
	a.send(`{"id":99,"ping":{}}`)
	a.want(`{"id":99,"pong":{}}`)
	h.answer("1")
	for range 4 {
		a.wantPrefix(`{"id":`)
	}
	b.wantPrefix(`{"id":`)
	b.wantPrefix(`{"id":`)
	until(t, "nothing waits", func() bool { return e.waitingCalls() == 0 })
	flood(a, 1)
	until(t, "the backend has one more", func() bool { return h.seen.Load() == 7 })
}

func TestAReplyToAClientThatLeftIsDropped(t *testing.T) {
	c := newCluster(t, policy.Dev())
	h := new(held)
	c.backend(map[string]micro.HandlerFunc{"slow": h.take})
	e := c.edge(func(cfg *Config) { cfg.AnonymousRPC = []string{">"} })
	a, b := dial(t, e, "/ws?room=a"), dial(t, e, "/ws?room=a")
	a.connected("a")
	b.connected("a")
	a.send(`{"id":1,"rpc":{"method":"slow"}}`)
	until(t, "the backend has it", func() bool { return h.seen.Load() == 1 })
	_ = a.conn.Close()
	until(t, "one connection is left", func() bool { return e.connections() == 1 })
	h.answer("1")
	until(t, "nothing waits", func() bool { return e.waitingCalls() == 0 })
	b.send(`{"id":2,"ping":{}}`)
	b.want(`{"id":2,"pong":{}}`) // and nothing of the other's
}

func TestALateReplyIsIgnored(t *testing.T) {
	c := newCluster(t, policy.Dev())
	h := new(held)
	c.backend(map[string]micro.HandlerFunc{"slow": h.take})
	e := c.edge(func(cfg *Config) { cfg.AnonymousRPC, cfg.RPCTimeout = []string{">"}, 100*time.Millisecond })
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	a.send(`{"id":1,"rpc":{"method":"slow"}}`)
	a.wantPrefix(`{"id":1,"error":{"code":"rpc_timeout"`)
	until(t, "the backend has it", func() bool { return h.seen.Load() == 1 })
	h.answer("1")
	if err := c.nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	a.send(`{"id":2,"rpc":{"method":"nobody"}}`)
	a.wantPrefix(`{"id":2,"error":{"code":"no_responders"`)
}

func TestCallsWithoutNATSAreUnavailable(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.AnonymousRPC = []string{">"} })
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	c.nats.Stop()
	until(t, "the edge has noticed", func() bool { return e.Ready() != nil })
	until(t, "calls are refused", func() bool {
		a.send(`{"id":1,"rpc":{"method":"m"}}`)
		for {
			got, err := a.next()
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(got, `{"id":1,`) {
				return strings.HasPrefix(got, `{"id":1,"error":{"code":"unavailable"`)
			}
		}
	})
	if err := c.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	until(t, "calls are sent again", func() bool {
		a.send(`{"id":1,"rpc":{"method":"m"}}`)
		for {
			got, err := a.next()
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(got, `{"id":1,`) {
				return strings.HasPrefix(got, `{"id":1,"error":{"code":"no_responders"`)
			}
		}
	})
}
