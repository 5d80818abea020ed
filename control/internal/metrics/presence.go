package metrics

import "github.com/prometheus/client_golang/prometheus"

// Presence is the size of the picture of presence, and totals of how it is kept.
type Presence struct {
	Connections, Members, Users, Rooms, Nodes int
	Holes, Rebuilds                           uint64
}

// presenceCounts are the metrics of presence and events.
type presenceCounts struct {
	connections, members, users, rooms, nodes prometheus.Gauge
	holes, rebuilds                           prometheus.Counter
	last                                      Presence // as it was told last
	asked, bad                                prometheus.Counter
	announcements                             *prometheus.CounterVec
	queued, pending, lag                      prometheus.Gauge
}

func newPresenceCounts() presenceCounts {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "nabat_control_" + name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "nabat_control_" + name, Help: help})
	}
	return presenceCounts{
		connections: gauge("connections", "Connections in the picture of presence."),
		members:     gauge("members", "Connections in rooms with presence, counted once for each room."),
		users:       gauge("users", "Different users that are connected."),
		rooms:       gauge("rooms", "Rooms with members."),
		nodes:       gauge("nodes", "Edges in the picture of presence."),
		holes:       counter("report_holes_total", "Gaps in what edges reported, each of which needed a snapshot."),
		rebuilds:    counter("snapshots_applied_total", "Snapshots of a loop of an edge that were taken over."),
		asked:       counter("snapshots_asked_total", "Orders for snapshots."),
		bad:         counter("reports_malformed_total", "Reports that could not be read, or came on another node's subject."),
		announcements: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nabat_control_announcements_total",
			Help: "Announcements by what became of them: stored, by kind of event (connect, disconnect, join, leave, occupied, vacated); duplicate (stored before), " +
				"taken_over (from another replica), failed (published again), dropped and forgotten (queues were full), shown and not_shown (to clients)."}, []string{"result"}),
		queued:  gauge("announcements_queued", "Events that wait to be stored by this replica."),
		pending: gauge("announcements_pending", "Events that are other replicas' to announce and were not seen in the stream yet."),
		lag:     gauge("announcement_lag_seconds", "Age of the oldest event that waits to be stored by this replica."),
	}
}

func (p *presenceCounts) collectors() []prometheus.Collector {
	return []prometheus.Collector{p.connections, p.members, p.users, p.rooms, p.nodes, p.holes, p.rebuilds, p.asked, p.bad, p.announcements, p.queued, p.pending, p.lag}
}

// Presence sets the sizes. It is for one goroutine.
func (c *Counts) Presence(v Presence) {
	p := &c.presence
	p.connections.Set(float64(v.Connections))
	p.members.Set(float64(v.Members))
	p.users.Set(float64(v.Users))
	p.rooms.Set(float64(v.Rooms))
	p.nodes.Set(float64(v.Nodes))
	p.holes.Add(float64(v.Holes - p.last.Holes))
	p.rebuilds.Add(float64(v.Rebuilds - p.last.Rebuilds))
	p.last = v
}

// SnapshotAsked counts one order for a snapshot.
func (c *Counts) SnapshotAsked() { c.presence.asked.Inc() }

// BadReport counts one report that makes no sense.
func (c *Counts) BadReport() { c.presence.bad.Inc() }

// Announcement counts announcements by what became of them.
func (c *Counts) Announcement(result string, n int) {
	c.presence.announcements.WithLabelValues(result).Add(float64(n))
}

// Waiting says how many announcements wait, and for how long the oldest of ours
// does, in seconds.
func (c *Counts) Waiting(queued, pending int, oldest float64) {
	c.presence.queued.Set(float64(queued))
	c.presence.pending.Set(float64(pending))
	c.presence.lag.Set(oldest)
}
