package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"nabat/internal/natsdev"
)

// foreign is a server that speaks a protocol other than Nabat's: over WebSocket
// and, where another path is asked for, over HTTP.
type foreign struct {
	url     string
	wrap    func(room, message string) string // what members get
	mu      sync.Mutex                        // guards members
	members map[string][]io.Writer
	posts   map[string]int // by Authorization
}

// newForeign serves each WebSocket connection with speak, until that returns.
func newForeign(t *testing.T, speak func(*foreign, net.Conn, *http.Request) error, post http.HandlerFunc) *foreign {
	t.Helper()
	f := &foreign{members: make(map[string][]io.Writer), posts: make(map[string]int)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			post(w, r)
			return
		}
		upgrader := ws.HTTPUpgrader{Protocol: func(name string) bool { return name == "actioncable-v1-json" }}
		conn, _, _, err := upgrader.Upgrade(r, w)
		if err != nil {
			return
		}
		defer conn.Close()
		_ = speak(f, conn, r) // a client that is closed says why
	}))
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

func (f *foreign) join(room string, member io.Writer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.members[room] = append(f.members[room], member)
}

// leave forgets a member that must not be written to any more.
func (f *foreign) leave(member io.Writer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for room, members := range f.members {
		f.members[room] = slices.DeleteFunc(members, func(one io.Writer) bool { return one == member })
	}
}

// publish sends what wrap makes of a message to the members of a room.
func (f *foreign) publish(room, message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, member := range f.members[room] {
		_, _ = io.WriteString(member, f.wrap(room, message)) // one that is gone misses it
	}
}

// texts writes text frames; whole ones, whoever else writes.
type texts struct{ net.Conn }

func (c texts) Write(text []byte) (int, error) {
	frame, err := ws.CompileFrame(ws.NewTextFrame(text))
	if err != nil {
		return 0, err
	}
	if _, err := c.Conn.Write(frame); err != nil {
		return 0, err
	}
	return len(text), nil
}

func (c texts) say(text string) error {
	_, err := io.WriteString(c, text)
	return err
}

// expect reads a message, which must begin so, and returns the rest of it.
func (c texts) expect(beginning string) (string, error) {
	text, err := wsutil.ReadClientText(c.Conn)
	if err != nil {
		return "", err
	}
	rest, found := strings.CutPrefix(string(text), beginning)
	if !found {
		_ = c.say("too early, or wrong: " + string(text))
		return "", errors.New("unexpected")
	}
	return rest, nil
}

// speakSocketIO closes a client that does not wait for its turn: the answer to
// a ping comes first.
func speakSocketIO(f *foreign, conn net.Conn, r *http.Request) error {
	c := texts{conn}
	if r.URL.Path != "/socket.io/" || r.URL.RawQuery != "EIO=4&transport=websocket" {
		return errors.New("no Engine.IO 4")
	}
	var joins string
	for _, turn := range []struct{ say, expect string }{
		{"2", "3"}, {`0{"sid":"a","upgrades":[],"pingInterval":25000}`, "40"},
		{"2", "3"}, {`42["welcome",{}]`, ""}, {`40{"sid":"b"}`, `420["join",`},
	} {
		if err := c.say(turn.say); err != nil {
			return err
		}
		if turn.expect == "" {
			continue
		}
		var err error
		if joins, err = c.expect(turn.expect); err != nil {
			return err
		}
	}
	var rooms []string
	if err := json.Unmarshal([]byte(strings.TrimSuffix(joins, "]")), &rooms); err != nil {
		return err
	}
	if err := c.say("430[]"); err != nil {
		return err
	}
	for _, room := range rooms {
		f.join(room, c)
	}
	_, err := c.expect("nothing more")
	return err
}

