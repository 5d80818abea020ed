package e2e

import (
	"bufio"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

const guide = "../guide/"

// TestThePagesOfTheTutorial opens them as files, with this test's addresses in
// the place of nabat dev's own.
func TestThePagesOfTheTutorial(t *testing.T) {
	s := start(t)
	ctx := browser(t)
	for i, name := range []string{"news.html", "client.html"} {
		t.Run(name, func(t *testing.T) {
			source, err := os.ReadFile(guide + "pages/" + name)
			if err != nil {
				t.Fatal(err)
			}
			here := strings.NewReplacer("127.0.0.1:8080", s.edge.Addr(), "127.0.0.1:8090", s.control.Addr()).Replace(string(source))
			file := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(file, []byte(here), 0o600); err != nil {
				t.Fatal(err)
			}
			do(t, ctx, chromedp.Navigate("file://"+file))
			if i == 0 {
				// The page does not say when it has joined: somebody publishes until it shows it.
				until(t, "the line", func() bool {
					s.publish("room.sports.news", `{"title":"Goal"}`)
					var shown bool
					do(t, ctx, chromedp.Evaluate(text("#news", "Goal"), &shown))
					return shown
				})
				return
			}
			wait(t, ctx, "document.title === 'News: live'")
			s.publish("room.sports.news", `{"title":"Second"}`)
			wait(t, ctx, text("#news", "Second"))
		})
	}
}

// TestTheChatOfTheTutorial: two people talk, and one is shown the door.
func TestTheChatOfTheTutorial(t *testing.T) {
	s := startWith(t, guide+"chat/policies.yaml")
	ctx := browser(t)
	chat := filepath.Join(t.TempDir(), "chat")
	if out, err := exec.Command("go", "build", "-o", chat, guide+"chat").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(chat, "--listen", "127.0.0.1:0", "--edge", "http://"+s.edge.Addr(), "--control", "http://"+s.control.Addr())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	alice := strings.TrimSpace(strings.TrimPrefix(line, "chat at "))
	res, err := http.Post(strings.Replace(alice, "?user=alice", "token", 1), "application/x-www-form-urlencoded", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusUnauthorized {
		t.Errorf("nobody gets a token: %s", res.Status)
	}

	say := func(words string) chromedp.Action {
		return chromedp.Evaluate(`document.forms[0].text.value = '`+words+`'; document.forms[0].requestSubmit(); null`, nil)
	}
	do(t, ctx, chromedp.Navigate(alice))
	wait(t, ctx, "document.readyState === 'complete' && document.forms[0].onsubmit !== null")
	do(t, ctx, say("hi"))
	wait(t, ctx, text("#lines", "alice: hi"))
	wait(t, ctx, text("#here", "Here: alice"))
	do(t, ctx, chromedp.Navigate(strings.Replace(alice, "alice", "bob", 1)))
	wait(t, ctx, text("#lines", "alice: hi")) // what was said before he came
	wait(t, ctx, "document.forms[0].onsubmit !== null")
	wait(t, ctx, text("#here", "bob"))
	do(t, ctx, say("hello"))
	wait(t, ctx, text("#lines", "bob: hello"))
	s.publish("room.chat.42", `{"text":"welcome"}`)
	wait(t, ctx, text("#lines", "welcome"))
	if _, err := s.nc.Request("nabat.api.user.block", []byte(`{"user":"bob","for":"1h"}`), patience); err != nil {
		t.Fatal(err)
	}
	wait(t, ctx, text("#lines", "user_blocked"))
}
