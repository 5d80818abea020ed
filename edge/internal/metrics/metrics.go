// Package metrics counts what an edge does. Each loop counts for itself, so
// that counting costs no shared cache line; a scrape adds the loops up.
package metrics

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Counter is written by one loop and read by scrapes.
type Counter struct{ n atomic.Uint64 }

// Add adds n. Owner only: it is a load and a store, not a locked addition.
func (c *Counter) Add(n uint64) { c.n.Store(c.n.Load() + n) }

// Load is safe from any goroutine.
func (c *Counter) Load() uint64 { return c.n.Load() }

// Loop is what one loop counts. Fields are written on the loop only.
type Loop struct {
	Accepted     Counter
	Handshakes   Counter // answered with 101, or an event stream begun
	Joins        Counter
	Leaves       Counter
	MessagesIn   Counter // inbound messages of clients, each of a batch
	BytesIn      Counter
	Deliveries   Counter // messages handed to the kernel, or queued, for a client
	BytesOut     Counter
	Sends        Counter // send system calls
	Published    Counter // messages that clients published
	BusMessages  Counter // messages from NATS for rooms of this loop
	Drops        Reasons // messages not delivered, by reason
	Closes       Reasons // connections ended, by code
	Refusals     Reasons // handshakes and commands refused, by code
	Notices      Counter // gap, lagging and reset notices sent
	InfoDropped  Counter // connections whose token tells more than others are shown
	Conflated    Counter // messages that a newer one of their key overtook
	Lags         Counter // times that a slow reader fell behind a room with history
	Resumes      Reasons // clients that came back with a position, by outcome
	Lagging      Gauge   // subscriptions that are behind their room
	Calls        Reasons // calls of backends that have ended, by outcome
	CallsWaiting Gauge   // calls of backends without a reply yet
	Hooks        Reasons // answers of hooks, as "<hook> <outcome>"
	HooksWaiting Gauge   // questions to hooks without an answer yet
	WebSockets   Gauge
	EventStreams Gauge
	Pending      Gauge // handshakes in flight
	QueuedBytes  Gauge // bytes waiting for slow readers

	TLSPending    Gauge   // TLS handshakes in flight
	TLSHandshakes Counter // TLS handshakes completed
	TLSResumed    Counter // of them, by a session ticket
	TLSFailures   Reasons // TLS handshakes failed, by reason
}

// Gauge is written by one loop and read by scrapes.
type Gauge struct{ n atomic.Int64 }

// Add adds n, which may be negative. Owner only.
func (g *Gauge) Add(n int64) { g.n.Store(g.n.Load() + n) }

// Load is safe from any goroutine.
func (g *Gauge) Load() int64 { return g.n.Load() }

// Reasons counts by a small closed set of names.
type Reasons struct {
	vec atomic.Pointer[map[string]*Counter]
}

// Add counts one more of reason. Owner only; a new reason copies the small map.
func (r *Reasons) Add(reason string, n uint64) {
	m := r.vec.Load()
	if m != nil {
		if c, ok := (*m)[reason]; ok {
			c.Add(n)
			return
		}
	}
	next := map[string]*Counter{reason: new(Counter)}
	if m != nil {
		for k, c := range *m {
			next[k] = c
		}
	}
	next[reason].Add(n)
	r.vec.Store(&next)
}

// Each calls fn for every reason. Safe from any goroutine.
func (r *Reasons) Each(fn func(reason string, n uint64)) {
	if m := r.vec.Load(); m != nil {
		for k, c := range *m {
			fn(k, c.Load())
		}
	}
}

// Source is what a scrape asks the edge for. Safe from any goroutine.
type Source interface {
	Loops() []*Loop
	Lags() Lags       // since the last scrape
	Expires() float64 // unix time at which the certificate ends, 0 without TLS
	Rooms() int       // rooms subscribed at NATS
	Bus() Bus
	Compression() Compression
}

