package upstream

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"nabat/proto/subject"
)

func message(room string, body any) string { return fmt.Sprintf(`{"room":%q,"data":%v}`, room, body) }

func notice(room, reason string) string {
	return fmt.Sprintf(`{"gap":{"room":%q,"reason":%q}}`, room, reason)
}

func TestARoomHasOneSubscriptionWhateverTheNumberOfLoops(t *testing.T) {
	n := startNode(t, nil)
	r := start(t, n.ClientURL(), func(s *settings) { s.loops = 3 })
	var wg sync.WaitGroup
	for loop := range 3 {
		for range 2 { // a loop may ask twice
			wg.Go(func() { r.acquire("a", loop) })
		}
	}
	wg.Wait()
	if got := n.subscriptions("room.a"); got != 1 || r.up.Rooms() != 1 {
		t.Fatalf("%d subscriptions, %d rooms", got, r.up.Rooms())
	}
	r.publish("room.a", "1", nil)
	for loop := range 3 {
		r.want(loop, "a", message("a", 1))
	}
	r.up.Release("a", 1)
	r.acquire("b", 1) // of another room
	r.publish("room.a", "2", nil)
	r.publish("room.b", "3", nil)
	r.want(0, "a", message("a", 1), message("a", 2))
	r.want(2, "a", message("a", 1), message("a", 2))
	r.want(1, "b", message("b", 3))
	r.want(1, "a", message("a", 1))
	if got := r.inboxes[0].of("b"); len(got) != 0 {
		t.Fatalf("a loop got a room that it did not want: %v", got)
	}
}

func TestASubscriptionLingersAndThenEnds(t *testing.T) {
	n := startNode(t, nil)
	r := start(t, n.ClientURL(), func(s *settings) { s.loops, s.opts.Live = 2, 1 })
	r.acquire("a", 0)
	r.acquire("a", 1)
	r.acquire("other", 1)
	r.up.Release("a", 0)
	r.expire(time.Now().Add(24 * time.Hour))
	if r.up.Rooms() != 2 {
		t.Fatal("the room ended though a loop wants it")
	}
	r.up.Release("a", 1)
	r.expire(time.Now())
	if got := n.subscriptions("room.a"); got != 1 || r.up.Rooms() != 2 {
		t.Fatalf("the linger was cut short: %d subscriptions", got)
	}
	r.publish("room.a", "1", nil) // to nobody
	r.publish("room.other", "1", nil)
	r.want(1, "other", message("other", 1)) // and so the one before is gone
	in := n.NumSubscriptions()
	r.acquire("a", 0)
	if got := n.NumSubscriptions(); got != in {
		t.Fatalf("within the linger a room is there: %d subscriptions, before %d", got, in)
	}
	r.publish("room.a", "2", nil)
	r.want(0, "a", message("a", 2))
	r.up.Release("a", 0)
	r.expire(time.Now().Add(24 * time.Hour))
	until(t, "the subscription ends", func() bool { return n.subscriptions("room.a") == 0 })
	if r.up.Rooms() != 1 {
		t.Fatal("the room stays")
	}
	r.up.Release("a", 0) // once more does no harm
	r.acquire("a", 0)
	r.publish("room.a", "3", nil)
	r.want(0, "a", message("a", 2), message("a", 3))
}

func TestTheSweepEndsWhatLingeredLongEnough(t *testing.T) {
	n := startNode(t, nil)
	r := start(t, n.ClientURL(), func(s *settings) { s.opts.Linger = time.Millisecond })
	r.acquire("a", 0)
	r.up.Release("a", 0)
	until(t, "the subscription ends", func() bool { return n.subscriptions("room.a") == 0 && r.up.Rooms() == 0 })
}

