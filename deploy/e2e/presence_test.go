package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"nabat/control"
	"nabat/internal/bus"
	"nabat/internal/natsdev"
)

// hall is a cluster in which everything is a process that can die, and a crowd, of
// several processes where one has not descriptors enough.
type hall struct {
	*farm
	configs  []control.Config
	controls []*process
	crowds   []*process
	clients  int
}

// perCrowd bounds the clients of one process, which needs a descriptor for each.
const perCrowd = 15_000

func newHall(t *testing.T, clients, rooms int) *hall {
	t.Helper()
	f := newServers(t, 3, 3)
	h := &hall{farm: f, clients: clients}
	file := filepath.Join(t.TempDir(), "policies.yaml")
	text := "rooms:\n  - match: \">\"\n    presence: {grace: 1s}\n    anonymous: {subscribe: true}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	addresses, err := natsdev.FreeAddresses(4)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		cfg := control.Defaults()
		cfg.Listen, cfg.OpsListen, cfg.NATSURL, cfg.Dev, cfg.Policies, cfg.Replicas = addresses[2*i], addresses[2*i+1], f.configs[0].NATSURL, true, file, 3
		h.configs = append(h.configs, cfg)
		h.controls = append(h.controls, nil)
	}
	h.startControl(0, 1)
	for i := range 3 {
		h.startEdge(i)
	}
	for first := 0; first < clients; first += perCrowd {
		n := len(h.crowds)
		h.crowds = append(h.crowds, spawn(t, fmt.Sprintf("crowd-%d", n), asCrowd, crowdPlan{Edges: f.addresses(), NATS: f.configs[0].NATSURL,
			First: first, Clients: min(perCrowd, clients-first), Rooms: rooms, Each: 2, Seed: uint64(n + 1)}))
	}
	return h
}

func (h *hall) startControl(list ...int) {
	h.t.Helper()
	for _, i := range list {
		h.controls[i] = spawn(h.t, "control-"+strconv.Itoa(i), asControl, h.configs[i])
	}
	for _, i := range list {
		h.until("control is ready", func() bool {
			r, err := http.Get("http://" + h.configs[i].OpsListen + "/readyz")
			if err != nil {
				return false
			}
			_ = r.Body.Close()
			return r.StatusCode == http.StatusOK
		})
	}
}

// assembled waits for everybody to be connected.
func (h *hall) assembled() {
	h.t.Helper()
	within(h.t, 3*time.Minute, "everybody is there", func() bool { return h.present() == h.clients })
}

func (h *hall) present() (n int) {
	for _, c := range h.crowds {
		n += c.number("present")
	}
	return n
}

func (h *hall) stir(n int) {
	h.t.Helper()
	n /= len(h.crowds)
	for _, c := range h.crowds {
		answer := c.ask("stir " + strconv.Itoa(n))
		done, err := strconv.Atoi(strings.TrimPrefix(answer, "stir "))
		if err != nil || done < n/4 {
			h.t.Fatalf("of %d clients only %s moved", n, answer)
		}
	}
}

func (h *hall) truth() map[string]*roomTruth {
	h.t.Helper()
	rooms := make(map[string]*roomTruth)
	for _, c := range h.crowds {
		var part map[string]*roomTruth
		if err := json.Unmarshal([]byte(c.ask("truth")), &part); err != nil {
			h.t.Fatal(err)
		}
		for name, one := range part {
			all := rooms[name]
			if all == nil {
				rooms[name] = one
				continue
			}
			all.Anonymous += one.Anonymous
			for user, n := range one.Users {
				all.Users[user] += n
			}
		}
	}
	return rooms
}

