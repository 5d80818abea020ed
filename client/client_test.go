package client_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/google/go-cmp/cmp"

	"nabat/client"
	"nabat/proto/wire"
)

// peer is the edge's end of one connection in these tests.
type peer struct {
	t       *testing.T
	conn    net.Conn
	request *http.Request
}

// serve starts a server that upgrades and hands every connection to script.
func serve(t *testing.T, script func(p *peer)) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u := ws.HTTPUpgrader{Protocol: func(p string) bool { return p == "nabat.v1.json" }}
		conn, _, _, err := u.Upgrade(r, w)
		if err != nil {
			t.Errorf("upgrade: %v", err)
			return
		}
		defer conn.Close()
		script(&peer{t, conn, r})
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// read returns the next command. It ends the script when the client is gone.
func (p *peer) read() map[string]json.RawMessage {
	text, err := wsutil.ReadClientText(p.conn)
	if err != nil {
		return nil
	}
	var command map[string]json.RawMessage
	if err := json.Unmarshal(text, &command); err != nil {
		p.t.Errorf("command %q: %v", text, err)
	}
	return command
}

func (p *peer) send(format string, args ...any) {
	_ = wsutil.WriteServerText(p.conn, fmt.Appendf(nil, format, args...)) // a client that left is the test's business
}

// connect answers the first command.
func (p *peer) connect() map[string]json.RawMessage {
	command := p.read()
	p.send(`{"id":%s,"connected":{"session":"c1","node":"edge-0","user":"alice","expires":1790000000,"rooms":[{"room":"a"}]}}`, command["id"])
	return command
}

func (p *peer) close(status ws.StatusCode, reason string) {
	_ = wsutil.WriteServerMessage(p.conn, ws.OpClose, ws.NewCloseFrameBody(status, reason))
	_, _ = io.Copy(io.Discard, p.conn) // until the client has closed
}

// frame reads one frame and unmasks it.
func (p *peer) frame() (ws.OpCode, []byte, error) {
	h, err := ws.ReadHeader(p.conn)
	if err != nil {
		return 0, nil, err
	}
	payload := make([]byte, h.Length)
	_, err = io.ReadFull(p.conn, payload)
	ws.Cipher(payload, h.Mask, 0)
	return h.OpCode, payload, err
}

// wait answers nothing, until the client says goodbye or is gone.
func (p *peer) wait() {
	for {
		if op, _, err := p.frame(); err != nil || op == ws.OpClose {
			return
		}
	}
}

