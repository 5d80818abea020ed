package edge

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"nabat/internal/bus"
	"nabat/proto/block"
	"nabat/proto/grant"
	"nabat/proto/policy"
)

// posted is a request that publishes.
func posted(target, body string, header ...string) string {
	raw := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n", target, len(body))
	for _, h := range header {
		raw += h + "\r\n"
	}
	return raw + "\r\n" + body
}

func post(t testing.TB, e *Edge, target, body string, header ...string) (int, string, http.Header) {
	t.Helper()
	return rawRequest(t, e.Addr(), posted(target, body, header...))
}

// answered reads the answer on a connection.
func answered(t testing.TB, conn net.Conn) (int, string) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

func codeOf(body string) string {
	var refusal struct{ Error struct{ Code string } }
	_ = json.Unmarshal([]byte(body), &refusal)
	return refusal.Error.Code
}

func TestWhatIsPostedReachesTheRoom(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	for _, p := range []struct {
		rule, room, target, body string
		header                   []string
		want                     string
	}{
		{"JSON", "a.json", "/v1/rooms/a.json", `{"text": "hi"}`, []string{"Content-Type: application/json; charset=utf-8"}, `"data":{"text":"hi"}}`},
		{"text that could be JSON", "a.text", "/v1/rooms/a.text", `12`, []string{"Content-Type: Text/Plain"}, `"text":"12"}`},
		{"bytes that could be JSON", "a.bytes", "/v1/rooms/a.bytes", `12`, []string{"Content-Type: application/octet-stream"}, `"base64":"MTI="}`},
		{"a guess: JSON", "a.guess", "/v1/rooms/a.guess", `[1, 2]`, []string{"Content-Type: application/x-www-form-urlencoded"}, `"data":[1,2]}`},
		{"a guess: text", "a.guess2", "/v1/rooms/a.guess2", `hi`, nil, `"text":"hi"}`},
		{"a guess: bytes", "a.guess3", "/v1/rooms/a.guess3", "\xff", nil, `"base64":"/w=="}`},
		{"an empty text", "a.empty", "/v1/rooms/a.empty", "", nil, `"text":""}`},
		{"a name that must be escaped", "team chat/1+1", "/v1/rooms/team%20chat%2F1+1", `1`, nil, `"data":1}`},
		{"an event by header", "a.event", "/v1/rooms/a.event", `1`, []string{"Nabat-Event: goal"}, `"data":1,"event":"goal"}`},
		{"an event by query, which counts", "a.event2", "/v1/rooms/a.event2?event=g%C3%B6al&room=b", `1`, []string{"Nabat-Event: other"}, `"data":1,"event":"göal"}`},
	} {
		t.Run(p.rule, func(t *testing.T) {
			reader := dial(t, e, "/ws")
			hello, _ := json.Marshal(map[string]any{"connect": map[string]any{"rooms": []any{map[string]any{"room": p.room}}}})
			reader.send(string(hello))
			reader.connected(p.room)
			name, _ := json.Marshal(p.room)
			status, body, header := post(t, e, p.target, p.body, p.header...)
			if want := `{"published":{"room":` + string(name) + `}}` + "\n"; status != 200 || body != want || header.Get("Content-Type") != "application/json; charset=utf-8" {
				t.Fatalf("%d %s %v, want %s", status, body, header, want)
			}
			reader.want(`{"room":` + string(name) + `,` + p.want)
		})
	}
}

func TestWhatIsPostedIsAnOrdinaryNATSMessage(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	sub, err := c.nc.SubscribeSync("room.a")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	token := c.token(c.hs, "alice", time.Hour, &grant.Grant{Publish: []string{"a"}})
	if status, body, _ := post(t, e, "/v1/rooms/a?key=k1", `{"a": 1}`, "Content-Type: application/json", "Authorization: Bearer "+token, "Nats-Msg-Id: m1", "Nabat-User: mallory"); status != 200 {
		t.Fatal(status, body)
	}
	m, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	h := m.Header
	if string(m.Data) != `{"a":1}` || h.Get(bus.HeaderUser) != "alice" || h.Get(bus.HeaderKey) != "k1" || h.Get(bus.HeaderBody) != "json" ||
		!strings.HasPrefix(h.Get(bus.HeaderConnection), "c") || h.Get("Nats-Msg-Id") == "" || h.Get("Nats-Msg-Id") == "m1" {
		t.Errorf("%s %v", m.Data, h)
	}
}

