package main

import (
	"strings"
	"testing"
)

// operator runs commands that ask control.
type operator struct {
	t  *testing.T
	at places
}

func (o operator) run(args ...string) result {
	o.t.Helper()
	return nabat(o.t, "", []string{"NABAT_NATS_URL=" + o.at.nats}, args...)
}

// wants runs a command that must print want.
func (o operator) wants(want string, args ...string) string {
	o.t.Helper()
	r := o.run(args...)
	if r.code != 0 || !strings.Contains(r.stdout, want) {
		o.t.Errorf("nabat %q: %+v\nwant %s", args, r, want)
	}
	return r.stdout
}

func TestOperatorsCommands(t *testing.T) {
	_, at := startDev(t, nil)
	o := operator{t, at}
	token := strings.TrimSpace(o.wants("", "token", "--user", "alice", "--subscribe", "a", "--user-room"))
	sub := startProcess(t, nil, "sub", "a", "--edge", at.edges[0], "--token", token)
	eventually(t, "alice to be there", func() bool {
		return strings.Contains(o.run("explain", "subscribe", "a", "--user", "alice").stdout, "ALLOWED")
	})
	o.wants("grant.publish", "explain", "publish", "a", "--token", token)
	o.wants("policy.anonymous", "explain", "publish", "a", "--anonymous")
	o.wants(`"allowed":false`, "explain", "publish", "a", "--token", token, "--json")
	o.wants("offset 1", "pub", "a", "1")
	o.wants("purged a up to offset 1", "purge", "a", "--yes")
	o.wants("ended 1 connections", "kick", "alice", "--reason", "bye")
	if sub.code() == 0 {
		t.Error("who was kicked comes back")
	}
	secret := strings.TrimSpace(o.wants("nabat_", "apikey", "create", "--name", "shop", "--scope", "publish", "--room", "a"))
	id := strings.Split(secret, "_")[1]
	o.wants("shop", "apikey", "list")
	if rotated := o.wants("nabat_"+id, "apikey", "rotate", id, "--grace", "0s"); strings.TrimSpace(rotated) == secret {
		t.Error("the secret stayed")
	}
	o.wants("revoked "+id, "apikey", "revoke", id)
	if r := o.run("tap", "a", "--for", "1s"); r.code != 0 || !strings.Contains(r.stderr, "listening to 0 connections") {
		t.Errorf("%+v", r)
	}
	o.wants("NODE", "rebalance")
	eventually(t, "one node to be even", func() bool { return strings.HasPrefix(o.run("rebalance", "--status").stdout, "done: ") })
	for want, args := range map[string][]string{
		"conflict":         {"rebalance", "--stop"},
		"not_found":        {"drain", "edge-9"},
		"say --yes":        {"purge", "a"},
		"for whom?":        {"explain", "publish", "a"},
		"what may the key": {"apikey", "create"},
		"give one of ROOM": {"tap"},
		"no scope":         {"apikey", "create", "--scope", "everything"},
	} {
		if r := o.run(args...); r.code == 0 || !strings.Contains(r.stderr, want) {
			t.Errorf("nabat %q: %+v\nwant %s", args, r, want)
		}
	}
}
