package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"nabat/internal/natsdev"
)

func startNATS(t *testing.T, o natsdev.Options) (*natsdev.Server, *nats.Conn) {
	t.Helper()
	s, err := natsdev.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	nc, err := nats.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return s, nc
}

func TestPubPublishes(t *testing.T) {
	server, nc := startNATS(t, natsdev.Options{MaxPayload: 128})
	sub, err := nc.SubscribeSync("room.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(file, []byte("\x00\xff"), 0o600); err != nil {
		t.Fatal(err)
	}
	type message struct {
		Subject string
		Body    string
		Header  nats.Header
	}
	for _, c := range []struct {
		rule   string
		args   []string
		stdin  string
		code   int
		stdout string
		stderr string
		want   []message
	}{
		{"an argument is the body as it stands", []string{"team chat", `{"a": 1}`}, "", 0, "published 1 message, 8 bytes, to room.team%20chat\n", "",
			[]message{{"room.team%20chat", `{"a": 1}`, nil}}},
		{"flags become headers", []string{"a", `1`, "--event", "news", "--key", "k", "--user", "alice", "--json"}, "", 0, "published 1 message, 1 bytes, to room.a\n", "",
			[]message{{"room.a", `1`, nats.Header{"Nabat-Event": {"news"}, "Nabat-Key": {"k"}, "Nabat-User": {"alice"}, "Nabat-Body": {"json"}}}}},
		{"text stays text", []string{"a", `1`, "--text"}, "", 0, "published 1 message, 1 bytes, to room.a\n", "",
			[]message{{"room.a", `1`, nats.Header{"Nabat-Body": {"text"}}}}},
		{"an empty body is a body", []string{"a", ""}, "", 0, "published 1 message, 0 bytes, to room.a\n", "",
			[]message{{"room.a", "", nil}}},
		{"a file may hold any bytes", []string{"a", "--file", file}, "", 0, "published 1 message, 2 bytes, to room.a\n", "",
			[]message{{"room.a", "\x00\xff", nil}}},
		{"- is standard input, whole", []string{"a", "-"}, "x\ny\n", 0, "published 1 message, 4 bytes, to room.a\n", "",
			[]message{{"room.a", "x\ny\n", nil}}},
		{"--lines is a message for each line", []string{"a", "-", "--lines"}, "x\n\r\ny", 0, "published 3 messages, 2 bytes, to room.a\n", "",
			[]message{{"room.a", "x", nil}, {"room.a", "", nil}, {"room.a", "y", nil}}},
		{"--json refuses what is not", []string{"a", "{", "--json"}, "", 1, "", "nabat pub: --json: the body is not JSON: unexpected end of JSON input\n", nil},
		{"--text refuses what is not", []string{"a", "--file", file, "--text"}, "", 1, "", "nabat pub: --text: the body is not valid UTF-8\n", nil},
		{"--lines says in which line", []string{"a", "-", "--lines", "--json"}, "1\n{\n", 1, "", "nabat pub: line 2: --json: the body is not JSON: unexpected end of JSON input\n",
			[]message{{"room.a", "1", nats.Header{"Nabat-Body": {"json"}}}}},
		{"what the server would not take is refused here", []string{"a", strings.Repeat("x", 129)}, "", 1, "", "nabat pub: the message, with its headers, is larger than the 128 bytes that this NATS server takes\n", nil},
		{"a line too long is refused", []string{"a", "-", "--lines"}, strings.Repeat("x", 200), 1, "", "nabat pub: line 1: longer than the 128 bytes that this NATS server takes\n", nil},
		{"a subject for a room is told", []string{"room.a", "x"}, "", 0, "published 1 message, 1 bytes, to room.room.a\n",
			"note: rooms are named without \"room.\": this is the room \"room.a\", subject room.room.a\n", []message{{"room.room.a", "x", nil}}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			r := nabat(t, c.stdin, nil, append([]string{"pub", "--nats-url", server.URL()}, c.args...)...)
			if diff := cmp.Diff(result{c.code, c.stdout, c.stderr}, r, cmp.AllowUnexported(result{})); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			for _, want := range c.want {
				m, err := sub.NextMsg(10 * time.Second)
				if err != nil {
					t.Fatal(err)
				}
				got := message{m.Subject, string(m.Data), m.Header}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("message (-want +got):\n%s", diff)
				}
			}
			if n, _, _ := sub.Pending(); n != 0 {
				t.Errorf("%d messages too many", n)
			}
		})
	}
}

func TestPubFindsTheServerByTheEnvironment(t *testing.T) {
	server, _ := startNATS(t, natsdev.Options{})
	if r := nabat(t, "", []string{"NABAT_NATS_URL=" + server.URL()}, "pub", "a", "x"); r.code != 0 {
		t.Errorf("%+v", r)
	}
}
