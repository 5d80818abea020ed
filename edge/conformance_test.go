package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"nabat/proto/grant"
	"nabat/proto/policy"
)

// The byte layer by itself is tested in listen, transport/ws and transport/sse.
// Here it is the whole edge that answers.

func TestRequestForms(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.Origins = []string{"https://app.example.com", "*"} })
	host := e.Addr()
	hs := c.token(c.hs, "alice", time.Hour, &grant.Grant{Subscribe: []string{"a"}, Rooms: []string{"user.alice"}})
	upgrade := strings.Join(upgradeHeaders(), "\r\n") + "\r\n"
	for _, r := range []struct {
		rule, line, fields string
		status             int
		body               string // a part of it; "" for none at all
		header             []string
	}{
		{"event stream", "GET /sse?room=a", "", 200, "event: connected\ndata: {\"connected\":", nil},
		{"event stream: as browsers ask", "GET /sse?room=a&room=b", "Accept: text/event-stream\r\nCache-Control: no-cache\r\nAccept-Encoding: gzip, br\r\n", 200, `"rooms":[{"room":"a"},{"room":"b"}]`, nil},
		{"event stream: RFC 9112 §3.2.2 absolute-form", "GET http://" + host + "/sse?room=a", "", 200, `"rooms":[{"room":"a"}]`, nil},
		{"event stream: the token's rooms are enough", "GET /sse?token=" + hs, "", 200, `"rooms":[{"room":"user.alice"}]`, nil},
		{"event stream: bearer", "GET /sse?room=a", "Authorization: bearer " + hs + "\r\n", 200, `"user":"alice"`, nil},
		{"event stream: cookie", "GET /sse?room=a", "Cookie: nabat_token=" + hs + "\r\n", 200, `"user":"alice"`, nil},
		{"event stream: a listed page may send its cookie", "GET /sse?room=a", "Origin: https://app.example.com\r\nCookie: nabat_token=" + hs + "\r\n", 200, `"user":"alice"`,
			[]string{"Access-Control-Allow-Origin: https://app.example.com", "Access-Control-Allow-Credentials: true", "Vary: Origin"}},
		{"event stream: any other page may not", "GET /sse?room=a", "Origin: https://other.example\r\nCookie: nabat_token=" + hs + "\r\n", 200, `{"connected":{"session":`,
			[]string{"Access-Control-Allow-Origin: https://other.example", "Access-Control-Allow-Credentials:", "Vary: Origin"}},
		{"event stream: Last-Event-ID of a stream that broke", "GET /sse?room=a", "Last-Event-ID: 41\r\n", 200, "event: connected\n", nil},
		{"event stream: Last-Event-ID of one that must not return", "GET /sse?room=a", "Origin: https://app.example.com\r\nLast-Event-ID: closed\r\n", 204, "",
			[]string{"Access-Control-Allow-Origin: https://app.example.com", "Content-Length:", "Content-Type:"}},
		{"event stream: a refusal ends an EventSource, and tells a page why", "GET /sse?room=a&token=x", "Origin: https://app.example.com\r\n", 401, `"token_malformed"`,
			[]string{"Access-Control-Allow-Origin: https://app.example.com", `Www-Authenticate: Bearer realm="nabat"`}},
		{"event stream: HEAD", "HEAD /sse?room=a", "", 405, "", []string{"Allow: GET, OPTIONS"}},
		{"event stream: POST", "POST /sse?room=a", "Content-Length: 0\r\n", 405, `"method_not_allowed"`, []string{"Allow: GET, OPTIONS"}},
		{"event stream: POST with a body", "POST /sse?room=a", "Content-Length: 2\r\n", 400, `"bad_request"`, nil},
		{"event stream: an escaped path is another path", "GET /%73se?room=a", "", 404, `"not_found"`, nil},
		{"event stream: a path below", "GET /sse/a", "", 404, `"not_found"`, nil},
		{"preflight", "OPTIONS /sse?room=a", "Origin: https://app.example.com\r\nAccess-Control-Request-Method: GET\r\n", 204, "",
			[]string{"Access-Control-Allow-Origin: https://app.example.com", "Access-Control-Allow-Methods: GET", "Access-Control-Allow-Headers: Authorization, Last-Event-ID", "Vary: Origin"}},
		{"the server as a whole", "OPTIONS *", "", 204, "", []string{"Allow: GET, HEAD, OPTIONS"}},
		{"help", "GET /", "", 200, "This is a Nabat edge", []string{"X-Content-Type-Options: nosniff"}},
		{"help: HEAD", "HEAD /", "", 200, "", []string{"Content-Type: text/plain; charset=utf-8"}},
		{"help: DELETE", "DELETE /", "", 405, `"method_not_allowed"`, []string{"Allow: GET, HEAD"}},
		{"websocket: RFC 6455 §4.2.1 GET only", "PUT /ws?room=a", upgrade, 405, `"method_not_allowed"`, []string{"Allow: GET, OPTIONS"}},
		{"websocket: RFC 9110 §15.5.22 no handshake", "GET /ws?room=a", "", 426, `"upgrade_required"`,
			[]string{"Upgrade: websocket", "Sec-Websocket-Version: 13"}},
		{"websocket: RFC 6455 §4.4 another version", "GET /ws?room=a", strings.Replace(upgrade, "13", "12", 1), 426, `"upgrade_required"`,
			[]string{"Upgrade: websocket", "Sec-Websocket-Version: 13"}},
		{"websocket: RFC 6455 §4.2.1 no GET without Host", "GET http://other/ws", upgrade, 400, `"bad_request"`, nil},
	} {
		t.Run(r.rule, func(t *testing.T) {
			conn := raw(t, e, r.line+" HTTP/1.1\r\nHost: "+host+"\r\n"+r.fields+"\r\n")
			method, _, _ := strings.Cut(r.line, " ")
			answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
			if err != nil {
				t.Fatal(err)
			}
			if answer.StatusCode != r.status || answer.Header.Get("Date") == "" {
				t.Errorf("%d %v", answer.StatusCode, answer.Header)
			}
			for _, line := range r.header {
				name, want, _ := strings.Cut(line, ":")
				if got := strings.Join(answer.Header[name], " "); got != strings.TrimSpace(want) {
					t.Errorf("%s is %q", name, got)
				}
			}
			body := ""
			for r.body == "" || !strings.Contains(body, r.body) {
				part := make([]byte, 4096)
				n, err := answer.Body.Read(part)
				if body += string(part[:n]); err != nil {
					break
				}
			}
			if (r.body == "") != (body == "") || !strings.Contains(body, r.body) {
				t.Errorf("%q", body)
			}
		})
	}
}

