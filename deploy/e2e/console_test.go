package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"nabat/client"
	"nabat/control"
)

const operatorKey = "the-key-of-an-operator"

// desk is an operator's: three edges as processes, control, and a browser that
// shows the console.
type desk struct {
	*farm
	control *control.Control
	tab     context.Context
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	tab := browser(t)
	d := &desk{farm: newServers(t, 1, 3), tab: tab}
	file := filepath.Join(t.TempDir(), "policies.yaml")
	rooms := "rooms:\n  - match: \"chat.>\"\n    publish: true\n    presence: {grace: 100ms}\n    history: {messages: 100, age: 1h}\n" +
		"  - match: \">\"\n    anonymous: {subscribe: true}\n"
	if err := os.WriteFile(file, []byte(rooms), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := control.Defaults()
	cfg.Listen, cfg.NATSURL, cfg.APIKey, cfg.Policies = "127.0.0.1:0", d.configs[0].NATSURL, operatorKey, file
	var err error
	if d.control, err = control.New(cfg, slog.New(slog.DiscardHandler), nil); err != nil {
		t.Fatal(err)
	}
	run(t, d.control.Run)
	d.until("control is ready", func() bool { return d.control.Ready() == nil })
	for i := range d.configs {
		d.startEdge(i)
	}
	return d
}

// api calls control's API with the operator's key.
func (d *desk) api(method, path, body string, into any) {
	d.t.Helper()
	req, err := http.NewRequest(method, "http://"+d.control.Addr()+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+operatorKey)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 || json.Unmarshal(data, into) != nil {
		d.t.Fatalf("%s %s: %d %s %v", method, path, res.StatusCode, data, err)
	}
}

// connect lets a user come to an edge and join rooms.
func (d *desk) connect(edge int, user string, rooms ...string) *client.Conn {
	d.t.Helper()
	list, err := json.Marshal(rooms)
	if err != nil {
		d.t.Fatal(err)
	}
	var token struct{ Token string }
	d.api("POST", "/v1/tokens", fmt.Sprintf(`{"sub":%q,"rooms":%s,"publish":["chat.>"],"presence":["chat.>"],"info":{"name":%q}}`, user, list, strings.ToUpper(user[:1])+user[1:]), &token)
	c, err := client.Dial(d.t.Context(), "ws://"+d.configs[edge].Listen+"/ws", client.Options{Token: token.Token})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(c.Close)
	return c
}

// open shows a page of the console, by its hash.
func (d *desk) open(hash string) {
	d.t.Helper()
	do(d.t, d.tab, chromedp.Evaluate(fmt.Sprintf("location.hash = %q; null", hash), nil))
}

func (d *desk) wait(expression string) {
	d.t.Helper()
	wait(d.t, d.tab, expression)
}

func (d *desk) press(label string) {
	d.t.Helper()
	find := fmt.Sprintf("[...(document.querySelector('dialog') ?? document).querySelectorAll('button')].find((b) => (b.getAttribute('aria-label') ?? b.textContent) === %q && !b.disabled)", label)
	d.wait(find + " !== undefined")
	do(d.t, d.tab, chromedp.Evaluate(find+".click(); null", nil))
}

// fill writes into the field with this label as a person does.
func (d *desk) fill(label, value string) {
	d.t.Helper()
	find := fmt.Sprintf("[...(document.querySelector('dialog') ?? document).querySelectorAll('label')].find((l) => l.textContent === %q)?.control", label)
	d.wait(find + " != null")
	do(d.t, d.tab, chromedp.Evaluate(fmt.Sprintf("{ const c = %s; c.value = %q; c.dispatchEvent(new Event(c.tagName === 'SELECT' ? 'change' : 'input', {bubbles: true})); }; null", find, value), nil))
}

// says waits for a text anywhere on the page.
func (d *desk) says(text string) {
	d.t.Helper()
	d.wait(fmt.Sprintf("document.body.innerText.includes(%q)", text))
}

// complaints collects what a page throws, and what the browser refuses it. That a
// request is refused is none: the page says that itself.
func complaints(tab context.Context) (list func() []string) {
	var mu sync.Mutex // guards all
	var all []string
	chromedp.ListenTarget(tab, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			all = append(all, e.ExceptionDetails.Error())
		case *log.EventEntryAdded:
			if e.Entry.Source != log.SourceNetwork {
				all = append(all, e.Entry.Text)
			}
		}
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

// cell is what the row of a table that is named by its first cell says in a column.
func cell(row, column string) string {
	return fmt.Sprintf("[...document.querySelectorAll('tbody tr')].find((r) => r.cells[0].textContent === %q)?.querySelector('[data-name=%q]').textContent", row, column)
}

func TestTheConsole(t *testing.T) {
	d := newDesk(t)
	alice := d.connect(0, "alice", "chat.42", "chat.43")
	d.connect(0, "bob", "chat.42")
	d.connect(1, "carol", "chat.42", "sports.news")
	d.connect(1, "bob", "sports.news")
	d.connect(2, "dave", "sports.news")
	complaints := complaints(d.tab)
	do(t, d.tab, chromedp.Navigate("http://"+d.control.Addr()+"/console/"))

	step := func(name string, fn func(t *testing.T)) {
		t.Helper()
		if !t.Run(name, func(t *testing.T) { d.t = t; fn(t) }) {
			t.FailNow() // each begins where the one before ended
		}
	}
	step("it asks for a key, and says what is wrong with one", func(t *testing.T) {
		d.says("The API wants a key")
		shot(t, d.tab, "console-login")
		d.fill("API key", "guessed")
		d.press("Sign in")
		d.says("(unauthorized)")
		d.fill("API key", operatorKey)
		d.press("Sign in")
		d.wait(text("#state", "live") + "&&" + text("h1", "Overview"))
		var kept string
		do(t, d.tab, chromedp.Evaluate("JSON.stringify(localStorage) + document.cookie", &kept))
		if kept != "{}" {
			t.Errorf("more than the tab keeps the key: %s", kept)
		}
	})
	step("the figures are those of the edges", func(t *testing.T) {
		for i, cfg := range d.configs {
			for column, name := range map[string]string{"Connections": "nabat_edge_connections", "Rooms": "nabat_edge_rooms"} {
				want := strconv.Itoa(int(metric(t, d.configs[i].OpsListen, name)))
				if want == "0" {
					t.Fatalf("%s has no %s", cfg.Node, column)
				}
				d.wait(fmt.Sprintf("%s === %q", cell(cfg.Node, column), want))
			}
		}
		d.says("3 of 3")
		done := make(chan struct{})
		var publishing sync.WaitGroup
		publishing.Go(func() { // a report is of two seconds: one that is over may be missed
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				case <-tick.C:
					_ = d.nc.Publish("room.sports.news", fmt.Appendf(nil, `{"n":%d}`, n)) // that nothing comes is seen below
				}
			}
		})
		for _, column := range []string{"Messages in/s", "Deliveries/s", "Bytes/s"} {
			d.wait(fmt.Sprintf("parseFloat(%s) > 1", cell("edge-1", column)))
		}
		shot(t, d.tab, "console-overview-busy")
		close(done)
		publishing.Wait()
		d.wait("document.querySelectorAll('.plot canvas').length === 5 && document.querySelector('.plot .now').textContent === '5'")
	})
	step("a room: who is in it, what is published by hand, what is stored, and its end", func(t *testing.T) {
		d.open("#/rooms?search=hat.4")
		d.wait(cell("chat.42", "Members") + " === '3' && " + cell("chat.43", "Users") + " === '1'")
		d.wait("document.querySelectorAll('tbody tr').length === 2")
		shot(t, d.tab, "console-rooms")
		do(t, d.tab, chromedp.Click("tbody a"))
		d.wait(text("h1", "chat.42") + " && " + cell("alice", "Connections") + " === '1' && " + cell("carol", "Info") + ` === '{"name":"Carol"}'`)
		d.fill("Body", "{broken")
		d.press("Publish")
		d.says("This is not JSON")
		d.fill("Body", `{"title":"<img src=x onerror=alert(1)>"}`)
		d.press("Publish")
		d.says("Published at offset 1")
		d.wait(cell("1", "Body") + ` === '{"title":"<img src=x onerror=alert(1)>"}' && document.images.length === 0`)
		shot(t, d.tab, "console-room")
		d.press("Purge…")
		d.wait("document.querySelector('dialog .danger').disabled")
		d.fill("Type chat.42 to go on", "chat.42")
		d.press("Purge it")
		d.says("It is purged up to offset 1")
		d.says("Nothing is stored.")
	})
	step("rooms come in pages", func(t *testing.T) {
		var many []string
		for n := range 60 {
			many = append(many, fmt.Sprintf("many.%02d", n))
		}
		d.connect(0, "erin", many...)
		d.open("#/rooms?sort=name&prefix=many.")
		d.says("50 of ")
		d.wait(cell("many.49", "Members") + " === '1' && document.querySelectorAll('tbody tr').length === 50")
		d.press("Next")
		d.wait(cell("many.59", "Members") + " === '1' && document.querySelectorAll('tbody tr').length === 10 && location.hash.includes('after=many.49')")
		d.press("Previous")
		d.wait("document.querySelectorAll('tbody tr').length === 50")
		d.fill("Begins with", "many.5")
		d.wait("document.querySelectorAll('tbody tr').length === 10 && location.hash === '#/rooms?sort=name&prefix=many.5'")
		d.fill("Order", "rate")
		d.wait("location.hash === '#/rooms?sort=rate&prefix=many.5'")
	})
	step("a tap shows what is published", func(t *testing.T) {
		d.open("#/tap?user=alice")
		d.says("Listening to 1 connection")
		if err := d.nc.Publish("room.chat.43", []byte(`{"title":"Goal for the home side"}`)); err != nil {
			t.Fatal(err)
		}
		d.wait(text(".tap [data-kind=message]", `{"room":"chat.43"`) + " && " + text(".tap [data-kind=message]", "Goal for the home side") + " && " + text(".tap .what", "edge-0"))
		d.says("1 message, 0 notices, 0 drops, 0 delays.")
		shot(t, d.tab, "console-tap")
		d.press("Stop")
		d.says("Stopped.")
	})
	step("a kick ends a connection, a block keeps out", func(t *testing.T) {
		d.open("#/users/alice")
		d.says("not blocked")
		d.wait("document.querySelectorAll('tbody tr').length === 1")
		d.press("Kick all…")
		d.fill("Reason, which the client is told", "tidying up")
		d.press("Kick")
		d.says("1 connection ended.")
		for range alice.Events() { // until it ends
		}
		if err := alice.Err(); !strings.Contains(err.Error(), "4005 kicked") {
			t.Error(err)
		}
		d.says("alice has no connection.")
		d.fill("Block", "1h")
		d.fill("Reason, for operators", "spam")
		d.press("Block")
		d.says("alice is blocked until")
		d.wait("document.querySelector('.facts').textContent.includes('spam')")
		shot(t, d.tab, "console-user")
		d.open("#/users")
		d.wait(cell("blocked", "Whom") + " === 'alice' && " + cell("blocked", "Reason") + " === 'spam'")
		d.press("Unblock alice")
		d.says("Nobody is blocked")
	})
	step("the rules that decide", func(t *testing.T) {
		d.open("#/explain?room=chat.42&action=publish")
		d.says("No: that is refused in chat.42.")
		d.open("#/explain?room=sports.news&action=subscribe")
		d.says("Yes: that is allowed in sports.news.")
		shot(t, d.tab, "console-explain")
		d.open("#/explain?room=chat.42&action=publish&user=carol")
		d.says("Yes: that is allowed in chat.42.")
	})
	step("the nodes are evened out, and one drains", func(t *testing.T) {
		d.open("#/nodes")
		d.says("None has run yet.")
		d.press("Start")
		d.says("The newest one is done: 0 connections moved")
		shot(t, d.tab, "console-nodes")
		d.press("Drain edge-2…")
		d.fill("Over", "1ms")
		d.press("Drain it")
		d.says("edge-2 drains: 1 connection will move.")
		d.wait(cell("edge-2", "State") + " === 'draining' && " + cell("edge-2", "Connections") + " === '0'")
		d.open("#/overview")
		d.says("edge-2 is draining.")
		shot(t, d.tab, "console-overview")
	})
	step("a key that may read may not drain, and is told so", func(t *testing.T) {
		d.open("#/keys")
		d.fill("Name, for people", "on call")
		do(t, d.tab, chromedp.Click("input[value=read]"))
		d.press("Make it")
		d.wait("document.querySelector('.secret') !== null")
		shot(t, d.tab, "console-keys")
		var secret string
		do(t, d.tab, chromedp.Value(".secret", &secret))
		d.press("Sign out")
		d.fill("API key", secret)
		d.press("Sign in")
		d.open("#/nodes")
		d.press("Drain edge-1…")
		d.press("Drain it")
		d.says("is not for node.drain: it would need the scope admin, or node.drain itself. (not_allowed)")
		d.open("#/keys")
		d.says("is not for apikey.list")
		d.open("#/tap?room=chat.42")
		d.says("is not for tap: it would need the scope admin")
	})
	step("a key that ends is asked for again, and the page is kept", func(t *testing.T) {
		var list struct {
			Keys []struct{ ID string }
		}
		d.api("GET", "/v1/apikeys", "", &list)
		var gone struct{ Key struct{ ID string } }
		d.api("DELETE", "/v1/apikeys/"+list.Keys[0].ID, "", &gone)
		d.says("Sign in")
		d.says("(unauthorized)")
		d.fill("API key", operatorKey)
		d.press("Sign in")
		d.wait(text("h1", "Tap"))
	})
	step("it fits a phone, in the dark", func(t *testing.T) {
		d.open("#/overview?by=node")
		do(t, d.tab, dark())
		d.wait("document.querySelectorAll('.legend li').length === 15")
		shot(t, d.tab, "console-overview-dark")
		do(t, d.tab, chromedp.EmulateViewport(360, 740))
		for _, hash := range []string{"overview?by=node", "nodes", "nodes/edge-0", "rooms", "rooms/chat.42", "users", "users/bob", "tap?room=chat.42", "explain?room=chat.42", "keys"} {
			d.open("#/" + hash)
			d.wait("document.querySelector('h1') !== null && document.documentElement.scrollWidth <= 360")
			d.wait("![...document.querySelectorAll('.card, p')].some((e) => e.textContent === '…')") // what is asked for has come
			d.wait("document.documentElement.scrollWidth <= 360")
			shot(t, d.tab, "console-phone-"+strings.NewReplacer("/", "-", "?", "-", "=", "-").Replace(hash))
		}
	})
	if list := complaints(); len(list) > 0 {
		t.Errorf("the page complains: %q", list)
	}
}

// In development the API is open, and nobody is asked for a key.
func TestTheConsoleIsOpenWhereTheAPIIs(t *testing.T) {
	s := start(t)
	tab := browser(t)
	complaints := complaints(tab)
	do(t, tab, chromedp.Navigate(s.page("/")), chromedp.WaitVisible(`nav a[href="/console/"]`), chromedp.Navigate(s.page("/console")))
	wait(t, tab, text("#state", "live")+" && document.querySelector('#out').hidden && "+cell("edge-0", "State")+" === 'ready'")
	wait(t, tab, "document.querySelectorAll('.plot canvas').length === 5 && document.querySelector('.plot .canvas').getAttribute('aria-label').includes('now')")
	// What is not shown by a link is reached by keyboard alone.
	do(t, tab, chromedp.Evaluate("document.activeElement.blur(); null", nil), chromedp.KeyEvent("\t"))
	wait(t, tab, "document.activeElement.id === 'skip'")
	do(t, tab, chromedp.KeyEvent("\r"))
	wait(t, tab, "document.activeElement.id === 'view'")
	if list := complaints(); len(list) > 0 {
		t.Errorf("the page complains: %q", list)
	}
}
