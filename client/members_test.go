package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"nabat/client"
	"nabat/proto/wire"
)

// awaitMembers waits until a complete list is the users wanted.
func awaitMembers(t *testing.T, m *client.Members, want ...string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		var got []string
		for _, member := range m.List() {
			got = append(got, member.User)
		}
		if m.Complete() && slices.Equal(got, want) {
			if m.Users() != uint64(len(want)) {
				t.Errorf("%d users, want %v", m.Users(), want)
			}
			return
		}
		select {
		case _, ok := <-m.Changed():
			if !ok {
				t.Fatalf("ended: %v", m.Err())
			}
		case <-deadline:
			t.Fatalf("got %v (complete: %v, %d users, %v), want %v", got, m.Complete(), m.Users(), m.Err(), want)
		}
	}
}

// patience is limit for what takes its time on a slow machine.
func patience(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestMembersAreKeptUpToDate(t *testing.T) {
	address, issue, end := exampleSystem()
	defer end()
	between := newRelay(t, strings.TrimPrefix(address, "http://"))
	for _, o := range []client.Options{{}, {Protobuf: true, Batch: true}} {
		room := fmt.Sprintf("chat.%v%v", o.Protobuf, o.Batch)
		between.aim(strings.TrimPrefix(address, "http://"))
		o.Token = issue("alice")
		if o.Batch {
			o.Rooms = []string{room} // it is joined already, and its events must be read
		}
		k := keep(t, between.address(), o)
		if o.Batch {
			go func() {
				for range k.Events() {
				}
			}()
		}
		members, err := k.Watch(patience(t), room)
		if err != nil {
			t.Fatal(err)
		}
		awaitMembers(t, members, "alice")
		o.Rooms = []string{room}
		o.Token = issue("bob")
		dial(t, address, o)
		awaitMembers(t, members, "alice", "bob")
		between.aim("")
		o.Token = issue("carol")
		dial(t, address, o)
		between.aim(strings.TrimPrefix(address, "http://"))
		awaitMembers(t, members, "alice", "bob", "carol")
		members.Close()
		if err := members.Err(); !errors.Is(err, client.ErrClosed) || members.Complete() {
			t.Errorf("after the end: %v, complete: %v", err, members.Complete())
		}
	}
	k := keep(t, address, client.Options{Token: issue("alice")})
	var refused *wire.Error
	if _, err := k.Watch(patience(t), "other"); !errors.As(err, &refused) || refused.Code != wire.NotAllowed {
		t.Errorf("a room that is not granted: %v", err)
	}
}

// Each step is a change that is told, the pages that are then read, and who is
// there afterwards.
func TestMembersAreReadAnewWhereTheyMustBe(t *testing.T) {
	steps := []struct {
		rule, notice string
		pages        []string
		want         []string
	}{
		{"at first", "", []string{`"users":1,"members":[{"user":"alice"}]`}, []string{"alice"}},
		{"a change that fits is enough", `"join":[{"user":"bob"}],"leave":[{"user":"alice"}],"users":1`, nil, []string{"bob"}},
		{"one whose count does not is read after, page by page", `"join":[{"user":"carol"}],"users":3`,
			[]string{`"users":3,"members":[{"user":"bob"},{"user":"carol"}],"next":"carol"`, `"users":3,"members":[{"user":"dave"}]`}, []string{"bob", "carol", "dave"}},
		{"what was lost is read", `"lost":true`, []string{`"users":1,"members":[{"user":"dave"}]`}, []string{"dave"}},
	}
	pages, notices := make(chan string, 10), make(chan string)
	address := serve(t, func(p *peer) {
		p.connect()
		p.send(`{"id":%s,"subscribed":{"rooms":[{"room":"b"}]}}`, p.read()["id"])
		go func() {
			for notice := range notices {
				p.send(`{"presence":{"room":"b",%s}}`, notice)
			}
		}()
		for command := p.read(); command["presence"] != nil; command = p.read() {
			if strings.Contains(string(command["presence"]), `"limit":0`) { // an audit, of a slow machine
				p.send(`{"id":%s,"error":{"code":"unavailable","reason":"not now","retry_ms":0}}`, command["id"])
				continue
			}
			select {
			case page := <-pages:
				p.send(`{"id":%s,"presence":{"room":"b","anonymous":0,"connections":9,%s}}`, command["id"], page)
			default:
				t.Error("read without a need")
				return
			}
		}
	})
	defer close(notices)
	k := keep(t, address, client.Options{})
	for _, page := range steps[0].pages {
		pages <- page
	}
	members, err := k.Watch(patience(t), "b")
	if err != nil {
		t.Fatal(err)
	}
	awaitMembers(t, members, steps[0].want...)
	for _, step := range steps[1:] {
		for _, page := range step.pages {
			pages <- page
		}
		notices <- step.notice
		awaitMembers(t, members, step.want...)
		if len(pages) > 0 {
			t.Errorf("%s: not read", step.rule)
		}
	}
	notices <- `"users":5000`
	deadline := time.After(20 * time.Second)
	for members.Users() != 5000 {
		select {
		case <-members.Changed():
		case <-deadline:
			t.Fatal("waited in vain")
		}
	}
	if list := members.List(); len(list) != 0 || members.Complete() {
		t.Errorf("of many users only the counts are kept: %v", list)
	}
}

// Nothing is told, and yet somebody came.
func TestMembersFindWhatWasLostWithoutAWord(t *testing.T) {
	defer client.SetAudit(20 * time.Millisecond)()
	page := func(users int, members string) string {
		return fmt.Sprintf(`"presence":{"room":"b","users":%d,"anonymous":0,"connections":2,"members":[%s]}`, users, members)
	}
	came := make(chan struct{})
	address := serve(t, func(p *peer) {
		p.connect()
		p.send(`{"id":%s,"subscribed":{"rooms":[{"room":"b"}]}}`, p.read()["id"])
		for command := p.read(); command["presence"] != nil; command = p.read() {
			answer := page(1, `{"user":"alice"}`)
			select {
			case <-came:
				answer = page(2, `{"user":"alice"},{"user":"bob"}`)
			default:
			}
			p.send(`{"id":%s,%s}`, command["id"], answer)
		}
	})
	members, err := keep(t, address, client.Options{}).Watch(patience(t), "b")
	if err != nil {
		t.Fatal(err)
	}
	awaitMembers(t, members, "alice")
	close(came)
	awaitMembers(t, members, "alice", "bob")
}
