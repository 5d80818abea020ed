package main

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"nabat/internal/natsdev"
)

func TestHistoryPrintsWhatIsKept(t *testing.T) {
	_, at := startDev(t, nil)
	pub := func(want string, stdin string, args ...string) {
		t.Helper()
		r := nabat(t, stdin, nil, append([]string{"pub", "--nats-url", at.nats}, args...)...)
		if r.code != 0 || r.stdout != want {
			t.Fatalf("%+v\nwant %s", r, want)
		}
	}
	pub("published 1 message at offset 1, 1 bytes, to room.a\n", "", "a", "1", "--user", "bob")
	pub("published 1 message at offset 2, 1 bytes, to room.b\n", "", "b", "x")
	pub("published 2 messages at offsets 3 to 4, 9 bytes, to room.a\n", "{\"n\":2}\n\x00\xff\n", "a", "-", "--lines")
	// The mirror that history is read from comes behind.
	eventually(t, "all to be kept", func() bool {
		return strings.Count(nabat(t, "", nil, "history", "a", "--edge", at.edges[0]).stdout, "\n") == 3
	})
	const one, two, three = "1        bob: 1\n", "3        {\"n\":2}\n", "4        (2 bytes) \"\\x00\\xff\"\n"
	for _, c := range []struct {
		rule string
		args []string
		want string
	}{
		{"the newest, oldest first", []string{"a"}, one + two + three},
		{"so many of the newest", []string{"a", "--limit", "2"}, two + three},
		{"before an offset", []string{"a", "--before", "4", "--limit", "1"}, two},
		{"after an offset", []string{"a", "--after", "1"}, two + three},
		{"from the beginning", []string{"a", "--after", "0", "--limit", "2"}, one + two},
		{"another room", []string{"b"}, "2        x\n"},
		{"a room that nobody used", []string{"none"}, ""},
		{"as JSON", []string{"a", "--json"}, `{"room":"a","offset":1,"data":1,"user":"bob"}` + "\n" + `{"room":"a","offset":3,"data":{"n":2}}` + "\n" + `{"room":"a","offset":4,"base64":"AP8="}` + "\n"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			r := nabat(t, "", []string{"NABAT_EDGE=" + at.edges[0]}, append([]string{"history"}, c.args...)...)
			if r.code != 0 || r.stdout != c.want || r.stderr != "" {
				t.Errorf("%+v\nwant %s", r, c.want)
			}
		})
	}
	t.Run("a token that is none", func(t *testing.T) {
		r := nabat(t, "", []string{"NABAT_TOKEN=x"}, "history", "a", "--edge", at.edges[0])
		if r.code != 1 || !strings.HasPrefix(r.stderr, "nabat history: token_malformed: ") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("sub --since and --latest begin in it", func(t *testing.T) {
		for flag, want := range map[string]string{"--since=1h": "1\n{\"n\":2}\n\x00\xff\n", "--since=2020-01-02T15:04:05Z": "1\n{\"n\":2}\n\x00\xff\n", "--latest": "\x00\xff\n"} {
			r := nabat(t, "", nil, "sub", "a", "--edge", at.edges[0], "--raw", "--timeout", "20s", "--count", fmt.Sprint(strings.Count(want, "\n")), flag)
			if r.code != 0 || r.stdout != want {
				t.Errorf("%s: %+v", flag, r)
			}
		}
	})
	t.Run("more than one page of the server", func(t *testing.T) {
		const many = 2500
		var lines strings.Builder
		for n := range many {
			fmt.Fprintf(&lines, "%d\n", n)
		}
		nabat(t, lines.String(), nil, "pub", "--nats-url", at.nats, "many", "-", "--lines")
		var newest result
		eventually(t, "all to be kept", func() bool {
			newest = nabat(t, "", nil, "history", "many", "--edge", at.edges[0], "--limit", "1")
			return strings.HasSuffix(newest.stdout, fmt.Sprintf(" %d\n", many-1))
		})
		all := nabat(t, "", nil, "history", "many", "--edge", at.edges[0], "--limit", fmt.Sprint(many))
		forwards := nabat(t, "", nil, "history", "many", "--edge", at.edges[0], "--limit", fmt.Sprint(many), "--after", "0")
		if all.code != 0 || all.stdout == "" || !strings.HasSuffix(all.stdout, newest.stdout) || !strings.HasSuffix(forwards.stdout, all.stdout) {
			t.Errorf("%d and %d lines: %s", strings.Count(all.stdout, "\n"), strings.Count(forwards.stdout, "\n"), all.stderr)
		}
	})
}

// An edge is killed while nabat sub is there, and messages come before another
// takes over: none is missing, none comes twice, and no gap is told.
func TestSubGoesOnWhereItWas(t *testing.T) {
	_, at := startDev(t, nil)
	nc, err := nats.Connect(at.nats)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	address := fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1))
	start := func(node string) *process {
		ops := fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1))
		p := startProcess(t, nil, "edge", "--listen", address, "--node", node, "--nats-url", at.nats, "--ops-listen", ops)
		eventually(t, node+" to be ready", func() bool {
			r, err := http.Get("http://" + ops + "/readyz")
			if err != nil {
				return false
			}
			r.Body.Close()
			return r.StatusCode == 200
		})
		return p
	}
	one := start("one")
	stdout, stderr, code, _ := startSub(t, "a", "--edge", address, "--raw", "--count", "4", "--timeout", "50s")
	eventually(t, "nabat sub to join", func() bool { return strings.Contains(stderr.String(), "joined a at "+address+" (one)") })
	publish := func(body string) {
		if r := nabat(t, "", nil, "pub", "--nats-url", at.nats, "a", body); r.code != 0 {
			t.Fatalf("%+v", r)
		}
	}
	publish("1")
	eventually(t, "the first message", func() bool { return stdout.String() == "1\n" })
	one.signal(syscall.SIGKILL)
	<-one.done
	publish("2")
	publish("3")
	start("two")
	eventually(t, "what was missed", func() bool { return strings.Contains(stdout.String(), "3\n") })
	publish("4")
	if got := <-code; got != 0 || stdout.String() != "1\n2\n3\n4\n" {
		t.Errorf("exit %d, got %q", got, stdout)
	}
	if said := stderr.String(); strings.Contains(said, "gap") || !strings.Contains(said, "(two)") {
		t.Errorf("nabat sub says:\n%s", said)
	}
}

