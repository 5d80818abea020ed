package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"nabat/edge/internal/metrics"
	"nabat/internal/auth"
	"nabat/internal/bus"
	"nabat/proto/block"
	"nabat/proto/grant"
	"nabat/proto/policy"
)

func (c *cluster) block(e block.Entry) {
	c.t.Helper()
	c.put(bus.BucketBlocks, e.Key(), e.Encode())
}

func (c *cluster) unblock(kind block.Kind, subject string) {
	c.t.Helper()
	if err := c.bucket(bus.BucketBlocks).Delete(c.t.Context(), block.Key(kind, subject)); err != nil {
		c.t.Fatal(err)
	}
}

// claims is token with everything that a block may ask for.
func (c *cluster) claims(k *auth.SigningKey, user, id string, issued time.Time) string {
	c.t.Helper()
	token, err := auth.Sign(k, auth.Claims{User: user, ID: id, IssuedAt: issued, Expires: time.Now().Add(time.Hour), Grant: &grant.Grant{Subscribe: []string{"a"}}})
	if err != nil {
		c.t.Fatal(err)
	}
	return token
}

// readAll returns what a server sends until it closes.
func readAll(t *testing.T, conn net.Conn) string {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	data, err := io.ReadAll(bufio.NewReader(conn))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestWhatIsRevokedIsClosedAndComesBackNowhere(t *testing.T) {
	issued := time.Now().Add(-time.Minute)
	for _, c := range []struct {
		rule        string
		entry       block.Entry
		close, http int
		code        string
	}{
		{"a token", block.Entry{Kind: block.Token, Subject: "t-alice"}, 4003, 401, "token_revoked"},
		{"tokens issued before", block.Entry{Kind: block.Issued, Subject: "alice", Before: time.Now().Unix() - 30}, 4003, 401, "token_revoked"},
		{"a user", block.Entry{Kind: block.User, Subject: "alice"}, 4004, 403, "user_blocked"},
		{"a user for a time", block.Entry{Kind: block.User, Subject: "alice", Until: time.Now().Unix() + 3600}, 4004, 403, "user_blocked"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			cl := newCluster(t, policy.Dev())
			e, other := cl.edge(nil), cl.edge(nil)
			alice, bob := cl.claims(cl.hs, "alice", "t-alice", issued), cl.claims(cl.ed, "bob", "t-bob", issued)
			byURL, there := dial(t, e, "/ws?room=a&token="+alice), dial(t, other, "/ws?room=a&token="+alice)
			byConnect, byAuth, another, nobody := dial(t, e, "/ws"), dial(t, e, "/ws?room=a"), dial(t, e, "/ws?room=a&token="+bob), dial(t, e, "/ws?room=a")
			byConnect.send(`{"id":1,"connect":{"token":"` + alice + `"}}`)
			byConnect.wantPrefix(`{"id":1,"connected"`)
			for _, one := range []*client{byURL, there, byAuth, another, nobody} {
				one.connected("a")
			}
			byAuth.send(`{"id":1,"auth":{"token":"` + alice + `"}}`)
			byAuth.wantPrefix(`{"id":1,"authed"`)
			stream, err := net.Dial("tcp", e.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = stream.Close() }()
			fmt.Fprintf(stream, "GET /sse?room=a&token=%s HTTP/1.1\r\nHost: x\r\n\r\n", alice)
			until(t, "all are there", func() bool { return e.connections() == 6 })
			until(t, "the stream is open", func() bool { return e.sum(func(l *metrics.Loop) int64 { return int64(l.Handshakes.Load()) }) >= 6 })

			cl.block(c.entry)
			for _, one := range []*client{byURL, there, byConnect, byAuth} {
				one.wantClose(c.close, `"`+c.code+`"`)
			}
			if got := readAll(t, stream); !strings.Contains(got, "event: close\n") || !strings.Contains(got, "id: closed\n") || !strings.Contains(got, `"`+c.code+`"`) {
				t.Errorf("event stream: %s", got)
			}
			if n := e.closes(c.code); n != 4 {
				t.Errorf("%d closes were counted", n)
			}
			// A token that is remembered is refused in every form, by an open
			// connection too, and the others are let alone.
			refused := func(e *Edge) {
				t.Helper()
				for _, f := range tokenForms {
					if status, code := f.try(t, e, alice); status != c.http && status != c.close && status != 0 || code != c.code {
						t.Errorf("%s: %d %s", f.name, status, code)
					}
				}
				if status, body, _ := get(t, e, "/sse?room=a&token="+alice); status != c.http || !strings.Contains(body, `"`+c.code+`"`) {
					t.Errorf("sse: %d %s", status, body)
				}
			}
			refused(e)
			cl.publish("a", "x", nil)
			another.want(`{"room":"a","text":"x"}`)
			nobody.want(`{"room":"a","text":"x"}`)

			// It survives everything: NATS and a new edge.
			cl.nats.Stop()
			if err := cl.nats.Restart(); err != nil {
				t.Fatal(err)
			}
			until(t, "the edge is ready again", func() bool { return e.Ready() == nil })
			refused(e)
			refused(cl.edge(nil))

			until(t, "the test has NATS again, too", cl.nc.IsConnected)
			cl.unblock(c.entry.Kind, c.entry.Subject)
			until(t, "it is let in again", func() bool {
				status, _ := tokenForms[0].try(t, e, alice)
				return status == 101
			})
		})
	}
}

