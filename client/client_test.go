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
	"sync/atomic"
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
			func(ctx context.Context, c *client.Conn) (any, error) { return c.Subscribe(ctx, "a", "b") },
			"subscribe", `{"rooms":[{"room":"a"},{"room":"b"}]}`,
			`"subscribed":{"rooms":[{"room":"a"},{"room":"b","epoch":"k3","offset":7,"recovered":true}]}`,
			[]wire.Position{{Room: "a"}, wire.Position{Room: "b", Epoch: "k3", Offset: 7}.WithRecovery("")},
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
			_, _ = w.Write(wire.AppendError(nil, nil, &wire.Error{Code: wire.TokenExpired, Reason: "the token has expired"}))
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
		`{"expiring":{"in":60}}`,
		`{"unsubscribed":{"rooms":["a"],"reason":"not_allowed"}}`,
		`{"error":{"code":"unavailable","reason":"later","retry_ms":100}}`,
	}
	want := []client.Event{
		{Message: &wire.Message{Room: "a", Epoch: "k3", Offset: 45, Kind: wire.Data, Body: []byte(`{"text":"hi"}`), Event: "news", User: "bob"}},
		{Message: &wire.Message{Room: "a", Kind: wire.Text, Body: []byte("plain")}},
		{Message: &wire.Message{Room: "a", Kind: wire.Binary, Body: []byte{0, 1, 255}}},
		{Gap: &wire.Gap{Room: "a", Reason: "slow"}},
		{Expiring: time.Minute},
		{Unsubscribed: []string{"a"}},
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
			if _, err := conn.Subscribe(limit(t), "b"); !errors.Is(err, closed) {
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

func TestKeeperComesBackAsTheCodesSay(t *testing.T) {
	var dials atomic.Int32
	previous := make(chan string, 3)
	address := serve(t, func(p *peer) {
		var connect struct{ Previous string }
		_ = json.Unmarshal(p.connect()["connect"], &connect)
		previous <- connect.Previous
		if dials.Add(1) < 3 {
			p.close(4200, `{"code":"drain","retry_ms":1}`)
			return
		}
		p.close(4002, `{"code":"not_allowed","retry_ms":0}`)
	})
	var told []string
	k := client.Keeper{
		Address:  address,
		Options:  func(context.Context) (client.Options, error) { return client.Options{}, nil },
		Retrying: func(err error, _ time.Duration) { told = append(told, err.Error()) },
	}
	err := k.Run(limit(t), func(c *client.Conn) error {
		for range c.Events() {
			t.Error("an event")
		}
		return nil
	})
	var closed *client.CloseError
	if !errors.As(err, &closed) || closed.Status != 4002 {
		t.Fatalf("ended with %v", err)
	}
	drain := "the server closed the connection: 4200 drain"
	if diff := cmp.Diff([]string{drain, drain}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if got := [3]string{<-previous, <-previous, <-previous}; got != [3]string{"", "c1", "c1"} {
		t.Errorf("previous sessions %q", got)
	}
}

func TestKeeperEnds(t *testing.T) {
	options := func(context.Context) (client.Options, error) { return client.Options{}, nil }
	drained := func(c *client.Conn) error {
		for range c.Events() {
		}
		return nil
	}
	t.Run("when use is content", func(t *testing.T) {
		address := serve(t, func(p *peer) { p.connect(); p.wait() })
		mine := errors.New("mine")
		if err := (client.Keeper{Address: address, Options: options}).Run(limit(t), func(*client.Conn) error { return mine }); err != mine {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when its context ends, also while nobody answers", func(t *testing.T) {
		ctx, cancel := context.WithCancel(limit(t))
		k := client.Keeper{Address: "127.0.0.1:1", Options: options, Retrying: func(error, time.Duration) { cancel() }}
		if err := k.Run(ctx, drained); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when the address is none", func(t *testing.T) {
		err := client.Keeper{Address: "ftp://x", Options: options}.Run(limit(t), drained)
		if want := `edge address "ftp://x": the scheme must be ws, wss, http or https`; err == nil || err.Error() != want {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when there is no token", func(t *testing.T) {
		mine := errors.New("no token")
		k := client.Keeper{Address: "127.0.0.1:1", Options: func(context.Context) (client.Options, error) { return client.Options{}, mine }}
		if err := k.Run(limit(t), drained); err != mine {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when the server refuses for good", func(t *testing.T) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(403)
			_, _ = w.Write(wire.AppendError(nil, nil, &wire.Error{Code: wire.NotAllowed, Reason: "no"}))
		}))
		t.Cleanup(s.Close)
		err := client.Keeper{Address: s.URL, Options: options}.Run(limit(t), drained)
		if err == nil || err.Error() != "not_allowed: no" {
			t.Errorf("got %v", err)
		}
	})
}
