package grant

import (
	"strings"
	"testing"

	"nabat/proto/subject"
)

func TestGrant(t *testing.T) {
	g := &Grant{Subscribe: []string{"sports.>", "chat.*"}, Publish: []string{"chat.42"}, Deny: []string{"chat.13"}, Rooms: []string{"user.alice"}}
	for _, c := range []struct {
		rule               string
		g                  *Grant
		room               string
		subscribe, publish bool
	}{
		{"no grant allows nothing", nil, "a", false, false},
		{"an empty grant allows nothing", &Grant{}, "a", false, false},
		{"> covers deeper rooms", g, "sports.news.local", true, false},
		{"* covers one token", g, "chat.42", true, true},
		{"* does not cover two tokens", g, "chat.42.x", false, false},
		{"deny wins", g, "chat.13", false, false},
		{"rooms joined at connect may be joined again", g, "user.alice", true, false},
		{"deny wins over rooms too", &Grant{Rooms: []string{"a"}, Deny: []string{">"}}, "a", false, false},
	} {
		t.Run(c.rule, func(t *testing.T) {
			if c.g.MaySubscribe(c.room) != c.subscribe || c.g.MayPublish(c.room) != c.publish {
				t.Fatalf("subscribe %v, publish %v", c.g.MaySubscribe(c.room), c.g.MayPublish(c.room))
			}
		})
	}
	if n := testing.AllocsPerRun(100, func() { g.MaySubscribe("chat.42"); g.MayPublish("chat.42") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestPresenceIsAGrantOfItsOwn(t *testing.T) {
	g := &Grant{Subscribe: []string{">"}, Presence: []string{"chat.*"}, Deny: []string{"chat.13"}}
	for room, want := range map[string]bool{"chat.42": true, "chat.13": false, "news": false} {
		if g.MaySeePresence(room) != want {
			t.Errorf("presence of %s: %v", room, !want)
		}
	}
	if (*Grant)(nil).MaySeePresence("a") {
		t.Error("no grant shows presence")
	}
}

func TestCheckNamesTheListAndTheRule(t *testing.T) {
	for want, g := range map[string]*Grant{
		"subscribe: room \"a..b\"": {Subscribe: []string{"a..b"}},
		"deny: ":                   {Deny: []string{"a.>.b"}},
		"rooms: ":                  {Rooms: []string{"a.*"}},
	} {
		if err := g.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// The model splits both sides into tokens and compares them one by one.
func FuzzMatch(f *testing.F) {
	f.Add("a.*.c", "a.b.c")
	f.Add("a.>", "a.b")
	f.Fuzz(func(t *testing.T, pattern, room string) {
		if subject.CheckPattern(pattern) != nil || subject.CheckRoom(room) != nil {
			return
		}
		p, r := strings.Split(pattern, "."), strings.Split(room, ".")
		want := false
		for i := 0; ; i++ {
			if i == len(p) || i == len(r) {
				want = len(p) == len(r) && i == len(p)
				break
			}
			if p[i] == ">" && i == len(p)-1 {
				want = true
				break
			}
			if p[i] != "*" && p[i] != r[i] {
				break
			}
		}
		if got := (&Grant{Subscribe: []string{pattern}}).MaySubscribe(room); got != want {
			t.Fatalf("%q against %q: got %v", pattern, room, got)
		}
	})
}