func TestARoomThatIsWantedAgainWhileItEndsGetsNothingTwice(t *testing.T) {
	n := startNode(t, nil)
	r := start(t, n.ClientURL(), func(s *settings) { s.opts.Live, s.opts.Queue = 1, 1<<16 })
	const rooms, rounds = 1000, 8
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			for room := range rooms {
				_ = r.pub.Publish(fmt.Sprintf("room.r%d", room), fmt.Appendf(nil, "%d", i))
			}
			_ = r.pub.FlushTimeout(patience)
		}
	})
	all := func(act func(room string)) {
		for room := range rooms {
			act(fmt.Sprintf("r%d", room))
		}
	}
	for range rounds {
		before := len(r.inboxes[0].of("r0"))
		var answered sync.WaitGroup
		answered.Add(rooms)
		all(func(room string) { r.ask(room, 0, func(error) { answered.Done() }) })
		answered.Wait()
		until(t, "messages come", func() bool { return len(r.inboxes[0].of("r0")) > before })
		all(func(room string) { r.up.Release(room, 0) })
		r.expire(time.Now().Add(24 * time.Hour))
	}
	all(func(room string) {
		last := 0
		for _, text := range r.inboxes[0].of(room) {
			var got int
			if _, err := fmt.Sscanf(text, `{"room":"`+room+`","data":%d}`, &got); err != nil || got <= last {
				t.Fatalf("%s after %d", text, last)
			}
			last = got
		}
	})
}

func TestWhatIsPublishedAfterTheAnswerIsReceived(t *testing.T) {
	n := startNode(t, nil)
	r := start(t, n.ClientURL(), nil)
	for i := range 200 {
		room := fmt.Sprintf("r%d", i)
		r.acquire(room, 0)
		r.publish("room."+room, "1", nil)
	}
	for i := range 200 {
		room := fmt.Sprintf("r%d", i)
		r.want(0, room, message(room, 1))
	}
	if s := r.up.State(); s.Messages != 200 || s.Bytes != 200 {
		t.Fatalf("%+v", s)
	}
}

func TestOneRoomHasOneSubject(t *testing.T) {
	n := startNode(t, nil)
	r := start(t, n.ClientURL(), nil)
	r.acquire("A b", 0)
	for _, subj := range []string{"room.A%2520b", "room.%41%20b", "room.a%20b", "room.A%20b.c", "room.A", "live.A%20b", "A%20b"} {
		r.publish(subj, "0", nil)
	}
	r.publish("room.A%20b", "1", nil)
	r.want(0, "A b", message("A b", 1))
	if s := r.up.State(); s.Messages != 1 {
		t.Fatalf("%d messages reached the edge", s.Messages)
	}
	for _, name := range []string{"", "a..b", "*", "a.>", "_x", "a\nb", strings.Repeat("a", 201)} {
		var rule *subject.Error
		if err := r.try(name, 0); !errors.As(err, &rule) {
			t.Errorf("%q: %v", name, err)
		}
		r.up.Release(name, 0)
	}
	if r.up.Rooms() != 1 {
		t.Fatal("a name that is no room became one")
	}
}

func TestHeaders(t *testing.T) {
	n := startNode(t, nil)
	r := start(t, n.ClientURL(), nil)
	for i, c := range []struct {
		rule    string
		header  nats.Header
		body    string
		want    string // behind the room
		exclude string
	}{
		{"none", nil, `{ "a": 1 }`, `"data":{"a":1}`, ""},
		{"the event", nats.Header{"Nabat-Event": {"score"}}, `1`, `"data":1,"event":"score"`, ""},
		{"the user", nats.Header{"Nabat-User": {"alice"}}, `1`, `"data":1,"user":"alice"`, ""},
		{"of two values the last", nats.Header{"Nabat-User": {"mallory", "alice"}, "Nabat-Event": {"x", "y"}}, `1`, `"data":1,"event":"y","user":"alice"`, ""},
		{"the body is text", nats.Header{"Nabat-Body": {"text"}}, `1`, `"text":"1"`, ""},
		{"the body is binary", nats.Header{"Nabat-Body": {"binary"}}, `1`, `"base64":"MQ=="`, ""},
		{"of two hints the last", nats.Header{"Nabat-Body": {"text", "binary"}}, `1`, `"base64":"MQ=="`, ""},
		{"a hint that the body does not bear", nats.Header{"Nabat-Body": {"json"}}, `{`, `"text":"{"`, ""},
		{"an unknown hint", nats.Header{"Nabat-Body": {"xml"}}, `1`, `"data":1`, ""},
		{"not UTF-8", nil, "\xff", `"base64":"/w=="`, ""},
		{"an empty body", nil, "", `"text":""`, ""},
		{"exclude", nats.Header{"Nabat-Exclude": {"c0", "c1"}}, `1`, `"data":1`, "c1"},
		{"empty values", nats.Header{"Nabat-Event": {""}, "Nabat-User": {"", ""}}, `1`, `"data":1`, ""},
		{"others", nats.Header{"Nats-Msg-Id": {"x"}, "nabat-user": {"mallory"}}, `1`, `"data":1`, ""},
		{"a user that is not UTF-8", nats.Header{"Nabat-User": {"a\xff"}}, `1`, `"data":1,"user":"a` + "\ufffd" + `"`, ""},
	} {
		t.Run(c.rule, func(t *testing.T) {
			room := fmt.Sprintf("r%d", i)
			r := &rig{t: t, up: r.up, inboxes: r.inboxes, pub: r.pub}
			r.acquire(room, 0)
			r.publish("room."+room, c.body, c.header)
			r.want(0, room, `{"room":"`+room+`",`+c.want+`}`)
			in := r.inboxes[0]
			in.mu.Lock()
			defer in.mu.Unlock()
			if got := in.list[len(in.list)-1].Exclude; got != c.exclude {
				t.Fatalf("exclude %q", got)
			}
		})
	}
}

