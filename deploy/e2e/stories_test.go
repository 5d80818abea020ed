package e2e

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/nats-io/nats.go"

	"nabat/edge"
)

// theatre is a system whose edge is a process, which can be killed, and people
// who share nothing but the system.
type theatre struct {
	*system
	edge              *process
	anna, boris, vera context.Context
}

func newTheatre(t *testing.T, policies string) *theatre {
	t.Helper()
	s := startWith(t, policies, func(c *edge.Config) { c.OpsListen = "127.0.0.1:0" })
	s.stop()
	th := &theatre{system: s}
	th.open()
	// The camera and the microphone are the browser's own, and nobody has to allow them.
	first := browser(t, chromedp.Flag("use-fake-device-for-media-stream", true), chromedp.Flag("use-fake-ui-for-media-stream", true),
		chromedp.Flag("autoplay-policy", "no-user-gesture-required"))
	for _, person := range []*context.Context{&th.anna, &th.boris, &th.vera} {
		*person = stranger(t, first)
	}
	return th
}

// stranger is another person at the same browser: a window of a profile of its own.
func stranger(t *testing.T, first context.Context) context.Context {
	t.Helper()
	var window target.ID
	do(t, first, chromedp.ActionFunc(func(ctx context.Context) error {
		ctx = cdp.WithExecutor(ctx, chromedp.FromContext(ctx).Browser)
		profile, err := target.CreateBrowserContext().Do(ctx)
		if err != nil {
			return err
		}
		window, err = target.CreateTarget("about:blank").WithBrowserContextID(profile).WithNewWindow(true).Do(ctx)
		return err
	}))
	ctx, cancel := chromedp.NewContext(first, chromedp.WithTargetID(window))
	t.Cleanup(cancel)
	do(t, ctx)
	return ctx
}

// open starts the edge where it was before.
func (th *theatre) open() {
	th.t.Helper()
	th.edge = spawn(th.t, "edge-0", asEdge, th.cfg)
	until(th.t, "the edge answers", func() bool {
		res, err := http.Get("http://" + th.cfg.Listen + "/")
		if err != nil {
			return false
		}
		return res.Body.Close() == nil && res.StatusCode == http.StatusOK
	})
}

func (th *theatre) everybody() []context.Context {
	return []context.Context{th.anna, th.boris, th.vera}
}

// enter opens a story for Anna, Boris and Vera, or the first of them.
func (th *theatre) enter(t *testing.T, path string, people ...context.Context) {
	t.Helper()
	names := map[context.Context]string{th.anna: "Anna", th.boris: "Boris", th.vera: "Vera"}
	for _, ctx := range people {
		do(t, ctx, chromedp.EmulateViewport(1180, 900), chromedp.Navigate("about:blank"), chromedp.Navigate(th.page(path+"?name="+names[ctx])))
		wait(t, ctx, text("#state", "live"))
	}
}

// outage kills the edge, does something meanwhile, and waits until all are back.
func (th *theatre) outage(t *testing.T, meanwhile func(), people ...context.Context) {
	t.Helper()
	th.edge.kill()
	for _, ctx := range people {
		wait(t, ctx, "!"+text("#state", "live"))
	}
	meanwhile()
	th.open()
	for _, ctx := range people {
		wait(t, ctx, text("#state", "live"))
	}
}

// read evaluates an expression that gives a text.
func read(t *testing.T, ctx context.Context, expression string) (text string) {
	t.Helper()
	do(t, ctx, chromedp.Evaluate(expression, &text))
	return text
}

// typed is what a person types into a page's field. Unless it is said how to look,
// #text is every text node, too.
func typed(words string) chromedp.Action { return chromedp.SendKeys("#text", words, chromedp.ByQuery) }

// same waits until an expression has one value on all screens.
func same(t *testing.T, expression, want string, people ...context.Context) {
	t.Helper()
	for _, ctx := range people {
		wait(t, ctx, fmt.Sprintf("(%s) === %q", expression, want))
	}
}

func TestTheStories(t *testing.T) {
	th := newTheatre(t, "")
	t.Run("map", th.theMap)
	t.Run("restaurant", th.theRestaurant)
	t.Run("chat", th.theChat)
	t.Run("document", th.theDocument)
	t.Run("quotes", th.theQuotes)
	t.Run("studio", th.theStudio)
}

