package edge

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/auth"
	"nabat/internal/bus"
	"nabat/internal/natsdev"
	"nabat/proto/grant"
	"nabat/proto/policy"
)

const patience = 60 * time.Second

// cluster is a NATS server with the documents that control would publish, and
// edges on it.
type cluster struct {
	t      testing.TB
	nats   *natsdev.Server
	nc     *nats.Conn
	hs, ed *auth.SigningKey
	set    *policy.Set
}

func newCluster(t testing.TB, set *policy.Set) *cluster {
	t.Helper()
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	c := &cluster{t: t, nats: server, set: set}
	if c.nc, err = bus.Connect(t.Context(), bus.Options{URL: server.URL(), Name: "test"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.nc.Close)
	c.put(bus.BucketConfig, bus.KeyPolicies, set.Encode())
	c.keys()
	return c
}

// keys makes keys and publishes them.
func (c *cluster) keys() {
	c.t.Helper()
	var err error
	if c.hs, err = auth.GenerateHS256("h"); err != nil {
		c.t.Fatal(err)
	}
	if c.ed, err = auth.GenerateEd25519("e"); err != nil {
		c.t.Fatal(err)
	}
	c.put(bus.BucketConfig, bus.KeyJWKS, auth.EncodeJWKS(c.ed))
	c.put(bus.BucketKeys, bus.KeySymmetric, auth.EncodeSymmetric(c.hs))
	c.put(bus.BucketKeys, bus.KeyIssuers, new(auth.IssuerSet).Encode())
	c.bucket(bus.BucketBlocks)
}

func (c *cluster) put(bucket, key string, value []byte) {
	c.t.Helper()
	if _, err := c.bucket(bucket).Put(c.t.Context(), key, value); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) bucket(name string) jetstream.KeyValue {
	c.t.Helper()
	js, err := jetstream.New(c.nc)
	if err != nil {
		c.t.Fatal(err)
	}
	kv, err := bus.EnsureBucket(c.t.Context(), js, name, "", 1)
	if err != nil {
		c.t.Fatal(err)
	}
	return kv
}

// edge starts a node and returns when it is ready. change may be nil.
func (c *cluster) edge(change func(*Config)) *Edge {
	c.t.Helper()
	e, stop := c.start(change)
	c.t.Cleanup(stop)
	return e
}

// start is edge for those who stop the node themselves.
func (c *cluster) start(change func(*Config)) (*Edge, func()) {
	c.t.Helper()
	return c.startLogged(change, slog.New(slog.DiscardHandler))
}

// startLogged is start for those who read the log.
func (c *cluster) startLogged(change func(*Config), log *slog.Logger) (*Edge, func()) {
	c.t.Helper()
	cfg := Defaults()
	cfg.Listen, cfg.NATSURL, cfg.Node, cfg.Echo, cfg.Dev = "127.0.0.1:0", c.nats.URL(), "edge-0", true, true
	cfg.Drain, cfg.CloseTimeout = 100*time.Millisecond, time.Second
	if change != nil {
		change(&cfg)
	}
	e, err := New(cfg, log, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
	until(c.t, "the edge is ready", func() bool { return e.Ready() == nil })
	return e, stop
}

func (c *cluster) publish(room, body string, header nats.Header) {
	c.t.Helper()
	if err := c.nc.PublishMsg(&nats.Msg{Subject: "room." + room, Data: []byte(body), Header: header}); err != nil {
		c.t.Fatal(err)
	}
	if err := c.nc.FlushTimeout(patience); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) token(k *auth.SigningKey, user string, ttl time.Duration, g *grant.Grant) string {
	c.t.Helper()
	token, err := auth.Sign(k, auth.Claims{User: user, Expires: time.Now().Add(ttl), Grant: g})
	if err != nil {
		c.t.Fatal(err)
	}
	return token
}

// until polls a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	within(t, patience, what, ok)
}

func within(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(limit)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in %s: %s", limit, what)
		}
	}
}

