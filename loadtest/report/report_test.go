package report

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

func sample() *Report {
	r := &Report{
		Scenario: "fanout", Summary: "10,000 members of 1 room, 128 B messages",
		Started: time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC),
		Machine: Machine{CPUs: 2, Kernel: "6.18.0", Arch: "amd64", Go: "go1.26", Load: 0.25},
		Options: map[string]any{"members": 10000}, Columns: []string{"nabat", "gorilla", "floor"},
		Faults: []string{"gorilla: 3 missing"},
		Notes:  []string{"Processor time is the kernel's own account."},
	}
	one := r.Section("one message at a time")
	for column, v := range map[string][4]float64{"nabat": {3912, 1.084, 251_400, 61_000_000}, "gorilla": {7031, 1.95, 142_000, 120_400_000}, "floor": {3608, 1, 277_000, 55_123_000}} {
		one.Set(column, "server CPU per delivery", Nanoseconds, v[0])
		one.Set(column, "  in floors", Ratio, v[1])
		one.Set(column, "deliveries", PerSecond, v[2])
		one.Set(column, "latency p99", Nanoseconds, v[3])
	}
	one.Note("latency p99", "from the send")
	r.Section("memory").Set("nabat", "per connection", Bytes, 331)
	r.Section("memory").Set("gorilla", "per connection", Bytes, 17215)
	r.Section("memory").Set("nabat", "missing", Count, 0)
	return r
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	if err := sample().Table(&out); err != nil {
		t.Fatal(err)
	}
	golden(t, "table.txt", out.String())
}

func TestJSON(t *testing.T) {
	var out strings.Builder
	if err := sample().WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.json", out.String())
	var back Report
	if err := json.Unmarshal([]byte(out.String()), &back); err != nil {
		t.Fatal(err)
	}
	if got := back.Section("one message at a time").Row("deliveries").Values["gorilla"]; got != 142_000 {
		t.Errorf("read back: %v", got)
	}
}

func TestFormat(t *testing.T) {
	tests := []struct {
		value float64
		unit  Unit
		want  string
	}{
		{812, Nanoseconds, "812 ns"}, {3912, Nanoseconds, "3.91 µs"}, {61_000_000, Nanoseconds, "61.0 ms"}, {2.5e9, Nanoseconds, "2.50 s"}, {0, Nanoseconds, "0 ns"},
		{331, Bytes, "331 B"}, {5811, Bytes, "5,811 B"}, {17215, Bytes, "16.8 KiB"}, {-120, Bytes, "-120 B"}, {3 << 20, Bytes, "3.00 MiB"},
		{1_690_000, PerSecond, "1,690,000/s"}, {1.084, Ratio, "1.08 ×"}, {13.26, Ratio, "13.3 ×"}, {0.1345, Ratio, "0.13 ×"},
		{999, Count, "999"}, {1000, Count, "1,000"}, {-1234567, Count, "-1,234,567"}, {1.5, Decimal, "1.50"}, {-0.2, Count, "0"},
	}
	for _, test := range tests {
		if got := Format(test.value, test.unit); got != test.want {
			t.Errorf("Format(%v, %s) = %q, want %q", test.value, test.unit, got, test.want)
		}
	}
}

func TestProgress(t *testing.T) {
	states := []State{
		{Phase: "connecting", Done: 1000, Total: 10_000, Of: "connected", Rate: 5000},
		{Phase: "connecting", Done: 5000, Total: 10_000, Of: "connected", Rate: 5000, Errors: 2},
		{Phase: "connecting", Done: 10_000, Total: 10_000, Of: "connected"},
		{Phase: "settling", Detail: "memory"},
	}
	tests := []struct {
		name     string
		terminal bool
		step     time.Duration
		want     string
	}{
		{"plain lines, seldom", false, 1500 * time.Millisecond,
			"connecting: 10,000 of 10,000 connected\n" +
				"connecting: 10,000 of 10,000 connected in 4.5 s\nsettling: memory in 0.0 s\ndone\n"},
		{"plain lines, each", false, 3 * time.Second,
			"connecting: 5,000 of 10,000 connected · 5,000/s · 2 failed · 3 s left\n" +
				"connecting: 10,000 of 10,000 connected\n" +
				"connecting: 10,000 of 10,000 connected in 9.0 s\nsettling: memory in 0.0 s\ndone\n"},
		{"a terminal redraws", true, time.Second,
			"connecting: 1,000 of 10,000 connected · 5,000/s" + wipe(47) +
				"connecting: 5,000 of 10,000 connected · 5,000/s · 2 failed" + wipe(58) +
				"connecting: 10,000 of 10,000 connected" + wipe(38) +
				"connecting: 10,000 of 10,000 connected in 3.0 s\n" +
				"settling: memory" + wipe(16) + "settling: memory in 0.0 s\ndone\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			now := time.Unix(0, 0)
			p := &Progress{out: &out, terminal: test.terminal, now: func() time.Time { return now }}
			for i, s := range states {
				if i > 0 {
					now = now.Add(test.step)
				}
				p.Show(s)
			}
			p.End()
			p.End()
			p.Say("done")
			if diff := cmp.Diff(test.want, out.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func wipe(n int) string { return "\r" + strings.Repeat(" ", n) + "\r" }

func TestAFileIsNoTerminal(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if NewProgress(file).terminal {
		t.Error("a file is taken for a terminal")
	}
}
