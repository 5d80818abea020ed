package natsdev

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
)

// given are the addresses that FreeAddresses has returned: who got one may not
// listen on it yet.
var given sync.Map

// FreeAddresses returns n loopback addresses that nobody listens on, and none
// twice. The ports are not those that the kernel gives to outgoing connections,
// where there are others: one of them would be taken before its owner listens.
func FreeAddresses(n int) ([]string, error) {
	const tries = 1000 // each
	port := portPicker()
	addresses := make([]string, 0, n)
	for range n * tries {
		if len(addresses) == n {
			break
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port()))
		if err != nil {
			continue
		}
		_ = l.Close()
		if _, twice := given.LoadOrStore(l.Addr().String(), true); !twice {
			addresses = append(addresses, l.Addr().String())
		}
	}
	if len(addresses) < n {
		return nil, fmt.Errorf("%d free addresses: only %d were found", n, len(addresses))
	}
	return addresses, nil
}

// portPicker picks ports at random, or leaves it to the kernel (0) where it has
// nearly all of them.
func portPicker() func() int {
	const least, most, few = 10_000, 65_535, 2_000
	low, high := 32_768, 60_999 // of Linux, if it does not say
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, _ = fmt.Sscan(string(text), &low, &high) // else as above
	}
	low, high = min(max(low, least), most+1), max(min(high, most), least-1)
	below := low - least
	n := below + most - high
	if n < few {
		return func() int { return 0 }
	}
	return func() int {
		i := rand.N(n)
		if i >= below {
			return high + 1 + i - below
		}
		return least + i
	}
}