// lineWith reads a stream's lines until one has this prefix.
func lineWith(t *testing.T, r *bufio.Reader, prefix string) (before []string) {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("%v before %q", err, prefix)
		}
		if strings.HasPrefix(line, prefix) {
			return before
		}
		before = append(before, strings.TrimRight(line, "\r\n"))
	}
}

func TestAStreamWhoseTokenExpiresMayReturnWithAFreshOne(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.TokenLeeway = 0 })
	g := &grant.Grant{Subscribe: []string{"a"}}
	token := c.token(c.hs, "alice", time.Second, g)
	conn := raw(t, e, "GET /sse?room=a&token="+token+" HTTP/1.1\r\nHost: x\r\n\r\n")
	r := bufio.NewReader(conn)
	lineWith(t, r, "event: close")
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "retry: 1000\ndata: {\"code\":\"token_expired\",\"retry_ms\":0}\n\n" {
		t.Errorf("%q %v", rest, err)
	}
	if status, body, _ := get(t, e, "/sse?room=a&token="+token); status != 401 || !strings.Contains(body, "token_expired") {
		t.Errorf("the old token: %d %s", status, body)
	}
	again := raw(t, e, "GET /sse?room=a&token="+c.token(c.hs, "alice", time.Hour, g)+" HTTP/1.1\r\nHost: x\r\n\r\n")
	lineWith(t, bufio.NewReader(again), "event: connected")
}

func TestADrainedStreamReturnsElsewhere(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e, stop := c.start(nil)
	r := bufio.NewReader(raw(t, e, "GET /sse?room=a HTTP/1.1\r\nHost: x\r\n\r\n"))
	lineWith(t, r, "event: connected")
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	lineWith(t, r, "event: close")
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "retry: 1000\ndata: {\"code\":\"drain\",\"retry_ms\":200}\n\n" {
		t.Errorf("%q %v", rest, err)
	}
	<-stopped
}

// handshake is a WebSocket request and what is sent right behind it.
func handshake(path string, behind ...ws.Frame) string {
	text := "GET " + path + " HTTP/1.1\r\nHost: x\r\n" + strings.Join(upgradeHeaders(), "\r\n") + "\r\n\r\n"
	for _, f := range behind {
		text += string(ws.MustCompileFrame(ws.MaskFrame(f)))
	}
	return text
}