// client is a plain WebSocket client.
type client struct {
	t    testing.TB
	conn net.Conn
	r    io.Reader
}

func dial(t testing.TB, e *Edge, path string, protocols ...string) *client {
	t.Helper()
	c, err := tryDial(t, e.Addr(), path, nil, protocols...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tryDial(t testing.TB, addr, path string, header http.Header, protocols ...string) (*client, error) {
	d := ws.Dialer{Timeout: patience, Protocols: protocols, Header: ws.HandshakeHeaderHTTP(header)}
	conn, br, _, err := d.Dial(context.Background(), "ws://"+addr+path)
	if err != nil {
		return nil, err
	}
	c := &client{t: t, conn: conn, r: conn}
	if br != nil {
		c.r = br
	}
	t.Cleanup(func() { _ = conn.Close() })
	return c, nil
}

func (c *client) send(text string) {
	c.t.Helper()
	if err := wsutil.WriteClientText(c.conn, []byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

// next returns the next data frame; a close comes back as wsutil.ClosedError.
func (c *client) next() (string, error) {
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	for {
		data, _, err := wsutil.ReadServerData(struct {
			io.Reader
			io.Writer
		}{c.r, c.conn})
		return string(data), err
	}
}

func (c *client) want(text string) {
	c.t.Helper()
	got, err := c.next()
	if err != nil {
		c.t.Fatalf("got %v, want %s", err, text)
	}
	if got != text {
		c.t.Fatalf("got  %s\nwant %s", got, text)
	}
}

func (c *client) wantPrefix(text string) string {
	c.t.Helper()
	got, err := c.next()
	if err != nil || !strings.HasPrefix(got, text) {
		c.t.Fatalf("got %q, %v; want %s…", got, err, text)
	}
	return got
}

func (c *client) wantClose(status int, reason string) {
	c.t.Helper()
	for {
		got, err := c.next()
		if err == nil {
			continue
		}
		var closed wsutil.ClosedError
		if !errors.As(err, &closed) || int(closed.Code) != status || !strings.Contains(closed.Reason, reason) {
			c.t.Fatalf("got %.120q, %v; want close %d %s", got, err, status, reason)
		}
		return
	}
}

// connected reads the hello and returns the session id.
func (c *client) connected(rooms ...string) string {
	c.t.Helper()
	text, err := c.next()
	if err != nil {
		c.t.Fatal(err)
	}
	var hello struct {
		Connected struct {
			Session, Node string
			Rooms         []struct{ Room string }
		}
	}
	if err := json.Unmarshal([]byte(text), &hello); err != nil || hello.Connected.Session == "" {
		c.t.Fatalf("not a connected: %s (%v)", text, err)
	}
	var got []string
	for _, r := range hello.Connected.Rooms {
		got = append(got, r.Room)
	}
	if fmt.Sprint(got) != fmt.Sprint(rooms) {
		c.t.Fatalf("connected to %v, want %v", got, rooms)
	}
	return hello.Connected.Session
}

// rawRequest sends raw bytes and returns the response's status and body.
func rawRequest(t testing.TB, addr, raw string) (int, string, http.Header) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body), r.Header
}

func get(t testing.TB, e *Edge, path string, header ...string) (int, string, http.Header) {
	t.Helper()
	raw := "GET " + path + " HTTP/1.1\r\nHost: " + e.Addr() + "\r\n"
	for _, h := range header {
		raw += h + "\r\n"
	}
	return rawRequest(t, e.Addr(), raw+"\r\n")
}

// refusals counts the refusals of an edge with this code.
func (e *Edge) refusals(code string) (n uint64) {
	for _, w := range e.workers {
		w.counts.Refusals.Each(func(c string, k uint64) {
			if c == code {
				n += k
			}
		})
	}
	return n
}

func (e *Edge) closes(code string) (n uint64) {
	for _, w := range e.workers {
		w.counts.Closes.Each(func(c string, k uint64) {
			if c == code {
				n += k
			}
		})
	}
	return n
}
