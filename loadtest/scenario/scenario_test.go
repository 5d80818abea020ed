package scenario

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/nats-io/nats.go"

	"nabat/internal/natsdev"
	"nabat/loadtest/floor"
	"nabat/loadtest/report"
	"nabat/loadtest/swarm"
	"nabat/loadtest/target"
)

const childVariable = "NABAT_LOADTEST_TEST_CHILD"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(childVariable) {
	case "":
		os.Exit(m.Run())
	case target.ChildSwarm:
		err = swarm.Work(context.Background(), os.Stdin, os.Stdout)
	case target.ChildFloor:
		err = floor.Serve()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func child(kind string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+kind, "GORACE=atexit_sleep_ms=0")
	return cmd
}

// broadcaster is a server in the test: what comes from NATS goes to all.
type broadcaster struct {
	url, nats string
	// spoil changes what one member gets of message n; nil: nothing.
	spoil func(member, n int, frame []byte) [][]byte

	mu      sync.Mutex // guards conns and n
	conns   []net.Conn
	n       int
	queries []string
}

func newBroadcaster(t *testing.T) *broadcaster {
	t.Helper()
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	b := &broadcaster{nats: server.URL()}
	conn, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if _, err := conn.Subscribe("room."+swarm.RoomName(0), func(m *nats.Msg) { b.broadcast(m.Data) }); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(b)
	t.Cleanup(web.Close)
	b.url = "ws" + strings.TrimPrefix(web.URL, "http")
	return b
}

func (b *broadcaster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	conn, _, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return
	}
	b.conns, b.queries = append(b.conns, conn), append(b.queries, r.URL.RequestURI())
}

func (b *broadcaster) broadcast(body []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	frame, err := ws.CompileFrame(ws.NewTextFrame(body))
	if err != nil {
		return
	}
	b.n++
	for i, conn := range b.conns {
		frames := [][]byte{frame}
		if b.spoil != nil {
			frames = b.spoil(i, b.n, frame)
		}
		for _, f := range frames {
			_, _ = conn.Write(f)
		}
	}
}

// external is a setting that measures b.
func (b *broadcaster) external(clients int) Setting {
	launcher := &target.Launcher{Self: child, Say: func(string, ...any) {}}
	e := &target.External{Name: "target", URL: b.url, NATS: b.nats, SubjectPrefix: "room.", PID: os.Getpid()}
	return Setting{
		Targets: []Starter{{Name: "target", Start: e.Open}}, Floor: launcher.Floor,
		Spawn:    func() *exec.Cmd { return child(target.ChildSwarm) },
		Progress: report.NewProgress(new(strings.Builder)), Clients: clients, Loops: 1, Timeout: 20 * time.Second,
	}
}

func (b *broadcaster) fanout(clients int) *Fanout {
	return &Fanout{Setting: b.external(clients), InFlight: []int{1, 4},
		Publishing: Publishing{Payload: 200, Rounds: 2, Round: 50 * time.Millisecond, WarmUp: 20 * time.Second}}
}

func value(t *testing.T, r *report.Report, section, row, column string) float64 {
	t.Helper()
	for _, s := range r.Sections {
		if s.Title != section {
			continue
		}
		if found := s.Row(row); found != nil {
			if v, ok := found.Values[column]; ok {
				return v
			}
		}
	}
	t.Errorf("the report has no %q, %q, %q", section, row, column)
	return 0
}

func TestFanoutCountsEveryDelivery(t *testing.T) {
	b := newBroadcaster(t)
	f := b.fanout(20)
	f.Rate = 200
	r, err := f.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, section := range []string{"one message at a time", "4 messages in flight", "200 messages a second, latency from the intended time"} {
		messages := value(t, r, section, "messages", "target")
		if got := value(t, r, section, "deliveries", "target"); got != 20*messages || messages == 0 {
			t.Errorf("%s: %v deliveries of %v messages", section, got, messages)
		}
		for _, row := range []string{"  missing", "  duplicates", "  out of order"} {
			if got := value(t, r, section, row, "target"); got != 0 {
				t.Errorf("%s: %s %v", section, row, got)
			}
		}
		for _, row := range []string{rowCost, rowMedian, rowFloors, rowRate, rowClient, "latency p50", "latency p99", "latency max"} {
			if got := value(t, r, section, row, "target"); got <= 0 {
				t.Errorf("%s: %s %v", section, row, got)
			}
		}
	}
	if got := value(t, r, "one message at a time", rowFloors, "floor"); got != 1 {
		t.Errorf("the floor is %v floors", got)
	}
	if got := value(t, r, sectionOpening, rowOpeningF, "target"); got <= 0 {
		t.Errorf("opening: %v floors", got)
	}
	const frame = 4 + 200
	for _, column := range r.Columns {
		if got := value(t, r, "one message at a time", rowFrame, column); got != frame {
			t.Errorf("%s: frames of %v bytes, want %d", column, got, frame)
		}
	}
	if len(r.Faults) != 0 {
		t.Errorf("%q", r.Faults)
	}
}

func TestFanoutNamesWhatWentWrong(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(member, n int, frame []byte) [][]byte
		want  string
	}{
		{"a duplicate", func(member, n int, f []byte) [][]byte {
			if member == 2 && n == 3 {
				return [][]byte{f, f}
			}
			return [][]byte{f}
		}, "1 came twice"},
		{"a closed connection", func(member, n int, f []byte) [][]byte {
			if member == 1 && n == 2 {
				closing, _ := ws.CompileFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(4100, "slow")))
				return [][]byte{f, closing}
			}
			return [][]byte{f}
		}, "closed by the server: 4100 slow"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBroadcaster(t)
			b.spoil = test.spoil
			f := b.fanout(5)
			f.InFlight, f.Rounds, f.Floor = []int{1}, 1, nil
			f.Clients = 500 // one closed of many is not hopeless
			if test.name == "a duplicate" {
				f.Clients = 5
			}
			r, err := f.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(r.Faults, "\n"); !strings.Contains(got, test.want) {
				t.Errorf("faults %q, want %q", got, test.want)
			}
		})
	}
}

