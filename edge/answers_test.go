package edge

import (
	"strings"
	"testing"

	"nabat/proto/policy"
)

// Commands under way at once: the answer to one must not let the messages of
// another's rooms come before that one's own answer.
func TestARoomsMessagesWaitForItsOwnAnswer(t *testing.T) {
	c := newHistory(t, kept100())
	c.mirrored(c.store("a", "0"))
	e := c.readyForHistory(c.edge(func(cfg *Config) { cfg.Loops = 1 }))
	other := dial(t, e, "/ws?room=a&room=b")
	other.wantPrefix(`{"connected"`)
	r := dial(t, e, "/ws?room=c")
	r.wantPrefix(`{"connected"`)
	// A position that the room never reached is waited for.
	r.send(`{"id":1,"subscribe":{"rooms":[{"room":"a","latest":true},{"room":"b","epoch":"k1","offset":4000}]}}`)
	r.send(`{"id":2,"subscribe":{"rooms":[{"room":"d"}]}}`)
	r.want(`{"id":2,"subscribed":{"rooms":[{"room":"d","epoch":"k1","offset":0}]}}`)
	r.want(`{"id":1,"subscribed":{"rooms":[{"room":"a","epoch":"k1","offset":1},{"room":"b","epoch":"k1","offset":0,"recovered":false,"reason":"ahead_of_history"}]}}`)
	r.want(message("a", 1, 0))
}

func TestABodyIsOneAndWhatItsFieldSays(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e := c.edge(func(cfg *Config) { cfg.MaxBadCommands, cfg.AnonymousRPC = 20, []string{">"} })
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	for _, p := range []struct{ name, command string }{
		{"a publish has a body", `"publish":{"room":"a"}`},
		{"it has no two", `"publish":{"room":"a","text":"x","data":1}`},
		{"bytes are in base64", `"publish":{"room":"a","base64":"not base64"}`},
		{"base64 has its padding", `"publish":{"room":"a","base64":"aGk"}`},
		{"a call has no two bodies", `"rpc":{"method":"m","text":"x","data":1}`},
	} {
		a.send(`{"id":1,` + p.command + `}`)
		got, err := a.next()
		if err != nil || !strings.HasPrefix(got, `{"id":1,"error":{"code":"bad_data","reason":"`) {
			t.Errorf("%s: %s %v", p.name, got, err)
		}
	}
	if n := e.refusals("bad_data"); n != 5 {
		t.Errorf("%d refusals are counted", n)
	}
}