func (th *theatre) theMap(t *testing.T) {
	const board = "[...document.querySelectorAll('.piece')].map((p) => p.dataset.name + '@' + p.dataset.at).sort().join(' ')"
	th.enter(t, "/map/", th.everybody()...)
	for _, ctx := range th.everybody() { // who came first, too, and who came last
		wait(t, ctx, "document.querySelectorAll('.piece').length === 3")
	}
	for range 3 {
		do(t, th.anna, chromedp.KeyEvent(kb.ArrowRight), chromedp.KeyEvent(kb.ArrowDown))
		do(t, th.boris, chromedp.KeyEvent(kb.ArrowLeft), chromedp.KeyEvent(kb.ArrowUp))
		do(t, th.vera, chromedp.Click(`[data-key="ArrowUp"]`))
	}
	at := func(ctx context.Context) string {
		return read(t, ctx, "document.querySelector('.piece.me').dataset.at")
	}
	all := func() string {
		return fmt.Sprintf("Anna@%s Boris@%s Vera@%s", at(th.anna), at(th.boris), at(th.vera))
	}
	same(t, board, all(), th.everybody()...)
	shot(t, th.anna, "map")
	th.outage(t, func() {
		do(t, th.anna, chromedp.KeyEvent(kb.ArrowLeft), chromedp.KeyEvent(kb.ArrowLeft), chromedp.KeyEvent(kb.ArrowUp))
		do(t, th.vera, chromedp.KeyEvent(kb.ArrowDown))
	}, th.everybody()...)
	same(t, board, all(), th.everybody()...)

	// A piece goes with its player, and one whose player says nothing goes by age.
	do(t, th.vera, chromedp.Navigate("about:blank"))
	same(t, board, fmt.Sprintf("Anna@%s Boris@%s", at(th.anna), at(th.boris)), th.anna, th.boris)
	th.publish("room.map.square", `{"id":"ghost","name":"Ghost","x":3,"y":4}`)
	wait(t, th.anna, "("+board+").includes('Ghost@3,4')")
	same(t, board, fmt.Sprintf("Anna@%s Boris@%s", at(th.anna), at(th.boris)), th.anna, th.boris)
}

func (th *theatre) theRestaurant(t *testing.T) {
	const cards = "document.querySelectorAll('.orders .item:not([hidden])').length"
	waiter, kitchen, till := th.anna, th.boris, th.vera
	th.enter(t, "/restaurant/", th.everybody()...)
	do(t, kitchen, chromedp.Click("#role-Kitchen"))
	do(t, till, chromedp.Click("#role-Till"))
	order := func(table, dish, n string) {
		t.Helper()
		do(t, waiter, chromedp.SetValue("#table", table), chromedp.SetValue("#dish-"+dish, n), chromedp.Click("#send"))
	}
	press := func(ctx context.Context, n int) {
		t.Helper()
		for range n {
			before := read(t, ctx, "String("+cards+")")
			do(t, ctx, chromedp.Evaluate("document.querySelector('.orders .item:not([hidden]) button:not([hidden])').click()", nil))
			wait(t, ctx, fmt.Sprintf("String(%s) !== %q", cards, before))
		}
	}
	order("3", "Borscht", "2")
	wait(t, waiter, text("#answer", "The kitchen has it."))
	wait(t, kitchen, cards+" === 1 && "+text(".orders", "2 × Borscht"))
	th.outage(t, func() {
		order("4", "Pelmeni", "3")
		order("5", "Kvass", "1")
	}, th.everybody()...)
	wait(t, kitchen, cards+" === 3 && "+text(".orders", "3 × Pelmeni"))
	shot(t, kitchen, "restaurant-kitchen")
	press(kitchen, 3)
	wait(t, waiter, "document.querySelectorAll('[data-step=cooked]').length === 3")
	shot(t, waiter, "restaurant-waiter")
	for range 3 {
		before := read(t, waiter, "String(document.querySelectorAll('[data-step=cooked]').length)")
		do(t, waiter, chromedp.Evaluate("document.querySelector('[data-step=cooked] button').click()", nil))
		wait(t, waiter, fmt.Sprintf("String(document.querySelectorAll('[data-step=cooked]').length) !== %q", before))
	}
	wait(t, till, cards+" === 3")
	press(till, 2)
	// Two tills ring up the same order at once: it counts once.
	do(t, kitchen, chromedp.Click("#role-Till"))
	wait(t, kitchen, cards+" === 1")
	for _, ctx := range []context.Context{kitchen, till} {
		do(t, ctx, chromedp.Evaluate("document.querySelector('.orders .item:not([hidden]) button')?.click()", nil))
	}
	for _, ctx := range th.everybody() {
		wait(t, ctx, text("#till", "€52")+" && "+cards+" === 0")
	}
	do(t, waiter, chromedp.Click("#role-Report"))
	wait(t, waiter, text("#report", "3 orders, €52 taken")+" && "+text("#report", "2 × Borscht, 3 × Pelmeni, 1 × Kvass"))
	wait(t, waiter, "document.querySelector('.plot path:last-of-type').getAttribute('d').split('H').length === 4")
	shot(t, waiter, "restaurant-report")
}

