package edge

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"nabat/proto/clientpb"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

// speaker is a client of nabat.v1.proto, which it speaks by generated code.
type speaker struct {
	*client
	batch  bool
	queue  []*clientpb.Object
	frames int // read
}

func speak(t testing.TB, e *Edge, path string) *speaker {
	t.Helper()
	return &speaker{client: dial(t, e, path, protocolProto), batch: strings.Contains(path, "batch=1")}
}

// command sends commands, all of them in one frame where that is allowed.
func (s *speaker) command(list ...*clientpb.Command) {
	s.t.Helper()
	var frame []byte
	for _, c := range list {
		b, err := proto.Marshal(c)
		if err != nil {
			s.t.Fatal(err)
		}
		if s.batch {
			frame = wire.Protobuf.AppendBatched(frame, b, len(frame) == 0)
			continue
		}
		s.raw(b)
	}
	if s.batch {
		s.raw(frame)
	}
}

func (s *speaker) raw(frame []byte) {
	s.t.Helper()
	if err := wsutil.WriteClientBinary(s.conn, frame); err != nil {
		s.t.Fatal(err)
	}
}

func (s *speaker) object() *clientpb.Object {
	s.t.Helper()
	for len(s.queue) == 0 {
		_ = s.conn.SetReadDeadline(time.Now().Add(patience))
		frame, op, err := wsutil.ReadServerData(struct {
			io.Reader
			io.Writer
		}{s.r, s.conn})
		if err != nil || op != ws.OpBinary {
			s.t.Fatalf("%v frame %.100q, %v", op, frame, err)
		}
		s.frames++
		take := func(b []byte) bool {
			o := new(clientpb.Object)
			if err := proto.Unmarshal(b, o); err != nil || len(o.ProtoReflect().GetUnknown()) > 0 {
				s.t.Fatalf("%x: %v, %v", b, o, err)
			}
			s.queue = append(s.queue, o)
			return true
		}
		if !s.batch {
			take(frame)
		} else if err := wire.Protobuf.Split(frame, take); err != nil {
			s.t.Fatalf("%x: %v", frame, err)
		}
	}
	o := s.queue[0]
	s.queue = s.queue[1:]
	return o
}

// expect holds the next object against Protobuf's text form.
func (s *speaker) expect(text string) {
	s.t.Helper()
	want := new(clientpb.Object)
	if err := prototext.Unmarshal([]byte(text), want); err != nil {
		s.t.Fatal(err)
	}
	if got := s.object(); !proto.Equal(got, want) {
		s.t.Fatalf("got  %v\nwant %v", got, want)
	}
}

func (s *speaker) hello() *clientpb.Connected {
	s.t.Helper()
	o := s.object()
	if o.GetConnected() == nil {
		s.t.Fatalf("not a connected: %v", o)
	}
	return o.GetConnected()
}

