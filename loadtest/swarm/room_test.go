package swarm

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"nabat/loadtest/certificate"
)

func TestRoomsAreSharedOutEvenly(t *testing.T) {
	for _, s := range []Spread{{}, {Rooms: 3, Each: 3}, {First: 7, Rooms: 100, Each: 10}, {Rooms: 10, Each: 3}, {Rooms: 2, Each: 5}} {
		s = s.complete()
		members := make(map[int]int)
		for client := range 3 * s.Rooms {
			seen := make(map[int]bool)
			for slot := range s.Each {
				room := s.room(client, slot)
				if seen[room] || room < s.First || room >= s.First+s.Rooms {
					t.Fatalf("%+v: client %d is in room %d", s, client, room)
				}
				seen[room] = true
				members[room]++
				if got := s.slot(client, room); got != slot {
					t.Errorf("%+v: client %d finds room %d at %d, not %d", s, client, room, got, slot)
				}
			}
			for room := s.First - 1; room <= s.First+s.Rooms; room++ {
				if !seen[room] && s.slot(client, room) >= 0 {
					t.Errorf("%+v: client %d finds room %d, where it is not", s, client, room)
				}
			}
		}
		for room, n := range members {
			if n != 3*s.Each {
				t.Errorf("%+v: room %d has %d members", s, room, n)
			}
		}
	}
}

func TestTemplatesNameEachRoom(t *testing.T) {
	s := Spread{First: 4, Rooms: 10, Each: 2}
	for template, want := range map[string]string{
		"/ws":                                 "/ws",
		"/ws?<<room={room}|&>>&v=1":           "/ws?room=loadtest.5&room=loadtest.10&v=1",
		`{"rooms":[<<{"room":"{room}"}|,>>]}`: `{"rooms":[{"room":"loadtest.5"},{"room":"loadtest.10"}]}`,
		"CONNECT {}\r\n<<SUB room.{room} {n}\r\n>>": "CONNECT {}\r\nSUB room.loadtest.5 5\r\nSUB room.loadtest.10 10\r\n",
		"unfinished <<x": "unfinished ",
	} {
		if got := s.expand(template, 1); got != want {
			t.Errorf("%q gives %q, want %q", template, got, want)
		}
	}
}

// inRoom is message n of a room as an edge would send it.
func inRoom(run uint32, room int, n, offset uint64) []byte {
	body := AppendPayload(nil, Stamp{run, n, Now(), uint32(room)}, 128)
	return compile(ws.NewTextFrame(fmt.Appendf(nil, `{"room":%q,"offset":%d,"data":%s}`, RoomName(room), offset, body)))
}