// A user's own stream is no history of Nabat's; nor is a server without any.
func TestPubPrintsNoOffsetWhereTheRoomHasNoHistory(t *testing.T) {
	server, nc := startNATS(t, natsdev.Options{})
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.AddStream(&nats.StreamConfig{Name: "MINE", Subjects: []string{"room.>"}}); err != nil {
		t.Fatal(err)
	}
	r := nabat(t, "", nil, "pub", "--nats-url", server.URL(), "a", "1")
	if want := "published 1 message, 1 bytes, to room.a\n"; r.code != 0 || r.stdout != want || r.stderr != "" {
		t.Errorf("%+v", r)
	}
}

// A backend that may publish to its rooms, and ask JetStream nothing.
func TestPubNeedsNoMoreThanToPublish(t *testing.T) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir(),
		Users: []*server.User{{Username: "backend", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"room.a"}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	eventually(t, "NATS", func() bool { return s.ReadyForConnections(time.Second) })
	url := "nats://backend:p@" + s.Addr().String()
	if r := nabat(t, "", nil, "pub", "--nats-url", url, "a", "1"); r != (result{0, "published 1 message, 1 bytes, to room.a\n", ""}) {
		t.Errorf("%+v", r)
	}
	if r := nabat(t, "", nil, "pub", "--nats-url", url, "b", "1"); r.code != 1 || !strings.HasPrefix(r.stderr, "nabat pub: NATS refused: ") || !strings.Contains(r.stderr, "room.b") {
		t.Errorf("%+v", r)
	}
}
