package edge

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"nabat/proto/grant"
	"nabat/proto/policy"
)

// retry reads a rate_limited with this id and reason, and returns its retry_ms.
func (c *client) retry(id uint64, reason string) int {
	c.t.Helper()
	text, err := c.next()
	var o struct {
		ID    uint64
		Error struct {
			Code, Reason string
			RetryMS      int `json:"retry_ms"`
		}
	}
	if json.Unmarshal([]byte(text), &o) != nil || o.ID != id || o.Error.Code != "rate_limited" || !strings.Contains(o.Error.Reason, reason) || o.Error.RetryMS <= 0 {
		c.t.Fatalf("got %s, %v; want a rate_limited: %s", text, err, reason)
	}
	return o.Error.RetryMS
}

func TestConnectionsOfAUserShareTheUsersRate(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.UserMessageRate = 2 })
	g := &grant.Grant{Rooms: []string{"a"}}
	alice, again := dial(t, e, "/ws?token="+c.token(c.hs, "alice", time.Hour, g)), dial(t, e, "/ws?token="+c.token(c.hs, "alice", time.Hour, g))
	bob := dial(t, e, "/ws?token="+c.token(c.hs, "bob", time.Hour, g))
	for _, cl := range []*client{alice, again, bob} {
		cl.connected("a")
	}
	until(t, "alice is over her rate", func() bool {
		alice.send(`{"id":1,"ping":{}}`)
		again.send(`{"id":2,"ping":{}}`)
		one, _ := alice.next()
		two, _ := again.next()
		return strings.Contains(one, "this user sends too many messages in a second") || strings.Contains(two, "this user sends too many messages in a second")
	})
	bob.send(`{"id":3,"ping":{}}`)
	bob.want(`{"id":3,"pong":{}}`)
	if e.refusals("rate_limited") == 0 {
		t.Error("not counted")
	}
}

func TestConnectionsOfAnAddressShareItsRate(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.AddressByteRate = 100 })
	a, b := dial(t, e, "/ws?room=a"), dial(t, e, "/ws?room=a")
	a.connected("a")
	b.connected("a")
	// More than the burst passes once, and is paid for by everybody there.
	a.send(`{"id":1,"publish":{"room":"b","text":"` + strings.Repeat("x", 10000) + `"}}`)
	a.wantPrefix(`{"id":1,"published"`)
	b.send(`{"id":2,"ping":{}}`)
	if ms := b.retry(2, "this address sends too many bytes in a second"); ms < 10_000 {
		t.Errorf("retry_ms %d", ms)
	}
}

func TestAPolicyBoundsWhatAClientPublishes(t *testing.T) {
	set := &policy.Set{Rooms: []policy.Policy{
		{Match: "slow.>", Publish: true, Anonymous: policy.Anonymous{Subscribe: true, Publish: true}, Rates: &policy.Rates{Publish: 1, Burst: 3}, MaxMessageBytes: 10},
		{Match: ">", Publish: true, Anonymous: policy.Anonymous{Subscribe: true, Publish: true}},
	}}
	c := newCluster(t, set)
	e := c.edge(nil)
	a, b := dial(t, e, "/ws?room=a"), dial(t, e, "/ws?room=a")
	a.connected("a")
	b.connected("a")
	a.send(`{"id":1,"publish":{"room":"slow.x","text":"12345678901"}}`)
	a.want(`{"id":1,"error":{"code":"too_large","reason":"the body has 11 bytes: at most 10 in room slow.x","retry_ms":0}}`)
	a.send(`{"id":2,"publish":{"room":"fast","text":"12345678901"}}`)
	a.want(`{"id":2,"published":{"room":"fast"}}`)
	until(t, "the rate is reached", func() bool {
		a.send(`{"id":3,"publish":{"room":"slow.x","text":"1"}}`)
		got, err := a.next()
		if err != nil {
			t.Fatal(err)
		}
		return strings.HasPrefix(got, `{"id":3,"error":{"code":"rate_limited","reason":"you publish too many messages in a second to rooms of slow.>"`)
	})
	b.send(`{"id":4,"publish":{"room":"slow.y","text":"1"}}`)
	b.want(`{"id":4,"published":{"room":"slow.y"}}`)
	a.send(`{"id":5,"publish":{"room":"fast","text":"1"}}`)
	a.want(`{"id":5,"published":{"room":"fast"}}`)
}

func TestANamespaceHasAQuota(t *testing.T) {
	c := newCluster(t, &policy.Set{Rooms: []policy.Policy{{Match: ">", Publish: true, Anonymous: policy.Anonymous{Subscribe: true, Publish: true}}}})
	e := c.edge(func(cfg *Config) { cfg.NamespacePublishRate = 1 })
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	until(t, "the namespace is over its quota", func() bool {
		a.send(`{"id":1,"publish":{"room":"tenant1.x","text":"1"}}`)
		a.send(`{"id":2,"publish":{"room":"tenant1.y","text":"1"}}`)
		_, _ = a.next()
		got, err := a.next()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(got, `"clients of this node publish too many messages in a second to rooms of tenant1"`)
	})
	a.send(`{"id":3,"publish":{"room":"tenant2.x","text":"1"}}`)
	a.want(`{"id":3,"published":{"room":"tenant2.x"}}`)
}

