package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"nabat/loadtest/account"
	"nabat/loadtest/report"
	"nabat/loadtest/swarm"
	"nabat/loadtest/target"
)

// Connect opens connections as fast as they go, closes them, and does it again:
// plainly, with a token each, and with TLS.
type Connect struct {
	Setting
	Rooms  int // that each connection joins
	Rounds int
	Only   []string // ways to connect, by name; empty: all
}

// Ways to connect.
const (
	wayPlain  = "plain"
	wayToken  = "token"
	wayKnown  = "known-token"
	wayTLS    = "tls"
	waySecure = "tls-token"
)

// Ways are all ways to connect.
var Ways = []string{wayPlain, wayToken, wayKnown, wayTLS, waySecure}

var wayTitles = map[string]string{
	wayPlain: "plain", wayToken: "an HS256 token each, seen for the first time", wayKnown: "the same tokens again",
	wayTLS: "TLS 1.3", waySecure: "TLS 1.3 and an HS256 token each, seen for the first time",
}

func (c *Connect) check() error {
	if c.Rooms < 1 || c.Rooms > maxRooms {
		return fmt.Errorf("%d rooms: must be 1 to %d", c.Rooms, maxRooms)
	}
	if c.Rounds < 1 {
		return fmt.Errorf("%d rounds: at least one", c.Rounds)
	}
	for _, way := range c.Only {
		if !slices.Contains(Ways, way) {
			return fmt.Errorf("there is no way %q to connect: choose from %v", way, Ways)
		}
	}
	return c.Setting.check()
}

func (c *Connect) wants(way string) bool { return len(c.Only) == 0 || slices.Contains(c.Only, way) }

// Run measures all targets and the floors.
func (c *Connect) Run(ctx context.Context) (*report.Report, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	r := c.newReport("connect", fmt.Sprintf("%s connections opened %d times, each in %d rooms", report.Thousands(float64(c.Clients)), c.Rounds, c.Rooms),
		map[string]any{"connections": c.Clients, "rounds": c.Rounds, "rooms": c.Rooms})
	for _, way := range Ways { // in this order, whoever comes first
		if c.wants(way) {
			r.Section(wayTitles[way])
		}
	}
	if err := c.each(ctx, func() int { return swarm.MinPayload }, func(ctx context.Context, t *target.Target) error {
		return c.target(ctx, t, r)
	}); err != nil {
		return nil, err
	}
	if c.FloorTLS != nil && (c.wants(wayTLS) || c.wants(waySecure)) {
		t, err := c.FloorTLS(ctx)
		if err != nil {
			return nil, err
		}
		err = c.way(ctx, t, r, wayTLS, t.URL, nil)
		c.Progress.End()
		if err = errors.Join(err, t.Close()); err != nil {
			return nil, fmt.Errorf("floor: %w", err)
		}
	}
	c.ratios(r)
	return r, nil
}

// Names of rows.
const (
	rowHandshake       = "server CPU per handshake, best round"
	rowHandshakeMedian = "  median round"
	rowHandshakes      = "handshakes, median round"
	rowHandshakeClient = "client CPU per handshake"
)

func (c *Connect) target(ctx context.Context, t *target.Target, r *report.Report) error {
	if c.wants(wayPlain) {
		if err := c.way(ctx, t, r, wayPlain, t.URL, nil); err != nil {
			return err
		}
	}
	if !t.Nabat() {
		return nil
	}
	var tokens [][]string
	var err error
	if c.wants(wayToken) || c.wants(wayKnown) {
		if tokens, err = c.fresh(ctx, t); err != nil {
			return err
		}
		if err := c.way(ctx, t, r, wayToken, t.URL, tokens); err != nil {
			return err
		}
	}
	if c.wants(wayKnown) {
		if err := c.way(ctx, t, r, wayKnown, t.URL, tokens); err != nil {
			return err
		}
	}
	secure := t.Edges[0].Secure
	if secure == "" {
		return nil
	}
	if c.wants(wayTLS) {
		if err := c.way(ctx, t, r, wayTLS, secure, nil); err != nil {
			return err
		}
	}
	if !c.wants(waySecure) {
		return nil
	}
	if tokens, err = c.fresh(ctx, t); err != nil {
		return err
	}
	return c.way(ctx, t, r, waySecure, secure, tokens)
}

