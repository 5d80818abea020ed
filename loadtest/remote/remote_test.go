package remote

import (
	"bytes"
	"context"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/internal/natsdev"
)

// site is NATS and an agent whose workers run a shell's script.
type site struct {
	nc  *nats.Conn
	id  string
	end context.CancelFunc
}

func setup(t *testing.T, script string, clock func() int64) *site {
	t.Helper()
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	s := new(site)
	dial := func() *nats.Conn {
		nc, err := nats.Connect(server.URL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	s.nc = dial()
	ctx, cancel := context.WithCancel(t.Context())
	s.end = cancel
	ids, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- Serve(ctx, dial(), Options{Name: "here", Now: clock, Say: t.Logf,
			Spawn: func(int64) *exec.Cmd { return exec.Command("sh", "-c", script) }}, func(id string) { ids <- id })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case s.id = <-ids:
	case err := <-done:
		t.Fatal(err)
	}
	return s
}

func wall() int64 { return time.Now().UnixNano() }

func TestAWorkerElsewhereIsAPipe(t *testing.T) {
	s := setup(t, "cat; echo end", wall)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 3*chunk/16+1)
	var got bytes.Buffer
	if err := Relay(t.Context(), s.nc, s.id, 0, bytes.NewReader(sent), &got); err != nil {
		t.Fatal(err)
	}
	if want := string(sent) + "end\n"; got.String() != want {
		t.Errorf("%d bytes came back, want %d", got.Len(), len(want))
	}
}

func TestAParentThatEndsTakesItsWorkerAlong(t *testing.T) {
	s := setup(t, "echo begun; cat >/dev/null", wall)
	in, parent := io.Pipe()
	out, worker := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Relay(t.Context(), s.nc, s.id, 0, in, worker) }()
	if _, err := io.ReadFull(out, make([]byte, len("begun\n"))); err != nil {
		t.Fatal(err)
	}
	_ = parent.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAnAgentThatEndsTakesItsWorkersAlong(t *testing.T) {
	s := setup(t, "echo begun; cat >/dev/null", wall)
	in, _ := io.Pipe()
	out, worker := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Relay(t.Context(), s.nc, s.id, 0, in, worker) }()
	if _, err := io.ReadFull(out, make([]byte, len("begun\n"))); err != nil {
		t.Fatal(err)
	}
	s.end()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestClocksAreCompared(t *testing.T) {
	const off = int64(42 * time.Second)
	s := setup(t, "", func() int64 { return wall() + off })
	list, err := Find(t.Context(), s.nc, 200*time.Millisecond, wall)
	if err != nil || len(list) != 1 || list[0].Name != "here" || list[0].ID != s.id {
		t.Fatalf("%+v, %v", list, err)
	}
	if e := list[0].Off - off; e > list[0].Err || -e > list[0].Err {
		t.Errorf("the clock is said to be %d off, ±%d: it is %d", list[0].Off, list[0].Err, off)
	}
}

func TestWhatIsNoAgent(t *testing.T) {
	s := setup(t, "", wall)
	if err := Relay(t.Context(), s.nc, "nobody", 0, strings.NewReader(""), io.Discard); err == nil || !strings.Contains(err.Error(), "agent nobody: ") {
		t.Error(err)
	}
	m, err := s.nc.Request(start+s.id, []byte("{}"), 10*time.Second)
	if err != nil || !strings.Contains(string(m.Data), "is no order") {
		t.Errorf("%s, %v", m.Data, err)
	}
}