// Lags are the longest times since they were asked for last.
type Lags struct {
	Turn    time.Duration // of a loop
	Latency time.Duration // from a message's arrival at a loop to its writes
}

// Compression is what compressing messages came to.
type Compression struct {
	Messages uint64 // each counts once, whatever the number of its recipients
	Before   uint64 // their bytes
	After    uint64 // their bytes, compressed
}

// Bus is the state of the NATS side.
type Bus struct {
	Connected  bool
	Reconnects uint64
	Messages   uint64
	Bytes      uint64
	Lost       map[string]uint64 // by reason
	Degraded   bool              // history can not be read
	Unstored   uint64            // messages handed out of rooms whose stream had no leader
	Recoveries uint64            // rooms that read what they had missed
	Cuts       uint64            // times that continuity could not be proven
	Sweeps     uint64            // reads of a stream as a whole after an outage
	Replays    uint64            // reads of history for clients
	Requests   uint64            // all requests to the store
	Reports    uint64            // reports sent to control
	Untold     uint64            // events that no report told
}

type collector struct {
	source Source
	node   string
	descs  map[string]*prometheus.Desc
}

var help = []struct{ name, text, label string }{
	{"connections", "Connections open now, by transport.", "transport"},
	{"handshakes_pending", "Connections whose request head is not complete or not answered yet.", ""},
	{"accepted_total", "Connections accepted.", ""},
	{"handshakes_total", "Handshakes answered with success.", ""},
	{"refusals_total", "Handshakes and commands refused, by code.", "code"},
	{"closes_total", "Connections ended, by code.", "code"},
	{"joins_total", "Rooms joined by connections.", ""},
	{"leaves_total", "Rooms left by connections.", ""},
	{"messages_in_total", "Frames received from clients.", ""},
	{"bytes_in_total", "Bytes received from clients.", ""},
	{"deliveries_total", "Messages handed to clients: one for each recipient.", ""},
	{"bytes_out_total", "Bytes written to clients.", ""},
	{"sends_total", "Send system calls; deliveries divided by sends is the gain of coalescing.", ""},
	{"published_total", "Messages published by clients.", ""},
	{"rpc_total", "Calls of backends that have ended, by outcome.", "outcome"},
	{"rpc_waiting", "Calls of backends without a reply yet.", ""},
	{"hooks_total", "Answers of backends to hooks, by hook and outcome.", "hook outcome"},
	{"hooks_waiting", "Questions to hooks without an answer yet.", ""},
	{"drops_total", "Messages that a client should have had and did not get, by reason; each is announced by a gap.", "reason"},
	{"notices_total", "Gap, lagging and reset notices sent to clients.", ""},
	{"info_dropped_total", "Connections whose token has more info than others are shown (1 KiB): it is left out.", ""},
	{"reports_total", "Reports sent to control.", ""},
	{"report_events_lost_total", "Events of connections that no report told, because NATS was away: control asks for a snapshot.", ""},
	{"conflated_total", "Messages that a newer one of their key overtook.", ""},
	{"lags_total", "Times that a slow reader fell behind a room with history.", ""},
	{"resumes_total", "Clients that came back to a room with a position, by outcome.", "outcome"},
	{"lagging", "Subscriptions that are behind their room and catch up.", ""},
	{"history_degraded", "1 while history can not be read.", ""},
	{"history_recoveries_total", "Rooms that read what the node had missed.", ""},
	{"history_unstored_total", "Messages handed out without an offset because their stream had no leader.", ""},
	{"history_cuts_total", "Times that a room's continuity could not be proven; each is announced by a gap.", ""},
	{"history_sweeps_total", "Times that a stream was read as a whole, because many rooms had missed something.", ""},
	{"history_replays_total", "Reads of history for clients that came back or lag.", ""},
	{"history_requests_total", "All requests to the store.", ""},
	{"queued_bytes", "Bytes waiting for slow readers.", ""},
	{"compressed_messages_total", "Messages compressed: once each, whatever the number of recipients.", ""},
	{"compressed_bytes_before_total", "Bytes of those messages before they were compressed.", ""},
	{"compressed_bytes_after_total", "Bytes of those messages compressed: what one recipient gets.", ""},
	{"tls_handshakes_pending", "TLS handshakes in flight.", ""},
	{"tls_handshakes_total", "TLS handshakes completed.", ""},
	{"tls_resumed_total", "TLS handshakes that resumed an earlier session.", ""},
	{"tls_failures_total", "TLS handshakes that failed, by reason.", "reason"},
	{"tls_certificate_expires_seconds", "Unix time at which the certificate in force expires; 0 without TLS.", ""},
	{"loop_lag_seconds", "Longest loop turn since the last scrape.", ""},
	{"delivery_latency_seconds", "Longest time since the last scrape from a message's arrival at a loop to its writes.", ""},
	{"rooms", "Rooms subscribed at NATS.", ""},
	{"nats_connected", "1 when every NATS connection of the node is up.", ""},
	{"nats_reconnects_total", "NATS reconnects.", ""},
	{"nats_messages_total", "Messages received from NATS.", ""},
	{"nats_bytes_total", "Payload bytes received from NATS.", ""},
	{"nats_lost_total", "Messages from NATS that the edge could not take, by reason.", "reason"},
}