func TestWhatIsPostedIsStoredOnce(t *testing.T) {
	c := newHistory(t, kept100())
	e := c.readyForHistory(c.edge(nil))
	const want = `{"published":{"room":"a","epoch":"k1","offset":1}}` + "\n"
	for range 2 {
		if status, body, _ := post(t, e, "/v1/rooms/a?message_id=m1", `1`); status != 200 || body != want {
			t.Errorf("%d %s", status, body)
		}
	}
	// The command's ids are the same.
	reader := dial(t, e, "/ws?room=b")
	reader.connected("b")
	reader.send(`{"id":1,"publish":{"room":"a","data":1,"message_id":"m1"}}`)
	reader.want(`{"id":1,"published":{"room":"a","epoch":"k1","offset":1}}`)
}

func TestPostsAreRefusedByTheirCodes(t *testing.T) {
	set := &policy.Set{Rooms: []policy.Policy{
		{Match: "open.>", Publish: true, Anonymous: policy.Anonymous{Publish: true}, MaxMessageBytes: 100},
		{Match: "closed.>"},
		{Match: "chat.>", Publish: true},
	}}
	c := newCluster(t, set)
	e := c.edge(func(cfg *Config) { cfg.MaxMessageBytes = 1 << 10 })
	good := "Authorization: Bearer " + c.token(c.hs, "alice", time.Hour, &grant.Grant{Publish: []string{"chat.>", "closed.>", "open.>"}})
	narrow := "Authorization: Bearer " + c.token(c.hs, "alice", time.Hour, &grant.Grant{Subscribe: []string{"chat.>"}})
	old := "Authorization: Bearer " + c.token(c.hs, "alice", -time.Hour, &grant.Grant{Publish: []string{"chat.>"}})
	blocked := "Authorization: Bearer " + c.token(c.hs, "mallory", time.Hour, &grant.Grant{Publish: []string{"chat.>"}})
	c.block(block.Entry{Kind: block.User, Subject: "mallory", Until: time.Now().Add(time.Hour).Unix()})
	head := func(target, fields string) string {
		return "POST " + target + " HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n"
	}
	big := strings.Repeat("x", 1<<10+1)
	until(t, "the block is known", func() bool {
		status, _, _ := post(t, e, "/v1/rooms/chat.1", "1", blocked)
		return status == 403
	})
	for _, p := range []struct {
		rule, raw string
		status    int
		code      string
	}{
		{"no token where one is needed", posted("/v1/rooms/chat.1", "1"), 403, "not_allowed"},
		{"a token that does not grant it", posted("/v1/rooms/chat.1", "1", narrow), 403, "not_allowed"},
		{"a policy that does not let clients publish", posted("/v1/rooms/closed.1", "1", good), 403, "not_allowed"},
		{"no policy", posted("/v1/rooms/other", "1", good), 403, "not_allowed"},
		{"no JWT", posted("/v1/rooms/chat.1?token=x", "1"), 401, "token_malformed"},
		{"no bearer", posted("/v1/rooms/chat.1", "1", "Authorization: Basic x"), 401, "token_malformed"},
		{"a token that has expired", posted("/v1/rooms/chat.1", "1", old), 401, "token_expired"},
		{"a user who is blocked", posted("/v1/rooms/chat.1", "1", blocked), 403, "user_blocked"},
		{"a page of somewhere else", posted("/v1/rooms/open.1", "1", "Origin: https://evil.example"), 403, "origin_not_allowed"},
		{"a bad room", posted("/v1/rooms/a..b", "1", good), 400, "bad_room"},
		{"a room that is no UTF-8", posted("/v1/rooms/a%ff", "1", good), 400, "bad_room"},
		{"no room", posted("/v1/rooms/", "1", good), 404, "not_found"},
		{"something behind the room", posted("/v1/rooms/open.1/history", "1", good), 404, "not_found"},
		{"the list of rooms", head("/v1/rooms", "Content-Length: 0\r\n"), 404, "not_found"},
		{"a GET", "GET /v1/rooms/open.1 HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method_not_allowed"},
		{"a PUT without a body", "PUT /v1/rooms/open.1 HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method_not_allowed"},
		{"a PUT with one", "PUT /v1/rooms/open.1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1", 400, "bad_request"},
		{"a POST elsewhere with a body", posted("/sse?room=a", "1"), 400, "bad_request"},
		{"no length", head("/v1/rooms/open.1", ""), 411, "length_required"},
		{"chunked", head("/v1/rooms/open.1", "Transfer-Encoding: chunked\r\n") + "1\r\n1\r\n0\r\n\r\n", 411, "length_required"},
		{"both", head("/v1/rooms/open.1", "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n") + "1", 400, "bad_request"},
		{"compressed", posted("/v1/rooms/open.1", "1", "Content-Encoding: gzip"), 400, "bad_request"},
		{"no JSON", posted("/v1/rooms/open.1", "{", "Content-Type: application/json"), 400, "bad_data"},
		{"no text", posted("/v1/rooms/open.1", "\xff", "Content-Type: text/plain"), 400, "bad_data"},
		{"too large, and not there", head("/v1/rooms/open.1", "Content-Length: 1025\r\nExpect: 100-continue\r\n"), 413, "too_large"},
		{"too large, and there", posted("/v1/rooms/chat.1", big, good), 413, "too_large"},
		{"too large for the policy", posted("/v1/rooms/open.1", big[:101]), 413, "too_large"},
		{"an event that is too long", posted("/v1/rooms/open.1?event="+big[:257], "1"), 400, "bad_request"},
		{"a control character in a key", posted("/v1/rooms/open.1?key=%0a", "1"), 400, "bad_request"},
		{"a message id that is no UTF-8", posted("/v1/rooms/open.1", "1", "Nats-Msg-Id: \xff"), 400, "bad_request"},
		{"a broken query", posted("/v1/rooms/open.1?event=%zz", "1"), 400, "bad_request"},
	} {
		t.Run(p.rule, func(t *testing.T) {
			before := e.refusals(p.code)
			status, body, header := rawRequest(t, e.Addr(), p.raw)
			if status != p.status || codeOf(body) != p.code {
				t.Fatalf("%d %s, want %d %s", status, body, p.status, p.code)
			}
			if e.refusals(p.code) != before+1 {
				t.Error("not counted")
			}
			if status == 401 && header.Get("WWW-Authenticate") == "" || status == 405 && header.Get("Allow") != "POST, OPTIONS" {
				t.Errorf("%v", header)
			}
		})
	}
	if status, body, _ := post(t, e, "/v1/rooms/chat.1", "1", good); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	if status, body, _ := post(t, e, "/v1/rooms/open.1", "1"); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	conn := raw(t, e, "HEAD /v1/rooms/open.1 HTTP/1.1\r\nHost: x\r\n\r\n")
	if all, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(all), "HTTP/1.1 405 ") || !strings.HasSuffix(string(all), "\r\n\r\n") {
		t.Errorf("%q %v", all, err)
	}
}

