package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
)

// natsFile writes a configuration that says in dir on which ports it runs.
func natsFile(t *testing.T, dir, more string) string {
	t.Helper()
	file := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\nhttp: \"127.0.0.1:-1\"\nports_file_dir: %q\n"+
		"jetstream { store_dir: %q }\nlame_duck_grace_period: \"10ms\"\n%s", dir, filepath.Join(dir, "store"), more)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// natsPorts waits for the file that names the ports.
func natsPorts(t *testing.T, dir string) (client, monitoring string) {
	t.Helper()
	var ports struct{ Nats, Monitoring []string }
	eventually(t, "the file of ports", func() bool {
		files, err := filepath.Glob(filepath.Join(dir, "*.ports"))
		if err != nil || len(files) == 0 {
			return false
		}
		text, err := os.ReadFile(files[0])
		return err == nil && json.Unmarshal(text, &ports) == nil && len(ports.Nats) > 0 && len(ports.Monitoring) > 0
	})
	return ports.Nats[0], ports.Monitoring[0]
}

func TestNATSRunsByAFileUntilItIsALameDuck(t *testing.T) {
	dir := t.TempDir()
	pid := filepath.Join(dir, "nats.pid")
	p := startProcess(t, nil, "nats", "--config", natsFile(t, dir, ""), "--pid", pid)
	url, monitoring := natsPorts(t, dir)
	eventually(t, "/healthz to be 200", func() bool {
		r, err := http.Get(monitoring + "/healthz")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
	told := make(chan struct{})
	nc, err := nats.Connect(url, nats.NoReconnect(), nats.LameDuckModeHandler(func(*nats.Conn) { close(told) }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.AccountInfo(); err != nil {
		t.Errorf("JetStream of the file: %v", err)
	}

	if r := nabat(t, "", nil, "nats", "--signal", "ldm", "--pid", pid); r.code != 0 || r.stderr != "" {
		t.Fatalf("lame duck: %+v", r)
	}
	<-told
	p.signal(syscall.SIGTERM) // Kubernetes does so after preStop: it must not hurry the server
	eventually(t, "the client to be closed", nc.IsClosed)
	if code := p.code(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if log := p.stderr.String(); !strings.Contains(log, "Entering lame duck mode") || !strings.Contains(log, "Closing existing clients") {
		t.Error("the log does not tell of the lame duck")
	}
}

func TestNATSEndsBySIGTERM(t *testing.T) {
	dir := t.TempDir()
	p := startProcess(t, nil, "nats", "--config", natsFile(t, dir, ""))
	natsPorts(t, dir)
	p.signal(syscall.SIGTERM)
	if code := p.code(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestBadNATSConfigurationsAreRefusedByFileAndReason(t *testing.T) {
	for rule, c := range map[string]struct{ more, want string }{
		"an unknown key":           {"frobnicate: 1\n", `:6:1: unknown field "frobnicate"`},
		"a bad value":              {"max_payload: yes please\n", ": Parse error on line 6: "},
		"settings that do not fit": {"lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"2m\"\n", ": lame duck grace period"},
	} {
		t.Run(rule, func(t *testing.T) {
			file := natsFile(t, t.TempDir(), c.more)
			r := nabat(t, "", nil, "nats", "--config", file)
			if r.code != 1 || !strings.HasPrefix(r.stderr, "nabat nats: "+file+c.want) {
				t.Errorf("%+v", r)
			}
		})
	}
	r := nabat(t, "", nil, "nats", "--config", "testdata/none.conf")
	if want := "nabat nats: testdata/none.conf: open testdata/none.conf: no such file or directory\n"; r.code != 1 || r.stderr != want {
		t.Errorf("a file that is not there: %+v", r)
	}
}

func TestASignalNeedsAServer(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) string {
		file := filepath.Join(dir, "pid")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	gone := startProcess(t, nil, "version")
	gone.code()
	number := strconv.Itoa(gone.cmd.Process.Pid)
	file := write("")
	for _, c := range []struct{ rule, text, want string }{
		{"an empty file", "", `process id: ` + file + ` holds "", not a number above 0`},
		{"a file that is no process id", "hello", `process id: ` + file + ` holds "hello", not a number above 0`},
		{"every process of a group", "0", `process id: ` + file + ` holds "0", not a number above 0`},
		{"every process of the machine", "-1", `process id: ` + file + ` holds "-1", not a number above 0`},
		{"a process that has ended", number + "\n", "process " + number + " of " + file + " does not run"},
	} {
		r := nabat(t, "", nil, "nats", "--signal", "ldm", "--pid", write(c.text))
		if r.code != 1 || r.stderr != "nabat nats: "+c.want+"\n" {
			t.Errorf("%s: %+v", c.rule, r)
		}
	}
}