func TestATokenThatIsIssuedAfterwardsIsGood(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	now := time.Now()
	old, fresh := c.claims(c.hs, "alice", "1", now.Add(-time.Hour)), c.claims(c.hs, "alice", "2", now)
	a := dial(t, e, "/ws?room=a&token="+old)
	a.connected("a")
	renewed := dial(t, e, "/ws?room=a&token="+old)
	renewed.connected("a")
	renewed.send(`{"id":1,"auth":{"token":"` + fresh + `"}}`)
	renewed.wantPrefix(`{"id":1,"authed"`)
	c.block(block.Entry{Kind: block.Issued, Subject: "alice", Before: now.Unix()})
	a.wantClose(4003, "token_revoked")
	b := dial(t, e, "/ws?room=a&token="+fresh)
	b.connected("a")
	// A token that is revoked renews nothing, and the one before it stays.
	b.send(`{"id":1,"auth":{"token":"` + old + `"}}`)
	b.wantPrefix(`{"id":1,"error":{"code":"token_revoked"`)
	c.publish("a", "x", nil)
	for _, one := range []*client{b, renewed} {
		one.want(`{"room":"a","text":"x"}`)
	}
}

// More connections than one turn looks at, and blocks that come while the walk
// is under way.
func TestBlocksFindTheirConnectionsAmongMany(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.Loops = 2 })
	const users = 40
	tokens := make([]string, users)
	for n := range tokens {
		tokens[n] = c.claims(c.hs, fmt.Sprint("user-", n), "", time.Now())
	}
	var clients []*client
	for n := range 2*sweepSlots + 2*users {
		clients = append(clients, dial(t, e, "/ws?room=a&token="+tokens[n%users]))
		clients[n].connected("a")
	}
	const blocked = 20
	for n := range blocked {
		c.block(block.Entry{Kind: block.User, Subject: fmt.Sprint("user-", n)})
	}
	left := 0
	for n, one := range clients {
		if n%users < blocked {
			one.wantClose(4004, "user_blocked")
		} else {
			left++
		}
	}
	until(t, "the others are left", func() bool { return e.connections() == left })
	c.publish("a", "x", nil)
	for n, one := range clients {
		if n%users >= blocked {
			one.want(`{"room":"a","text":"x"}`)
		}
	}
}

func TestAnEntryThatCannotBeReadHarmsNobody(t *testing.T) {
	c := newCluster(t, policy.Dev())
	c.put(bus.BucketBlocks, "user.x", []byte("{"))
	e := c.edge(nil)
	a := dial(t, e, "/ws?room=a&token="+c.claims(c.hs, "alice", "1", time.Now()))
	a.connected("a")
	c.put(bus.BucketBlocks, block.Key(block.User, "alice"), []byte(`{"kind":"user"}`))
	b := dial(t, e, "/ws?room=a&token="+c.claims(c.hs, "bob", "2", time.Now()))
	b.connected("a")
	c.block(block.Entry{Kind: block.User, Subject: "bob"})
	b.wantClose(4004, "user_blocked")
	c.publish("a", "x", nil)
	a.want(`{"room":"a","text":"x"}`)
}
