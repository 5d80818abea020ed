package chat

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// room is a server with one room for all. spoil changes what members get of
// message n.
type room struct {
	spoil func(n int, text string) []string

	mu      sync.Mutex // guards the fields below
	members map[net.Conn]bool
	n       int
}

func (s *room) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, _, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return
	}
	go func() {
		defer conn.Close()
		for {
			text, err := wsutil.ReadClientText(conn)
			if err != nil {
				return
			}
			s.obey(conn, text)
		}
	}()
}

func (s *room) obey(conn net.Conn, text []byte) {
	var c struct {
		ID      int
		Connect *struct{ Rooms []struct{ Room string } }
		Publish *struct {
			Room string
			Data json.RawMessage
		}
		Subscribe, Unsubscribe *struct{}
		History                *struct{}
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	say := func(to net.Conn, format string, args ...any) {
		_ = wsutil.WriteServerText(to, fmt.Appendf(nil, format, args...))
	}
	switch {
	case c.Connect != nil:
		s.members[conn] = true
		say(conn, `{"id":%d,"connected":{"rooms":[{"room":%q,"offset":%d}]}}`, c.ID, c.Connect.Rooms[0].Room, s.n)
	case c.Publish != nil:
		s.n++
		if string(c.Publish.Data) == "" {
			return
		}
		for _, one := range s.spoil(s.n, fmt.Sprintf(`{"room":%q,"offset":%d,"data":%s}`, c.Publish.Room, s.n, c.Publish.Data)) {
			for member := range s.members {
				say(member, "%s", one)
			}
		}
		say(conn, `{"id":%d,"published":{}}`, c.ID)
	case c.Unsubscribe != nil:
		delete(s.members, conn)
		say(conn, `{"id":%d,"unsubscribed":{}}`, c.ID)
	case c.Subscribe != nil:
		s.members[conn] = true
		say(conn, `{"id":%d,"subscribed":{"rooms":[{"room":"loadtest.chat.0","offset":%d}]}}`, c.ID, s.n)
	case c.History != nil:
		say(conn, `{"id":%d,"error":{"code":"not_allowed"}}`, c.ID)
	}
}

func TestWhatAChatFinds(t *testing.T) {
	once := func(_ int, text string) []string { return []string{text} }
	tests := []struct {
		name                string
		spoil               func(int, string) []string
		leave, page         int
		lost, disorder, bad bool
	}{
		{"all is well", once, 3, 0, false, false, false},
		{"a message is lost", func(n int, text string) []string {
			if n == 5 {
				return nil
			}
			return []string{text}
		}, 0, 0, true, false, false},
		{"a message comes twice", func(n int, text string) []string {
			if n == 5 {
				return []string{text, text}
			}
			return []string{text}
		}, 0, 0, false, true, false},
		{"an error", once, 0, 3, false, false, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(&room{spoil: test.spoil, members: make(map[net.Conn]bool)})
			defer server.Close()
			began := time.Now()
			c, err := Start(t.Context(), Plan{URL: "ws" + strings.TrimPrefix(server.URL, "http"), Clients: 3, Rooms: 1, RoomsEach: 1, Rate: 300, Leave: test.leave, Page: test.page,
				For: 300 * time.Millisecond, Patience: time.Second, Now: func() int64 { return int64(time.Since(began)) }})
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.Finish(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if (got.Lost > 0) != test.lost || (got.Disorder > 0) != test.disorder || (len(got.Errors) > 0) != test.bad || got.Closed != 0 {
				t.Errorf("%+v", got)
			}
			if got.Acked == 0 || got.Delivered == 0 || got.Ack.TotalCount() != int64(got.Acked) || (got.Left > 0) != (test.leave > 0) {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestAChatThatCannotBegin(t *testing.T) {
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	for _, url := range []string{"ws://127.0.0.1:1", "ws" + strings.TrimPrefix(web.URL, "http")} {
		_, err := Start(t.Context(), Plan{URL: url, Clients: 3, Rooms: 1, RoomsEach: 1, Patience: time.Second, Now: func() int64 { return 0 }})
		if err == nil || !strings.Contains(err.Error(), "connect to "+url) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v", err)
		}
	}
}