// fresh are tokens that no edge has seen, for each round.
func (c *Connect) fresh(ctx context.Context, t *target.Target) (tokens [][]string, err error) {
	for round := range c.Rounds {
		c.Progress.Show(report.State{Phase: t.Name + ": tokens", Done: float64(round * c.Clients), Total: float64(c.Rounds * c.Clients), Of: "issued"})
		list, err := t.Tokens(ctx, c.Clients)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, list)
	}
	return tokens, nil
}

// way measures one way to connect; tokens are for each round.
func (c *Connect) way(ctx context.Context, t *target.Target, r *report.Report, way, url string, tokens [][]string) error {
	o := c.options(t, swarm.Spread{Rooms: c.Rooms, Each: c.Rooms})
	o.Target = t.At(url)
	var server, client, rate []float64
	for round := range c.Rounds {
		if tokens != nil {
			o.Tokens = tokens[round]
		}
		before, err := cpu(t.PID)
		if err != nil {
			return err
		}
		idle := 0
		if t.PID != 0 {
			if idle, err = account.Descriptors(t.PID); err != nil {
				return err
			}
		}
		clients, p, err := c.connect(ctx, t, o)
		if err != nil {
			return err
		}
		after, err := cpu(t.PID)
		used, err2 := cpu(clients.PIDs()...)
		if err = errors.Join(err, err2, clients.Close()); err != nil {
			return err
		}
		if p.Failed+p.Closed > 0 {
			r.Notes = append(r.Notes, t.Name+", "+wayTitles[way]+": "+failures(p))
		}
		if t.PID != 0 {
			server = append(server, float64(after-before)/float64(p.Connected))
		}
		client = append(client, float64(used)/float64(p.Connected))
		rate = append(rate, float64(p.Connected)/p.Dialing.Seconds())
		if err := emptied(ctx, t, idle); err != nil {
			return err
		}
	}
	section := r.Section(wayTitles[way])
	if len(server) > 0 {
		section.Set(t.Name, rowHandshake, report.Nanoseconds, slices.Min(server))
		section.Set(t.Name, rowHandshakeMedian, report.Nanoseconds, median(server))
	}
	section.Set(t.Name, rowHandshakes, report.PerSecond, median(rate))
	section.Set(t.Name, rowHandshakeClient, report.Nanoseconds, median(client))
	return nil
}

// emptyTimeout is how long a server may take to notice that clients are gone.
const emptyTimeout = 10 * time.Second

// emptied waits until the server has closed what clients have left, so that
// this is not on the bill of the next round.
func emptied(ctx context.Context, t *target.Target, idle int) error {
	const others = 10 // connections to NATS and the like
	ctx, cancel := context.WithTimeout(ctx, emptyTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for t.PID != 0 {
		now, err := account.Descriptors(t.PID)
		if err != nil || now <= idle+others {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, context.DeadlineExceeded) {
				return cause
			}
			return nil // it keeps them: the next round shows what that costs
		}
	}
	return nil
}

// ratios compares with the floor of the same kind.
func (c *Connect) ratios(r *report.Report) {
	floorOf := func(way string) float64 {
		if row := r.Section(wayTitles[way]).Row(rowHandshake); row != nil {
			return row.Values[target.NameFloor]
		}
		return 0
	}
	for _, way := range Ways {
		if !c.wants(way) {
			continue
		}
		floor := wayPlain
		if way == wayTLS || way == waySecure {
			floor = wayTLS
		}
		section := r.Section(wayTitles[way])
		inFloors(section, rowFloors, rowHandshake, floorOf(floor))
		section.Sort(rowHandshake, rowFloors, rowHandshakeMedian, rowHandshakes)
	}
	r.Notes = append(r.Notes,
		"A handshake is everything until the client is in its rooms; the floor answers 129 bytes to the first read.",
		"The floor with TLS is crypto/tls, one read and one write.")
}
