package target

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"nabat/loadtest/swarm"
)

func TestURLsAreCompletedByDialect(t *testing.T) {
	tests := []struct{ dialect, in, want string }{
		{Plain, "127.0.0.1:80", "ws://127.0.0.1:80/ws?<<room={room}|&>>"},
		{Plain, "ws://127.0.0.1:80?v=2", "ws://127.0.0.1:80/ws?v=2&<<room={room}|&>>"},
		{"nats", "wss://127.0.0.1", "wss://127.0.0.1/"},
		{"centrifugo", "http://127.0.0.1:80/", "ws://127.0.0.1:80/connection/websocket"},
		{"centrifugo", "ws://127.0.0.1:80/other", "ws://127.0.0.1:80/other"},
		{"mercure", "http://127.0.0.1:80", "ws://127.0.0.1:80/.well-known/mercure?<<topic={room}|&>>"},
		{"mercure", "https://127.0.0.1/hub?a=b", "wss://127.0.0.1/hub?a=b&<<topic={room}|&>>"},
		{"mercure", "http://127.0.0.1:80/hub?topic=x/{room}", "ws://127.0.0.1:80/hub?topic=x/{room}"},
		{"anycable", "127.0.0.1:80", "ws://127.0.0.1:80/cable"},
		{"socketio", "127.0.0.1:80", "ws://127.0.0.1:80/socket.io/?EIO=4&transport=websocket"},
		{"socketio", "ws://127.0.0.1:80/s/?EIO=4&transport=websocket&t=1", "ws://127.0.0.1:80/s/?EIO=4&transport=websocket&t=1"},
	}
	for _, test := range tests {
		got, err := (&External{URL: test.in, Dialect: test.dialect}).Open(t.Context())
		if err != nil || got.ClientURL() != test.want {
			t.Errorf("%s %s: %v, %v; want %s", test.dialect, test.in, got, err, test.want)
		}
	}
}

func TestEveryDialectIsNamedAndWhole(t *testing.T) {
	if len(Dialects) != len(dialects) {
		t.Errorf("%d names, %d dialects", len(Dialects), len(dialects))
	}
	for _, name := range Dialects {
		d, has := dialects[name]
		if !has || !strings.HasPrefix(d.path, "/") {
			t.Errorf("%s: %+v", name, d)
		}
		for _, text := range d.spoken("p.").Open {
			if strings.Contains(text, "{prefix}") {
				t.Errorf("%s: %s", name, text)
			}
		}
	}
	if strings.Contains(dialects["nats"].clients.Open[0], "p.") {
		t.Error("speaking changes the dialect")
	}
}

// The usual bodies, with what a room and a message become in them.
func TestTemplatesCarryTheMessage(t *testing.T) {
	s := swarm.Stamp{Run: 1, Sequence: 2, At: 3}
	message := swarm.AppendPayload(nil, s, 100)
	quoted := strings.ReplaceAll(string(message), `"`, `\"`)
	for template, want := range map[string]string{
		`{"channel":"{room}","data":{data}}`: `{"channel":"loadtest.0","data":` + string(message) + `}`,
		`{"stream":"{room}","data":{text}}`:  `{"stream":"loadtest.0","data":"` + quoted + `"}`,
		`topic={room}&data={form}`:           "topic=loadtest.0&data=" + url.QueryEscape(string(message)),
		`{data}`:                             string(message),
	} {
		if got := fill(template, "loadtest.0", message); got != want {
			t.Errorf("%s gives %s, want %s", template, got, want)
		}
	}
}

func TestPostsKeepTheirOrderOnOneConnection(t *testing.T) {
	var connections atomic.Int32
	posts := make(chan string, 100)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		posts <- fmt.Sprintf("%s %s %s %s %s", r.Method, r.URL, r.Header.Get("X-Key"), r.Header.Get("Content-Type"), body)
		_, _ = w.Write([]byte(strings.Repeat("ok", 1000)))
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	target, err := (&External{URL: "127.0.0.1:80", Dialect: Plain, PublishURL: server.URL + "/v1/rooms/{room}", PublishHeaders: []string{"X-Key: a:b"}, PublishBody: "{data}"}).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		s := swarm.Stamp{Run: 1, Sequence: uint64(n), At: 5, Room: uint32(n % 2)}
		if err := target.Publisher.Publish(t.Context(), s, 100+n%3); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("POST /v1/rooms/loadtest.%d a:b application/json %s", n%2, swarm.AppendPayload(nil, s, 100+n%3))
		if got := <-posts; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if err := target.Close(); err != nil || connections.Load() != 1 {
		t.Errorf("%d connections, %v", connections.Load(), err)
	}
	if _, err := target.NewPublisher(); err == nil || !strings.Contains(err.Error(), "--publish-url") {
		t.Errorf("%v", err)
	}
}

func TestPostsThatFailSayWhy(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/full":
			http.Error(w, "no memory", http.StatusServiceUnavailable)
		default:
			_, _ = w.Write([]byte(`{"error":{"code":107,"message":"bad request"}}`))
		}
	}))
	defer server.Close()
	for path, want := range map[string]string{"/moved": "answered 302 Found", "/full": "answered 503 Service Unavailable: no memory", "/api/publish": `answered 200 OK: {"error":{"code":107`} {
		target, err := (&External{URL: "127.0.0.1:80", Dialect: "centrifugo", PublishURL: server.URL + path}).Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := target.Publisher.Publish(t.Context(), swarm.Stamp{Run: 1}, 100); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
		if err := target.Close(); err != nil {
			t.Error(err)
		}
	}
}