// Register adds the edge's metrics to reg.
func Register(reg prometheus.Registerer, node string, source Source) error {
	c := &collector{source: source, node: node, descs: make(map[string]*prometheus.Desc)}
	for _, h := range help {
		labels := []string{"node"}
		labels = append(labels, strings.Fields(h.label)...)
		c.descs[h.name] = prometheus.NewDesc("nabat_edge_"+h.name, h.text, labels, nil)
	}
	return reg.Register(c)
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	send := func(name string, t prometheus.ValueType, v float64, label ...string) {
		ch <- prometheus.MustNewConstMetric(c.descs[name], t, v, append([]string{c.node}, label...)...)
	}
	c.collectLoops(send)
	b := c.source.Bus()
	up := 0.0
	if b.Connected {
		up = 1
	}
	lags := c.source.Lags()
	send("loop_lag_seconds", prometheus.GaugeValue, lags.Turn.Seconds())
	send("delivery_latency_seconds", prometheus.GaugeValue, lags.Latency.Seconds())
	send("tls_certificate_expires_seconds", prometheus.GaugeValue, c.source.Expires())
	send("rooms", prometheus.GaugeValue, float64(c.source.Rooms()))
	send("nats_connected", prometheus.GaugeValue, up)
	send("nats_reconnects_total", prometheus.CounterValue, float64(b.Reconnects))
	send("nats_messages_total", prometheus.CounterValue, float64(b.Messages))
	send("nats_bytes_total", prometheus.CounterValue, float64(b.Bytes))
	degraded := 0.0
	if b.Degraded {
		degraded = 1
	}
	send("history_degraded", prometheus.GaugeValue, degraded)
	send("history_recoveries_total", prometheus.CounterValue, float64(b.Recoveries))
	send("history_unstored_total", prometheus.CounterValue, float64(b.Unstored))
	send("history_cuts_total", prometheus.CounterValue, float64(b.Cuts))
	send("history_sweeps_total", prometheus.CounterValue, float64(b.Sweeps))
	send("history_replays_total", prometheus.CounterValue, float64(b.Replays))
	send("history_requests_total", prometheus.CounterValue, float64(b.Requests))
	send("reports_total", prometheus.CounterValue, float64(b.Reports))
	send("report_events_lost_total", prometheus.CounterValue, float64(b.Untold))
	z := c.source.Compression()
	send("compressed_messages_total", prometheus.CounterValue, float64(z.Messages))
	send("compressed_bytes_before_total", prometheus.CounterValue, float64(z.Before))
	send("compressed_bytes_after_total", prometheus.CounterValue, float64(z.After))
	for reason, n := range b.Lost {
		send("nats_lost_total", prometheus.CounterValue, float64(n), reason)
	}
}