func say(t testing.TB, text string) *clientpb.Command {
	t.Helper()
	c := new(clientpb.Command)
	if err := prototext.Unmarshal([]byte(text), c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheClientsFirstSubprotocolWins(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	for _, p := range []struct {
		offered  []string
		selected string
	}{
		{nil, ""},
		{[]string{"nabat.v1.json", "nabat.v1.proto"}, "nabat.v1.json"},
		{[]string{"nabat.v1.proto", "nabat.v1.json"}, "nabat.v1.proto"},
		{[]string{"mqtt", "nabat.v1.proto"}, "nabat.v1.proto"},
	} {
		d := ws.Dialer{Timeout: patience, Protocols: p.offered}
		conn, _, h, err := d.Dial(context.Background(), "ws://"+e.Addr()+"/ws?room=a")
		if err != nil || h.Protocol != p.selected {
			t.Errorf("%v: %q, %v", p.offered, h.Protocol, err)
			continue
		}
		_ = conn.Close()
	}
}

func TestCommandsInProtobuf(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	for _, path := range []string{"/ws", "/ws?batch=1"} {
		t.Run(path, func(t *testing.T) {
			s := speak(t, e, path)
			s.command(say(t, `id: 1 subscribe {rooms {room: "a"}}`))
			s.expect(`id: 1 error {code: "not_connected" reason: "send connect first"}`)
			// What is sent before connect is answered waits for it.
			s.command(say(t, `id: 0 connect {rooms {room: "a"}}`), say(t, `id: 3 subscribe {rooms {room: "b"}}`))
			if o := s.object(); o.Id == nil || *o.Id != 0 || o.GetConnected().GetNode() != "edge-0" || o.GetConnected().Rooms[0].Room != "a" {
				t.Fatal(o)
			}
			s.expect(`id: 3 subscribed {rooms {room: "b"}}`)
			s.command(say(t, `id: 4 ping {}`), say(t, `id: 5 publish {room: "a" json: "{ \"x\": 1 }" event: "e"}`))
			s.expect(`id: 4 pong {}`)
			s.either(`id: 5 published {room: "a"}`, `message {room: "a" json: "{\"x\":1}" event: "e"}`)
			s.command(say(t, `id: 6 publish {room: "b" binary: "\000\377"}`))
			s.either(`id: 6 published {room: "b"}`, `message {room: "b" binary: "\000\377"}`)
			s.command(say(t, `id: 7 publish {room: "b" text: ""}`))
			s.either(`id: 7 published {room: "b"}`, `message {room: "b" text: ""}`)
			s.command(say(t, `id: 8 unsubscribe {rooms: "b"}`), say(t, `id: 9 unsubscribe {rooms: "b"}`), say(t, `id: 10 history {room: "a"}`),
				say(t, `id: 11 presence {}`), say(t, `id: 12 connect {}`), say(t, `id: 13 subscribe {rooms {room: "a..b"}}`), say(t, `id: 14 auth {token: "x"}`))
			s.expect(`id: 8 unsubscribed {rooms: "b"}`)
			for id, code := range []wire.Code{9: wire.NotSubscribed, 10: wire.NoHistory, 11: wire.BadRoom, 12: wire.AlreadyConnected, 13: wire.BadRoom, 14: wire.TokenMalformed} {
				if code == "" {
					continue
				}
				if o := s.object(); o.GetError().GetCode() != string(code) || o.GetId() != uint64(id) {
					t.Fatalf("got %v, want %d %s", o, id, code)
				}
			}
		})
	}
}

// either reads two objects that come in either order.
func (s *speaker) either(first, second string) {
	s.t.Helper()
	var got, want []string
	for _, text := range []string{first, second} {
		o := new(clientpb.Object)
		if err := prototext.Unmarshal([]byte(text), o); err != nil {
			s.t.Fatal(err)
		}
		want = append(want, prototext.Format(o))
		got = append(got, prototext.Format(s.object()))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.t.Fatalf("got  %s\nwant %s", got, want)
	}
}

func TestFramesOfTheOtherKindAreRefused(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	s := speak(t, e, "/ws?room=a")
	s.hello()
	s.send(`{"ping":{}}`)
	s.wantClose(1003, "nabat.v1.proto takes binary frames")
	j := dial(t, e, "/ws?room=a&batch=1")
	j.connected("a")
	if err := wsutil.WriteClientBinary(j.conn, []byte{0}); err != nil {
		t.Fatal(err)
	}
	j.wantClose(1003, "nabat.v1.json takes text frames")
	if e.closes("text_frame") != 1 || e.closes("binary_frame") != 1 {
		t.Error("not counted")
	}
}

func TestBadCommandsInProtobufCloseTheConnection(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.MaxBadCommands = 3 })
	s := speak(t, e, "/ws?room=a&batch=1")
	s.hello()
	s.raw([]byte{0x02, 0x08, 0x07, 0x04, 0x08}) // an id without a verb, and an object that is cut
	if o := s.object(); o.GetId() != 7 || o.GetError().GetCode() != "bad_command" {
		t.Fatal(o)
	}
	s.expect(`error {code: "bad_command" reason: "the frame ends within an object or its length"}`)
	s.raw([]byte{0x01, 0xff, 0x02, 0x52, 0x00}) // the third closes; the ping behind it is not read
	if o := s.object(); o.GetError().GetCode() != "bad_command" {
		t.Fatal(o)
	}
	s.wantClose(4010, `{"code":"protocol","retry_ms":0}`)
}

