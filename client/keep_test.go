package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nabat/client"
	"nabat/proto/wire"
)

func keep(t *testing.T, address string, o client.Options) *client.Keeper {
	t.Helper()
	k, err := client.Keep(t.Context(), address, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

// connects returns the connect commands that the scripts of a test have read.
type connects chan string

// answer reads a connect and answers it with these rooms.
func (c connects) answer(p *peer, session, rooms string) {
	command := p.read()
	c <- string(command["connect"])
	p.send(`{"id":%s,"connected":{"session":%q,"rooms":[%s]}}`, command["id"], session, rooms)
}

func (c connects) next(t *testing.T) (connect struct {
	Token, Previous string
	AwayMS          int64 `json:"away_ms"`
	Rooms           json.RawMessage
}) {
	t.Helper()
	select {
	case text := <-c:
		if err := json.Unmarshal([]byte(text), &connect); err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("no connect")
	}
	return connect
}

func TestKeeperGoesOnWhereItWas(t *testing.T) {
	seen := make(connects, 3)
	var dials atomic.Int32
	address := serve(t, func(p *peer) {
		switch dials.Add(1) {
		case 1:
			if got := p.request.Header.Get("Authorization"); got != "Bearer token 1" {
				t.Errorf("the first token is %q", got)
			}
			seen.answer(p, "c1", `{"room":"a","epoch":"k3","offset":5},{"room":"b","epoch":"k3","offset":0},{"room":"live"}`)
			p.send(`{"room":"a","offset":8,"data":8}`)
			p.send(`{"room":"live","data":1}`)
			p.close(4200, `{"code":"drain","retry_ms":1}`)
		case 2:
			if got := p.request.Header.Get("Authorization"); got != "" {
				t.Errorf("the token %q would join its rooms at once", got)
			}
			seen.answer(p, "c2", `{"room":"a","epoch":"k3","offset":8,"recovered":true},{"room":"b","epoch":"k4","offset":0,"recovered":false,"reason":"epoch_changed"},{"room":"live"}`)
			p.send(`{"room":"a","offset":9,"data":9}`)
			p.close(4100, `{"code":"slow","retry_ms":1}`)
		default:
			seen.answer(p, "c3", ``)
			p.close(4002, `{"code":"not_allowed","retry_ms":0}`)
		}
	})
	tokens := 0
	k := keep(t, address+"?room=a", client.Options{
		Rooms: []string{"b", "live"},
		TokenSource: func(context.Context) (string, error) {
			tokens++
			return fmt.Sprintf("token %d", tokens), nil
		},
	})
	var got []string
	for e := range k.Events() {
		switch {
		case e.Connected != nil:
			got = append(got, "connected "+e.Connected.Session)
		case e.Message != nil:
			got = append(got, fmt.Sprintf("%s %s:%d", e.Message.Room, e.Message.Epoch, e.Message.Offset))
		case e.Recovered != nil:
			got = append(got, fmt.Sprintf("%s recovered %v %s", e.Recovered.Room, e.Recovered.OK, e.Recovered.Reason))
		case e.Down != nil:
			got = append(got, e.Down.Err.Error())
			if e.Down.Wait < time.Millisecond {
				t.Errorf("waits %s", e.Down.Wait)
			}
		}
	}
	want := []string{
		"connected c1", "a k3:8", "live :0", "the server closed the connection: 4200 drain",
		"connected c2", "a recovered true ", "b recovered false epoch_changed", "live recovered false no_history", "a k3:9", "the server closed the connection: 4100 slow",
		"connected c3",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	var closed *client.CloseError
	if err := k.Err(); !errors.As(err, &closed) || closed.Status != 4002 {
		t.Errorf("ended with %v", err)
	}
	for i, want := range []struct{ token, previous, rooms string }{
		{"", "", `[{"room":"a"},{"room":"b"},{"room":"live"}]`},
		{"token 2", "c1", `[{"room":"a","epoch":"k3","offset":8},{"room":"b","epoch":"k3","offset":0},{"room":"live"}]`},
		{"token 3", "c2", `[{"room":"a","epoch":"k3","offset":9},{"room":"b","epoch":"k4","offset":0},{"room":"live"}]`},
	} {
		c := seen.next(t)
		if c.Token != want.token || c.Previous != want.previous || string(c.Rooms) != want.rooms || (c.AwayMS > 0) != (i > 0) {
			t.Errorf("connect %d: %+v, rooms %s", i, c, c.Rooms)
		}
	}
}

func TestKeeperEndsItsCommandsOnLaterConnections(t *testing.T) {
	published := make(chan string, 10)
	var dials atomic.Int32
	address := serve(t, func(p *peer) {
		p.connect()
		command := p.read()
		published <- string(command["publish"])
		if dials.Add(1) == 1 {
			return // the answer is lost with the connection
		}
		p.send(`{"id":%s,"error":{"code":"unavailable","reason":"later","retry_ms":1}}`, command["id"])
		command = p.read()
		published <- string(command["publish"])
		p.send(`{"id":%s,"published":{"room":"a","epoch":"k3","offset":4}}`, command["id"])
		p.send(`{"id":%s,"error":{"code":"not_allowed","reason":"no","retry_ms":0}}`, p.read()["id"])
		p.wait()
	})
	k := keep(t, address, client.Options{})
	go func() {
		for range k.Events() {
		}
	}()
	at, err := k.Publish(limit(t), wire.Publication{Room: "a", Body: []byte("1")})
	if err != nil || at.Offset != 4 {
		t.Fatalf("%+v, %v", at, err)
	}
	first := <-published
	var p struct {
		ID string `json:"message_id"`
	}
	if err := json.Unmarshal([]byte(first), &p); err != nil || p.ID == "" {
		t.Errorf("no message id: %s", first)
	}
	if second, third := <-published, <-published; second != first || third != first {
		t.Errorf("published %s, %s and %s", first, second, third)
	}
	var refused *wire.Error
	if err := k.Unsubscribe(limit(t), "a"); !errors.As(err, &refused) || refused.Code != wire.NotAllowed {
		t.Errorf("a refusal for good: %v", err)
	}
}

func TestKeeperCommandsEnd(t *testing.T) {
	t.Run("with their context, while there is no connection", func(t *testing.T) {
		k := keep(t, "127.0.0.1:1", client.Options{})
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		if _, err := k.Publish(ctx, wire.Publication{Room: "a"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("with their context, while they wait for an answer", func(t *testing.T) {
		k := keep(t, serve(t, func(p *peer) { p.connect(); p.wait() }), client.Options{})
		<-k.Events() // connected
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		if _, err := k.History(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("with the Keeper", func(t *testing.T) {
		k := keep(t, "127.0.0.1:1", client.Options{})
		k.Close()
		if err := k.Auth(limit(t), "t"); !errors.Is(err, client.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

func TestKeeperEnds(t *testing.T) {
	end := func(k *client.Keeper) error {
		for range k.Events() {
		}
		return k.Err()
	}
	t.Run("when it is closed", func(t *testing.T) {
		k := keep(t, serve(t, func(p *peer) { p.connect(); p.wait() }), client.Options{})
		<-k.Events()
		if err := k.Err(); err != nil {
			t.Errorf("it has not ended: %v", err)
		}
		k.Close()
		if err := end(k); !errors.Is(err, client.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when its context ends, also while nobody answers", func(t *testing.T) {
		ctx, cancel := context.WithCancel(limit(t))
		k, err := client.Keep(ctx, "127.0.0.1:1", client.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if e := <-k.Events(); e.Down == nil {
			t.Errorf("got %+v", e)
		}
		cancel()
		if err := end(k); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when the address is none", func(t *testing.T) {
		_, err := client.Keep(limit(t), "ftp://x", client.Options{})
		if want := `edge address "ftp://x": the scheme must be ws, wss, http or https`; err == nil || err.Error() != want {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when there is no token", func(t *testing.T) {
		mine := errors.New("no token")
		k := keep(t, "127.0.0.1:1", client.Options{TokenSource: func(context.Context) (string, error) { return "", mine }})
		if err := end(k); err != mine {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when the server refuses for good", func(t *testing.T) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(403)
			_, _ = w.Write(wire.Object{Value: &wire.Error{Code: wire.NotAllowed, Reason: "no"}}.AppendJSON(nil))
		}))
		t.Cleanup(s.Close)
		if err := end(keep(t, s.URL, client.Options{})); err == nil || err.Error() != "not_allowed: no" {
			t.Errorf("got %v", err)
		}
	})
}

// What Auth gave is the token of later connections.
func TestKeeperRemembersANewToken(t *testing.T) {
	seen := make(connects, 2)
	address := serve(t, func(p *peer) {
		seen.answer(p, "c1", `{"room":"a"}`)
		p.send(`{"id":%s,"authed":{"user":"alice"}}`, p.read()["id"])
	})
	k := keep(t, address, client.Options{Token: "old", Rooms: []string{"a"}})
	go func() {
		for range k.Events() {
		}
	}()
	if err := k.Auth(limit(t), "new"); err != nil {
		t.Fatal(err)
	}
	seen.next(t)
	if c := seen.next(t); c.Token != "new" {
		t.Errorf("came back with %q", c.Token)
	}
}

// One room that is refused does not keep the others away, also when the connection
// ends before all are joined.
func TestKeeperComesBackToTheOtherRooms(t *testing.T) {
	seen := make(connects, 10)
	var dials atomic.Int32
	address := serve(t, func(p *peer) {
		join := func(answer string) {
			command := p.read()
			seen <- string(command["subscribe"])
			p.send(`{"id":%s,%s}`, command["id"], answer)
		}
		switch dials.Add(1) {
		case 1:
			seen.answer(p, "c1", `{"room":"a","epoch":"k3","offset":5},{"room":"b","epoch":"k3","offset":6},{"room":"c"}`)
		case 2:
			command := p.read()
			seen <- string(command["connect"])
			p.send(`{"id":%s,"error":{"code":"not_allowed","reason":"not b","retry_ms":0}}`, command["id"])
			seen.answer(p, "c2", "")
			join(`"subscribed":{"rooms":[{"room":"a","epoch":"k3","offset":5,"recovered":true}]}`)
			p.send(`{"room":"a","offset":7,"data":7}`)
			join(`"error":{"code":"rate_limited","reason":"slowly","retry_ms":1}`)
			join(`"error":{"code":"not_allowed","reason":"not b","retry_ms":0}`)
			p.read() // c, and no answer
		default:
			seen.answer(p, "c3", `{"room":"a","epoch":"k3","offset":7,"recovered":true},{"room":"c"}`)
			p.close(4005, `{"code":"kicked","retry_ms":0}`)
		}
	})
	k := keep(t, address, client.Options{Rooms: []string{"a", "b", "c"}})
	var got []string
	for e := range k.Events() {
		switch {
		case e.Message != nil:
			got = append(got, fmt.Sprint("message ", e.Message.Offset))
		case e.Recovered != nil:
			got = append(got, fmt.Sprint(e.Recovered.Room, " ", e.Recovered.OK))
		case e.Unsubscribed != nil:
			got = append(got, fmt.Sprint(e.Unsubscribed, e.Reason))
		case e.Connected != nil:
			got = append(got, e.Connected.Session)
		}
	}
	if diff := cmp.Diff([]string{"c1", "c2", "a true", "message 7", "[b]not_allowed", "c3", "a true", "c false"}, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	close(seen)
	var commands []string
	for command := range seen {
		var c struct{ Rooms json.RawMessage }
		if err := json.Unmarshal([]byte(command), &c); err != nil {
			t.Fatal(err)
		}
		commands = append(commands, string(c.Rooms))
	}
	if diff := cmp.Diff([]string{
		`[{"room":"a"},{"room":"b"},{"room":"c"}]`,
		`[{"room":"a","epoch":"k3","offset":5},{"room":"b","epoch":"k3","offset":6},{"room":"c"}]`, ``,
		`[{"room":"a","epoch":"k3","offset":5}]`, `[{"room":"b","epoch":"k3","offset":6}]`, `[{"room":"b","epoch":"k3","offset":6}]`,
		`[{"room":"a","epoch":"k3","offset":7},{"room":"c"}]`,
	}, commands); diff != "" {
		t.Errorf("rooms (-want +got):\n%s", diff)
	}
}

func TestKeeperAsksForAnotherTokenOnceWhenItWasRevoked(t *testing.T) {
	var dials, asked atomic.Int32
	address := serve(t, func(p *peer) {
		dials.Add(1)
		p.connect()
		p.close(4003, `{"code":"token_revoked","retry_ms":0}`)
	})
	k := keep(t, address, client.Options{TokenSource: func(context.Context) (string, error) { return fmt.Sprint("t", asked.Add(1)), nil }})
	for range k.Events() {
	}
	if d, a := dials.Load(), asked.Load(); d != 2 || a != 2 {
		t.Errorf("%d connections with %d tokens", d, a)
	}
	k = keep(t, address, client.Options{Token: "mine"})
	for range k.Events() {
	}
	if d := dials.Load(); d != 3 {
		t.Errorf("%d connections: without a TokenSource there is no other token", d)
	}
}
