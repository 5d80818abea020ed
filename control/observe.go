package control

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"runtime/debug"

	"nabat/control/internal/events"
	"nabat/control/internal/metrics"
	"nabat/control/internal/nodes"
	"nabat/control/internal/presence"
	"nabat/internal/bus"
	"nabat/proto/policy"
)

// observe makes what watches the edges: the picture of presence, and who tells
// of it.
func (c *Control) observe(ctx context.Context, counts *metrics.Counts) (err error) {
	if c.reports, err = bus.Connect(ctx, bus.Options{URL: c.cfg.NATSURL, Credentials: c.cfg.NATSCredentials, Token: c.cfg.NATSToken,
		NKey: c.cfg.NATSNKey, Inbox: c.cfg.NATSInbox, Name: "nabat-control reports", Log: c.log}); err != nil {
		return err
	}
	var id [6]byte
	_, _ = rand.Read(id[:]) // it does not fail
	told := &voice{}
	c.nodes = nodes.New(nodes.Options{NATS: c.reports, JetStream: c.js, ID: hex.EncodeToString(id[:]), Version: version(), Listen: c.Addr(),
		Replicas: c.cfg.Replicas, Rule: c.presenceRule, Announcer: told, Counts: counts, Log: c.log})
	c.events = events.New(events.Options{NATS: c.reports, JetStream: c.js, Rooms: c.nodes, Replicas: c.cfg.Replicas,
		MaxAge: c.cfg.EventsAge, MaxBytes: int64(c.cfg.EventsBytes), Counts: counts, Log: c.log})
	told.Speaker = c.events
	return nil
}

// voice lets the picture and who tells of it know each other: it is given the
// speaker before anything runs.
type voice struct{ *events.Speaker }

// presenceRule is what the policies in force say of presence in a room.
func (c *Control) presenceRule(room string) presence.Rule {
	p := c.policies.Set().For(room)
	if p == nil || p.Presence == nil { // no longer: what is left of it ends like anything else
		return presence.Rule{Grace: policy.DefaultGrace, Full: policy.DefaultFull}
	}
	return presence.Rule{Grace: p.Presence.GraceTime(), Full: p.Presence.FullAt()}
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "development"
	}
	return fmt.Sprint(info.Main.Version)
}
