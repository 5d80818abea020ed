package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// tab opens another tab of the same browser at a page, with a client of
// nabat-client/shared that keeps what a room tells.
func (s *system) tab(t *testing.T, ctx context.Context, options string) (context.Context, context.CancelFunc) {
	t.Helper()
	tab, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	do(t, tab, chromedp.Navigate(s.page("/forum/read/")), chromedp.Evaluate(fmt.Sprintf(`
		window.told = []; window.numbers = []; window.states = [];
		import('/nabat-client-shared.js').then(({ connect, Members }) => {
			window.client = connect(%q, { ...%s });
			window.listen = (name, options) => {
				const room = client.room(name, options);
				for (const kind of ['joined', 'recovered', 'gap', 'reset', 'error']) room.on(kind, () => told.push(name + ' ' + kind));
				room.on('message', (m) => numbers.push(m.data));
				return room;
			};
			client.on('state', (s) => states.push(s.state));
			listen('chat.1');
		});
		null`, "http://"+s.edge.Addr(), options), nil))
	watch(t, tab, "window.client?.rooms.every((room) => room.joined) && client.state.state === 'live'")
	return tab, cancel
}

// watch is wait for a tab that may be behind another one: it has timers, but no
// animation frames.
func watch(t *testing.T, ctx context.Context, expression string) {
	t.Helper()
	err := chromedp.Run(ctx, chromedp.Poll(expression, nil, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(patience)))
	if err != nil {
		var page string
		_ = chromedp.Run(ctx, chromedp.Evaluate("JSON.stringify({ told, numbers, states, rooms: window.client?.rooms.map((r) => r.position) })", &page))
		t.Fatalf("%s: %v; the page has %s", expression, err, page)
	}
}

func (s *system) connections(want int) func() bool {
	return func() bool {
		n := int64(0)
		for _, l := range s.edge.Loops() {
			n += l.WebSockets.Load()
		}
		return n == int64(want)
	}
}

// Two tabs have one connection, and each its own rooms; what is published while
// the edge is away comes once to each.
func TestTabsShareAConnection(t *testing.T) {
	s := start(t)
	ctx := browser(t)
	one, _ := s.tab(t, ctx, "{}")
	two, closeTwo := s.tab(t, ctx, "{}")
	until(t, "one connection", s.connections(1))
	watch(t, one, "!!client.room('chat.1').position.epoch")
	watch(t, two, "!!client.room('chat.1').position.epoch && client.session")
	var sessions [2]string
	do(t, one, chromedp.Evaluate("client.session", &sessions[0]))
	do(t, two, chromedp.Evaluate("client.session", &sessions[1]))
	if sessions[0] != sessions[1] {
		t.Errorf("two sessions: %v", sessions)
	}

	// A room of one tab only; what a tab asks for is answered to it.
	do(t, two, chromedp.Evaluate("listen('chat.2').ready().then(() => client.publish('chat.1', 1)).then((p) => { window.offset = p.offset; }); null", nil))
	watch(t, two, "window.offset > 0 && numbers.join() === '1'")
	watch(t, one, "numbers.join() === '1'")
	s.publish("room.chat.2", "2")
	watch(t, two, "numbers.join() === '1,2'")

	// The edge goes and comes back.
	do(t, one, chromedp.Evaluate("told.length = 0; null", nil))
	s.stop()
	watch(t, one, "client.state.state !== 'live'")
	watch(t, two, "client.state.state !== 'live'")
	s.publish("room.chat.1", "3")
	s.startEdge()
	watch(t, one, "numbers.join() === '1,3' && client.state.state === 'live' && told.join() === 'chat.1 recovered'")
	watch(t, two, "numbers.join() === '1,2,3' && client.state.state === 'live'")

	// A tab that comes late and wants what was: the others do not get it again.
	do(t, two, chromedp.Evaluate("client.room('chat.1').leave(); listen('chat.1', { since: '10m' }); null", nil))
	watch(t, two, "numbers.join() === '1,2,3,1,3'")
	s.publish("room.chat.1", "4")
	watch(t, two, "numbers.join() === '1,2,3,1,3,4'")
	watch(t, one, "numbers.join() === '1,3,4'")

	// A tab that is closed leaves its rooms, and the last one ends the connection.
	closeTwo()
	do(t, one, chromedp.Evaluate("listen('chat.3').ready().then(() => { window.third = true; }); null", nil))
	watch(t, one, "window.third")
	until(t, "the room of the closed tab is left", func() bool {
		in := -2 // chat.1 and chat.3
		for _, l := range s.edge.Loops() {
			in += int(l.Joins.Load()) - int(l.Leaves.Load())
		}
		return in == 0
	})
	do(t, one, chromedp.Evaluate("client.close(); null", nil))
	until(t, "no connection", s.connections(0))
}

// Without such workers, and with a script that is not there, each tab has its own.
func TestTabsWithoutASharedWorkerConnectThemselves(t *testing.T) {
	s := start(t)
	ctx := browser(t)
	one, _ := s.tab(t, ctx, "{ worker: '/nothing.js' }")
	two, cancel := chromedp.NewContext(ctx)
	defer cancel()
	do(t, two, chromedp.Navigate(s.page("/forum/read/")), chromedp.Evaluate(fmt.Sprintf(`
		delete window.SharedWorker;
		window.told = []; window.numbers = []; window.states = [];
		import('/nabat-client-shared.js').then(({ connect }) => {
			window.client = connect(%q, { rooms: ['chat.1'] });
			client.room('chat.1').on('message', (m) => numbers.push(m.data));
		});
		null`, "http://"+s.edge.Addr()), nil))
	watch(t, two, "window.client?.state.state === 'live'")
	until(t, "two connections", s.connections(2))
	s.publish("room.chat.1", "1")
	watch(t, one, "numbers.join() === '1'")
	watch(t, two, "numbers.join() === '1'")
}

// The token of the shared connection is renewed by a tab that can, and its end
// reaches tabs that cannot.
func TestTabsShareAToken(t *testing.T) {
	s := start(t)
	issue := func(ttl string) string {
		reply, err := s.nc.Request("nabat.api.token.issue", fmt.Appendf(nil, `{"sub":"alice","subscribe":["chat.*"],"ttl":%q}`, ttl), patience)
		if err != nil {
			t.Fatal(err)
		}
		var issued struct{ Token string }
		if err := json.Unmarshal(reply.Data, &issued); err != nil || issued.Token == "" {
			t.Fatalf("no token in %s (%v)", reply.Data, err)
		}
		return issued.Token
	}
	ctx := browser(t)
	renewing := fmt.Sprintf("{ share: 'a', getToken: (why) => (told.push(why), why === 'connect' ? %q : %q) }", issue("20s"), issue("1h"))
	one, _ := s.tab(t, ctx, renewing)
	two, _ := s.tab(t, ctx, renewing)
	ending, _ := s.tab(t, ctx, fmt.Sprintf("{ share: 'b', token: %q }", issue("6s")))
	until(t, "two connections", func() bool { return s.connections(2)() || s.connections(1)() })
	watch(t, ending, "client.state.state === 'stopped' && client.state.error.code === 'token_expired' && told.at(-1) === 'chat.1 error'")
	watch(t, one, "told.includes('expiring')")
	s.publish("room.chat.1", "1")
	watch(t, one, "numbers.join() === '1'")
	watch(t, two, "numbers.join() === '1' && told.join() === 'connect,chat.1 joined'")
	until(t, "the connection that was renewed stays", s.connections(1))
}