// A message that never comes ends its round after a while, is counted, and
// the next round goes on.
func TestFanoutCountsLosses(t *testing.T) {
	b := newBroadcaster(t)
	b.spoil = func(member, n int, f []byte) [][]byte {
		if member == 0 && n == 2 {
			return nil
		}
		return [][]byte{f}
	}
	f := b.fanout(3)
	f.InFlight, f.Floor = []int{1}, nil
	r, err := f.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := value(t, r, "one message at a time", "  missing", "target"); got != 1 {
		t.Errorf("%v missing", got)
	}
	if len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "1 deliveries are missing") {
		t.Errorf("%q", r.Faults)
	}
	if got := len(f.InFlight) * f.Rounds; value(t, r, "one message at a time", "messages", "target") < float64(got) {
		t.Error("the round after the loss sent nothing")
	}
}

func TestIdleMeasuresEveryConnection(t *testing.T) {
	b := newBroadcaster(t)
	i := &Idle{Setting: b.external(30), Rooms: 2, Settle: 500 * time.Millisecond}
	r, err := i.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, column := range r.Columns {
		if got := value(t, r, "in all", "connections", column); got != 30 {
			t.Errorf("%s: %v connections", column, got)
		}
		if got := value(t, r, "in all", "resident memory", column); got <= 0 {
			t.Errorf("%s: %v bytes resident", column, got)
		}
	}
	// The server of this test is this process, which has descriptors to each
	// side of its own pipes, too.
	if got := value(t, r, "objects, for each connection", "descriptors", "floor"); got != 1 {
		t.Errorf("the floor has %v descriptors for each connection", got)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.queries[0] != "/ws?room=loadtest.0&room=loadtest.1" {
		t.Errorf("clients ask for %q", b.queries[0])
	}
}

func TestTargetsThatCannotBeMeasured(t *testing.T) {
	b := newBroadcaster(t)
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	silent := newBroadcaster(t) // nobody publishes where its clients listen
	run := func(change func(*Fanout, *target.External)) error {
		f := b.fanout(15)
		e := &target.External{Name: "target", URL: b.url, NATS: b.nats, SubjectPrefix: "room."}
		change(f, e)
		f.Targets = []Starter{{Name: "target", Start: e.Open}}
		_, err := f.Run(t.Context())
		return err
	}
	tests := []struct {
		name   string
		change func(*Fanout, *target.External)
		want   string
	}{
		{"nothing listens", func(_ *Fanout, e *target.External) { e.URL = "ws://127.0.0.1:1" }, "connection refused"},
		{"a web server", func(_ *Fanout, e *target.External) { e.URL = web.URL }, "HTTP 404 Not Found, not 101"},
		{"no NATS", func(_ *Fanout, e *target.External) { e.NATS = "" }, "say where with --nats"},
		{"a dead NATS", func(_ *Fanout, e *target.External) { e.NATS = "nats://127.0.0.1:1" }, "NATS at nats://127.0.0.1:1: "},
		{"a process that is not", func(_ *Fanout, e *target.External) { e.PID = 1 << 24 }, "processor time of process"},
		{"another NATS", func(f *Fanout, e *target.External) { f.WarmUp, e.NATS = time.Millisecond, silent.nats }, "does the target read from this NATS server"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if err := run(test.change); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestSettingsThatCannotWork(t *testing.T) {
	good := func() *Fanout {
		return &Fanout{Setting: Setting{Clients: 10, Limit: 20_000}, InFlight: []int{1}, Publishing: Publishing{Payload: 128, Rounds: 1, Round: time.Second}}
	}
	tests := []struct {
		name   string
		change func(*Fanout)
		want   string
	}{
		{"no members", func(f *Fanout) { f.Clients = 0 }, "at least 1"},
		{"a payload without room for a stamp", func(f *Fanout) { f.Payload = 10 }, "payload of 10 bytes: must be"},
		{"a huge payload", func(f *Fanout) { f.Payload = 2 << 20 }, "must be"},
		{"nothing in flight", func(f *Fanout) { f.InFlight = []int{1, 0} }, "0 messages in flight"},
		{"nothing to measure", func(f *Fanout) { f.InFlight = nil }, "nothing to measure"},
		{"a negative rate", func(f *Fanout) { f.Rate = -1 }, "must not be negative"},
		{"no rounds", func(f *Fanout) { f.Rounds = 0 }, "at least one"},
		{"rounds of no time", func(f *Fanout) { f.Round = 0 }, "more than no time"},
		{"too few descriptors for our own server", func(f *Fanout) {
			f.Clients, f.Targets = 19_800, []Starter{{Name: "nabat", Own: true}}
		}, "may open 20,000 descriptors, which is room for 19,700"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := good()
			test.change(f)
			if _, err := f.Run(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
	for _, rooms := range []int{0, maxRooms + 1} {
		i := &Idle{Setting: good().Setting, Rooms: rooms}
		if _, err := i.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "must be 1 to 128") {
			t.Errorf("%d rooms: %v", rooms, err)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 3}, 2.5}} {
		if got := median(test.in); got != test.want {
			t.Errorf("median(%v) = %v, want %v", test.in, got, test.want)
		}
	}
}