// speakActionCable confirms each subscription, but for rooms that end in 1 when
// the URL says so.
func speakActionCable(f *foreign, conn net.Conn, r *http.Request) error {
	c := texts{conn}
	if r.URL.Path != "/cable" || r.Header.Get("Sec-WebSocket-Protocol") != "actioncable-v1-json" {
		return errors.New("no Action Cable")
	}
	for _, text := range []string{`{"type":"welcome"}`, `{"type":"ping","message":1}`} {
		if err := c.say(text); err != nil {
			return err
		}
	}
	for {
		text, err := c.expect("")
		if err != nil {
			return err
		}
		var command struct{ Command, Identifier string }
		var stream struct {
			Channel string
			Name    string `json:"stream_name"`
		}
		if err := errors.Join(json.Unmarshal([]byte(text), &command), json.Unmarshal([]byte(command.Identifier), &stream)); err != nil || command.Command != "subscribe" || stream.Channel != "$pubsub" {
			return fmt.Errorf("%s: %w", text, err)
		}
		verdict := "confirm_subscription"
		if r.URL.RawQuery == "strict" && strings.HasSuffix(stream.Name, "1") {
			verdict = "reject_subscription"
		}
		if err := c.say(fmt.Sprintf(`{"identifier":%q,"type":%q}`, command.Identifier, verdict)); err != nil {
			return err
		}
		f.join(stream.Name, c)
	}
}

func actionCable(room, message string) string {
	return fmt.Sprintf(`{"identifier":"{\"channel\":\"$pubsub\",\"stream_name\":\"%s\"}","message":%s}`, room, message)
}

// speakCentrifugo answers all subscriptions of a frame in a frame each.
func speakCentrifugo(f *foreign, conn net.Conn, _ *http.Request) error {
	c := texts{conn}
	commands, err := c.expect(`{"id":1,"connect":{}}` + "\n")
	if err != nil {
		return err
	}
	if err := errors.Join(c.say(`{"id":1,"connect":{"client":"a","ping":25}}`), c.say("{}")); err != nil {
		return err
	}
	for line := range strings.Lines(commands) {
		var command struct {
			ID        int
			Subscribe struct{ Channel string }
		}
		if err := json.Unmarshal([]byte(line), &command); err != nil {
			return err
		}
		if err := c.say(fmt.Sprintf(`{"id":%d,"subscribe":{}}`, command.ID)); err != nil {
			return err
		}
		f.join(command.Subscribe.Channel, c)
	}
	if _, err := c.expect("{}"); err != nil {
		return err
	}
	_, err = c.expect("nothing more")
	return err
}

// takePosts publishes what is posted as {"ROOM": name, "data": message}.
func (f *foreign) takePosts(key string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.posts[r.Header.Get("Authorization")]++
		f.mu.Unlock()
		var body map[string]json.RawMessage
		var room string
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || json.Unmarshal(body[key], &room) != nil || r.Header.Get("Content-Type") != "application/json" {
			http.Error(w, "no message", http.StatusBadRequest)
			return
		}
		data := string(body["data"])
		if text := ""; json.Unmarshal(body["data"], &text) == nil {
			data = text
		}
		f.publish(room, data)
	}
}

const small = " --no-floor --rounds 1 --round 50ms"

// must runs loadtest and wants a report without a fault.
func must(t *testing.T, args string) {
	t.Helper()
	code, stdout, stderr := loadtest(t, strings.Fields(args+small)...)
	if code != 0 || strings.Contains(stdout, "FAULT") || !strings.Contains(stdout, "deliveries") {
		t.Errorf("%s: code %d, %s\n%s", args, code, stderr, stdout)
	}
}

