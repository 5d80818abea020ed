package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"nabat/client"
)

func TestKeysAndBlocksFromTheCommandLine(t *testing.T) {
	_, at := startDev(t, nil)
	run := func(args ...string) string {
		t.Helper()
		r := nabat(t, "", nil, append(args, "--nats-url", at.nats)...)
		if r.code != 0 || r.stderr != "" {
			t.Fatalf("%v: %+v", args, r)
		}
		return r.stdout
	}
	dial := func(token string) (*client.Conn, error) {
		return client.Dial(t.Context(), at.edges[0], client.Options{Token: token})
	}
	token := strings.TrimSpace(run("token", "--user", "alice", "--room", "user.alice"))
	open, err := dial(token)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	// closed waits until the edge ends a connection, and says by what code.
	closed := func(c *client.Conn) string {
		t.Helper()
		for range c.Events() {
		}
		var end *client.CloseError
		if !errors.As(c.Err(), &end) {
			t.Fatal(c.Err())
		}
		return string(end.Code)
	}
	refused := func(token string) string {
		c, err := dial(token)
		if err == nil {
			c.Close()
			return ""
		}
		return err.Error()
	}
	if got := run("token", "revoke", "--token", token); !strings.Contains(got, ": token revoked, until 20") {
		t.Error(got)
	}
	if got := closed(open); got != "token_revoked" {
		t.Error(got)
	}
	if got := refused(token); !strings.Contains(got, "token_revoked") {
		t.Error(got)
	}
	token = strings.TrimSpace(run("token", "--user", "alice", "--algorithm", "EdDSA", "--room", "user.alice"))
	if got := run("block", "alice", "--for", "1h", "--reason", "spam"); !strings.HasPrefix(got, "alice: user blocked, until 20") {
		t.Error(got)
	}
	eventually(t, "alice is refused", func() bool { return strings.Contains(refused(token), "user_blocked") })
	list := run("blocks")
	if lines := strings.Split(strings.TrimSpace(list), "\n"); len(lines) != 3 || !strings.HasPrefix(lines[0], "SUBJECT ") || !strings.Contains(list, "spam") || !strings.Contains(list, "user blocked") {
		t.Error(list)
	}
	var asJSON struct{ Blocks []struct{ Kind, User string } }
	if err := json.Unmarshal([]byte(run("blocks", "--json")), &asJSON); err != nil || len(asJSON.Blocks) != 2 {
		t.Errorf("%+v, %v", asJSON, err)
	}
	if got := run("unblock", "alice") + run("unblock", "alice"); got != "user alice is let in again\nuser alice was not blocked\n" {
		t.Error(got)
	}
	eventually(t, "alice is let in", func() bool { return refused(token) == "" })
	if got := run("token", "revoke", "--user", "alice"); !strings.HasPrefix(got, "alice: tokens issued before 20") {
		t.Error(got)
	}
	eventually(t, "alice is refused", func() bool { return strings.Contains(refused(token), "token_revoked") })

	if got := run("keys"); strings.Count(got, " signing ") != 2 || strings.Count(got, "\n") != 3 {
		t.Error(got)
	}
	if got := run("keys", "rotate"); strings.Count(got, " next ") != 2 {
		t.Error(got)
	}
	if r := nabat(t, "", nil, "keys", "rotate", "--nats-url", at.nats); r.code != 1 || !strings.Contains(r.stderr, "waits already and signs from") {
		t.Errorf("%+v", r)
	}
	bob := strings.TrimSpace(run("token", "--user", "bob", "--room", "a"))
	if got := run("keys", "rotate", "--drop"); strings.Count(got, "\n") != 3 {
		t.Error(got)
	}
	eventually(t, "bob's key is gone", func() bool { return strings.Contains(refused(bob), "token_unknown_key") })
	eventually(t, "the new keys sign", func() bool {
		return refused(strings.TrimSpace(run("token", "--user", "bob", "--room", "a"))) == ""
	})
	later := strings.TrimSpace(run("token", "--user", "bob", "--room", "a", "--not-before", "30m"))
	if got := refused(later); !strings.Contains(got, "token_not_yet_valid") {
		t.Error(got)
	}
}
