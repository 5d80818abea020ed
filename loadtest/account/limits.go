package account

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Need is what a run asks of the kernel.
type Need struct {
	Connections int // each has both ends on this machine
	PerSource   int // connections from one source address to one server
	Processes   int
}

// Shortages compares the kernel's limits with a need and says, a line for each
// that is too low, how to raise it. A limit that cannot be read is none.
func Shortages(n Need) (lines []string) {
	ends := 2 * n.Connections
	check := func(what, file string, index, need int) {
		have, ok := numbers(file)
		if !ok || index >= len(have) || have[index] >= need {
			return
		}
		name := strings.ReplaceAll(strings.TrimPrefix(file, "/proc/sys/"), "/", ".")
		lines = append(lines, fmt.Sprintf("%s is %d, and %d are needed: sysctl -w %s=%d (%s)", name, have[index], need, name, need, what))
	}
	const slack = 10_000
	check("open files of the machine", "/proc/sys/fs/file-max", 0, ends+slack)
	check("tracked connections", "/proc/sys/net/netfilter/nf_conntrack_max", 0, tracked(n.Connections)+slack)
	// Buffers are empty most of the time, but a message to all fills them: a
	// page at each receiver.
	if have, ok := numbers("/proc/sys/net/ipv4/tcp_mem"); ok && len(have) == 3 && have[2] < n.Connections {
		lines = append(lines, fmt.Sprintf("net.ipv4.tcp_mem allows %d pages, and a message to all may need %d: sysctl -w net.ipv4.tcp_mem='%d %d %d'",
			have[2], n.Connections, n.Connections, 2*n.Connections, 3*n.Connections))
	}
	if have, ok := numbers("/proc/sys/net/ipv4/ip_local_port_range"); ok && len(have) == 2 && have[1]-have[0]+1 < n.PerSource {
		lines = append(lines, fmt.Sprintf("net.ipv4.ip_local_port_range has %d ports, and each source address needs %d: sysctl -w net.ipv4.ip_local_port_range='1024 65535'",
			have[1]-have[0]+1, n.PerSource))
	}
	check("processes and threads", "/proc/sys/kernel/threads-max", 0, n.Processes*threadsEach)
	return lines
}

// threadsEach is how many threads a process of a run has at most.
const threadsEach = 50

// tracked is how many of the connections the kernel keeps track of: all, when
// it does so at all, which the count of those that exist now shows.
func tracked(connections int) int {
	if count, ok := numbers("/proc/sys/net/netfilter/nf_conntrack_count"); !ok || len(count) == 0 || count[0] == 0 {
		return 0
	}
	return connections
}

func numbers(file string) (list []int, ok bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, false
	}
	for _, field := range strings.Fields(string(text)) {
		n, err := strconv.Atoi(field)
		if err != nil {
			return nil, false // beyond the range of int: no limit
		}
		list = append(list, n)
	}
	return list, true
}

// Available is the memory of the machine that can be used without swapping, in
// bytes.
func Available() (uint64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("memory of the machine: %w", err)
	}
	return kilobytes(text, "MemAvailable:")
}