func TestConnectionsShareRatesOfSubscribesAndCalls(t *testing.T) {
	for _, p := range []struct {
		name, command, reason string
		change                func(*Config)
	}{
		{"a user subscribes", `"subscribe":{"rooms":[{"room":"b"}]}`, "this user subscribes to too many rooms in a second", func(c *Config) { c.UserSubscribeRate = 1 }},
		{"an address subscribes", `"subscribe":{"rooms":[{"room":"b"}]}`, "this address subscribes to too many rooms in a second", func(c *Config) { c.AddressSubscribeRate = 1 }},
		{"a user calls", `"rpc":{"method":"m"}`, "this user makes too many calls in a second", func(c *Config) { c.UserRPCRate = 1 }},
		{"an address calls", `"rpc":{"method":"m"}`, "this address makes too many calls in a second", func(c *Config) { c.AddressRPCRate = 1 }},
	} {
		t.Run(p.name, func(t *testing.T) {
			c := newCluster(t, policy.Dev())
			e := c.edge(p.change)
			token := c.token(c.hs, "alice", time.Hour, &grant.Grant{Rooms: []string{"a"}, Subscribe: []string{">"}, RPC: []string{">"}})
			one, two := dial(t, e, "/ws?token="+token), dial(t, e, "/ws?token="+token)
			one.connected("a")
			two.connected("a")
			until(t, "they are over the rate that they share", func() bool {
				one.send(`{"id":1,` + p.command + `}`)
				two.send(`{"id":2,` + p.command + `}`)
				first, _ := one.next()
				second, _ := two.next()
				return strings.Contains(first+second, `"rate_limited","reason":"`+p.reason+`"`)
			})
			one.send(`{"id":3,"ping":{}}`)
			one.want(`{"id":3,"pong":{}}`)
			if e.refusals("rate_limited") == 0 {
				t.Error("not counted")
			}
		})
	}
}

func TestANamespaceHasSoManyRooms(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.Loops, cfg.NamespaceRooms, cfg.RoomLinger = 2, 2, 0 })
	a := dial(t, e, "/ws?room=t1.a&room=t1.b&room=t2.a")
	a.connected("t1.a", "t1.b", "t2.a")
	a.send(`{"id":1,"subscribe":{"rooms":[{"room":"t1.c"}]}}`)
	a.want(`{"id":1,"error":{"code":"namespace_full","reason":"t1 has 2 rooms with 2 members on this node: there may be no more","retry_ms":5000}}`)
	dial(t, e, "/ws?room=t1.c").wantClose(4106, "namespace_full")
	b := dial(t, e, "/ws?room=t1.a")
	b.connected("t1.a") // it is there already
	a.send(`{"id":2,"unsubscribe":{"rooms":["t1.b"]}}`)
	a.want(`{"id":2,"unsubscribed":{"rooms":["t1.b"]}}`)
	a.send(`{"id":3,"subscribe":{"rooms":[{"room":"t1.c"}]}}`)
	a.want(`{"id":3,"subscribed":{"rooms":[{"room":"t1.c"}]}}`)
	if n := e.refusals("namespace_full"); n == 0 {
		t.Error("not counted")
	}
	_ = a.conn.Close()
	_ = b.conn.Close()
	until(t, "nothing is counted any more", func() bool {
		one, members := e.namespaces.Count("t1")
		two, _ := e.namespaces.Count("t2")
		return one == 0 && members == 0 && two == 0
	})
}

func TestANamespaceHasSoManyMembers(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.Loops, cfg.NamespaceMembers = 2, 3 })
	a, b := dial(t, e, "/ws?room=t1.a&room=t1.b"), dial(t, e, "/ws?room=t1.a&room=t2.a")
	a.connected("t1.a", "t1.b")
	b.connected("t1.a", "t2.a")
	b.send(`{"id":1,"subscribe":{"rooms":[{"room":"t2.b"},{"room":"t1.b"}]}}`)
	b.want(`{"id":1,"error":{"code":"namespace_full","reason":"t1 has 2 rooms with 3 members on this node: there may be no more","retry_ms":5000}}`)
	b.send(`{"id":2,"subscribe":{"rooms":[{"room":"t1.a"}]}}`)
	b.want(`{"id":2,"subscribed":{"rooms":[{"room":"t1.a"}]}}`) // it is a member already
	_ = a.conn.Close()
	until(t, "there is place", func() bool { _, members := e.namespaces.Count("t1"); return members == 1 })
	b.send(`{"id":3,"subscribe":{"rooms":[{"room":"t1.b"}]}}`)
	b.want(`{"id":3,"subscribed":{"rooms":[{"room":"t1.b"}]}}`)
	if rooms, members := e.namespaces.Count("t2"); rooms != 1 || members != 1 {
		t.Errorf("t2 has %d rooms and %d members: what was refused is counted", rooms, members)
	}
}

// Who watches who is there is in the room once, for the namespace and for the
// backend that is asked.
func TestAWatchOfPresenceIsNoRoom(t *testing.T) {
	c := newCluster(t, &policy.Set{Rooms: []policy.Policy{{Match: ">", Anonymous: policy.Anonymous{Subscribe: true},
		Presence: &policy.Presence{Anonymous: true}, Hooks: &policy.Hooks{Subscribe: true}}}})
	b := c.hook("subscribe", func(asked) string { return `{"allow":true}` })
	e := c.edge(func(cfg *Config) { cfg.NamespaceRooms, cfg.NamespaceMembers, cfg.RoomLinger = 1, 1, 0 })
	a := dial(t, e, "/ws?room=t1.a&presence=1")
	a.connected("t1.a")
	if rooms, members := e.namespaces.Count("t1"); rooms != 1 || members != 1 {
		t.Errorf("%d rooms, %d members", rooms, members)
	}
	if q := b.seen(); len(q) != 1 || q[0].Room != "t1.a" {
		t.Errorf("asked %+v", q)
	}
	_ = a.conn.Close()
	until(t, "nothing is counted any more", func() bool { rooms, members := e.namespaces.Count("t1"); return rooms+members == 0 })
}
