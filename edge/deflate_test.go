package edge

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/httphead"
	"github.com/gobwas/ws"

	"nabat/internal/bus"
	"nabat/proto/policy"
)

// deflating is a client that negotiated compression. It reads frames itself, to
// see which of them are compressed.
type deflating struct {
	t    *testing.T
	conn net.Conn
	r    io.Reader
}

func dialDeflate(t *testing.T, e *Edge, path string) *deflating {
	t.Helper()
	d := ws.Dialer{Timeout: patience, Extensions: []httphead.Option{httphead.NewOption("permessage-deflate", map[string]string{"client_max_window_bits": ""})}}
	conn, br, hs, err := d.Dial(context.Background(), "ws://"+e.Addr()+path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if len(hs.Extensions) != 1 || string(hs.Extensions[0].Name) != "permessage-deflate" {
		t.Fatalf("negotiated %v", hs.Extensions)
	}
	c := &deflating{t: t, conn: conn, r: conn}
	if br != nil {
		c.r = br
	}
	return c
}

// next returns the next frame, inflated, and whether it was compressed.
func (c *deflating) next() (text string, compressed bool) {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	h, err := ws.ReadHeader(c.r)
	if err != nil {
		c.t.Fatal(err)
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(c.r, payload); err != nil {
		c.t.Fatal(err)
	}
	if !h.Rsv1() {
		return string(payload), false
	}
	b, err := io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(payload), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b), true
}

func (c *deflating) want(text string, compressed bool) {
	c.t.Helper()
	if got, z := c.next(); got != text || z != compressed {
		c.t.Fatalf("got  %.200s, compressed %v\nwant %.200s, compressed %v", got, z, text, compressed)
	}
}

// send compresses as a client does.
func (c *deflating) send(text string) {
	c.t.Helper()
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, 6)
	_, _ = io.WriteString(w, text)
	_ = w.Flush()
	f := ws.NewTextFrame(bytes.TrimSuffix(b.Bytes(), []byte("\x00\x00\xff\xff")))
	f.Header.Rsv = ws.Rsv(true, false, false)
	if err := ws.WriteFrame(c.conn, ws.MaskFrameInPlace(f)); err != nil {
		c.t.Fatal(err)
	}
}

func compressing(cfg *Config) { cfg.Compression = "on" }

func compressed(room, body string) string { return fmt.Sprintf(`{"room":%q,"data":%s}`, room, body) }

func TestMessagesAreCompressedByPolicy(t *testing.T) {
	open := policy.Anonymous{Subscribe: true, Publish: true}
	c := newCluster(t, &policy.Set{Rooms: []policy.Policy{
		{Match: "small.>", Anonymous: open, Publish: true, Compress: true}, {Match: ">", Anonymous: open, Publish: true}}})
	e := c.edge(compressing)
	long := `"` + strings.Repeat("nabat ", 100) + `"`
	const rooms = "/ws?room=small.a&room=plain.a"
	z, again, plain := dialDeflate(t, e, rooms), dialDeflate(t, e, rooms), dial(t, e, rooms)
	for _, one := range []*deflating{z, again} {
		if hello, is := one.next(); !strings.HasPrefix(hello, `{"connected":`) || is {
			t.Fatalf("%s %v", hello, is)
		}
	}
	plain.connected("small.a", "plain.a")
	say := func(room, body string, compress bool) {
		t.Helper()
		c.publish(room, body, nil)
		z.want(compressed(room, body), compress)
		again.want(compressed(room, body), compress)
		plain.want(compressed(room, body)) // who negotiated nothing gets plain frames
	}
	say("small.a", long, true)
	say("small.a", "1", false)  // below compress_min_bytes
	say("plain.a", long, false) // no compress in the policy
	n := e.Compression()
	before := uint64(len(compressed("small.a", long)))
	if n.Messages != 1 || n.Before != before || n.After == 0 || n.After > before/4 {
		t.Errorf("%+v", n)
	}

	// A client publishes compressed, and is answered.
	z.send(fmt.Sprintf(`{"id":1,"publish":{"room":"plain.a","data":%s}}`, long))
	plain.wantPrefix(compressed("plain.a", long)[:40])
	seen := map[bool]bool{}
	for range 2 { // the answer, and the message
		got, is := z.next()
		if is {
			t.Errorf("compressed: %s", got)
		}
		seen[strings.HasPrefix(got, `{"id":1,"published":`)] = true
	}
	if !seen[true] || !seen[false] {
		t.Errorf("%v", seen)
	}
	_, _ = again.next()

	// The policy changes while clients are in the room.
	c.put(bus.BucketConfig, bus.KeyPolicies, (&policy.Set{Version: 2, Rooms: []policy.Policy{{Match: ">", Anonymous: open, Publish: true, Compress: true}}}).Encode())
	until(t, "messages of the other room are compressed", func() bool {
		c.publish("plain.a", long, nil)
		got, is := z.next()
		if got != compressed("plain.a", long) {
			t.Fatal(got)
		}
		return is
	})
}

func TestCompressionIsOffByDefault(t *testing.T) {
	c := newCluster(t, &policy.Set{Rooms: []policy.Policy{{Match: ">", Anonymous: policy.Anonymous{Subscribe: true}, Compress: true}}})
	e := c.edge(nil)
	for _, path := range []string{"/ws?room=a", "/echo"} {
		_, _, header := get(t, e, path, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Extensions: permessage-deflate")
		if header.Get("Sec-WebSocket-Accept") == "" || header.Get("Sec-WebSocket-Extensions") != "" {
			t.Errorf("%s: %v", path, header)
		}
	}
	if n := e.Compression(); n.Messages != 0 {
		t.Errorf("%+v", n)
	}
}

// max_message_bytes bounds what a message inflates to.
func TestABombClosesItsConnection(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(compressing)
	z := dialDeflate(t, e, "/ws?room=a")
	z.next()
	z.send(`{"publish":{"room":"a","data":"` + strings.Repeat("*", 64<<10) + `"}}`)
	if got, _ := z.next(); !strings.HasPrefix(got, "\x03\xf1") {
		t.Fatalf("%q", got)
	}
	until(t, "the close is counted", func() bool { return e.closes("violation_too_large") == 1 })
	echo := dialDeflate(t, e, "/echo")
	body := strings.Repeat("nabat ", 50_000)
	echo.send(body)
	echo.want(body, true)
}

// Rooms with history are compressed likewise.
func TestStoredMessagesAreCompressed(t *testing.T) {
	c := newHistory(t, kept100())
	c.set.Version, c.set.Rooms[0].Compress = 3, true
	c.put(bus.BucketConfig, bus.KeyPolicies, c.set.Encode())
	e := c.readyForHistory(c.edge(compressing))
	z := dialDeflate(t, e, "/ws?room=a")
	z.next()
	body, err := json.Marshal(strings.Repeat("nabat ", 100))
	if err != nil {
		t.Fatal(err)
	}
	c.store("a", string(body))
	if got, is := z.next(); !is || !strings.HasPrefix(got, `{"room":"a","offset":1,"data":"nabat nabat `) {
		t.Errorf("compressed %v: %.200s", is, got)
	}
}
