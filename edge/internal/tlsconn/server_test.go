package tlsconn

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// lines is a log that counts.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

func reload(t *testing.T) (Files, *reloader, *lines) {
	t.Helper()
	log := new(lines)
	f := newFiles(t)
	s, err := NewServer(f, "1.2", slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return f, &reloader{server: s, seen: s.first}, log
}

const (
	stays = "the certificate stays as it was"
	takes = "certificate in force"
)

func TestANewPairIsTakenOnce(t *testing.T) {
	f, r, log := reload(t)
	old := r.server.certificate.Load()
	r.look(false)
	if r.server.certificate.Load() != old {
		t.Error("the same files were taken again")
	}
	writePair(t, f, time.Now().Add(48*time.Hour))
	for range 3 {
		r.look(false)
	}
	if r.server.Expires().Before(time.Now().Add(47*time.Hour)) || log.count(takes) != 2 || log.count(stays) != 0 {
		t.Errorf("until %s, %d taken, %d refused", r.server.Expires(), log.count(takes), log.count(stays))
	}
}

func TestABadPairKeepsTheOldAndIsLoggedOnce(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T, Files){
		"no PEM":      func(t *testing.T, f Files) { write(t, f.Certificate, []byte("half a certi")) },
		"another key": func(t *testing.T, f Files) { write(t, f.Key, must(os.ReadFile(newFiles(t).Key))) },
		"expired":     func(t *testing.T, f Files) { writePair(t, f, time.Now().Add(-time.Minute)) },
		"no file":     func(t *testing.T, f Files) { _ = os.Remove(f.Key) },
	} {
		t.Run(name, func(t *testing.T) {
			f, r, log := reload(t)
			old := r.server.certificate.Load()
			spoil(t, f)
			r.look(false)
			if n := log.count(stays); n != 0 {
				t.Errorf("%d words about files that may be half written", n)
			}
			for range 4 {
				r.look(false)
			}
			if n := log.count(stays); n != 1 {
				t.Errorf("logged %d times", n)
			}
			r.look(true)
			if n := log.count(stays); n != 2 {
				t.Error("who asks is not answered")
			}
			if r.server.certificate.Load() != old {
				t.Error("the old pair is gone")
			}
			writePair(t, f, time.Now().Add(time.Hour))
			if r.look(false); r.server.certificate.Load() == old || log.count(takes) != 2 {
				t.Error("the good pair was not taken")
			}
		})
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestSIGHUPReadsAtOnce(t *testing.T) {
	f, r, log := reload(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { r.server.Follow(ctx); close(done) }()
	writePair(t, f, time.Now().Add(48*time.Hour))
	// Until Follow listens the signal would end the process: keep it harmless.
	hup := make(chan os.Signal, 1)
	notify(t, hup)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(deadline); log.count(takes) < 2; <-tick.C {
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil || time.Now().After(until) {
			t.Fatalf("not taken: %v", err)
		}
	}
	cancel()
	<-done
}

func TestOnlyTwoVersionsAreSpoken(t *testing.T) {
	for _, s := range []string{"", "1", "1.0", "1.1", "1.4", "TLS1.2"} {
		if _, err := ParseVersion(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}
