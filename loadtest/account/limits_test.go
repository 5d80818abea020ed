package account

import (
	"strings"
	"testing"
)

func TestShortagesSayWhatToRaise(t *testing.T) {
	if got := Shortages(Need{Connections: 10, PerSource: 10, Processes: 1}); len(got) != 0 {
		t.Errorf("ten connections: %q", got)
	}
	got := strings.Join(Shortages(Need{Connections: 1 << 40, PerSource: 70_000, Processes: 1}), "\n")
	for _, want := range []string{"fs.file-max is", "sysctl -w net.ipv4.tcp_mem=", "net.ipv4.ip_local_port_range has"} {
		if !strings.Contains(got, want) && !(want == "fs.file-max is" && !readable("/proc/sys/fs/file-max")) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	if n, err := Available(); err != nil || n == 0 {
		t.Errorf("%d, %v", n, err)
	}
}

func readable(file string) bool { _, ok := numbers(file); return ok }
