package main

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"runtime"
	"sync"
)

// rooms is who is where, for any type of connection.
type rooms[C comparable] struct {
	mu      sync.RWMutex // guards members
	members map[string]map[C]struct{}
}

func newRooms[C comparable]() *rooms[C] {
	return &rooms[C]{members: make(map[string]map[C]struct{})}
}

func (r *rooms[C]) join(c C, names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		if r.members[name] == nil {
			r.members[name] = make(map[C]struct{})
		}
		r.members[name][c] = struct{}{}
	}
}

func (r *rooms[C]) leave(c C, names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		delete(r.members[name], c)
	}
}

// each calls fn for every member, under the read lock.
func (r *rooms[C]) each(name string, fn func(C)) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for c := range r.members[name] {
		fn(c)
	}
}

// operationsHandler serves the few figures that loadtest reads, under the
// names that Prometheus gives them, and pprof.
func operationsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Fprintf(w, "go_goroutines %d\ngo_memstats_heap_inuse_bytes %d\ngo_memstats_stack_inuse_bytes %d\ngo_memstats_heap_objects %d\n",
			runtime.NumGoroutine(), m.HeapInuse, m.StackInuse, m.HeapObjects)
	})
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	return mux
}