func TestPagesMayPost(t *testing.T) {
	c := newCluster(t, &policy.Set{Rooms: []policy.Policy{{Match: ">", Publish: true}}})
	e := c.edge(func(cfg *Config) { cfg.Origins = []string{"https://app.example.com"} })
	const page = "Origin: https://app.example.com"
	cookie := "Cookie: nabat_token=" + c.token(c.hs, "alice", time.Hour, &grant.Grant{Publish: []string{"a"}})
	status, _, header := rawRequest(t, e.Addr(), "OPTIONS /v1/rooms/a HTTP/1.1\r\nHost: x\r\n"+page+"\r\nAccess-Control-Request-Method: POST\r\n\r\n")
	if status != 204 || header.Get("Access-Control-Allow-Methods") != "POST" || header.Get("Access-Control-Allow-Origin") != "https://app.example.com" ||
		header.Get("Access-Control-Allow-Headers") != "Authorization, Content-Type, Nabat-Event, Nabat-Key, Nats-Msg-Id" {
		t.Errorf("%d %v", status, header)
	}
	for _, p := range []struct {
		header []string
		status int
	}{{[]string{page, cookie}, 200}, {[]string{page}, 403}} {
		status, body, header := post(t, e, "/v1/rooms/a", "1", p.header...)
		if status != p.status || header.Get("Access-Control-Allow-Origin") != "https://app.example.com" || header.Get("Access-Control-Allow-Credentials") != "true" {
			t.Errorf("%d %s %v", status, body, header)
		}
	}
	// A page of an origin that is not listed exactly is not believed its cookie.
	if status, body, _ := post(t, e, "/v1/rooms/a", "1", "Origin: http://localhost:3000", cookie); status != 403 || codeOf(body) != "not_allowed" {
		t.Errorf("%d %s", status, body)
	}
}

