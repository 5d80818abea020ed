package edge

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nabat/edge/internal/loop"
	"nabat/edge/internal/session"
	"nabat/proto/grant"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

func openDescriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestAnEdgeThatCannotStartLeavesNothingOpen(t *testing.T) {
	c := newCluster(t, policy.Dev())
	before := openDescriptors(t)
	cfg := Defaults()
	cfg.Listen, cfg.NATSURL, cfg.Loops, cfg.Dev = "127.0.0.1:0", c.nats.URL(), 3, true
	cfg.NATSCredentials = filepath.Join(t.TempDir(), "none.creds")
	if _, err := New(cfg, slog.New(slog.DiscardHandler), nil); err == nil || !strings.Contains(err.Error(), "none.creds") {
		t.Fatal(err)
	}
	if after := openDescriptors(t); after != before {
		t.Fatalf("%d descriptors, %d before", after, before)
	}
}

func TestAnEdgeThatStopsLeavesNothingOpen(t *testing.T) {
	c := newCluster(t, policy.Dev())
	before := openDescriptors(t)
	e, stop := c.start(func(cfg *Config) { cfg.Loops = 2 })
	a := dial(t, e, "/ws?room=a")
	a.connected("a")
	stop()
	_ = a.conn.Close()
	// NATS closes its ends when it sees that ours are gone.
	until(t, "all descriptors are closed", func() bool { return openDescriptors(t) == before })
}

func TestALoopThatFailsEndsTheEdge(t *testing.T) {
	c := newCluster(t, policy.Dev())
	cfg := Defaults()
	cfg.Listen, cfg.NATSURL, cfg.Loops, cfg.Dev = "127.0.0.1:0", c.nats.URL(), 2, true
	e, err := New(cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- e.Run(context.Background()) }()
	until(t, "the edge is ready", func() bool { return e.Ready() == nil })
	address := e.Addr()
	// One loop's epoll descriptors become something else.
	if err := e.workers[0].loop.Do(func() { spoilEpoll(t, e.workers[0].loop) }); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, unix.EINVAL) {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("Run waits for a loop that is dead")
	}
	if conn, err := net.Dial("tcp", address); err == nil {
		_ = conn.Close()
		t.Fatal("somebody still listens")
	}
}

// A client whose token is being checked while the node begins to stop would be
// neither refused nor told to move.
func TestAHandshakeThatEndsDuringADrainIsRefused(t *testing.T) {
	c := newCluster(t, policy.Dev())
	e, stop := c.start(func(cfg *Config) { cfg.Loops = 1 })
	checking, goOn := make(chan struct{}), make(chan struct{})
	if !e.verifiers.submit(verification{token: "busy", now: time.Now(), answer: func(*session.Identity, *wire.Error) { close(checking); <-goOn }}) {
		t.Fatal("no room for a job")
	}
	<-checking
	token := c.token(c.ed, "alice", time.Minute, &grant.Grant{Subscribe: []string{"a"}})
	refused := make(chan error, 1)
	go func() {
		_, err := tryDial(t, e.Addr(), "/ws?room=a", http.Header{"Authorization": {"Bearer " + token}})
		refused <- err
	}()
	until(t, "the token waits", func() bool { return len(e.verifiers.jobs) == 1 })
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	until(t, "the edge drains", e.draining.Load)
	close(goOn)
	if err := <-refused; err == nil || errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "503") {
		t.Errorf("got %v, want 503", err)
	}
	<-stopped
	if n := e.refusals("draining"); n != 1 {
		t.Errorf("%d refusals", n)
	}
}

// spoilEpoll makes the next epoll_wait of a loop fail, as no call from outside
// can. On the loop.
func spoilEpoll(t *testing.T, l *loop.Loop) {
	fd := int(reflect.ValueOf(l).Elem().FieldByName("epoll").Elem().FieldByName("fd").Int())
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = unix.Close(null) }()
	if err := unix.Dup3(null, fd, unix.O_CLOEXEC); err != nil {
		t.Error(err)
	}
}
