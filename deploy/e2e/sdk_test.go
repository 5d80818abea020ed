package e2e

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/chromedp/chromedp"
)

// The bundle of client/js, as control serves it, in a page that uses it without
// a package: what was published while the edge was away comes once, in order.
func TestTheSDKResumesInABrowser(t *testing.T) {
	s := start(t)
	ctx := browser(t)
	do(t, ctx, chromedp.Navigate(s.page("/forum/read/")), chromedp.Evaluate(fmt.Sprintf(`
		window.told = []; window.numbers = []; window.loop = [];
		import('/nabat-client.js').then(({ connect }) => {
			window.client = connect(%q, { rooms: ['chat.1', 'chat.2'] });
			for (const room of client.rooms) {
				for (const name of ['joined', 'recovered', 'gap', 'reset']) room.on(name, () => told.push(room.name + ' ' + name));
			}
			client.room('chat.1').on('message', (m) => numbers.push(m.data));
			(async () => { for await (const m of client.room('chat.1')) loop.push(m.data); loop.push('end'); })();
		});
		null`, "http://"+s.edge.Addr()), nil))
	wait(t, ctx, "window.client?.rooms.every((room) => room.joined && room.position.epoch)") // the edge knows the history
	do(t, ctx, chromedp.Evaluate("told.length = 0; null", nil))
	for n := range 3 {
		s.publish("room.chat.1", fmt.Sprint(n))
	}
	wait(t, ctx, "numbers.join() === '0,1,2'")
	s.stop()
	wait(t, ctx, "client.state.state !== 'live'")
	for n := range 5 {
		s.publish("room.chat.1", fmt.Sprint(3+n))
	}
	// Made while there is no connection, and sent when there is one.
	do(t, ctx, chromedp.Evaluate("client.publish('chat.1', 8).then(({ offset }) => { window.offset = offset; }); null", nil))
	s.startEdge()
	wait(t, ctx, "numbers.join() === '0,1,2,3,4,5,6,7,8' && window.offset > 0")
	wait(t, ctx, "told.sort().join() === 'chat.1 recovered,chat.2 recovered'")
	do(t, ctx, chromedp.Evaluate("client.close(); null", nil))
	wait(t, ctx, "loop.join() === '0,1,2,3,4,5,6,7,8,end' && client.state.state === 'closed'")

	// Where WebSockets do not pass it reads an event stream, with a token in a
	// header, which takes a question of the browser's first (CORS).
	do(t, ctx, chromedp.Evaluate(fmt.Sprintf(`
		import('/nabat-client.js').then(({ connect }) => {
			class Blocked extends WebSocket { constructor(url, protocols) { super(url.replace('/ws', '/nothing'), protocols); } }
			window.stream = connect(%q, { rooms: ['chat.1'], fallbackAfter: 1, WebSocket: Blocked, token: %q });
			stream.room('chat.1').on('message', (m) => { window.streamed = m.data; });
		});
		null`, "http://"+s.edge.Addr(), s.token()), nil))
	wait(t, ctx, "window.stream?.state.receiveOnly === true")
	s.publish("room.chat.1", "9")
	wait(t, ctx, "window.streamed === 9")
}

func (s *system) token() string {
	s.t.Helper()
	reply, err := s.nc.Request("nabat.api.token.issue", []byte(`{"sub":"alice","subscribe":["chat.*"]}`), patience)
	if err != nil {
		s.t.Fatal(err)
	}
	var issued struct{ Token string }
	if err := json.Unmarshal(reply.Data, &issued); err != nil || issued.Token == "" {
		s.t.Fatalf("no token in %s (%v)", reply.Data, err)
	}
	return issued.Token
}
