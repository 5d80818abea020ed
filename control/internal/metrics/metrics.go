// Package metrics counts what control does.
package metrics

import "github.com/prometheus/client_golang/prometheus"

// Counts are control's metrics. Safe from any goroutine.
type Counts struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// New returns fresh counts.
func New() *Counts {
	return &Counts{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nabat_control_requests_total",
			Help: "API requests, by verb, by the way they came (nats or http) and by result code."}, []string{"verb", "via", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "nabat_control_request_seconds",
			Help: "Time to answer an API request.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 8)}, []string{"verb"}),
	}
}

// Register adds the counts to reg.
func (c *Counts) Register(reg prometheus.Registerer) error {
	if err := reg.Register(c.requests); err != nil {
		return err
	}
	return reg.Register(c.seconds)
}

// Request counts one request; code is ok or the error's code.
func (c *Counts) Request(verb, via, code string, seconds float64) {
	c.requests.WithLabelValues(verb, via, code).Inc()
	c.seconds.WithLabelValues(verb).Observe(seconds)
}
