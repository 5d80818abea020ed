package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"nabat/edge"
)

// browser starts a Chromium and returns its first tab. Without a Chromium the
// test is skipped, unless NABAT_BROWSER=required says that there must be one.
func browser(t *testing.T, more ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	if testing.Short() { // a browser and its servers on one processor: see gate_one_processor
		t.Skip("a browser takes too long for -short")
	}
	program := os.Getenv("NABAT_CHROMIUM")
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); program == "" && err == nil {
			program = path
		}
	}
	if program == "" {
		if os.Getenv("NABAT_BROWSER") == "required" {
			t.Fatal("no Chromium found: install one, or name it in NABAT_CHROMIUM")
		}
		t.Skip("no Chromium on this machine: install one, or name it in NABAT_CHROMIUM")
	}
	// Chromium may still write there while it ends: what is left is the system's
	// to clean.
	profile, err := os.MkdirTemp("", "nabat-browser-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(profile) })
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.UserDataDir(profile), chromedp.WindowSize(1280, 1000), chromedp.WSURLReadTimeout(patience),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	options = append(options, more...)
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return ctx
}

func do(t *testing.T, ctx context.Context, actions ...chromedp.Action) {
	t.Helper()
	if err := chromedp.Run(ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

// wait polls an expression in the page until it is true.
func wait(t *testing.T, ctx context.Context, expression string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := chromedp.Run(ctx, chromedp.Poll(expression, nil, chromedp.WithPollingTimeout(time.Until(deadline))))
		if err == nil {
			return
		}
		// A page that is still being loaded replaces what its scripts run in.
		if strings.Contains(err.Error(), "Cannot find context") && time.Now().Before(deadline) {
			continue
		}
		var body string
		_ = chromedp.Run(ctx, chromedp.Evaluate("document.body.innerText", &body))
		t.Fatalf("%s: %v; the page says:\n%s", expression, err, body)
	}
}

func text(selector, want string) string {
	return fmt.Sprintf("(document.querySelector(%q)?.textContent ?? '').includes(%q)", selector, want)
}

// shot keeps a picture for a person to look at.
func shot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	dir := os.Getenv("NABAT_SCREENSHOTS")
	if dir == "" {
		return
	}
	var png []byte
	do(t, ctx, chromedp.FullScreenshot(&png, 100))
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestABareBrowserNeedsNoLibrary(t *testing.T) {
	s := start(t)
	ctx := browser(t)
	do(t, ctx, chromedp.Navigate(s.page("/forum/read/")), chromedp.Evaluate(fmt.Sprintf(`
		window.frames1 = []; window.events1 = []; window.goals = [];
		new WebSocket('ws://%[1]s/ws?room=sports.news').onmessage = (e) => frames1.push(JSON.parse(e.data));
		const es = new EventSource('http://%[1]s/sse?room=sports.news');
		es.onmessage = (e) => events1.push(JSON.parse(e.data));
		es.addEventListener('connected', (e) => { window.connected1 = true; });
		es.addEventListener('goal', (e) => goals.push(JSON.parse(e.data)));
		null`, s.edge.Addr()), nil))
	wait(t, ctx, "window.connected1 === true && frames1.length === 1 && 'connected' in frames1[0]")
	s.publish("room.sports.news", `{"title": "Goal"}`)
	s.publish("room.sports.news", "plain text")
	wait(t, ctx, `frames1.length === 3 && frames1[1].data.title === 'Goal' && frames1[2].text === 'plain text'`)
	wait(t, ctx, `events1.length === 2 && events1[0].data.title === 'Goal' && events1[1].text === 'plain text'`)
}

// TestABrowserSpeaksTLSToTheEdge ignores that nobody has signed the certificate.
func TestABrowserSpeaksTLSToTheEdge(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, keyFile := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, func(c *edge.Config) { c.TLSListen, c.TLSCert, c.TLSKey = "127.0.0.1:0", cert, keyFile })
	ctx := browser(t, chromedp.Flag("ignore-certificate-errors", true))
	do(t, ctx, chromedp.Navigate(s.page("/forum/read/")), chromedp.Evaluate(fmt.Sprintf(`
		window.frames1 = []; window.events1 = [];
		window.socket1 = new WebSocket('wss://%[1]s/ws?room=sports.news');
		socket1.onmessage = (e) => frames1.push(JSON.parse(e.data));
		const es = new EventSource('https://%[1]s/sse?room=sports.news');
		es.onmessage = (e) => events1.push(JSON.parse(e.data));
		es.addEventListener('connected', (e) => { window.connected1 = true; });
		null`, s.edge.TLSAddr()), nil))
	wait(t, ctx, "window.connected1 === true && frames1.length === 1 && 'connected' in frames1[0]")
	s.publish("room.sports.news", `{"title": "Goal"}`)
	wait(t, ctx, `frames1.length === 2 && frames1[1].data.title === 'Goal' && events1.length === 1 && events1[0].data.title === 'Goal'`)
	do(t, ctx, chromedp.Evaluate(`socket1.onclose = (e) => { window.closed1 = e; }; socket1.close(1000); null`, nil))
	wait(t, ctx, "window.closed1 && closed1.wasClean && closed1.code === 1000")
}