func TestRoomsCostNoGoroutine(t *testing.T) {
	n := startNode(t, nil)
	before := goleak.IgnoreCurrent()
	r := start(t, n.ClientURL(), nil)
	r.acquire("first", 0)
	goroutines := runtime.NumGoroutine()
	const rooms = 1000
	answers := make(chan error, rooms)
	for i := range rooms {
		r.ask(fmt.Sprintf("r%d", i), 0, func(err error) { answers <- err })
	}
	for range rooms {
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
	}
	for i := range rooms {
		if err := r.pub.Publish(fmt.Sprintf("room.r%d", i), []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "all messages come", func() bool { return r.up.State().Messages == rooms })
	if got := runtime.NumGoroutine(); got > goroutines+5 {
		t.Fatalf("%d goroutines, %d with one room", got, goroutines)
	}
	if got := n.NumSubscriptions(); got < rooms+1 || got > rooms+100 {
		t.Fatalf("NATS holds %d subscriptions", got)
	}
	r.pub.Close()
	r.stop()
	until(t, "NATS has no clients", func() bool { return n.NumClients() == 0 })
	goleak.VerifyNone(t, before)
}

func TestRunEndsWithItsContextAndAnswersThoseWhoWait(t *testing.T) {
	n := startNode(t, nil)
	r := start(t, n.ClientURL(), func(s *settings) { s.opts.Confirm = time.Hour })
	r.acquire("a", 0)
	n.stop()
	until(t, "the edge knows that NATS is gone", func() bool { return r.up.Ready() != nil })
	answer := make(chan error, 4)
	r.ask("b", 0, func(err error) { answer <- err })
	until(t, "the room is being asked for", func() bool { return len(r.up.live[0].asks)+len(r.up.live[1].asks) == 0 })
	r.ask("c", 0, func(err error) { answer <- err })
	r.stop()
	for range 2 {
		if err := <-answer; !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if err := r.try("d", 0); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("after the end: %v", err)
	}
	if r.up.Publish(Publication{Message: nats.NewMsg("room.a"), Done: func(uint64, error) { t.Error("called") }}) {
		t.Fatal("after the end a publish is taken")
	}
	for _, l := range r.up.live {
		if !l.nc.IsClosed() {
			t.Error("a connection stays open")
		}
	}
	if !r.up.publish.nc.IsClosed() {
		t.Error("a connection stays open")
	}
}

func TestTooManyLoopsAreRefused(t *testing.T) {
	if _, err := New(Options{}, nil, make([]Inbox, MaxLoops+1)); err == nil || !strings.Contains(err.Error(), "at most 64") {
		t.Fatal(err)
	}
}

func TestAFailedConnectionLeavesNoneBehind(t *testing.T) {
	n := startNode(t, nil)
	for fail := range 3 { // of two live connections and the publisher's
		opened := 0
		connect := func(string, ...nats.Option) (*nats.Conn, error) {
			if opened == fail {
				return nil, errors.New("no more")
			}
			opened++
			return nats.Connect(n.ClientURL())
		}
		if _, err := New(Options{Live: 2, Log: slog.New(slog.DiscardHandler)}, connect, []Inbox{&inbox{}}); err == nil || err.Error() != "no more" {
			t.Fatal(err)
		}
		until(t, "NATS has no clients", func() bool { return n.NumClients() == 0 })
	}
}