func (th *theatre) theChat(t *testing.T) {
	const said = "[...document.querySelectorAll('.said')].map((e) => e.lastChild.textContent).join('|')"
	send := func(ctx context.Context, words string) {
		t.Helper()
		do(t, ctx, typed(words+kb.Enter))
	}
	th.enter(t, "/chat/", th.anna, th.boris)
	for _, ctx := range []context.Context{th.anna, th.boris} {
		wait(t, ctx, text("#here", "Anna")+" && "+text("#here", "Boris")+" && "+text("#count", "2"))
	}
	send(th.anna, "Good morning")
	same(t, said, "Good morning", th.anna, th.boris)
	do(t, th.anna, typed("Is any"))
	wait(t, th.boris, text("#typing", "Anna is typing"))
	shot(t, th.boris, "chat")
	send(th.anna, "body hungry?")
	same(t, said, "Good morning|Is anybody hungry?", th.anna, th.boris)
	th.outage(t, func() {
		send(th.anna, "one")
		send(th.anna, "two")
		wait(t, th.anna, text("#answer", "sending 2"))
		th.publish("room.chat.lobby", `{"id":"b","name":"Backend","text":"from a backend","at":1790000000000}`)
	}, th.anna, th.boris)
	same(t, said, "Good morning|Is anybody hungry?|from a backend|one|two", th.anna, th.boris)
	th.enter(t, "/chat/", th.vera)
	same(t, said, "Good morning|Is anybody hungry?|from a backend|one|two", th.vera)
	wait(t, th.anna, text("#here", "Vera"))
	send(th.vera, "I am late")
	same(t, said, "Good morning|Is anybody hungry?|from a backend|one|two|I am late", th.everybody()...)
	shot(t, th.vera, "chat-late")
	do(t, th.vera, chromedp.Navigate("about:blank"))
	wait(t, th.anna, "!"+text("#here", "Vera"))
}

func (th *theatre) theDocument(t *testing.T) {
	const area = "document.querySelector('#text').value"
	const saved = "document.querySelector('#saved').textContent === 'saved'"
	agree := func(want ...string) string {
		t.Helper()
		for _, ctx := range []context.Context{th.anna, th.boris} {
			for _, part := range want {
				wait(t, ctx, fmt.Sprintf("%s.includes(%q) && %s", area, part, saved))
			}
		}
		value := read(t, th.anna, area)
		same(t, area, value, th.anna, th.boris)
		return value
	}
	th.enter(t, "/document/", th.anna, th.boris)
	wait(t, th.anna, "!document.querySelector('#text').disabled")
	do(t, th.anna, typed("Shopping list: bread"))
	agree("Shopping list: bread")
	do(t, th.boris, chromedp.Evaluate("document.querySelector('#text').setSelectionRange(0, 0)", nil))
	do(t, th.boris, typed("Boris: "))
	do(t, th.anna, typed(", milk")) // her cursor stayed at the end
	agree("Boris: Shopping list: bread, milk")
	th.outage(t, func() {
		do(t, th.anna, typed(", apples"))
		do(t, th.boris, typed("and Anna, "))
	}, th.anna, th.boris)
	agree("milk, apples", "Boris: and Anna, Shopping")
	shot(t, th.anna, "document")

	// More changes than the room keeps: who comes now finds all, by a snapshot.
	do(t, th.boris, chromedp.Evaluate(fmt.Sprintf(`(async () => {
		const area = document.querySelector('#text');
		for (let i = 0; i < 130; i++) {
			area.value += '.';
			area.dispatchEvent(new Event('input'));
			while (!(%s)) await new Promise((done) => setTimeout(done, 5));
		}
		window.dotted = true;
	})(); null`, saved), nil))
	wait(t, th.boris, "window.dotted === true")
	value := agree("milk, apples", strings.Repeat(".", 130))
	th.enter(t, "/document/", th.vera)
	same(t, area, value, th.everybody()...)
}

func (th *theatre) theQuotes(t *testing.T) {
	const shown = "Number(document.querySelector('#shown').textContent)"
	const numbers = "[...document.querySelectorAll('[data-n]')].map((e) => e.dataset.n).join()"
	two := []context.Context{th.anna, th.boris}
	th.enter(t, "/quotes/", two...)
	do(t, th.anna, chromedp.Click("#market"))
	for _, ctx := range two {
		wait(t, ctx, shown+" > 12")
	}
	wait(t, th.boris, text("#market", "The market is open"))
	shot(t, th.boris, "quotes")
	before := read(t, th.anna, "String("+shown+")")
	th.outage(t, func() {}, two...)
	for _, ctx := range two {
		wait(t, ctx, shown+" > 12 + "+before)
	}
	do(t, th.anna, chromedp.Click("#market"))
	wait(t, th.boris, text("#market", "Open the market")) // nothing has come for a while
	same(t, numbers, read(t, th.anna, numbers), two...)
	for _, ctx := range two {
		if got := read(t, ctx, "document.querySelector('#overtaken').textContent + ' ' + document.querySelector('#repeated').textContent"); got != "0 0" {
			t.Errorf("overtaken and repeated: %s", got)
		}
	}
}

