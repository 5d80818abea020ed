package floor

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"nabat/loadtest/account"
	"nabat/loadtest/swarm"
)

const childVariable = "NABAT_FLOOR_TEST_CHILD"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(childVariable) {
	case "":
		os.Exit(m.Run())
	case "floor":
		err = Serve()
	case "tls":
		err = ServeTLS()
	case "swarm":
		err = swarm.Work(context.Background(), os.Stdin, os.Stdout)
	}
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}

func child(kind string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+kind, "GORACE=atexit_sleep_ms=0")
	return cmd
}

func TestTheFloorServesASwarm(t *testing.T) {
	const members = 50
	for _, size := range []int{0, 127, 130, 150, 5000, 70_000} {
		server, err := Start(t.Context(), child("floor"), size)
		if err != nil {
			t.Fatal(err)
		}
		s, err := swarm.Start(swarm.Options{Spawn: func() *exec.Cmd { return child("swarm") }, Target: "ws://" + server.Address() + "/", Clients: members})
		if err != nil {
			t.Fatal(err)
		}
		if p, err := s.Dial(t.Context()); err != nil || p.Connected != members {
			t.Fatalf("%+v, %v", p, err)
		}
		if _, err := s.Begin(t.Context(), 5); err != nil {
			t.Fatal(err)
		}
		before, err := account.CPU(server.PID())
		if err != nil {
			t.Fatal(err)
		}
		for n, count := uint64(1), 1; n <= 15; n, count = n+uint64(count), count*2 {
			if err := server.Broadcast(t.Context(), swarm.Stamp{Run: 5, Sequence: n, At: swarm.Now()}, count); err != nil {
				t.Fatal(err)
			}
			if err := s.Wait(t.Context(), n+uint64(count)-1); err != nil {
				t.Fatal(err)
			}
		}
		after, err := account.CPU(server.PID())
		if err != nil || after <= before {
			t.Errorf("processor time %s, then %s (%v)", before, after, err)
		}
		totals, err := s.Finish(t.Context(), 15)
		if err != nil {
			t.Fatal(err)
		}
		want := max(size, swarm.MinPayload+2)
		if !totals.Correct() || totals.Received != 15*members || totals.Bytes != uint64(want*15*members) {
			t.Errorf("frames of %d bytes: %+v", size, totals)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestTheAnswerIs129Bytes(t *testing.T) {
	if len(switching) != 129 {
		t.Errorf("%d bytes", len(switching))
	}
}

func TestAFloorThatCannotStart(t *testing.T) {
	if _, err := Start(t.Context(), exec.Command("/nonexistent/floor"), 100); err == nil {
		t.Error("no error")
	}
	if _, err := Start(t.Context(), exec.Command("true"), 100); err == nil || !strings.Contains(err.Error(), "the floor ended") {
		t.Errorf("a process that ends at once: %v", err)
	}
}

func TestAFloorThatIsTalkedNonsense(t *testing.T) {
	cmd := child("floor")
	cmd.Stderr = new(strings.Builder)
	server, err := Start(t.Context(), cmd, 100)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.stdin.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := server.next(t.Context()); err == nil {
		t.Error("no error")
	}
	if err := server.Close(); err == nil {
		t.Error("its end is not an error")
	}
}

func TestTheFloorWithTLSTakesClients(t *testing.T) {
	server, err := Start(t.Context(), child("tls"), 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := swarm.Start(swarm.Options{Spawn: func() *exec.Cmd { return child("swarm") }, Target: "wss://" + server.Address() + "/", Clients: 20})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := s.Dial(t.Context()); err != nil || p.Connected != 20 {
		t.Errorf("%+v, %v", p, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
}
