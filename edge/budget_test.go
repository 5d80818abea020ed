package edge

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"nabat/edge/internal/metrics"
	"nabat/proto/grant"
	"nabat/proto/policy"
)

// memory is the live heap, the least of several full collections: one alone
// still has what a goroutine was about to drop.
func memory() uint64 {
	least := uint64(math.MaxUint64)
	for range 8 {
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		least = min(least, m.HeapAlloc)
	}
	return least
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestIdleBudget holds what an idle, authenticated connection in two rooms may
// cost: no goroutine, one descriptor, 400 bytes of heap. Raise a budget only
// in the change that needs it, and say why.
func TestIdleBudget(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector multiplies memory")
	}
	const clients = 10000
	const heapBudget = 400 // bytes a connection
	c := newCluster(t, policy.Dev())
	e := c.edge(nil)
	g := &grant.Grant{Subscribe: []string{"sports.>", "chat.>"}}
	// Rooms exist before the connections that are measured.
	var paths []string
	for i := range 50 {
		paths = append(paths, fmt.Sprintf("/ws?room=sports.%d&room=chat.%d", i, i))
	}
	first := crowd{Addresses: []string{e.Addr()}, Paths: paths, Clients: 1000}.start(t)
	first.want("ready")
	var tokens []string
	for i := range clients - 1000 {
		tokens = append(tokens, c.token(c.hs, fmt.Sprint("user-", i), time.Hour, g))
	}
	goroutines, fds, heap := runtime.NumGoroutine(), descriptors(t), memory()
	const measured = clients - 1000
	rest := crowd{Addresses: []string{e.Addr()}, Paths: paths, Clients: measured, Tokens: tokens}.start(t)
	rest.want("ready")
	if n := e.connections(); n != clients {
		t.Fatalf("%d connections", n)
	}
	until(t, "no handshake is pending", func() bool {
		for _, w := range e.workers {
			if w.counts.Pending.Load() != 0 {
				return false
			}
		}
		return true
	})
	perHeap := (int64(memory()) - int64(heap)) / measured
	runtime.KeepAlive(tokens) // they were in the heap before, and still are
	perGoroutine := float64(runtime.NumGoroutine()-goroutines) / measured
	perFD := float64(descriptors(t)-fds) / measured
	t.Logf("%d connections, each: %d B of heap, %.3f goroutines, %.3f descriptors", measured, perHeap, perGoroutine, perFD)
	if perHeap > heapBudget {
		t.Errorf("%d B of heap a connection: the budget is %d", perHeap, heapBudget)
	}
	if perGoroutine > 0.01 {
		t.Errorf("%.3f goroutines a connection: the budget is none", perGoroutine)
	}
	if perFD > 1.01 {
		t.Errorf("%.3f descriptors a connection: the budget is one", perFD)
	}
}

// TestIdleTLSBudget holds what TLS adds to that: the state of crypto/tls, and
// neither a goroutine nor a buffer of ours.
func TestIdleTLSBudget(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector multiplies memory")
	}
	const measured = 2000
	const heapBudget = 8 << 10 // bytes a connection
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(nil))
	start := func(clients int) {
		crowd{Addresses: []string{e.TLSAddr()}, Paths: []string{"/ws?room=a&room=b"}, Clients: clients, CA: cert.cert}.start(t).want("ready")
		e.settled(t)
	}
	start(200) // buffers and tables grow
	goroutines, fds, heap := runtime.NumGoroutine(), descriptors(t), memory()
	start(measured)
	perHeap := (int64(memory()) - int64(heap)) / measured
	perGoroutine := float64(runtime.NumGoroutine()-goroutines) / measured
	perFD := float64(descriptors(t)-fds) / measured
	t.Logf("%d connections with TLS 1.3, each: %d B of heap, %.3f goroutines, %.3f descriptors", measured, perHeap, perGoroutine, perFD)
	if perHeap > heapBudget {
		t.Errorf("%d B of heap a connection: the budget is %d", perHeap, heapBudget)
	}
	if perGoroutine > 0.01 {
		t.Errorf("%.3f goroutines a connection: the budget is none", perGoroutine)
	}
	if perFD > 1.01 {
		t.Errorf("%.3f descriptors a connection: the budget is one", perFD)
	}
	sends := func() uint64 { return uint64(e.sum(func(l *metrics.Loop) int64 { return int64(l.Sends.Load()) })) }
	for _, w := range e.workers {
		_ = w.loop.Do(func() {}) // the counts of the last turn are in
	}
	before := sends()
	const burst = 20
	for range burst {
		if err := c.nc.Publish("room.a", []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "everybody has been sent everything", func() bool {
		return e.sum(func(l *metrics.Loop) int64 { return int64(l.Deliveries.Load()) }) >= burst*(measured+200)
	})
	// What a turn has for a connection is one record and one send: how many turns
	// there were is the scheduler's, but fewer than messages.
	if n := sends() - before; n >= burst*(measured+200) {
		t.Errorf("%d sends for %d deliveries: nothing was collected", n, burst*(measured+200))
	} else {
		t.Logf("%.2f deliveries a send", float64(burst*(measured+200))/float64(n))
	}
}