func (th *theatre) theStudio(t *testing.T) {
	const notes = "[...document.querySelectorAll('#wall .card')].map((c) => c.dataset.kind + ' ' + c.textContent).join('|')"
	const whole = "[...document.querySelectorAll('#wall .card')].every((c) => c.dataset.whole)"
	picture := filepath.Join(t.TempDir(), "picture.jpg")
	if err := os.WriteFile(picture, photograph(t), 0o600); err != nil {
		t.Fatal(err)
	}
	two := []context.Context{th.anna, th.boris}
	th.enter(t, "/studio/", two...)
	do(t, th.anna, chromedp.SetUploadFiles("#file", []string{picture}))
	for _, ctx := range two {
		wait(t, ctx, whole+" && document.querySelector('#wall img')?.naturalWidth === 800 && Number(document.querySelector('#wall .card').dataset.pieces) > 1")
	}
	do(t, th.boris, chromedp.Click("#voice"))
	wait(t, th.anna, "Number(document.querySelector('[data-kind=voice]')?.dataset.pieces) > 2 && document.querySelector('audio').readyState >= 1")
	do(t, th.boris, chromedp.Click("#voice"))
	for _, ctx := range two {
		wait(t, ctx, whole+" && document.querySelectorAll('audio').length === 1")
	}
	do(t, th.anna, chromedp.Click("#camera"))
	wait(t, th.boris, "Number(document.querySelector('[data-kind=camera]')?.dataset.pieces) > 2 && document.querySelector('video').currentTime > 0 && document.querySelector('video').videoWidth > 0")
	shot(t, th.boris, "studio")
	before := read(t, th.boris, "document.querySelector('[data-kind=camera]').dataset.pieces")
	th.outage(t, func() {}, two...)
	wait(t, th.boris, "Number(document.querySelector('[data-kind=camera]').dataset.pieces) > 3 + "+before)
	do(t, th.anna, chromedp.Click("#camera"))
	for _, ctx := range two {
		wait(t, ctx, whole+" && document.querySelectorAll('#wall .card').length === 3")
	}
	want := read(t, th.anna, notes)
	th.enter(t, "/studio/", th.vera)
	same(t, notes, want, th.everybody()...)
	wait(t, th.vera, whole+" && document.querySelector('video').readyState >= 1")
}

// photograph is noise, which no format makes small.
func photograph(t *testing.T) []byte {
	t.Helper()
	picture := image.NewRGBA(image.Rect(0, 0, 800, 600))
	random := rand.New(rand.NewPCG(1, 2))
	for x := range 800 {
		for y := range 600 {
			picture.SetRGBA(x, y, color.RGBA{uint8(x / 4), uint8(y / 3), uint8(random.IntN(256)), 255})
		}
	}
	var file bytes.Buffer
	if err := jpeg.Encode(&file, picture, nil); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// Under the policy that its source names, the page of quotes gets the newest price
// of each symbol at once, and then no more than a screen can show.
func TestQuotesConflate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policies.yaml")
	rooms := "rooms:\n  - match: quotes.>\n    anonymous: {subscribe: true}\n    history: {messages: 100, age: 1h}\n    latest: true\n    conflate: {every: 250ms}\n"
	if err := os.WriteFile(file, []byte(rooms), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startWith(t, file)
	ctx := browser(t)
	n := 0
	quotes := func(times int) {
		t.Helper()
		for range times {
			n++
			for _, symbol := range []string{"GOLD", "OIL"} {
				m := nats.NewMsg("room.quotes." + symbol)
				m.Header.Set("Nabat-Key", symbol)
				m.Data = fmt.Appendf(nil, `{"price": %d, "n": %d, "market": "m"}`, 100+n, n)
				if _, err := s.nc.RequestMsg(m, patience); err != nil { // stored
					t.Fatal(err)
				}
			}
		}
	}
	newest := func() string {
		return fmt.Sprintf("['GOLD', 'OIL'].every((s) => document.querySelector('#' + s + ' [data-n=\"%d\"]'))", n)
	}
	quotes(3)
	do(t, ctx, chromedp.Navigate(s.page("/quotes/")))
	wait(t, ctx, newest()) // nothing was published since
	quotes(200)
	wait(t, ctx, newest())
	wait(t, ctx, "Number(document.querySelector('#overtaken').textContent) > 0 && "+text("#repeated", "0"))
	wait(t, ctx, "Number(document.querySelector('#shown').textContent) + Number(document.querySelector('#overtaken').textContent) === 402")
}

// dark shows a page as it is at night.
func dark() chromedp.Action {
	return emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}})
}
