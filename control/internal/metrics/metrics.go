// Package metrics counts what control does.
package metrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Counts are control's metrics. Safe from any goroutine.
type Counts struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	streams  *prometheus.GaugeVec
	fetches  *prometheus.CounterVec
	fetched  *prometheus.GaugeVec
	presence presenceCounts

	// mu guards verbs.
	mu    sync.Mutex
	verbs map[string]Verb
}

// Verb is what one verb of the API did so far, over NATS and HTTP.
type Verb struct {
	Requests uint64  `json:"requests"`
	Errors   uint64  `json:"errors"`
	Seconds  float64 `json:"seconds"` // all requests together
	Last     string  `json:"last_error,omitempty"`
}

// States of history streams.
const (
	StreamReady    = "ready"    // as its policy says
	StreamFailed   = "failed"   // of a policy that does not have what it says
	StreamOrphaned = "orphaned" // its policy is gone; it captures on for a while
	StreamParked   = "parked"   // captures nothing and keeps what it holds
)

// New returns fresh counts.
func New() *Counts {
	return &Counts{verbs: make(map[string]Verb),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nabat_control_requests_total",
			Help: "API requests, by verb, by the way they came (nats or http) and by result code."}, []string{"verb", "via", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "nabat_control_request_seconds",
			Help: "Time to answer an API request.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 8)}, []string{"verb"}),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "nabat_control_streams",
			Help: "Streams of policies with history, by state: ready, failed, orphaned or parked."}, []string{"state"}),
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nabat_control_issuer_fetches_total",
			Help: "Fetches of the keys of other issuers, by issuer and result: changed, same or failed."}, []string{"issuer", "result"}),
		fetched: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "nabat_control_issuer_fetched_seconds",
			Help: "When the keys of an issuer were last fetched, in unix seconds."}, []string{"issuer"}),
		presence: newPresenceCounts(),
	}
}

// Register adds the counts to reg.
func (c *Counts) Register(reg prometheus.Registerer) error {
	for _, c := range append(c.presence.collectors(), c.requests, c.seconds, c.streams, c.fetches, c.fetched) {
		if err := reg.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// Streams counts streams by state. A state that is missing has none.
func (c *Counts) Streams(states map[string]int) {
	for _, state := range []string{StreamReady, StreamFailed, StreamOrphaned, StreamParked} {
		c.streams.WithLabelValues(state).Set(float64(states[state]))
	}
}

// Issuer counts one fetch of an issuer's keys; result is changed, same or failed.
func (c *Counts) Issuer(issuer, result string) {
	c.fetches.WithLabelValues(issuer, result).Inc()
	if result != "failed" {
		c.fetched.WithLabelValues(issuer).SetToCurrentTime()
	}
}

// Request counts one request; code is ok or the error's code.
func (c *Counts) Request(verb, via, code string, seconds float64) {
	c.requests.WithLabelValues(verb, via, code).Inc()
	c.seconds.WithLabelValues(verb).Observe(seconds)
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.verbs[verb]
	v.Requests++
	v.Seconds += seconds
	if code != "ok" {
		v.Errors++
		v.Last = code
	}
	c.verbs[verb] = v
}

// Of is what a verb did so far.
func (c *Counts) Of(verb string) Verb {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.verbs[verb]
}
