package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"nabat/client"
	"nabat/proto/wire"
)

// somebody has a connection to each edge.
type somebody struct {
	name, token string
	conns       []*client.Conn
}

func (h *hall) enter(name string) *somebody {
	h.t.Helper()
	s := &somebody{name: name}
	var issued struct{ Token string }
	h.api("token.issue", `{"sub":"`+name+`","subscribe":["room.>"]}`, &issued)
	s.token = issued.Token
	for _, address := range h.addresses() {
		conn, err := client.Dial(h.t.Context(), address, client.Options{Token: s.token, Rooms: []string{"room.1"}})
		if err != nil {
			h.t.Fatal(err)
		}
		h.t.Cleanup(conn.Close)
		s.conns = append(s.conns, conn)
	}
	return s
}

// api asks control over NATS.
func (h *hall) api(verb, request string, reply any) {
	h.t.Helper()
	m, err := h.nc.Request("nabat.api."+verb, []byte(request), patience)
	if err != nil {
		h.t.Fatal(verb, err)
	}
	if code := m.Header.Get("Nats-Service-Error-Code"); code != "" {
		h.t.Fatalf("%s %s: %s", verb, request, m.Data)
	}
	if err := json.Unmarshal(m.Data, reply); err != nil {
		h.t.Fatalf("%s: %s: %v", verb, m.Data, err)
	}
}

// ended waits until all connections of s have ended with a status.
func (h *hall) ended(s *somebody, status int) {
	h.t.Helper()
	limit := time.After(2 * patience)
	for _, conn := range s.conns {
		for open := true; open; {
			select {
			case _, open = <-conn.Events():
			case <-limit:
				h.t.Fatalf("%s is still connected", s.name)
			}
		}
		var closed *client.CloseError
		if err := conn.Err(); !errors.As(err, &closed) || int(closed.Status) != status {
			h.t.Errorf("%s: %v, want %d", s.name, err, status)
		}
	}
}

// What control decides reaches every edge, and holds there when all has been
// restarted. How long it took is logged, from the request on.
func TestOrdersReachEveryEdge(t *testing.T) {
	if testing.Short() { // its processes share one processor there: see gate_one_processor
		t.Skip("it starts a cluster")
	}
	h := newHall(t, crowdSize(t, 300), 50)
	h.assembled()
	gone := make(map[*somebody]string)
	for _, order := range []struct {
		name, verb string
		request    func(*somebody) string
		status     int
		then       string // why nobody lets them in again
	}{
		{"revoke all tokens of a user", "user.revoke", byName, 4003, "token_revoked"},
		{"revoke a token", "token.revoke", func(s *somebody) string { return fmt.Sprintf(`{"token":%q}`, s.token) }, 4003, "token_revoked"},
		{"block a user", "user.block", byName, 4004, "user_blocked"},
		{"disconnect a user", "disconnect", byName, 4005, ""},
	} {
		var took []time.Duration
		for i := range 10 {
			s := h.enter(fmt.Sprintf("%s-%d", order.verb, i))
			began := time.Now()
			h.api(order.verb, order.request(s), new(map[string]any))
			h.ended(s, order.status)
			took = append(took, time.Since(began))
			if order.then != "" {
				h.refused(s, order.then)
				gone[s] = order.then
			}
		}
		slices.Sort(took)
		t.Logf("%s: all 3 edges have done it after %s (median of 10), %s at most, %d clients", order.name,
			took[5].Round(time.Millisecond), took[9].Round(time.Millisecond), h.clients)
	}
	for i := range h.controls {
		h.controls[i].kill()
	}
	for i := range h.farm.edges {
		h.farm.edges[i].kill()
		h.startEdge(i)
	}
	h.startControl(0, 1)
	for s, code := range gone {
		h.refused(s, code)
	}
}

func byName(s *somebody) string { return fmt.Sprintf(`{"user":%q}`, s.name) }

// refused checks that no edge lets s in again.
func (h *hall) refused(s *somebody, code string) {
	h.t.Helper()
	for _, address := range h.addresses() {
		conn, err := client.Dial(h.t.Context(), address, client.Options{Token: s.token})
		if err == nil {
			conn.Close()
			h.t.Errorf("%s is let in at %s", s.name, address)
			continue
		}
		var why *wire.Error
		if !errors.As(err, &why) || string(why.Code) != code {
			h.t.Errorf("%s at %s: %v, want %s", s.name, address, err, code)
		}
	}
}

// Tokens are verified by the edges alone: everybody comes back while no control
// runs.
func TestNobodyNeedsControlToComeBack(t *testing.T) {
	if testing.Short() { // its processes share one processor there: see gate_one_processor
		t.Skip("it starts a cluster")
	}
	h := newHall(t, crowdSize(t, 600), 50)
	h.assembled()
	for _, c := range h.controls {
		c.kill()
	}
	h.farm.edges[0].kill()
	within(t, time.Minute, "the clients know", func() bool { return h.present() < h.clients })
	began := time.Now()
	h.assembled()
	t.Logf("%d clients are all connected again %s after a third of them noticed that their edge is dead", h.clients, time.Since(began).Round(10*time.Millisecond))
}
