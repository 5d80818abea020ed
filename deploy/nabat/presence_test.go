package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"nabat/internal/bus"
	"nabat/proto/buspb"
)

// tell reports as an edge does: what comes is appended to what it said before.
func tell(t *testing.T, nc *nats.Conn, r *buspb.Report) {
	t.Helper()
	r.Node, r.Epoch = "played", 1
	data, err := proto.Marshal(r)
	if err == nil {
		err = nc.Publish(bus.ReportPrefix+r.Node, data)
	}
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestPresenceCommands(t *testing.T) {
	_, at := startDev(t, nil)
	nc, err := nats.Connect(at.nats)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	var events []*buspb.Event
	for i, user := range []string{"bob", "alice", "", "bob"} {
		ref := uint64(i)<<32 | 1
		events = append(events, &buspb.Event{Kind: buspb.Event_CONNECT, Connection: ref, User: user, Info: []byte(`{"n":1}`), At: 1_790_000_000_000},
			&buspb.Event{Kind: buspb.Event_JOIN, Connection: ref, Room: "chat.42", At: 1_790_000_000_000})
	}
	tell(t, nc, &buspb.Report{Segments: []*buspb.Segment{{Events: events}}, Stats: &buspb.NodeStats{State: "ready", Connections: 4},
		Counts: []*buspb.RoomCount{{Room: "chat.42", Members: 4}, {Room: "news", Members: 9}}})
	run := func(args ...string) string {
		t.Helper()
		r := nabat(t, "", []string{"NABAT_NATS_URL=" + at.nats}, args...)
		if r.code != 0 || r.stderr != "" {
			t.Fatalf("%v: %+v", args, r)
		}
		return r.stdout
	}
	eventually(t, "the report to arrive", func() bool { return strings.Contains(run("presence", "chat.42"), "2 users") })
	for _, c := range []struct {
		args string
		want string
	}{
		{"presence chat.42", "USER   CONNECTIONS  INFO\nalice  1            {\"n\":1}\nbob    2            {\"n\":1}\n2 users, 1 anonymous, 4 connections\n"},
		{"presence chat.42 --limit 1", "USER   CONNECTIONS  INFO\nalice  1            {\"n\":1}\nmore: --after \"alice\"\n2 users, 1 anonymous, 4 connections\n"},
		{"presence nobody", "0 users, 0 anonymous, 0 connections\n"},
		{"presence nobody --json", `{"room":"nobody","users":0,"anonymous":0,"connections":0,"members":[]}` + "\n"},
		{"rooms", "ROOM     MEMBERS  USERS  MESSAGES  NODES\nnews     9        0      0.0/s     1\nchat.42  4        2      0.0/s     1\n2 rooms in all\n"},
		{"rooms --sort name --limit 1", "ROOM     MEMBERS  USERS  MESSAGES  NODES\nchat.42  4        2      0.0/s     1\nmore: --after \"chat.42\"\n2 rooms in all\n"},
		{"rooms --prefix ne --json", `{"rooms":[{"room":"news","members":9,"rate":0,"nodes":1}],"total":2}` + "\n"},
		{"user alice", "SESSION                              NODE    CONNECTED             ROOMS\nc0000000000000001000000000100000001  played  2026-09-21T14:13:20Z  chat.42\n1 connection\n"},
		{"user nobody", "0 connections\n"},
	} {
		if got := run(strings.Fields(c.args)...); got != c.want {
			t.Errorf("%s\ngot\n%s\nwant\n%s", c.args, got, c.want)
		}
	}
	if got := run("nodes"); !strings.Contains(got, "\nplayed  ready") || !strings.Contains(got, "\nCONTROL ") {
		t.Errorf("nodes\n%s", got)
	}
	const join = "2026-09-21T14:13:20.000Z  join          chat.42  bob  (1 user)\n"
	eventually(t, "the events to be stored", func() bool { return run("events", "--kind", "join", "--limit", "1") == join })
	if got := run("events", "--room", "chat.42", "--limit", "2"); got != "2026-09-21T14:13:20.000Z  occupied      chat.42  (1 user)\n"+join {
		t.Errorf("events\n%s", got)
	}
	if got := run("events", "--follow", "--limit", "3", "--json"); strings.Count(got, "\n") != 3 || !strings.HasPrefix(got, fmt.Sprintf(`{"kind":"connect","user":"bob","session":"c%034d`, 0)[:40]) {
		t.Errorf("events as JSON\n%s", got)
	}
}
