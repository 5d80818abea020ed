package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"nabat/edge/internal/ask"
	"nabat/internal/natsdev"
	"nabat/proto/grant"
)

func TestAnswers(t *testing.T) {
	user := "bob"
	long := `{"allow":true,"reason":"` + strings.Repeat("x", MaxAnswer) + `"}`
	for _, c := range []struct {
		name, body string
		header     nats.Header
		want       *Answer
		fault      string
	}{
		{"an answer allows", `{"allow":true}`, nil, &Answer{Allow: true}, ""},
		{"an answer denies, for a time", `{"allow":false,"reason":"no","ttl_ms":1500}`, nil, &Answer{Reason: "no", TTL: 1500 * time.Millisecond}, ""},
		{"a time is bounded", `{"allow":true,"ttl_ms":9000000000000000000}`, nil, &Answer{Allow: true, TTL: MaxTTL}, ""},
		{"an answer says who it is", `{"allow":true,"user":"bob","grant":{"subscribe":["a.>"]},"rooms":["r"],"info":{"n":1}}`, nil,
			&Answer{Allow: true, User: &user, Grant: &grant.Grant{Subscribe: []string{"a.>"}}, Rooms: []string{"r"}, Info: json.RawMessage(`{"n":1}`)}, ""},
		{"unknown fields are for later versions", `{"allow":true,"colour":1}`, nil, &Answer{Allow: true}, ""},
		{"allow must be there", `{"allowed":true}`, nil, nil, "allow is missing"},
		{"allow is true or false", `{"allow":"true"}`, nil, nil, "cannot unmarshal"},
		{"an answer is an object", `yes`, nil, nil, "invalid character"},
		{"an answer is not empty", ``, nil, nil, "unexpected end"},
		{"an answer is UTF-8", "{\"allow\":true,\"user\":\"\xff\"}", nil, nil, "not UTF-8"},
		{"a time is not negative", `{"allow":true,"ttl_ms":-1}`, nil, nil, "ttl_ms is negative"},
		{"a grant has patterns", `{"allow":true,"grant":{"subscribe":["a..b"]}}`, nil, nil, "grant: subscribe"},
		{"rooms are rooms", `{"allow":true,"rooms":["*"]}`, nil, nil, "rooms"},
		{"an error of a service is no answer", `{"allow":true}`, nats.Header{"Nats-Service-Error": {"oops"}}, nil, "oops"},
		{"nor is one by its code", `{"allow":true}`, nats.Header{"Nats-Service-Error-Code": {"500"}}, nil, "with an error"},
		{"nor one of Nabat's", `{"allow":true}`, nats.Header{"Nabat-Error": {"boom"}}, nil, "boom"},
		{"an answer is small", long, nil, nil, "bytes, at most"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parse(&nats.Msg{Data: []byte(c.body), Header: c.header})
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if (err != nil) != (c.fault != "") || err != nil && (!errors.Is(err, ErrBadAnswer) || !strings.Contains(err.Error(), c.fault)) {
				t.Errorf("got %v, want %q", err, c.fault)
			}
		})
	}
}