func TestEachRoomHasItsOwnOrder(t *testing.T) {
	target := serve(t, upgrade)
	s := start(t, Options{Target: target.url(), Clients: 1, Spread: Spread{Rooms: 4, Each: 2}})
	dial(t, s)
	conn := target.accepted(t, 1)[0]
	if n, err := s.Begin(t.Context(), 1); err != nil || n != 2 {
		t.Fatalf("%d, %v", n, err)
	}
	for _, m := range []struct {
		room int
		n    uint64
	}{{0, 1}, {2, 1}, {2, 2}, {0, 2}, {1, 1}} { // the last is of a room where it is not
		write(t, conn, inRoom(1, m.room, m.n, 0))
	}
	if err := s.Wait(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	write(t, conn, inRoom(1, 2, 2, 0))
	write(t, conn, inRoom(1, 2, 4, 0))
	waitFor(t, s, func(p Progress) bool { return p.Received == 5 })
	totals, err := s.Finish(t.Context(), 4)
	if err != nil || totals.Duplicates != 1 || totals.Missing != 3 || totals.Strays != 1 || totals.Clients != 1 {
		t.Errorf("%+v, %v", totals, err)
	}
}

func TestTokensAndOpeningMessagesAreEachClientsOwn(t *testing.T) {
	got := make(chan string, 10)
	target := serve(t, func(c net.Conn) error {
		var token string
		upgrader := ws.Upgrader{OnHeader: func(key, value []byte) error {
			if string(key) == "Authorization" {
				token = string(value)
			}
			return nil
		}}
		if _, err := upgrader.Upgrade(c); err != nil {
			return err
		}
		text, err := wsutil.ReadClientText(c)
		got <- token + " " + string(text)
		if err != nil {
			return err
		}
		_, err = c.Write(append(compile(ws.NewTextFrame([]byte("hello"))), compile(ws.NewTextFrame([]byte("welcome")))...))
		return err
	})
	s := start(t, Options{Target: target.url(), Clients: 2, Workers: 2, Spread: Spread{Rooms: 2}, Tokens: []string{"t0", "t1"},
		Dialect: Dialect{Open: []string{"join <<{n}|,>>"}, Greeting: "welcome", Patient: true}})
	if p := dial(t, s); p.Connected != 2 {
		t.Fatalf("%+v", p)
	}
	both := <-got + ", " + <-got
	if !strings.Contains(both, "Bearer t0 join 0") || !strings.Contains(both, "Bearer t1 join 1") {
		t.Errorf("%s", both)
	}
	if _, err := Start(Options{Spawn: spawnTest, Target: target.url(), Clients: 2, Tokens: []string{"t0"}}); err == nil {
		t.Error("one token for two clients was taken")
	}
}

func TestPingsInWordsAreAnswered(t *testing.T) {
	target := serve(t, upgrade)
	s := start(t, Options{Target: target.url(), Clients: 1, Dialect: Dialect{Ping: "2", Pong: "3", Binary: true}})
	dial(t, s)
	conn := target.accepted(t, 1)[0]
	write(t, conn, compile(ws.NewTextFrame([]byte("2"))))
	data, code, err := wsutil.ReadClientData(conn)
	if err != nil || string(data) != "3" || code != ws.OpBinary {
		t.Errorf("%q %v, %v", data, code, err)
	}
}

func TestClientsOverTLS(t *testing.T) {
	chain, key, err := certificate.New()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	conns := make(chan net.Conn, 10)
	target := serve(t, func(c net.Conn) error {
		secure := tls.Server(c, config)
		if err := upgrade(secure); err != nil {
			return err
		}
		conns <- secure
		return nil
	})
	const clients, messages = 8, 20
	s := start(t, Options{Target: "wss" + strings.TrimPrefix(target.url(), "ws"), Clients: clients, Loops: 2})
	if p := dial(t, s); p.Connected != clients {
		t.Fatalf("%+v", p)
	}
	target.accepted(t, clients)
	if _, err := s.Begin(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for range clients {
		conn := <-conns
		for n := range uint64(messages) {
			write(t, conn, message(1, n+1))
		}
	}
	if err := s.Wait(t.Context(), messages); err != nil {
		t.Fatal(err)
	}
	if totals, err := s.Finish(t.Context(), messages); err != nil || !totals.Correct() {
		t.Errorf("%+v, %v", totals, err)
	}
}

func TestTLSThatIsNone(t *testing.T) {
	target := serve(t, answerWith("hello, this is no TLS at all"))
	s := start(t, Options{Target: "wss" + strings.TrimPrefix(target.url(), "ws"), Clients: 3})
	p := dial(t, s)
	for reason := range p.Reasons {
		if !strings.Contains(reason, "TLS:") {
			t.Errorf("reason %q", reason)
		}
	}
	if p.Failed != 3 {
		t.Errorf("%+v", p)
	}
}

func TestStalledClientsReadLater(t *testing.T) {
	target := serve(t, upgrade)
	s := start(t, Options{Target: target.url(), Clients: 4, SlowEvery: 4})
	dial(t, s)
	conns := target.accepted(t, 4)
	if err := s.Stall(true); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Begin(t.Context(), 1); err != nil || n != 3 {
		t.Fatalf("%d take part, %v", n, err)
	}
	for n := range uint64(5) {
		for _, c := range conns {
			write(t, c, message(1, n+1))
		}
	}
	if err := s.Wait(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	totals, err := s.Finish(t.Context(), 5)
	if err != nil || totals.Received != 15 || totals.Missing != 0 || totals.SlowMissing != 5 {
		t.Errorf("%+v, %v", totals, err)
	}
	if err := s.Stall(false); err != nil {
		t.Fatal(err)
	}
	for totals.SlowMissing > 0 {
		if totals, err = s.Finish(t.Context(), 5); err != nil {
			t.Fatal(err)
		}
	}
}

// asked answers a connect command with the position at 10, and passes the
// command on.
func asked(conns chan<- net.Conn, commands chan<- string) func(net.Conn) error {
	return func(c net.Conn) error {
		if err := upgrade(c); err != nil {
			return err
		}
		text, err := wsutil.ReadClientText(c)
		if err != nil {
			return err
		}
		commands <- string(text)
		recovered := ""
		if strings.Contains(string(text), "epoch") {
			recovered = `,"recovered":true`
		}
		_, err = c.Write(compile(ws.NewTextFrame([]byte(`{"id":1,"connected":{"rooms":[{"room":"loadtest.0","epoch":"k1","offset":10` + recovered + `}]}}`))))
		conns <- c
		return err
	}
}

func TestClientsComeBackWithTheirPositions(t *testing.T) {
	conns, commands := make(chan net.Conn, 10), make(chan string, 10)
	first, second := serve(t, asked(conns, commands)), serve(t, asked(conns, commands))
	s := start(t, Options{Target: "ws://" + first.listener.Addr().String() + "/ws", Clients: 2, Resume: true,
		Dialect: Dialect{Open: []string{`{"id":1,"connect":{"rooms":[<<{"room":"{room}"}|,>>]}}`}, Greeting: `"connected"`}})
	if p := dial(t, s); p.Connected != 2 || p.Recovered != 0 {
		t.Fatalf("%+v", p)
	}
	if _, err := s.Begin(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := <-commands; got != `{"id":1,"connect":{"rooms":[{"room":"loadtest.0"}]}}` {
			t.Errorf("%s", got)
		}
		conn := <-conns
		write(t, conn, inRoom(1, 0, 1, 11))
		write(t, conn, inRoom(1, 0, 2, 14))
		_ = conn.Close()
	}
	waitFor(t, s, func(p Progress) bool { return p.Closed == 2 })
	p, err := s.Redial(t.Context(), "ws://"+second.listener.Addr().String()+"/ws")
	if err != nil || p.Connected != 2 || p.Recovered != 2 || p.Closed != 0 || p.Dialing <= 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	for range 2 {
		var command struct {
			Connect struct {
				Away  int `json:"away_ms"`
				Rooms []struct {
					Room, Epoch string
					Offset      uint64
				}
			}
		}
		text := <-commands
		if err := json.Unmarshal([]byte(text), &command); err != nil {
			t.Fatal(err)
		}
		if r := command.Connect.Rooms; command.Connect.Away <= 0 || len(r) != 1 || r[0].Offset != 14 || r[0].Epoch != "k1" {
			t.Errorf("%s", text)
		}
		write(t, <-conns, inRoom(1, 0, 3, 15))
	}
	waitFor(t, s, func(p Progress) bool { return p.Received == 6 })
	if totals, err := s.Finish(t.Context(), 3); err != nil || !totals.Correct() {
		t.Errorf("%+v, %v", totals, err)
	}
}

func TestServerSentEvents(t *testing.T) {
	target := serve(t, answerWith("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent: connected\ndata: {}\n\n"))
	s := start(t, Options{Target: target.url(), Clients: 2, Dialect: Dialect{Events: true, Greeting: "event: connected"}})
	if p := dial(t, s); p.Connected != 2 {
		t.Fatalf("%+v", p)
	}
	conns := target.accepted(t, 2)
	if _, err := s.Begin(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for n := range uint64(3) {
		text := fmt.Appendf(nil, "data: %s\n\n", AppendPayload(nil, Stamp{1, n + 1, Now(), 0}, 128))
		for _, c := range conns {
			write(t, c, text[:40]) // in the middle of the stamp
			write(t, c, text[40:])
		}
	}
	if err := s.Wait(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if totals, err := s.Finish(t.Context(), 3); err != nil || !totals.Correct() {
		t.Errorf("%+v, %v", totals, err)
	}
}
