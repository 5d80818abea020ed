package swarm

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// turns speaks with a client: says, then expects, by turns; "" is neither.
func turns(pairs ...string) func(net.Conn) error {
	return func(c net.Conn) error {
		if err := upgrade(c); err != nil {
			return err
		}
		for i, text := range pairs {
			switch {
			case text == "":
			case i%2 == 0:
				if _, err := c.Write(compile(ws.NewTextFrame([]byte(text)))); err != nil {
					return err
				}
			default:
				got, err := wsutil.ReadClientText(c)
				if err != nil {
					return err
				}
				if string(got) != text {
					return errors.Join(wsutil.WriteServerText(c, fmt.Appendf(nil, "refused: %s, not %s", got, text)), net.ErrClosed)
				}
			}
		}
		return nil
	}
}

func TestOpeningMessagesWaitForTheirAnswers(t *testing.T) {
	dialect := Dialect{Open: []string{"first", "second", "join <<{n}|\x00join >>", "last"}, Await: []string{"", "one", "two"},
		Greeting: "joined", Every: true, Patient: true, Refusals: []string{"refused"}, Ping: "ping", Pong: "pong"}
	tests := []struct {
		name  string
		turns []string
		want  string // the reason; "": it connects
	}{
		{"each waits for its own", []string{"", "first", "ping", "pong", "number one", "second", "something", "", "ping", "pong", "two", "join 0", "", "join 1", "", "last", "joined", "", "ping", "pong", "joined"}, ""},
		{"greetings come together", []string{"", "first", "one", "second", "two", "join 0", "", "join 1", "", "last", "joined joined"}, ""},
		{"refused in between", []string{"", "first", "one", "second", "refused: no room for you"}, `the target refuses: "refused: no room for you"`},
		{"not answered", []string{"", "first"}, `took more than 1s to send "one"`},
		{"greeted in one room of two", []string{"", "first", "one", "second", "two", "join 0", "", "join 1", "", "last", "joined"}, `took more than 1s to send "joined"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			target := serve(t, turns(test.turns...))
			o := Options{Target: target.url(), Clients: 1, Spread: Spread{Rooms: 2, Each: 2}, Dialect: dialect}
			if strings.Contains(test.want, "1s") {
				o.Timeout = 1e9
			}
			p := dial(t, start(t, o))
			if test.want == "" && p.Connected == 1 {
				return
			}
			for reason := range p.Reasons {
				if test.want == "" || !strings.Contains(reason, test.want) {
					t.Errorf("reason %q, want %q", reason, test.want)
				}
			}
			if p.Failed != 1 {
				t.Errorf("%+v", p)
			}
		})
	}
}

func TestAnImpatientClientEndsAtAnotherAnswer(t *testing.T) {
	target := serve(t, turns("one", "first", "sorry"))
	s := start(t, Options{Target: target.url(), Clients: 1, Dialect: Dialect{Open: []string{"first", "second"}, Await: []string{"one", "two"}}})
	if p := dial(t, s); p.Reasons[`the target's answer is not "two" but "sorry"`] != 1 {
		t.Errorf("%+v", p)
	}
}

func TestTheLastAnswerOpensWhereNothingGreets(t *testing.T) {
	target := serve(t, turns("one", "first", "", "second"))
	s := start(t, Options{Target: target.url(), Clients: 3, Dialect: Dialect{Open: []string{"first", "second"}, Await: []string{"one"}}})
	if p := dial(t, s); p.Connected != 3 {
		t.Errorf("%+v", p)
	}
}

func TestPingsAreFoundAmongLines(t *testing.T) {
	for _, test := range []struct {
		dialect Dialect
		payload string
		want    bool
	}{
		{Dialect{}, "", false},
		{Dialect{Ping: "2"}, "2", true},
		{Dialect{Ping: "2"}, "42\n2", false},
		{Dialect{Ping: "{}", Lines: true}, "{}", true},
		{Dialect{Ping: "{}", Lines: true}, `{"push":{}}` + "\n{}", true},
		{Dialect{Ping: "{}", Lines: true}, "{}\n" + `{"push":{}}`, true},
		{Dialect{Ping: "{}", Lines: true}, `{"a":1}` + "\n{}\n" + `{"a":2}`, true},
		{Dialect{Ping: "{}", Lines: true}, `{"a":{}}` + "\n" + `{"b":{}}`, false},
		{Dialect{Ping: "PING\r\n", Lines: true}, "MSG a 1 2\r\nhi\r\nPING\r\nMSG a 1 2\r\nho\r\n", true},
		{Dialect{Ping: "PING\r\n", Lines: true}, "PING\r\nMSG a 1 2\r\nho\r\n", true},
		{Dialect{Ping: "PING\r\n", Lines: true}, "MSG a 1 2\r\nSPING\r\n", false},
	} {
		if got := test.dialect.pinged([]byte(test.payload)); got != test.want {
			t.Errorf("%+v %q: %v", test.dialect, test.payload, got)
		}
	}
}

func TestAPingAmongMessagesIsAnsweredAndTheyCount(t *testing.T) {
	target := serve(t, upgrade)
	s := start(t, Options{Target: target.url(), Clients: 1, Dialect: Dialect{Ping: "{}", Pong: "{}", Lines: true}})
	dial(t, s)
	conn := target.accepted(t, 1)[0]
	if _, err := s.Begin(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	first, second := AppendPayload(nil, Stamp{1, 1, Now(), 0}, 128), AppendPayload(nil, Stamp{1, 2, Now(), 0}, 128)
	write(t, conn, compile(ws.NewTextFrame(fmt.Appendf(nil, "%s\n{}\n%s", first, second))))
	if text, err := wsutil.ReadClientText(conn); err != nil || string(text) != "{}" {
		t.Errorf("%q, %v", text, err)
	}
	if err := s.Wait(t.Context(), 2); err != nil {
		t.Error(err)
	}
}
