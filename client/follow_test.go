package client_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nabat/client"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

// told is what a loop is told: the bodies of messages, and errors.
func told(loop iter.Seq2[*wire.Message, error]) (list []string) {
	for m, err := range loop {
		if err != nil {
			list = append(list, err.Error())
		} else {
			list = append(list, string(m.Body))
		}
	}
	return list
}

// roomServer answers joining and leaving, tells of each on commands, and says more
// behind the answer to joining.
func roomServer(t *testing.T, more ...string) (address string, commands chan string) {
	commands = make(chan string, 10)
	return serve(t, func(p *peer) {
		p.connect()
		for {
			command := p.read()
			switch {
			case command == nil:
				return
			case command["subscribe"] != nil:
				p.send(`{"id":%s,"subscribed":{"rooms":[{"room":"b","epoch":"k3","offset":1}]}}`, command["id"])
				commands <- "subscribe"
				for _, object := range more {
					p.send("%s", object)
				}
			case command["unsubscribe"] != nil:
				p.send(`{"id":%s,"unsubscribed":{"rooms":["b"]}}`, command["id"])
				commands <- "unsubscribe"
			default:
				p.send(`{"id":%s,"published":{"room":"b"}}`, command["id"])
			}
		}
	}), commands
}

func TestALoopOverARoomIsToldAllOfIt(t *testing.T) {
	for _, c := range []struct {
		rule    string
		objects []string
		want    []string
	}{
		{"messages of the room alone", []string{`{"room":"a","data":0}`, `{"room":"b","offset":2,"data":1}`, `{"room":"b","offset":3,"data":2}`}, []string{"1", "2"}},
		{"gaps, and what follows them", []string{`{"gap":{"room":"b","reason":"slow"}}`, `{"room":"b","data":1}`}, []string{"messages of b may be missing: slow", "1"}},
		{"that history began anew", []string{`{"reset":{"room":"b","epoch":"k4","offset":0}}`, `{"room":"b","data":1}`}, []string{"messages of b may be missing: epoch_changed", "1"}},
		{"nothing of lagging, for nothing is lost", []string{`{"lagging":{"room":"b","epoch":"k3","offset":1}}`, `{"room":"b","data":1}`}, []string{"1"}},
		{"its end by the server", []string{`{"room":"b","data":1}`, `{"unsubscribed":{"rooms":["a","b"],"reason":"removed"}}`}, []string{"1", "removed: the server ended the subscription of b"}},
		{"the end of the connection", []string{`{"room":"b","data":1}`, `{"room":"b","data":2}`, "hello"},
			[]string{"1", "2", "connection lost: the server sent what is not the protocol: invalid character 'h' looking for beginning of value"}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			address, _ := roomServer(t, c.objects...)
			conn := dial(t, address, client.Options{})
			ctx, cancel := context.WithCancel(limit(t))
			defer cancel()
			var got []string
			for m, err := range conn.Follow(ctx, "b") {
				if err != nil {
					got = append(got, err.Error())
				} else {
					got = append(got, string(m.Body))
				}
				if len(got) == len(c.want) {
					cancel() // a loop that goes on ends with its context
				}
			}
			if n := len(c.want); len(got) == n+1 && got[n] == context.Canceled.Error() {
				got = got[:n]
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestALoopBeginsWithWhatWasMissed(t *testing.T) {
	address := serve(t, func(p *peer) {
		p.connect()
		command := p.read()
		if got, want := string(command["subscribe"]), `{"rooms":[{"room":"b","epoch":"k2","offset":7}]}`; got != want {
			t.Errorf("asked %s, not %s", got, want)
		}
		p.send(`{"room":"b","offset":9,"data":9}`) // it waits for the answer's gap
		p.send(`{"id":%s,"subscribed":{"rooms":[{"room":"b","epoch":"k2","offset":8,"recovered":false,"reason":"history_cut"}]}}`, command["id"])
		p.close(4005, `{"code":"kicked"}`)
	})
	got := told(dial(t, address, client.Options{}).Follow(limit(t), "b", client.From(wire.Position{Room: "b", Epoch: "k2", Offset: 7})))
	if diff := cmp.Diff([]string{"messages of b may be missing: history_cut", "9", "the server closed the connection: 4005 kicked"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestALoopLeavesTheRoomThatItJoined(t *testing.T) {
	first := func(loop iter.Seq2[*wire.Message, error]) {
		t.Helper()
		for _, err := range loop {
			if err != nil {
				t.Error(err)
			}
			return
		}
	}
	t.Run("when it ends", func(t *testing.T) {
		address, commands := roomServer(t, `{"room":"b","data":1}`)
		c := dial(t, address, client.Options{})
		for range 2 {
			first(c.Follow(limit(t), "b"))
			for _, want := range []string{"subscribe", "unsubscribe"} {
				if got := <-commands; got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			}
		}
	})
	t.Run("when the last one ends", func(t *testing.T) {
		address, commands := roomServer(t, `{"room":"b","data":1}`)
		c := dial(t, address, client.Options{})
		for range c.Follow(limit(t), "b") {
			first(c.Follow(limit(t), "b"))
			break
		}
		for _, want := range []string{"subscribe", "subscribe", "unsubscribe"} {
			if got := <-commands; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	})
	t.Run("and no other", func(t *testing.T) {
		address, commands := roomServer(t, `{"room":"b","data":1}`)
		c := dial(t, address, client.Options{})
		if _, err := c.Subscribe(limit(t), []string{"b"}); err != nil {
			t.Fatal(err)
		}
		first(c.Follow(limit(t), "b"))
		if err := c.Unsubscribe(limit(t), "b"); err != nil { // so that there is one
			t.Fatal(err)
		}
		c.Close()
		close(commands)
		var got []string
		for command := range commands {
			got = append(got, command)
		}
		if diff := cmp.Diff([]string{"subscribe", "subscribe", "unsubscribe"}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("without a word when its own side closes", func(t *testing.T) {
		address, _ := roomServer(t, `{"room":"b","data":1}`)
		c := dial(t, address, client.Options{})
		go func() {
			for range c.Events() {
			}
		}()
		for _, err := range c.Follow(limit(t), "b") {
			if err != nil {
				t.Error(err)
			}
			c.Close()
		}
		if got := told(c.Follow(limit(t), "b")); len(got) > 0 {
			t.Errorf("another one: %q", got)
		}
	})
}

// Queues of one, and many messages: of a room that nobody takes, and of one whose
// loop is slower than they come.
func TestALoopNeedsNoEventsAndLosesNothing(t *testing.T) {
	var objects []string
	var want []string
	for n := range 200 {
		objects = append(objects, `{"room":"a","data":0}`, fmt.Sprintf(`{"room":"b","data":%d}`, n))
		want = append(want, fmt.Sprint(n))
	}
	address, _ := roomServer(t, append(objects, `{"unsubscribed":{"rooms":["b"],"reason":"removed"}}`)...)
	c := dial(t, address, client.Options{Queue: 1})
	got := told(c.Follow(limit(t), "b"))
	if diff := cmp.Diff(append(want, "removed: the server ended the subscription of b"), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestACommandThatWaitsBehindEventsSaysSo(t *testing.T) {
	address, _ := roomServer(t, `{"room":"b","data":1}`, `{"room":"b","data":2}`, `{"room":"b","data":3}`)
	c := dial(t, address, client.Options{Queue: 1})
	for range c.Follow(limit(t), "b") {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		_, err := c.Publish(ctx, wire.Publication{Room: "b", Body: []byte("1")})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "events wait that nobody reads") {
			t.Errorf("got %v", err)
		}
		break
	}
}

func TestAllIsEventsUntilTheEnd(t *testing.T) {
	address := serve(t, func(p *peer) {
		p.connect()
		for n := range 3 {
			p.send(`{"room":"a","data":%d}`, n)
		}
		p.close(4005, `{"code":"kicked"}`)
	})
	c := dial(t, address, client.Options{})
	k := keep(t, address, client.Options{})
	for name, all := range map[string]func(context.Context) iter.Seq2[client.Event, error]{"Conn": c.All, "Keeper": k.All} {
		var got []string
		for e, err := range all(limit(t)) { // one that is left
			if e.Message != nil {
				got = append(got, string(e.Message.Body))
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for e, err := range all(limit(t)) {
			if err != nil {
				got = append(got, err.Error())
			} else {
				got = append(got, string(e.Message.Body))
			}
		}
		if diff := cmp.Diff([]string{"0", "1", "2", "the server closed the connection: 4005 kicked"}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A device that publishes and listens, while its connection is cut again and again.
func TestAKeeperLoopGetsWhatIsSentOnceAndInOrder(t *testing.T) {
	r := newEdges(t, &policy.History{Messages: 10000, Age: time.Hour})
	first, _ := r.start("127.0.0.1:0")
	second, _ := r.start("127.0.0.1:0")
	inEachEncoding(t, func(t *testing.T, o client.Options) {
		between := newRelay(t, first)
		o.Queue = 4
		k := keep(t, between.address(), o)
		room := "sent." + strings.NewReplacer(" ", "", ",", "").Replace(t.Name()[strings.LastIndex(t.Name(), "/")+1:])
		const count = 200
		var receipts []*client.Receipt
		send := func(n int) {
			t.Helper()
			receipt, err := k.Send(t.Context(), wire.Publication{Room: room, Body: fmt.Append(nil, n)})
			if err != nil {
				t.Fatal(err)
			}
			receipts = append(receipts, receipt)
		}
		for n := range 5 {
			send(n)
		}
		next, offset := 0, uint64(0)
		for m, err := range k.Follow(patience(t), room, client.Since(time.Hour)) {
			if err != nil {
				t.Fatal(err)
			}
			if string(m.Body) != fmt.Sprint(next) || m.Offset <= offset {
				t.Fatalf("got %s at %d, want %d behind %d", m.Body, m.Offset, next, offset)
			}
			at, err := receipts[next].Wait(patience(t))
			if err != nil || at.Offset != m.Offset {
				t.Errorf("%d: the receipt says %+v, %v, the message %d", next, at, err, m.Offset)
			}
			offset = m.Offset
			if next++; next == count {
				break
			}
			if next%50 == 0 {
				between.aim([]string{second, first}[next/50%2])
			}
			send(len(receipts))
		}
		if next != count {
			t.Fatalf("got %d: %v", next, k.Err())
		}
	})
}