// says is what one replica says of a room.
func (h *hall) says(replica int, room string) (*roomTruth, error) {
	got := &roomTruth{Users: make(map[string]int)}
	after := ""
	for {
		r, err := http.Get("http://" + h.configs[replica].Listen + "/v1/rooms/" + room + "/presence?limit=1000&after=" + url.QueryEscape(after))
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err != nil {
			return nil, err
		}
		var p struct {
			Error     *struct{ Reason string }
			Users     int
			Anonymous int
			Members   []struct {
				User        string
				Connections int
			}
			Next string
		}
		if err := json.Unmarshal(body, &p); err != nil || p.Error != nil {
			return nil, fmt.Errorf("%s", body)
		}
		got.Anonymous = p.Anonymous
		for _, m := range p.Members {
			got.Users[m.User] = m.Connections
		}
		if after = p.Next; after == "" {
			if p.Users != len(got.Users) {
				return nil, fmt.Errorf("%d users are counted and %d listed", p.Users, len(got.Users))
			}
			return got, nil
		}
	}
}

// exact waits until all replicas that run say what the clients know themselves,
// and logs how long that took.
func (h *hall) exact(when string, replicas ...int) {
	h.t.Helper()
	began := time.Now()
	h.assembled()
	assembled := time.Since(began)
	truth := h.truth()
	var wrong string
	defer func() {
		if h.t.Failed() {
			h.t.Logf("%s: %s", when, wrong)
		}
	}()
	for _, i := range replicas {
		for room, want := range truth {
			within(h.t, 2*time.Minute, when+": presence is exact", func() bool {
				got, err := h.says(i, room)
				if err != nil || got.Anonymous != want.Anonymous || !maps.Equal(got.Users, want.Users) {
					wrong = fmt.Sprintf("control-%d says of %s %v (%v), the truth is %v", i, room, got, err, want)
					return false
				}
				return true
			})
		}
	}
	h.t.Logf("%s: all clients are connected after %s, presence of %d rooms is exact at %d replicas %s later", when,
		assembled.Round(10*time.Millisecond), len(truth), len(replicas), (time.Since(began) - assembled).Round(10*time.Millisecond))
}

// replayed holds what a backend knows that reads NABAT_EVENTS from the beginning
// to the truth: no event stands twice, and joins and leaves of a user in a room
// take turns.
func (h *hall) replayed(when string) {
	h.t.Helper()
	truth := h.truth()
	var wrong []string
	within(h.t, 2*time.Minute, when+": the events tell the truth", func() bool {
		users, turns := h.replay()
		wrong = turns
		for room, want := range truth {
			got := users[room]
			if len(got) != len(want.Users) {
				wrong = append(wrong, fmt.Sprintf("%s: %d users by events, %d in truth", room, len(got), len(want.Users)))
			}
			for user := range want.Users {
				if !got[user] {
					wrong = append(wrong, room+": nobody told of "+user)
				}
			}
		}
		return len(wrong) == 0
	})
	if len(wrong) > 0 {
		h.t.Logf("%d things are wrong: %v", len(wrong), wrong[:min(10, len(wrong))])
	}
}

func (h *hall) replay() (rooms map[string]map[string]bool, wrong []string) {
	rooms = make(map[string]map[string]bool)
	stream, err := h.js.Stream(h.t.Context(), bus.StreamEvents)
	if err != nil {
		return nil, []string{err.Error()}
	}
	last := stream.CachedInfo().State.LastSeq
	sub, err := h.nc.SubscribeSync(h.nc.NewInbox())
	if err != nil {
		return nil, []string{err.Error()}
	}
	defer func() { _ = sub.Unsubscribe() }()
	_ = sub.SetPendingLimits(-1, -1)
	seen := make(map[string]bool)
	for next := uint64(1); next <= last; {
		// A direct batch: the stream has tens of thousands.
		if err := h.nc.PublishRequest("$JS.API.DIRECT.GET."+bus.StreamEvents, sub.Subject, fmt.Appendf(nil, `{"seq":%d,"batch":1000}`, next)); err != nil {
			return nil, []string{err.Error()}
		}
		for {
			m, err := sub.NextMsg(20 * time.Second)
			if err != nil {
				return nil, []string{err.Error()}
			}
			seq := m.Header.Get("Nats-Sequence")
			if seq == "" {
				break
			}
			n, _ := strconv.ParseUint(seq, 10, 64)
			next = n + 1
			if id := m.Header.Get("Nats-Msg-Id"); seen[id] {
				wrong = append(wrong, "twice: "+id)
			} else {
				seen[id] = true
			}
			var e struct{ Kind, Room, User string }
			if err := json.Unmarshal(m.Data, &e); err != nil {
				return nil, []string{err.Error()}
			}
			if e.Kind != "join" && e.Kind != "leave" {
				continue
			}
			if rooms[e.Room] == nil {
				rooms[e.Room] = make(map[string]bool)
			}
			if rooms[e.Room][e.User] == (e.Kind == "join") {
				wrong = append(wrong, fmt.Sprintf("%s of %s in %s though it was so (%s)", e.Kind, e.User, e.Room, m.Header.Get("Nats-Msg-Id")))
			}
			if e.Kind == "join" {
				rooms[e.Room][e.User] = true
			} else {
				delete(rooms[e.Room], e.User)
			}
		}
	}
	return rooms, wrong
}

