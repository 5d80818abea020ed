// Package account reads what a process and the kernel spent: processor time, memory, descriptors.
package account

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPU returns the processor time, user and system together, that all threads
// of process pid have used. It is the sum that /proc/PID/stat shows as utime
// and stime, in nanoseconds instead of clock ticks.
func CPU(pid int) (time.Duration, error) {
	// clock_getcpuclockid(3): the complement of the pid above three bits, of
	// which CPUCLOCK_SCHED (2) is the scheduler's own sum.
	const schedulerClock = 2
	var at unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|schedulerClock, &at); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(at.Nano()), nil
}

// Load is the machine's load average over the last minute.
func Load() (float64, error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, fmt.Errorf("load average: %w", err)
	}
	first, _, _ := strings.Cut(string(text), " ")
	load, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0, fmt.Errorf("load average: %w", err)
	}
	return load, nil
}

// Memory is what one process holds, in bytes.
type Memory struct {
	Resident  uint64 `json:"resident"`
	Anonymous uint64 `json:"anonymous"` // resident and not backed by a file: heap and stacks
}

// MemoryOf reads the memory of process pid.
func MemoryOf(pid int) (Memory, error) {
	file := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	text, err := os.ReadFile(file)
	if err != nil {
		return Memory{}, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	var m Memory
	if m.Resident, err = kilobytes(text, "Rss:"); err != nil {
		return Memory{}, fmt.Errorf("%s: %w", file, err)
	}
	if m.Anonymous, err = kilobytes(text, "Anonymous:"); err != nil {
		return Memory{}, fmt.Errorf("%s: %w", file, err)
	}
	return m, nil
}

// kilobytes finds "key   123 kB" in text and returns bytes.
func kilobytes(text []byte, key string) (uint64, error) {
	for line := range bytes.Lines(text) {
		rest, found := bytes.CutPrefix(line, []byte(key))
		if !found {
			continue
		}
		fields := strings.Fields(string(rest))
		if len(fields) == 0 {
			break
		}
		n, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s %w", key, err)
		}
		return n << 10, nil
	}
	return 0, fmt.Errorf("no line %q", key)
}

// Descriptors counts the open file descriptors of process pid.
func Descriptors(pid int) (int, error) {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, fmt.Errorf("descriptors of process %d: %w", pid, err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0, fmt.Errorf("descriptors of process %d: %w", pid, err)
	}
	return len(names), nil
}

// DescriptorLimit returns how many descriptors this process may open, after
// raising the soft limit to the hard one. Children inherit it.
func DescriptorLimit() (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("descriptor limit: %w", err)
	}
	if limit.Cur < limit.Max {
		limit.Cur = limit.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return 0, fmt.Errorf("raise the descriptor limit to %d: %w", limit.Max, err)
		}
	}
	return int(min(limit.Cur, 1<<30)), nil
}

// Kernel is what the whole machine's kernel holds.
type Kernel struct {
	Slab          uint64 `json:"slab"`           // bytes of the slab caches that sockets fill
	SocketBuffers uint64 `json:"socket_buffers"` // bytes of TCP buffers
	Sockets       int    `json:"sockets"`        // TCP sockets in use
}

// socketCaches are the slab caches in which a socket that is watched by epoll
// has objects. Others would count what the rest of the machine does.
var socketCaches = []string{"TCP", "TCPv6", "sock_inode_cache", "filp", "dentry", "lsm_file_cache", "lsm_inode_cache",
	"eventpoll_epi", "eventpoll_pwq", "ep_head", "tcp_bind_bucket", "tcp_bind2_bucket"}

// KernelMemory reads the kernel's memory. Slab comes from /proc/slabinfo,
// which only root may read, otherwise from /proc/meminfo, where it is all
// caches together.
func KernelMemory() (Kernel, error) {
	var k Kernel
	text, err := os.ReadFile("/proc/slabinfo")
	if err == nil {
		k.Slab, err = slabBytes(text)
	}
	if err != nil {
		if text, err = os.ReadFile("/proc/meminfo"); err == nil {
			k.Slab, err = kilobytes(text, "Slab:")
		}
	}
	if err != nil {
		return k, fmt.Errorf("kernel memory: %w", err)
	}
	if text, err = os.ReadFile("/proc/net/sockstat"); err == nil {
		err = k.readSockstat(text)
	}
	if err != nil {
		return k, fmt.Errorf("socket memory: %w", err)
	}
	return k, nil
}

// slabBytes adds up the pages of the socket caches of a slabinfo text.
func slabBytes(text []byte) (uint64, error) {
	var total uint64
	scan := bufio.NewScanner(bytes.NewReader(text))
	for scan.Scan() {
		line := scan.Text()
		if strings.HasPrefix(line, "slabinfo") || strings.HasPrefix(line, "#") {
			continue
		}
		// name active total objsize objperslab pagesperslab : tunables … : slabdata active num shared
		fields := strings.Fields(line)
		if len(fields) < 15 {
			return 0, fmt.Errorf("slabinfo: a line of %d fields: %q", len(fields), line)
		}
		if !slices.Contains(socketCaches, fields[0]) {
			continue
		}
		pages, err := strconv.ParseUint(fields[5], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("slabinfo: %w", err)
		}
		slabs, err := strconv.ParseUint(fields[14], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("slabinfo: %w", err)
		}
		total += pages * slabs * uint64(os.Getpagesize())
	}
	return total, scan.Err()
}

// readSockstat takes "TCP: inuse N orphan … mem PAGES" from text.
func (k *Kernel) readSockstat(text []byte) error {
	for line := range strings.Lines(string(text)) {
		rest, found := strings.CutPrefix(line, "TCP:")
		if !found {
			continue
		}
		fields := strings.Fields(rest)
		for i := 0; i+1 < len(fields); i += 2 {
			n, err := strconv.Atoi(fields[i+1])
			if err != nil {
				return fmt.Errorf("sockstat: %w", err)
			}
			switch fields[i] {
			case "inuse":
				k.Sockets = n
			case "mem":
				k.SocketBuffers = uint64(n) * uint64(os.Getpagesize())
			}
		}
		return nil
	}
	return errors.New("sockstat: no line TCP")
}