// A slow token is checked elsewhere meanwhile; the body waits in the socket, and
// with TLS behind it.
func TestABodyInPiecesBehindATokenThatIsHeld(t *testing.T) {
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(nil))
	reader := dial(t, e, "/ws?room=a")
	reader.connected("a")
	n := 0
	for name, open := range map[string]func() net.Conn{
		"plain": func() net.Conn { return raw(t, e, "") },
		"TLS":   func() net.Conn { return connectTLS(t, e, cert.client(tls.VersionTLS13)) },
	} {
		for _, key := range []string{"h", "e"} {
			for _, chop := range []int{1, 50, 1 << 20} {
				t.Run(fmt.Sprint(name, key, chop), func(t *testing.T) {
					n++
					signing := c.hs
					if key == "e" {
						signing = c.ed
					}
					// A user of its own: no token is in the cache.
					token := c.token(signing, fmt.Sprint("u", n), time.Hour, &grant.Grant{Publish: []string{"a"}})
					conn := open()
					for rest := posted("/v1/rooms/a", fmt.Sprintf(`{"n":%d,"pad":"%s"}`, n, strings.Repeat("x", 300)), "Authorization: Bearer "+token); len(rest) > 0; {
						part := rest[:min(chop, len(rest))]
						if _, err := io.WriteString(conn, part); err != nil {
							t.Fatal(err)
						}
						rest = rest[len(part):]
					}
					if status, body := answered(t, conn); status != 200 {
						t.Fatalf("%d %s", status, body)
					}
					reader.wantPrefix(fmt.Sprintf(`{"room":"a","data":{"n":%d,`, n))
				})
			}
		}
	}
	until(t, "all are gone but the reader", func() bool { return e.connections() == 1 })
}

func TestALargeBodyOverTLS(t *testing.T) {
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(func(cfg *Config) { cfg.MaxMessageBytes = 1 << 20 }))
	for name, version := range versions {
		conn := connectTLS(t, e, cert.client(version))
		body := strings.Repeat("x", 900<<10)
		go func() { _, _ = io.WriteString(conn, posted("/v1/rooms/a", body)) }()
		if status, answer := answered(t, conn); status != 200 {
			t.Errorf("%s: %d %s", name, status, answer)
		}
		conn = connectTLS(t, e, cert.client(version))
		_, _ = io.WriteString(conn, posted("/v1/rooms/a", "", "Expect: 100-continue")[:20])
		_ = conn.Close()
		conn = connectTLS(t, e, cert.client(version))
		_, _ = io.WriteString(conn, "POST /v1/rooms/a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
		told := make([]byte, len("HTTP/1.1 100 Continue\r\n\r\n"))
		if _, err := io.ReadFull(conn, told); err != nil || string(told) != "HTTP/1.1 100 Continue\r\n\r\n" {
			t.Fatalf("%s: %q %v", name, told, err)
		}
		_, _ = io.WriteString(conn, "12")
		if status, answer := answered(t, conn); status != 200 {
			t.Errorf("%s: %d %s", name, status, answer)
		}
	}
}

func TestASlowBodyIsEndedByItsDeadline(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.HandshakeTimeout = 300 * time.Millisecond })
	b := newBystander(c, e)
	conn := raw(t, e, "POST /v1/rooms/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhell")
	b.served()
	if status, body := answered(t, conn); status != 408 || codeOf(body) != "body_timeout" {
		t.Errorf("%d %s", status, body)
	}
	if e.refusals("body_timeout") != 1 {
		t.Error("not counted")
	}
	b.served()
}

func TestBodiesThatNeverFinishAreBounded(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.Loops, cfg.MaxMessageBytes = 1, 8<<20 })
	b := newBystander(c, e)
	const size = 8 << 20
	for range 3 { // two of them are all that a loop takes
		conn := raw(t, e, fmt.Sprintf("POST /v1/rooms/a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", size))
		go func() { _, _ = conn.Write(make([]byte, size-1)) }()
	}
	until(t, "one is refused", func() bool { return e.refusals("overloaded") == 1 })
	b.served()
}