// A browser offers compression by itself, and its pages see nothing of it.
func TestABrowserNegotiatesCompression(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policies.yaml")
	rooms := "rooms:\n  - match: \">\"\n    publish: true\n    anonymous: {subscribe: true, publish: true}\n    compress: true\n"
	if err := os.WriteFile(file, []byte(rooms), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startWith(t, file, func(c *edge.Config) { c.Compression, c.Echo = "on", true })
	ctx := browser(t)
	do(t, ctx, chromedp.Navigate(s.page("/forum/read/")), chromedp.Evaluate(fmt.Sprintf(`
		window.frames1 = []; window.echoes = [];
		window.socket1 = new WebSocket('ws://%[1]s/ws?room=sports.news');
		socket1.onmessage = (e) => frames1.push(JSON.parse(e.data));
		window.socket2 = new WebSocket('ws://%[1]s/echo');
		socket2.onmessage = (e) => echoes.push(e.data);
		socket2.onopen = () => { window.open2 = true; };
		null`, s.edge.Addr()), nil))
	wait(t, ctx, "frames1.length === 1 && 'connected' in frames1[0] && window.open2 === true")
	wait(t, ctx, "[socket1, socket2].every((s) => s.extensions.includes('permessage-deflate') && s.extensions.includes('server_no_context_takeover'))")
	title := strings.Repeat("Goal for the home side. ", 50)
	for n := range 3 {
		s.publish("room.sports.news", fmt.Sprintf(`{"title": %q, "n": %d}`, title, n))
	}
	wait(t, ctx, fmt.Sprintf("frames1.length === 4 && frames1.slice(1).every((f, i) => f.data.n === i && f.data.title === %q)", title))
	if n := s.edge.Compression(); n.Messages != 3 || n.After > n.Before/4 {
		t.Errorf("%+v", n)
	}
	// What the page publishes is compressed by the browser.
	do(t, ctx, chromedp.Evaluate(fmt.Sprintf("socket1.send(JSON.stringify({id: 1, publish: {room: 'sports.news', data: {title: %q, n: 3}}})); null", title), nil))
	wait(t, ctx, "frames1.some((f) => 'published' in f) && frames1.some((f) => f.data?.n === 3)")
	do(t, ctx, chromedp.Evaluate("window.long = 'κόσμε '.repeat(20000); socket2.send(long); socket2.send(''); socket2.send('x'); null", nil))
	wait(t, ctx, "echoes.length === 3 && echoes[0] === long && echoes[1] === '' && echoes[2] === 'x'")
}

func TestTheForum(t *testing.T) {
	s := start(t)
	reader := browser(t)
	moderator := browser(t) // another person: nothing is shared
	do(t, reader, chromedp.Navigate(s.page("/forum/")))
	wait(t, reader, text("#state", "live"))
	do(t, reader, chromedp.Click("#topic-sports"))
	do(t, moderator, chromedp.Navigate(s.page("/forum/")))
	wait(t, moderator, text("#state", "live"))
	publish := func(topic, title string) {
		t.Helper()
		do(t, moderator, chromedp.SetValue("#topic", topic), chromedp.SetValue("#title", title),
			chromedp.SetValue("#body", "The text of "+title), chromedp.Click("#publish"))
		wait(t, moderator, text("#answer", "Published in")+" && document.querySelector('#title').value === ''")
		do(t, moderator, chromedp.Evaluate("document.querySelector('#answer').textContent = ''", nil))
	}
	until(t, "the reader is in the room", func() bool { return s.edge.Rooms() == 1 })
	publish("politics", "Not for this reader")
	publish("sports", "Home side wins the cup")
	wait(t, reader, text(".toast", "Home side wins the cup"))
	wait(t, reader, text("#feed", "Home side wins the cup")+" && !"+text("#feed", "Not for this reader"))
	wait(t, reader, text("#topic-sports .badge", "1")+" && "+text("#count", "1"))
	wait(t, reader, "document.querySelector('#session').textContent.startsWith('c') && document.querySelector('#node').textContent === 'edge-0'")
	shot(t, reader, "forum-reader")
	shot(t, moderator, "forum-moderator")

	// The notification links to the item.
	do(t, reader, chromedp.Click(".toast"), chromedp.WaitVisible("main.article"))
	wait(t, reader, text("#title", "Home side wins the cup")+" && "+text("#body", "The text of Home side"))
	shot(t, reader, "forum-item")

	// Back in the forum the topic is open again; leaving it ends the messages.
	do(t, reader, chromedp.Navigate(s.page("/forum/")))
	wait(t, reader, text("#state", "live")+" && document.querySelector('#topic-sports').getAttribute('aria-pressed') === 'true'")
	do(t, reader, chromedp.Click("#topic-sports"), chromedp.Click("#topic-politics"))
	until(t, "the reader changed rooms", func() bool { return s.edge.Rooms() == 2 })
	publish("sports", "Unseen")
	publish("politics", "Seen")
	wait(t, reader, text("#feed", "Seen"))
	var feed string
	do(t, reader, chromedp.Text("#feed", &feed))
	if strings.Contains(feed, "Unseen") {
		t.Errorf("a left topic still speaks: %s", feed)
	}
}

func TestThePageComesBackAfterItsEdge(t *testing.T) {
	s := start(t)
	ctx := browser(t)
	do(t, ctx, chromedp.Navigate(s.page("/forum/")))
	wait(t, ctx, text("#state", "live"))
	do(t, ctx, chromedp.Click("#topic-music"))
	until(t, "the reader is in the room", func() bool { return s.edge.Rooms() == 1 })
	s.stop()
	wait(t, ctx, text("#state", "reconnecting in")+"||"+text("#state", "connecting"))
	s.startEdge()
	wait(t, ctx, text("#state", "live"))
	until(t, "the reader is in the room again", func() bool { return s.edge.Rooms() == 1 })
	s.publish("room.forum.music", `{"title":"Encore"}`)
	wait(t, ctx, text("#feed", "Encore"))
}

func TestThePagesFitAPhone(t *testing.T) {
	s := start(t)
	ctx := browser(t)
	for _, path := range []string{"/", "/forum/", "/forum/read/", "/map/", "/restaurant/", "/chat/", "/document/", "/quotes/", "/studio/"} {
		do(t, ctx, dark(), chromedp.EmulateViewport(360, 740), chromedp.Navigate(s.page(path)), chromedp.WaitVisible("main"))
		wait(t, ctx, "document.documentElement.scrollWidth <= 360")
		shot(t, ctx, "phone"+strings.ReplaceAll(path, "/", "-"))
	}
}
