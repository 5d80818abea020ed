package target

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"nabat/internal/natsdev"
	"nabat/loadtest/swarm"
)

func TestClientURL(t *testing.T) {
	tests := []struct {
		name, url string
		want      string
	}{
		{"rooms become the query", "ws://h:1/ws", "ws://h:1/ws?<<room={room}|&>>"},
		{"other parameters stay", "ws://h:1/ws?v=2", "ws://h:1/ws?v=2&<<room={room}|&>>"},
		{"rooms of the user stay as they are", "ws://h:1/ws?a=b&room=x", "ws://h:1/ws?a=b&room=x"},
	}
	for _, test := range tests {
		if got := (&Target{URL: test.url}).ClientURL(); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
	if got := (&Target{Name: NameFloor, URL: "ws://h:1/"}).ClientURL(); got != "ws://h:1/" {
		t.Errorf("the floor has no rooms: %s", got)
	}
}

func TestExternalCompletesThePath(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1:80": "ws://127.0.0.1:80/ws", "ws://127.0.0.1:80/": "ws://127.0.0.1:80/ws", "ws://127.0.0.1:80/chat": "ws://127.0.0.1:80/chat",
		"wss://127.0.0.1": "wss://127.0.0.1/ws",
	} {
		got, err := (&External{URL: in}).Open(t.Context())
		if err != nil || got.URL != want || got.Publisher != nil {
			t.Errorf("%s: %+v, %v; want %s", in, got, err, want)
		}
	}
}

func TestPublisherSendsTheStampedPayload(t *testing.T) {
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Shutdown()
	conn, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got := make(chan *nats.Msg, 3)
	if _, err := conn.ChanSubscribe(">", got); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	target, err := (&External{URL: "127.0.0.1:80", NATS: server.URL(), SubjectPrefix: "p."}).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for n, size := range []int{200, 200, 300} {
		s := swarm.Stamp{Run: 1, Sequence: uint64(n), At: 5, Room: uint32(n)}
		if err := target.Publisher.Publish(t.Context(), s, size); err != nil {
			t.Fatal(err)
		}
		if m := <-got; m.Subject != fmt.Sprintf("p.loadtest.%d", n) || string(m.Data) != string(swarm.AppendPayload(nil, s, size)) {
			t.Errorf("%s %s", m.Subject, m.Data)
		}
	}
	if err := target.Close(); err != nil {
		t.Error(err)
	}
}

func shell(script string) *exec.Cmd { return exec.Command("sh", "-c", script) }

func TestAProcessThatEndsSaysWhy(t *testing.T) {
	p, err := startProcess("thing", shell("echo nothing works >&2; exit 3"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var v struct{}
	if err := p.first(t.Context(), &v); err == nil || err.Error() != "thing ended: exit status 3: nothing works" {
		t.Errorf("%v", err)
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}

func TestWatchEndsWithTheProcess(t *testing.T) {
	log := new(tail)
	p, err := startProcess("thing", shell("read line; echo enough >&2; exit 1"), log)
	if err != nil {
		t.Fatal(err)
	}
	target := &Target{processes: []*process{p}}
	ctx, cancel := target.Watch(t.Context())
	defer cancel()
	if ctx.Err() != nil {
		t.Fatal("it ended before its process")
	}
	_, _ = p.stdin.Write([]byte("go\n"))
	<-ctx.Done()
	if got := context.Cause(ctx).Error(); got != "thing ended: exit status 1: enough" || log.String() != "enough" {
		t.Errorf("%q, log %q", got, log)
	}
}

func TestFirstLineMustBeJSON(t *testing.T) {
	p, err := startProcess("thing", shell("echo hello; read line"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var v struct{}
	if err := p.first(t.Context(), &v); err == nil || !strings.Contains(err.Error(), `thing said "hello"`) {
		t.Errorf("%v", err)
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if _, err := startProcess("thing", exec.Command("/nonexistent"), nil); err == nil || !strings.Contains(err.Error(), "start thing") {
		t.Errorf("%v", err)
	}
}

func TestReadyWaitsAndSaysWhatIsWrong(t *testing.T) {
	answers := 0
	ops := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if answers++; answers < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer ops.Close()
	if err := new(Target).ready(t.Context(), ops.URL); err != nil || answers != 3 {
		t.Errorf("%d answers, %v", answers, err)
	}
	p, err := startProcess("edge", shell("echo port taken >&2; exit 1"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := (&Target{processes: []*process{p}}).ready(t.Context(), "http://127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "edge ended: exit status 1: port taken") {
		t.Errorf("%v", err)
	}
}

func TestLauncherRefusals(t *testing.T) {
	l := &Launcher{Say: func(string, ...any) {}, Self: func(string) *exec.Cmd { return shell("echo broken >&2; exit 1") }}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := l.Start(t.Context(), "socketio"); err == nil || !strings.Contains(err.Error(), "choose from nabat, naive, gorilla, gws, nbio, nats, centrifuge, mercure") {
		t.Errorf("%v", err)
	}
	l.built = map[string]string{"peers": "/nonexistent"}
	if _, err := l.Start(t.Context(), "gws"); err == nil || !strings.Contains(err.Error(), "NATS ended: exit status 1: broken") {
		t.Errorf("%v", err)
	}
	l.built = nil
	dir := t.TempDir()
	t.Chdir(dir)
	if _, err := l.Start(t.Context(), NameNabat); err == nil || !strings.Contains(err.Error(), "is not in the nabat repository") {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module nabat\n\ngo 1.26.0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Start(t.Context(), NameNabat); err == nil || !strings.Contains(err.Error(), "build nabat: exit status 1") {
		t.Errorf("%v", err)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var text tail
	for range tailBytes {
		_, _ = text.Write([]byte("ab"))
	}
	_, _ = text.Write([]byte("the end\n"))
	if got := text.String(); len(got) > tailBytes || !strings.HasSuffix(got, "abthe end") {
		t.Errorf("%d bytes, ends %q", len(got), got[max(0, len(got)-20):])
	}
}