func (c *collector) collectLoops(send func(string, prometheus.ValueType, float64, ...string)) {
	loops := c.source.Loops()
	counter := func(name string, field func(*Loop) *Counter) {
		var n uint64
		for _, l := range loops {
			n += field(l).Load()
		}
		send(name, prometheus.CounterValue, float64(n))
	}
	gauge := func(name string, field func(*Loop) *Gauge, label ...string) {
		var n int64
		for _, l := range loops {
			n += field(l).Load()
		}
		send(name, prometheus.GaugeValue, float64(n), label...)
	}
	reasons := func(name string, field func(*Loop) *Reasons) {
		sum := make(map[string]uint64)
		for _, l := range loops {
			field(l).Each(func(reason string, n uint64) { sum[reason] += n })
		}
		for reason, n := range sum {
			send(name, prometheus.CounterValue, float64(n), strings.Fields(reason)...)
		}
	}
	gauge("connections", func(l *Loop) *Gauge { return &l.WebSockets }, "websocket")
	gauge("connections", func(l *Loop) *Gauge { return &l.EventStreams }, "sse")
	gauge("handshakes_pending", func(l *Loop) *Gauge { return &l.Pending })
	reasons("rpc_total", func(l *Loop) *Reasons { return &l.Calls })
	reasons("hooks_total", func(l *Loop) *Reasons { return &l.Hooks })
	gauge("hooks_waiting", func(l *Loop) *Gauge { return &l.HooksWaiting })
	gauge("rpc_waiting", func(l *Loop) *Gauge { return &l.CallsWaiting })
	gauge("queued_bytes", func(l *Loop) *Gauge { return &l.QueuedBytes })
	gauge("tls_handshakes_pending", func(l *Loop) *Gauge { return &l.TLSPending })
	counter("tls_handshakes_total", func(l *Loop) *Counter { return &l.TLSHandshakes })
	counter("tls_resumed_total", func(l *Loop) *Counter { return &l.TLSResumed })
	counter("accepted_total", func(l *Loop) *Counter { return &l.Accepted })
	counter("handshakes_total", func(l *Loop) *Counter { return &l.Handshakes })
	counter("joins_total", func(l *Loop) *Counter { return &l.Joins })
	counter("leaves_total", func(l *Loop) *Counter { return &l.Leaves })
	counter("messages_in_total", func(l *Loop) *Counter { return &l.MessagesIn })
	counter("bytes_in_total", func(l *Loop) *Counter { return &l.BytesIn })
	counter("deliveries_total", func(l *Loop) *Counter { return &l.Deliveries })
	counter("bytes_out_total", func(l *Loop) *Counter { return &l.BytesOut })
	counter("sends_total", func(l *Loop) *Counter { return &l.Sends })
	counter("published_total", func(l *Loop) *Counter { return &l.Published })
	counter("notices_total", func(l *Loop) *Counter { return &l.Notices })
	counter("info_dropped_total", func(l *Loop) *Counter { return &l.InfoDropped })
	counter("conflated_total", func(l *Loop) *Counter { return &l.Conflated })
	counter("lags_total", func(l *Loop) *Counter { return &l.Lags })
	gauge("lagging", func(l *Loop) *Gauge { return &l.Lagging })
	reasons("resumes_total", func(l *Loop) *Reasons { return &l.Resumes })
	reasons("refusals_total", func(l *Loop) *Reasons { return &l.Refusals })
	reasons("closes_total", func(l *Loop) *Reasons { return &l.Closes })
	reasons("tls_failures_total", func(l *Loop) *Reasons { return &l.TLSFailures })
	reasons("drops_total", func(l *Loop) *Reasons { return &l.Drops })
}