// What an answer counts for, and for how long.
func TestKeptAnswers(t *testing.T) {
	now := time.Unix(1000, 0)
	base := Question{Event: Subscribe, User: "alice", TokenID: "t1", Room: "a", Connection: "c1"}
	nobody := Question{Event: Publish, Room: "a", Connection: "c1"}
	enters := Question{Event: Connect, User: "alice", TokenID: "t1", Connection: "c1", Address: "192.0.2.1"}
	with := func(q Question, change func(*Question)) Question { change(&q); return q }
	for _, c := range []struct {
		name         string
		asked, again Question
		after        time.Duration
		known        bool
	}{
		{"an answer counts for the user's other connections", base, with(base, func(q *Question) { q.Connection = "c2" }), 0, true},
		{"until its time is over", base, base, time.Second, false},
		{"not for another room", base, with(base, func(q *Question) { q.Room = "b" }), 0, false},
		{"not for another user", base, with(base, func(q *Question) { q.User = "bob" }), 0, false},
		{"not for another token", base, with(base, func(q *Question) { q.TokenID = "t2" }), 0, false},
		{"not for another event", base, with(base, func(q *Question) { q.Event = Publish }), 0, false},
		{"for an anonymous client as long as it is connected", nobody, nobody, 0, true},
		{"not for another anonymous client", nobody, with(nobody, func(q *Question) { q.Connection = "c2" }), 0, false},
		{"for those who come from the same address", enters, with(enters, func(q *Question) { q.Connection = "c2" }), 0, true},
		{"not for those who come from another one", enters, with(enters, func(q *Question) { q.Address = "192.0.2.2" }), 0, false},
		{"never for an anonymous client that connects", with(nobody, func(q *Question) { q.Event = Connect }), with(nobody, func(q *Question) { q.Event = Connect }), 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			kept := newCache(4)
			kept.keep(keyOf(&c.asked), &Answer{Allow: true, TTL: time.Second}, now)
			if got := kept.find(&c.again, now.Add(c.after)); (got != nil) != c.known {
				t.Errorf("known: %v", got != nil)
			}
		})
	}
}

func TestKeptAnswersAreBounded(t *testing.T) {
	kept, now := newCache(16), time.Unix(1000, 0)
	for n := range 1000 {
		q := Question{Event: Subscribe, User: "alice", Room: fmt.Sprint(n)}
		kept.keep(keyOf(&q), &Answer{Allow: true, TTL: time.Hour}, now)
		if len(kept.answers) > 16 {
			t.Fatalf("%d answers are kept", len(kept.answers))
		}
		if kept.find(&q, now) == nil {
			t.Fatal("the newest answer is not there")
		}
	}
	once := Question{Event: Subscribe, User: "alice", Room: "once"}
	kept.keep(keyOf(&once), &Answer{Allow: true}, now)
	if kept.find(&once, now) != nil {
		t.Error("an answer without a time was kept")
	}
}

func TestABackendIsAsked(t *testing.T) {
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Shutdown()
	connect := func() *nats.Conn {
		nc, err := nats.Connect(server.URL())
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
	backend := connect()
	defer backend.Close()
	asked := make(chan string, 10)
	if _, err := backend.Subscribe("hook.publish", func(m *nats.Msg) {
		asked <- string(m.Data)
		_ = m.Respond([]byte(`{"allow":true,"ttl_ms":60000}`)) // who asked is there
	}); err != nil {
		t.Fatal(err)
	}
	if err := backend.Flush(); err != nil {
		t.Fatal(err)
	}
	asker, err := ask.New(connect(), 2, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { asker.Run(ctx); close(ended) }()
	defer func() { cancel(); <-ended }()
	g := NewGate(asker, "hook.", 10)

	type result struct {
		answer *Answer
		err    error
	}
	put := func(q *Question) result {
		got := make(chan result, 1)
		if err := g.Ask(q, func(a *Answer, err error) { got <- result{a, err} }); err != nil {
			return result{nil, err}
		}
		return <-got
	}
	text := ""
	q := &Question{Event: Publish, Node: "n", Connection: "c1", User: "alice", Room: "a", Text: &text}
	if r := put(q); r.err != nil || !r.answer.Allow {
		t.Fatal(r)
	}
	if got, want := <-asked, `{"node":"n","connection":"c1","user":"alice","room":"a","text":""}`; got != want {
		t.Errorf("asked %s, want %s", got, want)
	}
	if a := g.Known(q, time.Now()); a == nil || !a.Allow {
		t.Error("the answer was not kept")
	}
	if r := put(&Question{Event: Connect}); !errors.Is(r.err, ask.ErrNoResponders) {
		t.Errorf("nobody answers: %v", r)
	}
	text = strings.Repeat("x", int(asker.MaxPayload()))
	if r := put(q); !errors.Is(r.err, ErrTooLarge) {
		t.Errorf("a question larger than NATS takes: %v", r.err)
	}
}
