package e2e

import (
	"strconv"
	"syscall"
	"testing"
	"time"

	"nabat/loadtest/checker"
	"nabat/proto/policy"
)

// All clients of an edge that was killed come back to another one, with their
// positions. They lose nothing, and the store is asked for each room, not for
// each client.
func TestAReconnectStormAsksTheStoreForRooms(t *testing.T) {
	if testing.Short() {
		t.Skip("it moves thousands of clients")
	}
	clients, rooms := 5000, 200
	if raceEnabled {
		clients = 1000
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	clients = min(clients, int(limit.Cur)-1000) // an edge and the clients have as many each
	f := newFarm(t, 1, 2, policy.History{Messages: 1000, Age: time.Hour, Replicas: 1})
	f.startEdge(0)
	f.startEdge(1)
	plan := checker.Plan{NATS: f.configs[0].NATSURL, Every: 2 * time.Second, Window: f.window, Edges: f.addresses(),
		Clients: clients, RoomsEach: 2, Together: true, Dialing: 256, Seed: 1}
	for i := range rooms {
		plan.Rooms = append(plan.Rooms, "room."+strconv.Itoa(i))
	}
	p := spawn(t, "checker", asChecker, plan)
	within(t, 2*time.Minute, "all are there", func() bool { return p.number("present") == clients })
	requests := func() float64 {
		return metric(t, f.configs[1].OpsListen, "nabat_edge_history_requests_total")
	}
	before, began := requests(), time.Now()
	f.edges[0].kill()
	within(t, 2*time.Minute, "the clients know", func() bool { return p.number("present") < clients })
	within(t, 2*time.Minute, "all are back", func() bool { return p.number("present") == clients })
	asked, took := requests()-before, time.Since(began)
	replays := metric(t, f.configs[1].OpsListen, "nabat_edge_history_replays_total")
	r := stormReport(t, p)
	t.Logf("%s; the store was asked %.0f times, %.0f of them for clients", r, asked, replays)
	f.report(r)
	if want := clients * plan.RoomsEach; r.Recovered != want || r.Connections != 2*clients {
		t.Errorf("%d resumes recovered over %d connections, want %d over %d", r.Recovered, r.Connections, want, 2*clients)
	}
	// One to find where a room stands and to look again, and one for each position
	// that clients have in it, which is repeated for those who come seconds later.
	if most := float64(rooms) * (4 + took.Seconds()); asked > most {
		t.Errorf("the store was asked %.0f times in %s, at most %.0f are for %d rooms; there are %d clients", asked, took, most, rooms, clients)
	}
}