func TestDialectsAgainstServersThatSpeakThem(t *testing.T) {
	tests := []struct {
		dialect string
		speak   func(*foreign, net.Conn, *http.Request) error
		wrap    func(room, message string) string
		key     string // of the room in what is posted
	}{
		{"socketio", speakSocketIO, func(_, message string) string { return `42["message",` + message + `]` }, "room"},
		{"anycable", speakActionCable, actionCable, "stream"},
		{"plain", func(f *foreign, conn net.Conn, r *http.Request) error {
			for _, room := range r.URL.Query()["room"] {
				f.join(room, texts{conn})
			}
			_, err := texts{conn}.expect("nothing more")
			return err
		}, func(_, message string) string { return message }, "room"},
		{"centrifugo", speakCentrifugo, func(room, message string) string {
			return fmt.Sprintf(`{"push":{"channel":%q,"pub":{"data":%s}}}`, room, message)
		}, "channel"},
	}
	for _, test := range tests {
		t.Run(test.dialect, func(t *testing.T) {
			var f *foreign
			f = newForeign(t, test.speak, func(w http.ResponseWriter, r *http.Request) { f.takePosts(test.key)(w, r) })
			f.wrap = test.wrap
			code, stdout, stderr := loadtest(t, append(strings.Fields("rooms --clients 8 --rooms 4 --rooms-each 2 --rate 0 --target "+f.url+" --dialect "+test.dialect+" --publish-url "+f.url+"/publish"+small),
				"--publish-header", "Authorization: Bearer key")...)
			if code != 0 || strings.Contains(stdout, "FAULT") || !strings.Contains(stdout, "deliveries") || test.dialect != "plain" && !strings.Contains(stdout, test.dialect) {
				t.Errorf("code %d, %s\n%s", code, stderr, stdout)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if len(f.posts) != 1 || f.posts["Bearer key"] == 0 {
				t.Errorf("posts with %v", f.posts)
			}
		})
	}
}

func TestAnyCableReadsAllRoomsFromOneSubject(t *testing.T) {
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	conn, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	f := newForeign(t, speakActionCable, http.NotFound)
	f.wrap = actionCable
	if _, err := conn.Subscribe("__anycable__", func(m *nats.Msg) {
		var told struct{ Stream, Data string }
		if json.Unmarshal(m.Data, &told) == nil {
			f.publish(told.Stream, told.Data)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	must(t, "rooms --clients 8 --rooms 4 --rooms-each 2 --rate 0 --dialect anycable --target "+f.url+" --nats "+server.URL())
	code, _, stderr := loadtest(t, strings.Fields("idle --no-floor --connections 4 --settle 1s --dialect anycable --target "+f.url+"/cable?strict")...)
	if code != 1 || !strings.Contains(stderr, `the target refuses: "{\"identifier\"`) || !strings.Contains(stderr, "reject_subscription") {
		t.Errorf("rejected subscriptions: code %d, %s", code, stderr)
	}
}

func TestNATSDialectAgainstNATS(t *testing.T) {
	server, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoLog: true, NoSigs: true,
		Websocket: natsserver.WebsocketOpts{Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoTLS: true}})
	if err != nil {
		t.Fatal(err)
	}
	server.Start()
	t.Cleanup(server.Shutdown)
	ports := server.PortsInfo(10 * time.Second)
	if ports == nil {
		t.Fatal("nats-server tells no ports")
	}
	must(t, "fanout --members 10 --dialect nats --target "+ports.WebSocket[0]+" --subject-prefix other. --nats "+ports.Nats[0])
}

func TestMercureOverHTTP(t *testing.T) {
	f := &foreign{members: make(map[string][]io.Writer), wrap: func(_, message string) string { return "data: " + message + "\n\n" }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/.well-known/mercure":
			http.NotFound(w, r)
		case r.Method == http.MethodPost:
			f.publish(r.PostFormValue("topic"), r.PostFormValue("data"))
		default:
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(http.StatusOK)
			flushed := flusher{w, http.NewResponseController(w)}
			_ = flushed.to.Flush()
			defer f.leave(flushed)
			for _, topic := range r.URL.Query()["topic"] {
				f.join(topic, flushed)
			}
			<-r.Context().Done()
		}
	}))
	t.Cleanup(server.Close)
	must(t, "rooms --clients 8 --rooms 4 --rooms-each 2 --rate 0 --dialect mercure --target "+server.URL+" --publish-url "+server.URL+"/.well-known/mercure")
}

// flusher sends at once what is written.
type flusher struct {
	io.Writer
	to *http.ResponseController
}

func (f flusher) Write(text []byte) (int, error) {
	n, err := f.Writer.Write(text)
	return n, errors.Join(err, f.to.Flush())
}

