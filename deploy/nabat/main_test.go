package main

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"
)

// result is what a command did.
type result struct {
	code           int
	stdout, stderr string
}

// nabat runs the command line in this process.
func nabat(t *testing.T, stdin string, environ []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var stdout, stderr output
	a := &app{environ: environ, stdin: strings.NewReader(stdin), stdout: &stdout, stderr: &stderr}
	code := a.run(ctx, args)
	return result{code, stdout.String(), stderr.String()}
}

// output is a buffer that may be read while it is written.
type output struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !condition() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestEveryBadCommandLineHasItsError(t *testing.T) {
	const nowhere = "nats://127.0.0.1:1"
	for _, c := range []struct {
		rule string
		args []string
		code int
		want string // the first line of standard error
	}{
		{"an unknown command", []string{"frobnicate"}, 2, `nabat: there is no command "frobnicate"`},
		{"an unknown command suggests the nearest", []string{"pubb"}, 2, `nabat: there is no command "pubb": did you mean "nabat pub"?`},
		{"letters in the wrong order suggest it too", []string{"tokne"}, 2, `nabat: there is no command "tokne": did you mean "nabat token"?`},
		{"an unknown flag", []string{"pub", "a", "b", "--frobnicate"}, 2, "nabat pub: there is no flag --frobnicate"},
		{"an unknown flag suggests the nearest", []string{"pub", "a", "b", "--evnet", "x"}, 2, "nabat pub: there is no flag --evnet: did you mean --event?"},
		{"an unknown flag of the program itself", []string{"--colour"}, 2, "nabat: there is no flag --colour"},
		{"one dash where two belong", []string{"pub", "a", "b", "-event", "x"}, 2, "nabat pub: there is no flag -event: write --event"},
		{"an unknown short flag", []string{"pub", "a", "b", "-x"}, 2, "nabat pub: there is no flag -x"},
		{"a flag without its value", []string{"sub", "a", "--count"}, 2, "nabat sub: --count needs a value"},
		{"not a number", []string{"sub", "a", "--count", "many"}, 2, `nabat sub: --count "many": must be a whole number`},
		{"not a duration", []string{"token", "--user", "u", "--ttl", "60"}, 2, `nabat token: --ttl "60": must be a duration, such as 500ms, 10s or 1h`},
		{"not a boolean", []string{"sub", "a", "--raw=perhaps"}, 2, `nabat sub: --raw "perhaps": must be true or false`},

		{"pub wants a room", []string{"pub"}, 2, "nabat pub: ROOM is missing"},
		{"pub wants a body", []string{"pub", "a"}, 2, "nabat pub: BODY is missing"},
		{"pub with words that were not quoted", []string{"pub", "a", "hello", "world"}, 2, `nabat pub: "world" is one argument too many: quote what holds spaces`},
		{"pub with a bad room", []string{"pub", "a..b", "x"}, 2, `nabat pub: room "a..b": a token between dots must not be empty`},
		{"pub with a pattern for a room", []string{"pub", "a.*", "x"}, 2, `nabat pub: room "a.*": * and > are patterns, not names`},
		{"pub with two bodies", []string{"pub", "a", "x", "--file", "f"}, 2, "nabat pub: the body is given twice, as an argument and by --file"},
		{"pub of a file that is not there", []string{"pub", "a", "--file", "testdata/none"}, 1, "nabat pub: open testdata/none: no such file or directory"},
		{"pub as two kinds", []string{"pub", "a", "x", "--text", "--json"}, 2, "nabat pub: --text and --json exclude each other"},
		{"pub of lines from nowhere", []string{"pub", "a", "x", "--lines"}, 2, "nabat pub: --lines reads from standard input or a file: give - as BODY, or --file"},
		{"pub with a header that would break", []string{"pub", "a", "x", "--event", "a\nb"}, 2, "nabat pub: --event must not contain control characters"},
		{"pub without time", []string{"pub", "a", "x", "--timeout", "0s"}, 2, "nabat pub: --timeout 0s: must be more than 0"},
		{"pub without a server", []string{"pub", "a", "x", "--nats-url", nowhere}, 1, "nabat pub: no NATS server answers at nats://127.0.0.1:1: is nabat dev running? Another server is given by --nats-url"},
		{"pub never shows a password", []string{"pub", "a", "x", "--nats-url", "nats://u:secret@127.0.0.1:1,nats://secret@127.0.0.1:1"}, 1,
			"nabat pub: no NATS server answers at nats://u:xxxxx@127.0.0.1:1,nats://xxxxx@127.0.0.1:1: is nabat dev running? Another server is given by --nats-url"},

		{"sub wants a room", []string{"sub"}, 2, "nabat sub: ROOM is missing"},
		{"sub with a bad room", []string{"sub", "a", "_b"}, 2, `nabat sub: room "_b": names that begin with _ or $ are reserved`},
		{"sub of fewer than none", []string{"sub", "a", "--count", "-1"}, 2, "nabat sub: --count -1: must be 0 or more"},
		{"sub for less than no time", []string{"sub", "a", "--timeout", "-1s"}, 2, "nabat sub: --timeout -1s: must be 0 or more"},
		{"sub at no address", []string{"sub", "a", "--edge", "ftp://x", "--timeout", "5s"}, 1, `nabat sub: edge address "ftp://x": the scheme must be ws, wss, http or https`},

		{"sub since nothing", []string{"sub", "a", "--since", ""}, 2, `nabat sub: --since "": must be a duration such as 10m, or a time such as 2026-01-02T15:04:05Z (RFC 3339)`},
		{"sub since no time", []string{"sub", "a", "--since", "yesterday"}, 2, `nabat sub: --since "yesterday": must be a duration such as 10m, or a time such as 2026-01-02T15:04:05Z (RFC 3339)`},
		{"sub since the future", []string{"sub", "a", "--since", "-10m"}, 2, `nabat sub: --since "-10m": must be a duration such as 10m, or a time such as 2026-01-02T15:04:05Z (RFC 3339)`},
		{"sub from two places", []string{"sub", "a", "--since", "10m", "--latest"}, 2, "nabat sub: --since and --latest exclude each other"},
		{"sub with the newest or not", []string{"sub", "a", "--latest=perhaps"}, 2, `nabat sub: --latest "perhaps": must be true or false`},

		{"presence wants a room", []string{"presence"}, 2, "nabat presence: ROOM is missing"},
		{"presence of a bad room", []string{"presence", "a.>"}, 2, `nabat presence: room "a.>": * and > are patterns, not names`},
		{"presence of more than a page", []string{"presence", "a", "--limit", "1001"}, 2, "nabat presence: --limit 1001: must be 0 to 1000"},
		{"presence without time", []string{"presence", "a", "--timeout", "0s"}, 2, "nabat presence: --timeout 0s: must be more than 0"},
		{"presence without a server", []string{"presence", "a", "--nats-url", nowhere}, 1, "nabat presence: no NATS server answers at nats://127.0.0.1:1: is nabat dev running? Another server is given by --nats-url"},
		{"rooms in no order", []string{"rooms", "--sort", "size"}, 2, `nabat rooms: --sort "size": must be members, rate or name`},
		{"rooms fewer than none", []string{"rooms", "--limit", "-1"}, 2, "nabat rooms: --limit -1: must be 0 to 1000"},
		{"nodes takes nothing", []string{"nodes", "a"}, 2, `nabat nodes: takes no arguments, but was given "a"`},
		{"user wants one", []string{"user"}, 2, "nabat user: ID is missing"},
		{"user without a name", []string{"user", ""}, 2, "nabat user: ID is empty: whose connections?"},
		{"events of no kind", []string{"events", "--kind", "birth"}, 2, `nabat events: --kind "birth": must be connect, disconnect, join, leave, occupied, vacated, node_started or node_stopped`},
		{"events of a bad room", []string{"events", "--room", "a..b"}, 2, `nabat events: --room: room "a..b": a token between dots must not be empty`},
		{"connects are of no room", []string{"events", "--room", "a", "--kind", "connect"}, 2, "nabat events: --kind connect and --room exclude each other"},
		{"events since the future", []string{"events", "--since", "-1s"}, 2, "nabat events: --since -1s: must not be negative"},
		{"events fewer than none", []string{"events", "--limit", "-1"}, 2, "nabat events: --limit -1: must be 0 or more"},
		{"events without time", []string{"events", "--timeout", "0s"}, 2, "nabat events: --timeout 0s: must be more than 0"},
		{"rpc wants a method", []string{"rpc"}, 2, "nabat rpc: METHOD is missing"},
		{"rpc of one method", []string{"rpc", "a", "b", "c"}, 2, `nabat rpc: "c" is one argument too many: quote what holds spaces`},
		{"rpc of a bad method", []string{"rpc", "a.>"}, 2, `nabat rpc: METHOD: room "a.>": * and > are patterns, not names`},
		{"rpc without time", []string{"rpc", "a", "--timeout", "0s"}, 2, "nabat rpc: --timeout 0s: must be more than 0"},
		{"history wants a room", []string{"history"}, 2, "nabat history: ROOM is missing"},
		{"history of one room", []string{"history", "a", "b"}, 2, `nabat history: "b" is one argument too many: quote what holds spaces`},
		{"history of a bad room", []string{"history", "a.>"}, 2, `nabat history: room "a.>": * and > are patterns, not names`},
		{"history of no messages", []string{"history", "a", "--limit", "0"}, 2, "nabat history: --limit 0: must be more than 0"},
		{"history of many messages", []string{"history", "a", "--limit", "many"}, 2, `nabat history: --limit "many": must be a whole number`},
		{"history both ways", []string{"history", "a", "--before", "9", "--after", "0"}, 2, "nabat history: --before and --after exclude each other"},
		{"history before the beginning", []string{"history", "a", "--before", "0"}, 2, "nabat history: --before 0: there is nothing before the first offset, which is 1"},
		{"history before no offset", []string{"history", "a", "--before", "-1"}, 2, `nabat history: --before "-1": must be a whole number`},
		{"history after no offset", []string{"history", "a", "--after", "x"}, 2, `nabat history: --after "x": must be a whole number`},
		{"history as JSON or not", []string{"history", "a", "--json=perhaps"}, 2, `nabat history: --json "perhaps": must be true or false`},
		{"history without time", []string{"history", "a", "--timeout", "0s"}, 2, "nabat history: --timeout 0s: must be more than 0"},
		{"history at no address", []string{"history", "a", "--edge", "ftp://x"}, 1, `nabat history: edge address "ftp://x": the scheme must be ws, wss, http or https`},
		{"history of nobody", []string{"history", "a", "--edge", "127.0.0.1:1"}, 1, "nabat history: connect to 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused"},

		{"token wants a user", []string{"token"}, 2, "nabat token: --user is missing: whose token is it?"},
		{"token takes flags only", []string{"token", "alice"}, 2, `nabat token: takes no arguments, but was given "alice"`},
		{"token that was never valid", []string{"token", "--user", "u", "--ttl", "0s"}, 2, "nabat token: --ttl 0s: must be more than 0"},
		{"token without time", []string{"token", "--user", "u", "--timeout", "-1s"}, 2, "nabat token: --timeout -1s: must be more than 0"},
		{"token by no algorithm", []string{"token", "--user", "u", "--algorithm", "none"}, 2, `nabat token: --algorithm "none": must be HS256 or EdDSA`},
		{"token with a bad pattern", []string{"token", "--user", "u", "--subscribe", "a.>.b"}, 2, `nabat token: --subscribe: room "a.>.b": pattern: > must be the last token`},
		{"token with a bad publish pattern", []string{"token", "--user", "u", "--publish", ""}, 2, `nabat token: --publish: room "": pattern: a name must not be empty`},
		{"token with a bad denied pattern", []string{"token", "--user", "u", "--deny", "a."}, 2, `nabat token: --deny: room "a.": pattern: a token between dots must not be empty`},
		{"token with a pattern for a room", []string{"token", "--user", "u", "--room", "a.*"}, 2, `nabat token: --room: room "a.*": * and > are patterns, not names`},
		{"token with bad info", []string{"token", "--user", "u", "--info", "{"}, 2, "nabat token: --info: not JSON"},
		{"token without a server", []string{"token", "--user", "u", "--nats-url", nowhere}, 1, "nabat token: no NATS server answers at nats://127.0.0.1:1: is nabat dev running? Another server is given by --nats-url"},

		{"revoke nothing", []string{"token", "revoke"}, 2, "nabat token revoke: give one of ID, --token and --user"},
		{"revoke two things", []string{"token", "revoke", "x", "--user", "u"}, 2, "nabat token revoke: give one of ID, --token and --user"},
		{"revoke a token by time", []string{"token", "revoke", "x", "--issued-before", "1h"}, 2, "nabat token revoke: --issued-before belongs to --user"},
		{"revoke by no time", []string{"token", "revoke", "--user", "u", "--issued-before", "noon"}, 2, `nabat token revoke: --issued-before "noon": must be a duration such as 10m, or a time such as 2026-01-02T15:04:05Z (RFC 3339)`},
		{"revoke without time", []string{"token", "revoke", "x", "--timeout", "0s"}, 2, "nabat token revoke: --timeout 0s: must be more than 0"},
		{"block wants a user", []string{"block"}, 2, "nabat block: USER is missing"},
		{"block one user", []string{"block", "a", "b"}, 2, `nabat block: "b" is one argument too many: quote what holds spaces`},
		{"block until before now", []string{"block", "u", "--for", "-1h"}, 2, "nabat block: --for -1h0m0s: must not be negative"},
		{"unblock wants a user", []string{"unblock"}, 2, "nabat unblock: USER is missing"},
		{"blocks takes nothing", []string{"blocks", "u"}, 2, `nabat blocks: takes no arguments, but was given "u"`},
		{"keys without a server", []string{"keys", "--nats-url", nowhere}, 1, "nabat keys: no NATS server answers at nats://127.0.0.1:1: is nabat dev running? Another server is given by --nats-url"},
		{"rotate takes nothing", []string{"keys", "rotate", "now"}, 2, `nabat keys rotate: takes no arguments, but was given "now"`},

		{"subject wants a room", []string{"subject"}, 2, "nabat subject: ROOM is missing"},
		{"subject of a bad room", []string{"subject", "a\tb"}, 1, `nabat subject: room "a\tb": a name must not contain control characters`},
		{"subject that is not canonical", []string{"subject", "--decode", "room.%61"}, 1, `nabat subject: room "room.%61": not the canonical form, which is room.a`},
		{"nats wants a file", []string{"nats"}, 2, "nabat nats: --config is missing"},
		{"nats takes flags only", []string{"nats", "nats.conf"}, 2, `nabat nats: takes no arguments, but was given "nats.conf"`},
		{"nats both ways", []string{"nats", "--config", "f", "--signal", "ldm"}, 2, "nabat nats: --signal is for a server that runs, --config for one that starts: give one of them"},
		{"nats that is told by nobody", []string{"nats", "--signal", "ldm"}, 2, "nabat nats: --signal needs --pid, the file with the server's process id"},
		{"nats with an unknown signal", []string{"nats", "--signal", "stop", "--pid", "f"}, 2, `nabat nats: --signal "stop": must be one of ldm, quit, reload, reopen, term`},
		{"nats without a pid file", []string{"nats", "--signal", "ldm", "--pid", "testdata/none"}, 1, "nabat nats: process id: open testdata/none: no such file or directory"},
		{"version takes nothing", []string{"version", "1"}, 2, `nabat version: takes no arguments, but was given "1"`},
	} {
		t.Run(c.rule, func(t *testing.T) {
			r := nabat(t, "", nil, c.args...)
			first, hint, _ := strings.Cut(r.stderr, "\n")
			if r.code != c.code || first != c.want {
				t.Errorf("exit %d: %s\nwant %d: %s", r.code, first, c.code, c.want)
			}
			if r.stdout != "" {
				t.Errorf("standard output is for results: %q", r.stdout)
			}
			if see := strings.HasPrefix(hint, "See: nabat"); see != (c.code == 2) {
				t.Errorf("the hint: %q", hint)
			}
		})
	}
}

func TestSubjectsAndRooms(t *testing.T) {
	r := nabat(t, "", nil, "subject", "sports.news", "team chat 1")
	if want := "room.sports.news\nroom.team%20chat%201\n"; r.code != 0 || r.stdout != want {
		t.Errorf("got %+v, want %q", r, want)
	}
	r = nabat(t, "", nil, "subject", "--decode", "--subject-prefix", "r.", "r.team%20chat%201")
	if want := "team chat 1\n"; r.code != 0 || r.stdout != want {
		t.Errorf("got %+v, want %q", r, want)
	}
}
