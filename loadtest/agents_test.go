package main

import (
	"bufio"
	"context"
	"io"
	"strings"
	"testing"

	"nabat/internal/natsdev"
)

// startAgent runs loadtest agent until the test ends.
func startAgent(t *testing.T, url, name string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		code := (&app{self: child, stdin: strings.NewReader(""), stdout: io.Discard, stderr: w}).run(ctx, []string{"agent", "--nats", url, "--name", name})
		_ = w.Close()
		ended <- code
	}()
	t.Cleanup(func() {
		cancel()
		if code := <-ended; code != 0 {
			t.Errorf("agent %s: code %d", name, code)
		}
	})
	lines := bufio.NewScanner(r)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "ready: "+name) {
		t.Fatalf("agent %s: %q", name, lines.Text())
	}
	go func() {
		for lines.Scan() {
			t.Log(lines.Text())
		}
	}()
}

// Clients of other machines do the same, and their clocks are told apart.
func TestClientsOnOtherMachines(t *testing.T) {
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	args := strings.Fields("floor --members 21 --rounds 1 --round 50ms --agents " + server.URL())
	if code, _, stderr := loadtest(t, args...); code != 1 || !strings.Contains(stderr, "--agents: no agent answers: start loadtest agent") {
		t.Errorf("without one: code %d, %s", code, stderr)
	}
	startAgent(t, server.URL(), "one")
	startAgent(t, server.URL(), "two")
	code, stdout, stderr := loadtest(t, args...)
	if code != 0 || strings.Contains(stdout, "FAULT") {
		t.Fatalf("code %d, %s\n%s", code, stderr, stdout)
	}
	for _, want := range []string{"clients at one, ", "clients at two, ", "its clock is known to ±", "21 members"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in:\n%s", want, stdout)
		}
	}
	if code, _, stderr := loadtest(t, "floor", "--agents", "nats://127.0.0.1:1"); code != 1 || !strings.Contains(stderr, "--agents: NATS at nats://127.0.0.1:1") {
		t.Errorf("code %d, %s", code, stderr)
	}
}
