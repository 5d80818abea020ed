package blocks

import (
	"strings"
	"testing"
	"time"

	"nabat/edge/internal/session"
	"nabat/proto/block"
	"nabat/proto/wire"
)

var now = time.Unix(1_800_000_000, 0)

func set(t *testing.T, l *List, e block.Entry) {
	t.Helper()
	if stricter, err := l.Set(e.Key(), e.Encode()); err != nil || !stricter {
		t.Fatal(stricter, err)
	}
}

func TestWhoMayNotBeHere(t *testing.T) {
	l := New()
	if l.Known() {
		t.Fatal("nothing has been read")
	}
	l.Replace(nil)
	for _, e := range []block.Entry{
		{Kind: block.User, Subject: "bob"},
		{Kind: block.User, Subject: "carol", Until: now.Unix() + 60},
		{Kind: block.User, Subject: "dave", Until: now.Unix()},
		{Kind: block.Issued, Subject: "alice", Before: 100, Until: now.Unix() + 60},
		{Kind: block.Token, Subject: "t1"},
		{Kind: block.Token, Subject: "t2", Until: now.Unix() - 1},
	} {
		set(t, l, e)
	}
	for _, c := range []struct {
		rule   string
		id     *session.Identity
		code   wire.Code
		reason string
	}{
		{"nobody", nil, "", ""},
		{"a stranger", &session.Identity{User: "eve", TokenID: "t9", Issued: 5}, "", ""},
		{"no user and no id", &session.Identity{}, "", ""},
		{"blocked for good", &session.Identity{User: "bob", Issued: 500}, wire.UserBlocked, "this user is blocked"},
		{"blocked for a time", &session.Identity{User: "carol"}, wire.UserBlocked, "until 2027-01-15T08:01:00Z"},
		{"a block that is over", &session.Identity{User: "dave"}, "", ""},
		{"issued before", &session.Identity{User: "alice", Issued: 99}, wire.TokenRevoked, "issued before 1970-01-01T00:01:40Z"},
		{"issued then", &session.Identity{User: "alice", Issued: 100}, "", ""},
		{"issued who knows when", &session.Identity{User: "alice"}, wire.TokenRevoked, "issued before"},
		{"a revoked token", &session.Identity{User: "eve", TokenID: "t1"}, wire.TokenRevoked, "the token is revoked"},
		{"a revocation that is over", &session.Identity{User: "eve", TokenID: "t2"}, "", ""},
		{"a user named as a token", &session.Identity{User: "t1"}, "", ""},
	} {
		err := l.Check(c.id, now)
		if (err == nil) != (c.code == "") || err != nil && (err.Code != c.code || !strings.Contains(err.Reason, c.reason)) {
			t.Errorf("%s: %v", c.rule, err)
		}
	}
	key := block.Key(block.User, "bob")
	if stricter, err := l.Set(key, nil); stricter || err != nil || l.Check(&session.Identity{User: "bob"}, now) != nil {
		t.Error("a block that was lifted is in force", err)
	}
}

func TestTheWholeListIsReplaced(t *testing.T) {
	l := New()
	bob, eve := block.Entry{Kind: block.User, Subject: "bob"}, block.Entry{Kind: block.User, Subject: "eve"}
	all := map[string][]byte{bob.Key(): bob.Encode(), "user.x": []byte("{"), "user.y": eve.Encode()}
	stricter, bad := l.Replace(all)
	if !stricter || len(bad) != 2 || l.Len() != 1 || !l.Known() || l.Check(&session.Identity{User: "eve"}, now) != nil {
		t.Errorf("%t, %v, %d", stricter, bad, l.Len())
	}
	if stricter, _ := l.Replace(all); stricter {
		t.Error("the same list again makes nobody look")
	}
	if stricter, _ := l.Replace(nil); stricter || l.Check(&session.Identity{User: "bob"}, now) != nil {
		t.Error("bob is free")
	}
	for key, value := range map[string]string{bob.Key(): "{", eve.Key(): string(bob.Encode())} {
		if _, err := l.Set(key, []byte(value)); err == nil {
			t.Errorf("%s: %s", key, value)
		}
	}
}

func TestAnEmptyListCostsNothing(t *testing.T) {
	l := New()
	l.Replace(nil)
	id := &session.Identity{User: "a", TokenID: "b"}
	if n := testing.AllocsPerRun(100, func() { l.Check(id, now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCheck(b *testing.B) {
	l := New()
	e := block.Entry{Kind: block.User, Subject: "bob"}
	l.Replace(map[string][]byte{e.Key(): e.Encode()})
	id := &session.Identity{User: "alice", TokenID: "5e2b9c0f4a1d7e6b3c8f9a0b"}
	b.ReportAllocs()
	for b.Loop() {
		l.Check(id, now)
	}
}