// opened reads the 101 of a raw connection.
func opened(t *testing.T, conn net.Conn) *client {
	t.Helper()
	r := bufio.NewReader(conn)
	for line := ""; line != "\r\n"; {
		var err error
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	return &client{t: t, conn: conn, r: r}
}

// A slow token check holds the request; what the client sends meanwhile, all of
// it, is served in order afterwards.
func TestNothingIsLostBehindAHandshake(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	g := &grant.Grant{Subscribe: []string{"a"}}
	for name, token := range map[string]string{"no token": "", "HS256": c.token(c.hs, "a", time.Hour, g), "EdDSA": c.token(c.ed, "a", time.Hour, g)} {
		t.Run(name, func(t *testing.T) {
			const pings = 20000 // 600 KB: many times the loop's buffer
			conn, err := net.Dial("tcp", e.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(patience))
			go func() {
				text := []byte(handshake("/ws?room=a&token="+token, ws.NewTextFrame([]byte(`{"id":0,"ping":{}}`))))
				frame := ws.MustCompileFrame(ws.MaskFrame(ws.NewPongFrame([]byte("0123456789012345678901234"))))
				for range pings {
					text = append(text, frame...)
				}
				text = append(text, ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte(`{"id":1,"ping":{}}`))))...)
				_, _ = conn.Write(text)
			}()
			a := opened(t, conn)
			a.connected("a")
			a.want(`{"id":0,"pong":{}}`)
			a.want(`{"id":1,"pong":{}}`)
			_ = conn.Close()
			until(t, "the end of the client is seen", func() bool { return e.connections() == 0 })
		})
	}
}

func TestAFirstRequestThatEndsAtOnceLeavesNothing(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	for _, text := range []string{
		handshake("/ws?room=a"), handshake("/echo"), "GET /sse?room=a HTTP/1.1\r\nHost: x\r\n\r\n",
		handshake("/ws?room=a", ws.NewCloseFrame(ws.NewCloseFrameBody(1000, ""))),
		handshake("/ws?room=a") + strings.Repeat(string(ws.MustCompileFrame(ws.MaskFrame(ws.NewPongFrame([]byte("pong"))))), 100000),
	} {
		conn := raw(t, e, text)
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(conn); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	}
	until(t, "all are gone", func() bool { return e.connections() == 0 })
}

// RFC 6455 §5.5.1: a close frame is sent before the connection ends, also when
// the client's own comes in the same read.
func TestACloseThatCrossesTheClientsIsSent(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	conn := raw(t, e, handshake("/ws?room=a", ws.NewBinaryFrame([]byte("x")), ws.NewCloseFrame(ws.NewCloseFrameBody(1000, ""))))
	a := opened(t, conn)
	a.wantClose(1003, "text frames")
	_ = conn.Close()
	until(t, "it is gone", func() bool { return e.connections() == 0 })
	if e.closes("binary_frame") != 1 || e.closes("client") != 0 {
		t.Error("the first reason counts")
	}
}

// The close timeout runs from the close, whatever the client sends after it.
func TestAViolatorThatSendsOnIsCutOff(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.CloseTimeout = 200 * time.Millisecond })
	for _, path := range []string{"/ws?room=a", "/echo"} {
		conn := raw(t, e, handshake(path)+"\x83\x00")
		_ = conn.SetDeadline(time.Now().Add(patience))
		for i := 0; ; i++ {
			if _, err := io.WriteString(conn, "\x83\x00"); err != nil {
				if ne, ok := err.(net.Error); ok && ne.Timeout() {
					t.Fatalf("%s: still connected after %s and %d frames", path, patience, i)
				}
				break
			}
		}
	}
	until(t, "both are gone", func() bool { return e.connections() == 0 })
}

// RFC 9110 §7.8: who sends Upgrade names it in Connection.
func TestUpgradeIsNamedInConnection(t *testing.T) {
	c := newCluster(t, policy.Dev())
	conn := raw(t, c.edge(nil), "GET /ws?room=a HTTP/1.1\r\nHost: x\r\n\r\n")
	text, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(text), "\r\nConnection: close\r\n") || !strings.Contains(string(text), "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n") {
		t.Errorf("%q %v", text, err)
	}
}

func TestAHandshakeInEveryForm(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	const rest = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	for i, head := range []string{
		"GET /ws?room=a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n" + rest,
		"GET /ws?room=a HTTP/1.1\r\nHost: x\r\nUpgrade: WEBSOCKET\r\nConnection: keep-alive\r\nConnection: upgrade\r\n" + rest,
		"GET /ws?room=a HTTP/1.1\r\nHost: x\r\nUpgrade: h2c, websocket\r\nConnection: Upgrade, HTTP2-Settings\r\n" + rest,
		"GET http://x/ws?room=a HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n" + rest,
		"GET /ws?room=a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Extensions: x-unknown; a=1\r\nContent-Length: 0\r\n" + rest,
	} {
		conn := raw(t, e, head)
		opened(t, conn).connected("a")
		if t.Failed() {
			t.Fatal(fmt.Sprint("form ", i))
		}
	}
}