func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func dial(t *testing.T, address string, o client.Options) *client.Conn {
	t.Helper()
	c, err := client.Dial(limit(t), address, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestConnectSendsTokenRoomsAndSession(t *testing.T) {
	type seen struct{ Authorization, Origin, Protocol, Query, Connect string }
	got := make(chan seen, 1)
	address := serve(t, func(p *peer) {
		h := p.request.Header
		connect := p.connect()["connect"]
		got <- seen{h.Get("Authorization"), h.Get("Origin"), h.Get("Sec-WebSocket-Protocol"), p.request.URL.RequestURI(), string(connect)}
		p.wait()
	})
	c := dial(t, address+"/ws?room=a&x=1", client.Options{
		Token: "t.o.k", Rooms: []string{"team chat"}, Previous: "c0", Header: http.Header{"Origin": {"http://here"}},
	})
	want := seen{"Bearer t.o.k", "http://here", "nabat.v1.json", "/ws?x=1", `{"previous":"c0","rooms":[{"room":"a"},{"room":"team chat"}]}`}
	if diff := cmp.Diff(want, <-got); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	connected := wire.Connected{Session: "c1", Node: "edge-0", User: "alice", Expires: 1790000000, Rooms: []wire.Position{{Room: "a"}}}
	if diff := cmp.Diff(connected, c.Connected()); diff != "" {
		t.Errorf("connected (-want +got):\n%s", diff)
	}
}

func TestCommandsHaveTheFormOfTheProtocol(t *testing.T) {
	for name, c := range map[string]struct {
		do     func(context.Context, *client.Conn) (any, error)
		verb   string
		body   string
		answer string
		want   any
	}{
		"subscribe": {
			func(ctx context.Context, c *client.Conn) (any, error) { return c.Subscribe(ctx, []string{"a", "b"}) },
			"subscribe", `{"rooms":[{"room":"a"},{"room":"b"}]}`,
			`"subscribed":{"rooms":[{"room":"a"},{"room":"b","epoch":"k3","offset":7,"recovered":true}]}`,
			[]wire.Position{{Room: "a"}, wire.Position{Room: "b", Epoch: "k3", Offset: 7}.WithRecovery("")},
		},
		"subscribe behind positions": {
			func(ctx context.Context, c *client.Conn) (any, error) {
				return c.Subscribe(ctx, []string{"a", "b", "b", "c"}, client.From(wire.Position{Room: "a", Epoch: "k3"}, wire.Position{Room: "b", Epoch: "k3", Offset: 7}, wire.Position{Room: "c"}))
			},
			"subscribe", `{"rooms":[{"room":"a","epoch":"k3","offset":0},{"room":"b","epoch":"k3","offset":7},{"room":"c"}]}`,
			`"subscribed":{"rooms":[{"room":"a","epoch":"k4","offset":2,"recovered":false,"reason":"epoch_changed"}]}`,
			[]wire.Position{wire.Position{Room: "a", Epoch: "k4", Offset: 2}.WithRecovery(wire.EpochChanged)},
		},
		"subscribe since a while": {
			func(ctx context.Context, c *client.Conn) (any, error) {
				return c.Subscribe(ctx, []string{"a"}, client.Since(10*time.Minute))
			},
			"subscribe", `{"rooms":[{"room":"a","since":"10m0s"}]}`,
			`"subscribed":{"rooms":[{"room":"a"}]}`, []wire.Position{{Room: "a"}},
		},
		"subscribe since a time": {
			func(ctx context.Context, c *client.Conn) (any, error) {
				return c.Subscribe(ctx, []string{"a"}, client.SinceTime(time.Date(2026, 1, 2, 15, 4, 5, 6e6, time.UTC)))
			},
			"subscribe", `{"rooms":[{"room":"a","since":"2026-01-02T15:04:05.006Z"}]}`,
			`"subscribed":{"rooms":[{"room":"a"}]}`, []wire.Position{{Room: "a"}},
		},
		"subscribe with the newest": {
			func(ctx context.Context, c *client.Conn) (any, error) {
				return c.Subscribe(ctx, []string{"a"}, client.Latest())
			},
			"subscribe", `{"rooms":[{"room":"a","latest":true}]}`,
			`"subscribed":{"rooms":[{"room":"a"}]}`, []wire.Position{{Room: "a"}},
		},
		"the newest page": {
			func(ctx context.Context, c *client.Conn) (any, error) { return c.History(ctx, "a") },
			"history", `{"room":"a"}`,
			`"history":{"room":"a","epoch":"k3","messages":[{"room":"a","offset":5,"text":"x","user":"bob"}],"more":true}`,
			wire.Page{Room: "a", Epoch: "k3", More: true, Messages: []*wire.Message{{Room: "a", Epoch: "k3", Offset: 5, Kind: wire.Text, Body: []byte("x"), User: "bob"}}},
		},
		"a page before an offset": {
			func(ctx context.Context, c *client.Conn) (any, error) {
				return c.History(ctx, "a", client.Limit(3), client.Before(7))
			},
			"history", `{"before":7,"limit":3,"room":"a"}`, `"history":{"room":"a","epoch":"k3","messages":[],"more":false}`, wire.Page{Room: "a", Epoch: "k3"},
		},
		"the first page": {
			func(ctx context.Context, c *client.Conn) (any, error) { return c.History(ctx, "a", client.After(0)) },
			"history", `{"after":0,"room":"a"}`, `"history":{"room":"a","epoch":"k3","messages":[],"more":false}`, wire.Page{Room: "a", Epoch: "k3"},
		},
		"unsubscribe": {
			func(ctx context.Context, c *client.Conn) (any, error) { return nil, c.Unsubscribe(ctx, "a") },
			"unsubscribe", `{"rooms":["a"]}`, `"unsubscribed":{"rooms":["a"]}`, nil,
		},
		"publish JSON": {
			func(ctx context.Context, c *client.Conn) (any, error) {
				return c.Publish(ctx, wire.Publication{Room: "a", Body: []byte(`{"n":1}`), Event: "news", Key: "k", MessageID: "m1"})
			},
			"publish", `{"data":{"n":1},"event":"news","key":"k","message_id":"m1","room":"a"}`,
			`"published":{"room":"a","epoch":"k3","offset":57}`, wire.Position{Room: "a", Epoch: "k3", Offset: 57},
		},
		"publish text": {
			func(ctx context.Context, c *client.Conn) (any, error) {
				return c.Publish(ctx, wire.Publication{Room: "a", Kind: wire.Text, Body: []byte("x\ny")})
			},
			"publish", `{"room":"a","text":"x\ny"}`, `"published":{"room":"a"}`, wire.Position{Room: "a"},
		},
		"publish an empty binary": {
			func(ctx context.Context, c *client.Conn) (any, error) {
				return c.Publish(ctx, wire.Publication{Room: "a", Kind: wire.Binary})
			},
			"publish", `{"base64":"","room":"a"}`, `"published":{"room":"a"}`, wire.Position{Room: "a"},
		},
		"auth": {
			func(ctx context.Context, c *client.Conn) (any, error) { return nil, c.Auth(ctx, "new") },
			"auth", `{"token":"new"}`, `"authed":{"user":"alice"}`, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			address := serve(t, func(p *peer) {
				p.connect()
				command := p.read()
				if got := string(command[c.verb]); got != c.body {
					t.Errorf("%s: got %s, want %s", c.verb, got, c.body)
				}
				text := fmt.Sprintf(`{"id":%s,%s}`, command["id"], c.answer)
				var ours wire.Command
				if err := wire.Parse(fmt.Appendf(nil, `{"id":%s,%q:%s}`, command["id"], c.verb, command[c.verb]), &ours); err != nil {
					t.Errorf("the server's parser refuses it: %v", err)
				}
				p.send("%s", text)
				p.wait()
			})
			got, err := c.do(limit(t), dial(t, address, client.Options{}))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestARefusedCommandIsAWireErrorAndTheConnectionLives(t *testing.T) {
	address := serve(t, func(p *peer) {
		p.connect()
		p.send(`{"id":%s,"error":{"code":"not_allowed","reason":"publish to a is not granted","retry_ms":5}}`, p.read()["id"])
		p.send(`{"id":%s,"published":{"room":"a"}}`, p.read()["id"])
		p.wait()
	})
	c := dial(t, address, client.Options{})
	_, err := c.Publish(limit(t), wire.Publication{Room: "a", Body: []byte("1")})
	want := &wire.Error{Code: wire.NotAllowed, Reason: "publish to a is not granted", RetryMS: 5}
	var refused *wire.Error
	if !errors.As(err, &refused) || *refused != *want {
		t.Fatalf("got %v, want %v", err, want)
	}
	if _, err := c.Publish(limit(t), wire.Publication{Room: "a", Body: []byte("2")}); err != nil {
		t.Fatalf("after a refusal: %v", err)
	}
}

func TestARefusedConnectionIsAWireError(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"as the edge refuses": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(401)
			_, _ = w.Write(wire.Object{Value: &wire.Error{Code: wire.TokenExpired, Reason: "the token has expired"}}.AppendJSON(nil))
		}, "token_expired: the token has expired"},
		"as something else answers": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(404)
		}, "the server answered 404 Not Found: is this a Nabat edge?"},
		"when connect is refused": {func(w http.ResponseWriter, r *http.Request) {
			conn, _, _, err := ws.UpgradeHTTP(r, w)
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = wsutil.ReadClientText(conn)
			_ = wsutil.WriteServerText(conn, []byte(`{"id":1,"error":{"code":"bad_room","reason":"no","retry_ms":0}}`))
			(&peer{conn: conn}).wait()
		}, "bad_room: no"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(c.answer)
			t.Cleanup(s.Close)
			_, err := client.Dial(limit(t), s.URL, client.Options{})
			if err == nil || err.Error() != c.want {
				t.Fatalf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"ftp://here":         `edge address "ftp://here": the scheme must be ws, wss, http or https`,
		"http://":            `edge address "http://": no host`,
		"http://127.0.0.1:1": "connect to 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused",
		"127.0.0.1:1":        "connect to 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused",
		"http://a b":         `edge address: parse "http://a b": invalid character " " in host name`,
	} {
		if _, err := client.Dial(limit(t), address, client.Options{}); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", address, err, want)
		}
	}
}

func TestEventsArriveInOrderAndComplete(t *testing.T) {
	objects := []string{
		`{"room":"a","epoch":"k3","offset":45,"data":{"text":"hi"},"event":"news","user":"bob"}`,
		`{"room":"a","text":"plain"}`,
		`{"room":"a","base64":"AAH/"}`,
		`{"gap":{"room":"a","reason":"slow"}}`,
		`{"gap":{"room":"a","from":41,"to":60,"reason":"history_cut"}}`,
		`{"lagging":{"room":"a","epoch":"k3","offset":45}}`,
		`{"reset":{"room":"a","epoch":"k4","offset":0}}`,
		`{"room":"a","offset":1,"text":"anew"}`,
		`{"expiring":{"in":60}}`,
		`{"unsubscribed":{"rooms":["a"],"reason":"not_allowed"}}`,
		`{"error":{"code":"unavailable","reason":"later","retry_ms":100}}`,
	}
	want := []client.Event{
		{Message: &wire.Message{Room: "a", Epoch: "k3", Offset: 45, Kind: wire.Data, Body: []byte(`{"text":"hi"}`), Event: "news", User: "bob"}},
		{Message: &wire.Message{Room: "a", Kind: wire.Text, Body: []byte("plain")}},
		{Message: &wire.Message{Room: "a", Kind: wire.Binary, Body: []byte{0, 1, 255}}},
		{Gap: &wire.Gap{Room: "a", Reason: "slow"}},
		{Gap: &wire.Gap{Room: "a", From: 41, To: 60, Reason: "history_cut"}},
		{Lagging: &wire.Position{Room: "a", Epoch: "k3", Offset: 45}},
		{Reset: &wire.Position{Room: "a", Epoch: "k4"}},
		{Message: &wire.Message{Room: "a", Epoch: "k4", Offset: 1, Kind: wire.Text, Body: []byte("anew")}},
		{Expiring: time.Minute},
		{Unsubscribed: []string{"a"}, Reason: wire.NotAllowed},
		{Error: &wire.Error{Code: wire.Unavailable, Reason: "later", RetryMS: 100}},
	}
	pong := make(chan map[string]json.RawMessage, 1)
	address := serve(t, func(p *peer) {
		p.connect()
		p.send(`{"from_the_future":{}}`)
		p.send(`{"ping":{}}`)
		pong <- p.read()
		for _, o := range objects {
			p.send("%s", o)
		}
		p.wait()
	})
	c := dial(t, address, client.Options{Queue: 1}) // smaller than what comes
	if got := <-pong; string(got["pong"]) != "{}" {
		t.Errorf("ping was answered %v", got)
	}
	for i, w := range want {
		w.Raw = json.RawMessage(objects[i])
		if diff := cmp.Diff(w, <-c.Events()); diff != "" {
			t.Errorf("event %d (-want +got):\n%s", i, diff)
		}
	}
}

func TestProtobufIsNotTakenForGranted(t *testing.T) {
	address := serve(t, func(*peer) {})
	_, err := client.Dial(limit(t), address, client.Options{Protobuf: true})
	want := "the server does not speak nabat.v1.proto"
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestBatchesAreAskedForAndTaken(t *testing.T) {
	for _, query := range []string{"", "?batch=1"} {
		address := serve(t, func(p *peer) {
			if got := p.request.URL.RawQuery; got != "batch=1" {
				t.Errorf("asked with %q", got)
			}
			p.connect()
			p.send("%s", `{"room":"a","data":1}`+"\n\n"+`{"room":"a","data":2}`+"\n")
			p.send("")
			p.wait()
		})
		c := dial(t, address+query, client.Options{Batch: query == ""})
		for _, want := range []string{"1", "2"} {
			if e := <-c.Events(); e.Message == nil || string(e.Message.Body) != want {
				t.Fatalf("got %+v, want %s", e, want)
			}
		}
		if e, ok := <-c.Events(); ok || !strings.Contains(c.Err().Error(), "the frame holds no object") {
			t.Errorf("after a frame without an object: %+v, %v", e, c.Err())
		}
	}
}

func TestFragmentsWithControlFramesBetweenThem(t *testing.T) {
	pong := make(chan string, 1)
	address := serve(t, func(p *peer) {
		p.connect()
		w := bufio.NewWriter(p.conn)
		for _, f := range []ws.Frame{
			ws.NewFrame(ws.OpText, false, []byte(`{"room":"a",`)),
			ws.NewPingFrame([]byte("alive?")),
			ws.NewFrame(ws.OpContinuation, true, []byte(`"text":"é"}`)),
		} {
			_ = ws.WriteFrame(w, f)
		}
		_ = w.Flush()
		if op, payload, err := p.frame(); err == nil && op == ws.OpPong {
			pong <- string(payload)
		}
		p.wait()
	})
	c := dial(t, address, client.Options{})
	if e := <-c.Events(); e.Message == nil || string(e.Message.Body) != "é" {
		t.Errorf("got %+v", e)
	}
	if got := <-pong; got != "alive?" {
		t.Errorf("pong %q", got)
	}
}

func TestCloseCodesSayWhetherToComeBack(t *testing.T) {
	for name, c := range map[string]struct {
		status ws.StatusCode
		reason string
		code   wire.Code
		wait   time.Duration
		again  bool
	}{
		"4200 drain comes back":            {4200, `{"code":"drain","retry_ms":1200}`, wire.Drain, 1200 * time.Millisecond, true},
		"4001 expired may, with a token":   {4001, wire.CloseExpired.Reason(), wire.TokenExpired, 0, true},
		"1002 protocol error does not":     {1002, "what?", "", 0, false},
		"1011 comes back without a reason": {1011, "not JSON", "", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			address := serve(t, func(p *peer) {
				p.connect()
				p.send(`{"room":"a","text":"last words"}`)
				p.close(c.status, c.reason)
			})
			conn := dial(t, address, client.Options{})
			words := 0
			for range conn.Events() {
				words++
			}
			var closed *client.CloseError
			if err := conn.Err(); words != 1 || !errors.As(err, &closed) {
				t.Fatalf("%d events, then %v", words, err)
			}
			wait, again := closed.Retry()
			if closed.Status != uint16(c.status) || closed.Code != c.code || wait != c.wait || again != c.again {
				t.Errorf("got %+v, wait %s, again %v", closed, wait, again)
			}
			if _, err := conn.Subscribe(limit(t), []string{"b"}); !errors.Is(err, closed) {
				t.Errorf("a command after the end: %v", err)
			}
		})
	}
}

func TestABrokenConnectionMayComeBack(t *testing.T) {
	for name, script := range map[string]func(*peer){
		"cut":          func(p *peer) {},
		"half a frame": func(p *peer) { _, _ = p.conn.Write([]byte{0x81, 0x7e, 1}) },
		"not the protocol": func(p *peer) {
			p.send("hello")
			p.wait()
		},
		"masked by a server (RFC 6455 §5.1)": func(p *peer) {
			_ = ws.WriteFrame(p.conn, ws.MaskFrame(ws.NewTextFrame([]byte("{}"))))
			p.wait()
		},
		"too large a message": func(p *peer) {
			p.send(`{"room":"a","text":"%s"}`, strings.Repeat("x", 1000))
			p.wait()
		},
		"silence": func(p *peer) {
			p.wait() // pings are read and not answered
		},
	} {
		t.Run(name, func(t *testing.T) {
			address := serve(t, func(p *peer) { p.connect(); script(p) })
			c := dial(t, address, client.Options{MaxMessageBytes: 500, Silence: 100 * time.Millisecond})
			for range c.Events() {
				t.Error("an event")
			}
			var closed *client.CloseError
			if err := c.Err(); !errors.As(err, &closed) || closed.Err == nil || closed.Status != 1006 {
				t.Fatalf("got %v", err)
			}
			if _, again := closed.Retry(); !again {
				t.Error("is not to come back")
			}
		})
	}
}

func TestASlowReaderIsNotTakenForASilentServer(t *testing.T) {
	const silence = 50 * time.Millisecond
	address := serve(t, func(p *peer) {
		p.connect()
		for i := range 10 {
			p.send(`{"room":"a","data":%d}`, i)
		}
		for { // answer pings
			if _, err := wsutil.ReadClientText(p.conn); err != nil {
				return
			}
		}
	})
	c := dial(t, address, client.Options{Queue: 1, Silence: silence})
	<-time.After(6 * silence) // the time is what is tested: three times what a silent server is given
	for i := range 10 {
		if e := <-c.Events(); e.Message == nil || string(e.Message.Body) != fmt.Sprint(i) {
			t.Fatalf("event %d: %+v, %v", i, e, c.Err())
		}
	}
}

func TestCommandsEndWithTheirContext(t *testing.T) {
	address := serve(t, func(p *peer) { p.connect(); p.wait() })
	c := dial(t, address, client.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := c.Unsubscribe(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	said := make(chan ws.StatusCode, 1)
	address := serve(t, func(p *peer) {
		p.connect()
		for range 1000 {
			p.send(`{"room":"a","data":1}`)
		}
		if op, payload, err := p.frame(); err == nil && op == ws.OpClose {
			status, _ := ws.ParseCloseFrameData(payload)
			said <- status
		}
	})
	c := dial(t, address, client.Options{Queue: 1}) // and nobody reads
	c.Close()
	if err := c.Err(); !errors.Is(err, client.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if status := <-said; status != ws.StatusNormalClosure {
		t.Errorf("said %d", status)
	}
}

// Each step is what the server says, and where the client then stands.
func TestPositionsFollowWhatTheServerSays(t *testing.T) {
	at := func(epoch string, offset uint64) []wire.Position {
		return []wire.Position{{Room: "a", Epoch: epoch, Offset: offset}}
	}
	steps := []struct {
		rule, object string
		want         []wire.Position
	}{
		{"where it joined", `{"expiring":{"in":60}}`, at("k3", 7)},
		{"a message moves its room", `{"room":"a","offset":8,"data":1}`, at("k3", 8)},
		{"one without an offset does not", `{"room":"a","data":1}`, at("k3", 8)},
		{"a room that was not joined has no position", `{"room":"b","offset":9,"data":1}`, at("k3", 8)},
		{"an answer to joining again may be ahead of messages", `{"id":99,"subscribed":{"rooms":[{"room":"a","epoch":"k3","offset":12}]}}`, at("k3", 8)},
		{"a gap is told, and what follows it moves", `{"gap":{"room":"a","from":8,"to":20}}`, at("k3", 8)},
		{"a reset is a position", `{"reset":{"room":"a","epoch":"k4","offset":2}}`, at("k4", 2)},
		{"of rooms that were joined only", `{"reset":{"room":"b","epoch":"k4","offset":2}}`, at("k4", 2)},
		{"another epoch counts when a room is joined", `{"id":99,"subscribed":{"rooms":[{"room":"a","epoch":"k5","offset":1,"recovered":false,"reason":"epoch_changed"}]}}`, at("k5", 1)},
		{"what the server ended is left", `{"unsubscribed":{"rooms":["a"],"reason":"not_allowed"}}`, nil},
	}
	address := serve(t, func(p *peer) {
		p.send(`{"id":%s,"connected":{"session":"c1","rooms":[{"room":"a","epoch":"k3","offset":7,"recovered":true}]}}`, p.read()["id"])
		for _, step := range steps {
			command := p.read()
			p.send("%s", step.object)
			p.send(`{"id":%s,"authed":{"user":""}}`, command["id"])
		}
		p.wait()
	})
	c := dial(t, address, client.Options{Rooms: []string{"a"}})
	for _, step := range steps {
		if err := c.Auth(limit(t), "t"); err != nil { // its answer comes behind the step
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, c.Positions()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.rule, diff)
		}
	}
}

func TestHistoryIsWalkedPageByPage(t *testing.T) {
	page := func(more bool, epoch string, offsets ...int) string {
		var list []string
		for _, o := range offsets {
			list = append(list, fmt.Sprintf(`{"room":"a","offset":%d,"data":1}`, o))
		}
		return fmt.Sprintf(`"history":{"room":"a","epoch":%q,"messages":[%s],"more":%v}`, epoch, strings.Join(list, ","), more)
	}
	for _, c := range []struct {
		rule    string
		options []client.HistoryOption
		asked   []string
		answers []string
		want    []uint64
		err     string
	}{
		{"from the beginning", []client.HistoryOption{client.Limit(2)}, []string{`{"after":0,"limit":2,"room":"a"}`, `{"after":3,"limit":2,"room":"a"}`},
			[]string{page(true, "k1", 1, 3), page(false, "k1", 5)}, []uint64{1, 3, 5}, ""},
		{"forwards", []client.HistoryOption{client.After(4)}, []string{`{"after":4,"room":"a"}`}, []string{page(false, "k1", 5, 6)}, []uint64{5, 6}, ""},
		{"backwards", []client.HistoryOption{client.Before(9)}, []string{`{"before":9,"room":"a"}`, `{"before":6,"room":"a"}`},
			[]string{page(true, "k1", 6, 7), page(false, "k1", 2)}, []uint64{7, 6, 2}, ""},
		{"nothing", nil, []string{`{"after":0,"room":"a"}`}, []string{page(false, "k1")}, nil, ""},
		{"until it begins anew", nil, []string{`{"after":0,"room":"a"}`, `{"after":1,"room":"a"}`},
			[]string{page(true, "k1", 1), page(true, "k2", 2)}, []uint64{1}, client.ErrHistoryChanged.Error()},
		{"not for ever", nil, []string{`{"after":0,"room":"a"}`}, []string{page(true, "k1")}, nil, "history of a: the server has more, and does not show it"},
		{"until the server refuses", nil, []string{`{"after":0,"room":"a"}`}, []string{`"error":{"code":"no_history","reason":"none","retry_ms":0}`}, nil, "no_history: none"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			asked := make(chan string, len(c.asked)+1)
			address := serve(t, func(p *peer) {
				p.connect()
				for _, answer := range c.answers {
					command := p.read()
					asked <- string(command["history"])
					p.send(`{"id":%s,%s}`, command["id"], answer)
				}
				p.wait()
			})
			var got []uint64
			said := ""
			for m, err := range dial(t, address, client.Options{}).Messages(limit(t), "a", c.options...) {
				if err != nil {
					said = err.Error()
					continue
				}
				got = append(got, m.Offset)
			}
			if diff := cmp.Diff(c.want, got); diff != "" || said != c.err {
				t.Errorf("offsets (-want +got):\n%s\nerror %q, want %q", diff, said, c.err)
			}
			for _, want := range c.asked {
				if got := <-asked; got != want {
					t.Errorf("asked %s, not %s", got, want)
				}
			}
		})
	}
}
