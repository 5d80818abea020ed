package account

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

func TestCPUOfAnotherProcessGrowsWithItsWork(t *testing.T) {
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var spent time.Duration
	for spent < 5*time.Millisecond { // the loop is the work
		now, err := CPU(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		spent = now - before
	}
	if _, err := CPU(os.Getppid()); err != nil {
		t.Errorf("parent: %v", err)
	}
	if _, err := CPU(1 << 24); err == nil {
		t.Error("a process that does not exist has a processor time")
	}
}

func TestMemoryAndDescriptorsOfThisProcess(t *testing.T) {
	before, err := MemoryOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 32<<20)
	for i := range block {
		block[i] = 1
	}
	after, err := MemoryOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if grown := int64(after.Anonymous) - int64(before.Anonymous); grown < int64(len(block))/2 {
		t.Errorf("%d bytes were touched and memory grew by %d", len(block), grown)
	}
	had, err := Descriptors(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if has, err := Descriptors(os.Getpid()); err != nil || has != had+1 {
		t.Errorf("descriptors: %d, then %d with one more open (%v)", had, has, err)
	}
	if _, err := MemoryOf(1 << 24); err == nil {
		t.Error("a process that does not exist has memory")
	}
	if limit, err := DescriptorLimit(); err != nil || limit < has(t) {
		t.Errorf("limit %d (%v)", limit, err)
	}
	if block[0] != 1 {
		t.Error("unreachable: keeps the block alive")
	}
}

func has(t *testing.T) int {
	t.Helper()
	n, err := Descriptors(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestKernelMemoryIsRead(t *testing.T) {
	k, err := KernelMemory()
	if err != nil {
		t.Fatal(err)
	}
	if k.Slab < 1<<20 {
		t.Errorf("slab is %d bytes", k.Slab)
	}
}

func TestSlabinfo(t *testing.T) {
	const head = "slabinfo - version: 2.1\n# name <active_objs> …\n"
	const line = "TCP 13 26 2368 13 8 : tunables 0 0 0 : slabdata 2 2 0\n"
	const other = "ext4_inode_cache 9 9 1128 14 4 : tunables 0 0 0 : slabdata 9 9 0\n"
	got, err := slabBytes([]byte(head + line + other))
	if want := uint64(2 * 8 * os.Getpagesize()); err != nil || got != want {
		t.Errorf("slabBytes = %d, %v; want %d", got, err, want)
	}
	for _, bad := range []string{"TCP 13 26\n", strings.Replace(line, " 8 :", " x :", 1), strings.Replace(line, "2 2 0", "2 x 0", 1)} {
		if _, err := slabBytes([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestSockstat(t *testing.T) {
	var k Kernel
	err := k.readSockstat([]byte("sockets: used 9\nTCP: inuse 7 orphan 0 tw 3 alloc 8 mem 5\nUDP: inuse 1 mem 1\n"))
	if err != nil || k.Sockets != 7 || k.SocketBuffers != uint64(5*os.Getpagesize()) {
		t.Errorf("%+v, %v", k, err)
	}
	if err := k.readSockstat([]byte("UDP: inuse 1\n")); err == nil {
		t.Error("no TCP line, no error")
	}
}

func TestScrape(t *testing.T) {
	const metrics = `# HELP go_goroutines Number
go_goroutines 12
go_memstats_heap_inuse_bytes 1.048576e+06
go_memstats_stack_inuse_bytes 2048
go_memstats_heap_objects 99
nabat_edge_deliveries_total{loop="0"} 40
nabat_edge_deliveries_total{loop="1"} 2 1700000000
`
	tests := []struct {
		name string
		mux  map[string]string
		want Runtime
		err  string
	}{
		{"garbage is collected first where that is served", map[string]string{"/metrics": metrics, "/debug/pprof/heap": "profile"},
			Runtime{Heap: 1 << 20, Stacks: 2048, Objects: 99, Goroutines: 12, Deliveries: 42}, ""},
		{"pprof may be missing", map[string]string{"/metrics": metrics}, Runtime{Heap: 1 << 20, Stacks: 2048, Objects: 99, Goroutines: 12, Deliveries: 42}, ""},
		{"no metrics", map[string]string{}, Runtime{}, "/metrics answered 404"},
		{"not a Go program", map[string]string{"/metrics": "up 1\n"}, Runtime{}, "no go_goroutines"},
		{"not metrics", map[string]string{"/metrics": "<html> hello\n"}, Runtime{}, "metrics: "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			mux := http.NewServeMux()
			for path, body := range test.mux {
				mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) })
			}
			server := httptest.NewServer(mux)
			defer server.Close()
			got, err := Scrape(t.Context(), server.URL+"/")
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("%+v, %v; want %+v", got, err, test.want)
			}
		})
	}
	if _, err := Scrape(t.Context(), "http://127.0.0.1:1"); err == nil {
		t.Error("a dead operations port answered")
	}
}