func TestRatesHoldForPosts(t *testing.T) {
	set := &policy.Set{Rooms: []policy.Policy{
		{Match: "slow.>", Publish: true, Anonymous: policy.Anonymous{Subscribe: true, Publish: true}, Rates: &policy.Rates{Publish: 1, Burst: 1}},
		{Match: ">", Publish: true, Anonymous: policy.Anonymous{Subscribe: true, Publish: true}},
	}}
	for _, p := range []struct {
		rule, room, reason string
		token              bool
		change             func(*Config)
	}{
		{"a user's", "a", "this user sends too many messages in a second", true, func(c *Config) { c.UserMessageRate = 1 }},
		{"a user's bytes", "a", "this user sends too many bytes in a second", true, func(c *Config) { c.UserByteRate = 1 }},
		{"an address's", "a", "this address sends too many messages in a second", false, func(c *Config) { c.AddressMessageRate = 1 }},
		{"a namespace's", "a", "clients of this node publish too many messages in a second to rooms of a", false, func(c *Config) { c.NamespacePublishRate = 1 }},
		{"a policy's of a user", "slow.x", "you publish too many messages in a second to rooms of slow.>", true, nil},
		{"a policy's of an address", "slow.x", "you publish too many messages in a second to rooms of slow.>", false, nil},
	} {
		t.Run(p.rule, func(t *testing.T) {
			c := newCluster(t, set)
			e := c.edge(p.change)
			var header []string
			if p.token {
				header = []string{"Authorization: Bearer " + c.token(c.hs, "alice", time.Hour, &grant.Grant{Publish: []string{">"}})}
			}
			until(t, "the rate is reached", func() bool {
				status, body, h := post(t, e, "/v1/rooms/"+p.room, "12", header...)
				if status == 200 {
					return false
				}
				if status != 429 || codeOf(body) != "rate_limited" || !strings.Contains(body, p.reason) || h.Get("Retry-After") == "" {
					t.Fatalf("%d %s", status, body)
				}
				return true
			})
		})
	}
}

func TestBackendsDecideOnPosts(t *testing.T) {
	c := newCluster(t, hooked())
	connects, publishes := c.hook("connect", always(`{"allow":true,"user":"carol","grant":{"subscribe":["ask.>"]}}`)), c.hook("publish", func(q asked) string {
		switch q.Text {
		case "no":
			return deniedBySomebody
		case "wait":
			return ""
		}
		return allowed
	})
	c.hook("subscribe", always(allowed))
	e := c.edge(func(cfg *Config) { cfg.HookConnect = true })
	reader := dial(t, e, "/ws?room=ask.a")
	reader.connected("ask.a")
	if status, body, _ := post(t, e, "/v1/rooms/ask.a", "yes", "Content-Type: text/plain"); status != 403 || codeOf(body) != "not_allowed" {
		t.Fatalf("the backend grants nothing of the kind: %d %s", status, body)
	}
	connects.mu.Lock()
	connects.answer = always(`{"allow":true,"user":"carol","grant":{"publish":["ask.>"]}}`)
	connects.mu.Unlock()
	if status, body, _ := post(t, e, "/v1/rooms/ask.a", "yes", "Content-Type: text/plain"); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	reader.want(`{"room":"ask.a","text":"yes","user":"carol"}`)
	if status, body, _ := post(t, e, "/v1/rooms/ask.a", "no", "Content-Type: text/plain"); status != 403 || !strings.Contains(body, "you owe us money") {
		t.Errorf("%d %s", status, body)
	}
	// Whoever leaves while a backend thinks leaves nothing.
	conn := raw(t, e, posted("/v1/rooms/ask.a", "wait", "Content-Type: text/plain"))
	until(t, "the backend is asked", func() bool { return len(publishes.seen()) == 3 })
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
	until(t, "only the reader is left", func() bool { return e.connections() == 1 })
	publishes.release(allowed)
	_ = reader.conn.Close()
	e.nothingLeft(t)
}

func TestAPostWhileNATSIsAwayIsToldSo(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.NATSTimeout = 300 * time.Millisecond })
	c.nats.Shutdown()
	until(t, "it is noticed", func() bool {
		status, body, h := post(t, e, "/v1/rooms/a", "1")
		return status == 503 && codeOf(body) == "unavailable" && h.Get("Retry-After") == "1"
	})
}

func TestManyPostAtOnce(t *testing.T) {
	c := newHistory(t, kept100())
	e := c.readyForHistory(c.edge(nil))
	const each, clients = 20, 8
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for n := range each {
				if status, body, _ := post(t, e, "/v1/rooms/a", fmt.Sprint(i*each+n)); status != 200 {
					t.Errorf("%d %s", status, body)
				}
			}
		})
	}
	wg.Wait()
	if _, body, _ := post(t, e, "/v1/rooms/a", "0"); body != fmt.Sprintf(`{"published":{"room":"a","epoch":"k1","offset":%d}}`+"\n", each*clients+1) {
		t.Error(body)
	}
}