func TestTargetsOfAnotherDialect(t *testing.T) {
	var f *foreign
	f = newForeign(t, speakActionCable, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			http.Error(w, "no key", http.StatusUnauthorized)
			return
		}
		f.takePosts("room")(w, r)
	})
	refused := newForeign(t, func(_ *foreign, conn net.Conn, _ *http.Request) error {
		c := texts{conn}
		if err := c.say(`0{"sid":"a"}`); err != nil {
			return err
		}
		if _, err := c.expect("40"); err != nil {
			return err
		}
		_ = c.say(`44{"message":"not authorized"}`)
		_, err := c.expect("nothing more")
		return err
	}, http.NotFound)
	tests := []struct{ name, args, want string }{
		{"a server that refuses the namespace", "idle --connections 3 --dialect socketio --target " + refused.url, `the target refuses: "44{\"message\":\"not authorized\"}"`},
		{"Socket.IO where Action Cable is", "idle --connections 3 --dialect socketio --target " + f.url, "closed the connection after 101"},
		{"a server that says something else", "idle --connections 3 --timeout 200ms --dialect centrifugo --target " + f.url + "/cable", "3 of 3 connections failed"},
		{"events where WebSocket is", "idle --connections 3 --dialect mercure --target " + f.url, "HTTP 400 Bad Request, not 200 OK"},
		{"a POST that is refused", "fanout --members 3 --dialect anycable --target " + f.url + " --publish-url " + f.url + "/_broadcast", "/_broadcast answered 401 Unauthorized: no key"},
		{"a POST to nobody", "fanout --members 3 --dialect anycable --target " + f.url + " --publish-url http://127.0.0.1:1", "publish: Post \"http://127.0.0.1:1\": dial tcp 127.0.0.1:1: connect: connection refused"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := loadtest(t, strings.Fields(test.args+" --no-floor")...)
			if code != 1 || stdout != "" || !strings.Contains(stderr, test.want) {
				t.Errorf("code %d, %q, want 1 and %q", code, stderr, test.want)
			}
		})
	}
}

func TestDialectFlags(t *testing.T) {
	const plain = " --target ws://127.0.0.1:1"
	tests := []struct{ args, want string }{
		{"idle --dialect socketio", "--dialect goes with --target, which is missing"},
		{"idle --publish-url http://127.0.0.1:1", "--publish-url goes with --target, which is missing"},
		{"idle --dialect stomp" + plain, `--dialect "stomp": choose from plain, nats, centrifugo, mercure, anycable, socketio`},
		{"idle --dialect nats --greeting x" + plain, "--greeting is for --dialect plain: nats has its own"},
		{"idle --dialect anycable --subject-prefix x" + plain, "--subject-prefix: anycable takes the messages of all rooms from the subject __anycable__"},
		{"fanout --dialect anycable" + plain, "--target needs --nats, the NATS server to which messages are published, or --publish-url"},
		{"fanout --nats nats://127.0.0.1:1 --publish-url http://127.0.0.1:1" + plain, "two ways to publish"},
		{"idle --publish-header A:b" + plain, "--publish-header goes with --publish-url, which is missing"},
		{"idle --publish-body {data}" + plain, "--publish-body goes with --nats or --publish-url, which are missing"},
		{"fanout --publish-url 127.0.0.1:1" + plain, "must be http:// or https:// with a host"},
		{"fanout --publish-url ftp://127.0.0.1" + plain, "must be http:// or https:// with a host"},
		{"fanout --publish-url http://127.0.0.1:1 --publish-header secret" + plain, `--publish-header "secret": write 'Name: value'`},
		{"fanout --publish-url http://127.0.0.1:1 --publish-body {room}" + plain, "has no place for the message"},
		{"fanout --dialect nats --publish-url http://127.0.0.1:1" + plain, "servers of the dialect nats take no messages by HTTP"},
		{"mixed --dialect centrifugo" + plain, "only servers that speak Nabat's protocol can chat"},
		{"storm --dialect centrifugo", "there is no flag --dialect"},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			code, stdout, stderr := loadtest(t, strings.Fields(test.args)...)
			if code != 2 || stdout != "" || !strings.Contains(stderr, test.want) || !strings.Contains(stderr, "--help") {
				t.Errorf("code %d, %q, want 2 and %q", code, stderr, test.want)
			}
		})
	}
}