func TestSeveralCommandsInALinedFrame(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	j := dial(t, e, "/ws?room=a&batch=1")
	j.connected("a")
	j.send("{\"id\":1,\"ping\":{}}\n\n{\"id\":2,\"nonsense\":{}}\r\n{\"id\":3,\"subscribe\":{\"rooms\":[{\"room\":\"b\"}]}}\n")
	j.want(`{"id":1,"pong":{}}`)
	j.want(`{"id":2,"error":{"code":"unknown_command","reason":"there is no verb \"nonsense\"","retry_ms":0}}`)
	j.want(`{"id":3,"subscribed":{"rooms":[{"room":"b"}]}}`)
	j.send("\n")
	j.want(`{"error":{"code":"bad_command","reason":"the frame holds no object","retry_ms":0}}`)
	// Without batch=1 a frame is one object.
	one := dial(t, e, "/ws?room=a&batch=0")
	one.connected("a")
	one.send("{\"id\":1,\"ping\":{}}\n{\"id\":2,\"ping\":{}}")
	one.want(`{"id":1,"error":{"code":"bad_command","reason":"a frame holds one JSON object: there is more behind it","retry_ms":0}}`)
}

// Everybody in a room gets the same messages, each in their own form.
func TestARoomOfAllEncodings(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	one, batched := speak(t, e, "/ws?room=a"), speak(t, e, "/ws?room=a&batch=1")
	one.hello()
	batched.hello()
	j := dial(t, e, "/ws?room=a")
	j.connected("a")
	lines := dial(t, e, "/ws?room=a&batch=1")
	lines.connected("a")
	events := dialEvents(t, e, "/sse?room=a")
	const n = 2000
	for i := range n {
		if err := c.nc.PublishMsg(&nats.Msg{Subject: "room.a", Data: fmt.Appendf(nil, `{"n": %d}`, i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	var waiting []string
	frames := 0
	nextLine := func() string {
		for len(waiting) == 0 {
			text, err := lines.next()
			if err != nil {
				t.Fatal(err)
			}
			frames++
			waiting = strings.Split(text, "\n")
		}
		line := waiting[0]
		waiting = waiting[1:]
		return line
	}
	for i := range n {
		text := fmt.Sprintf(`message {room: "a" json: "{\"n\":%d}"}`, i)
		one.expect(text)
		batched.expect(text)
		want := fmt.Sprintf(`{"room":"a","data":{"n":%d}}`, i)
		j.want(want)
		if got := nextLine(); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
		if got := events(); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	if one.frames != n+1 || batched.frames > n/2 || frames > n/2 {
		t.Errorf("%d messages in %d frames, %d binary batches, %d text batches", n, one.frames, batched.frames, frames)
	}
}

// dialEvents opens an event stream and returns what reads its data lines.
func dialEvents(t *testing.T, e *Edge, path string) func() string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", e.Addr(), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: "+e.Addr()+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	next := func() string {
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				return strings.TrimSuffix(data, "\n")
			}
		}
	}
	if hello := next(); !strings.HasPrefix(hello, `{"connected"`) {
		t.Fatal(hello)
	}
	return next
}

func TestResumeInProtobuf(t *testing.T) {
	c := newHistory(t, kept100())
	e := c.readyForHistory(c.edge(nil))
	for n := range 5 {
		c.store("a", fmt.Sprint(n)) // offsets 1 to 5
	}
	c.mirrored(5)
	for _, path := range []string{"/ws", "/ws?batch=1"} {
		s := speak(t, e, path)
		s.command(say(t, `id: 1 connect {rooms {room: "a" epoch: "k1" offset: 2}}`))
		want := position(t, `room: "a" epoch: "k1" offset: 2 recovered: true`)
		if rooms := s.hello().Rooms; len(rooms) != 1 || !proto.Equal(rooms[0], want) {
			t.Fatalf("got %v, want %v", rooms, want)
		}
		for n := 2; n < 5; n++ {
			s.expect(fmt.Sprintf(`message {room: "a" offset: %d json: "%d"}`, n+1, n))
		}
		s.command(say(t, `id: 2 history {room: "a" after: 0 limit: 1}`))
		s.expect(`id: 2 history {room: "a" epoch: "k1" messages {room: "a" offset: 1 json: "0"} more: true}`)
	}
}

func position(t testing.TB, text string) *clientpb.Position {
	t.Helper()
	p := new(clientpb.Position)
	if err := prototext.Unmarshal([]byte(text), p); err != nil {
		t.Fatal(err)
	}
	return p
}