// crowdSize is the number of clients: some, or what NABAT_PRESENCE_CLIENTS asks for.
// Each of two edges must hold half of them.
func crowdSize(t *testing.T, some int) int {
	t.Helper()
	if raceEnabled {
		some /= 5
	}
	text := os.Getenv("NABAT_PRESENCE_CLIENTS")
	if text == "" {
		return some
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Presence is exact again after every death: held to what the clients know of
// themselves. NABAT_PRESENCE_CLIENTS asks for another size than the default.
func TestPresenceIsExactWhateverDies(t *testing.T) {
	if testing.Short() { // its processes share one processor there: see gate_one_processor
		t.Skip("it kills whole clusters")
	}
	clients, rooms := crowdSize(t, 1500), 300
	h := newHall(t, clients, rooms)
	move := clients / 5
	h.exact("at first", 0, 1)
	h.stir(move)
	h.exact("after changes", 0, 1)
	h.replayed("after changes")
	for i := range h.controls {
		within(t, time.Minute, "each has seen what the others said", func() bool {
			// A few that replicas learned differently are forgotten only later.
			return metric(t, h.configs[i].OpsListen, "nabat_control_announcements_pending") <= float64(clients)/100
		})
	}

	h.farm.edges[0].kill()
	within(t, time.Minute, "the clients know", func() bool { return h.present() < clients })
	h.stir(move / 2)
	h.exact("after the death of an edge", 0, 1)
	h.startEdge(0)
	h.stir(move)
	h.exact("after its return", 0, 1)
	h.replayed("after the death of an edge")

	h.controls[0].kill()
	h.stir(move)
	h.exact("after the death of a control", 1)
	h.replayed("after the death of a control")
	h.startControl(0)
	h.stir(move)
	h.exact("after its return", 0, 1)

	h.controls[0].kill()
	h.controls[1].kill()
	h.stir(move)
	h.startControl(0, 1)
	h.exact("after the death of all controls", 0, 1)

	// A server that hangs: who is connected to it is cut off until they notice,
	// and it comes back with what it believed.
	frozen := h.farm.nats[1]
	if err := frozen.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	h.stir(move / 2)
	within(t, time.Minute, "a while of it", func() bool { return h.present() == clients })
	h.stir(move / 2)
	if err := frozen.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	h.exact("after a partition", 0, 1)
	h.stir(move)
	h.exact("after changes behind it", 0, 1)
	h.say()
}

// say logs what the replicas counted.
func (h *hall) say() {
	h.t.Helper()
	names := []string{"members", "rooms", "users", "nodes", "report_holes_total", "snapshots_applied_total", "snapshots_asked_total", "announcements_pending", "announcements_queued"}
	slices.Sort(names)
	for i := range h.controls {
		text := ""
		for _, name := range names {
			text += fmt.Sprintf(" %s %.0f", name, metric(h.t, h.configs[i].OpsListen, "nabat_control_"+name))
		}
		h.t.Logf("control-%d:%s", i, text)
	}
}
