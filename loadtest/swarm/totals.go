package swarm

import (
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latency is recorded in microseconds, from 1 µs to a minute; what is beyond
// counts as a minute.
const (
	latencyUnit    = 1000 // nanoseconds
	latencyHighest = 60_000_000
	latencyDigits  = 3
)

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, latencyHighest, latencyDigits)
}

// Progress is how a swarm stands.
type Progress struct {
	Dials       int            `json:"dials"`                 // that the figures are of: 1, then one more for each redial
	Started     int            `json:"started"`               // connections begun
	Connected   int            `json:"connected"`             // open now
	Failed      int            `json:"failed"`                // never opened
	Closed      int            `json:"closed"`                // opened and lost
	Received    uint64         `json:"received"`              // messages of this run, each once
	Bytes       uint64         `json:"bytes"`                 // read from all connections since the start
	Dialing     time.Duration  `json:"dialing"`               // from the first start to the last that opened
	Recovered   int            `json:"recovered,omitempty"`   // rooms in which a client that came back lost nothing, by the server's word
	Unrecovered int            `json:"unrecovered,omitempty"` // the others
	Reasons     map[string]int `json:"reasons,omitempty"`
}

func (p *Progress) add(q Progress) {
	p.Dials = max(p.Dials, q.Dials)
	p.Recovered += q.Recovered
	p.Unrecovered += q.Unrecovered
	p.Started += q.Started
	p.Connected += q.Connected
	p.Failed += q.Failed
	p.Closed += q.Closed
	p.Received += q.Received
	p.Bytes += q.Bytes
	p.Dialing = max(p.Dialing, q.Dialing)
	if p.Reasons == nil && len(q.Reasons) > 0 {
		p.Reasons = make(map[string]int)
	}
	for reason, n := range q.Reasons {
		p.Reasons[reason] += n
	}
}

// Totals is what the clients of one run found.
type Totals struct {
	Clients     int    `json:"clients"`      // that were open when the run began
	Received    uint64 `json:"received"`     // messages, each counted once
	Late        uint64 `json:"late"`         // received after a later one: swapped
	Duplicates  uint64 `json:"duplicates"`   // received again
	Missing     uint64 `json:"missing"`      // never received
	SlowMissing uint64 `json:"slow_missing"` // by the clients that can stall, which count nowhere else
	Strays      uint64 `json:"strays"`       // messages of another run
	Bytes       uint64 `json:"bytes"`        // WebSocket frames of this run's messages, heads included
	Frames      uint64 `json:"frames"`       // frames that held this run's messages
	Reads       uint64 `json:"reads"`        // read calls that brought something
	Latency     []byte `json:"latency"`      // HdrHistogram, encoded; in microseconds
	histogram   *hdrhistogram.Histogram
}

// Add merges the totals of u into t.
func (t *Totals) Add(u *Totals) error {
	t.Clients += u.Clients
	t.Received += u.Received
	t.Late += u.Late
	t.Duplicates += u.Duplicates
	t.Missing += u.Missing
	t.SlowMissing += u.SlowMissing
	t.Strays += u.Strays
	t.Bytes += u.Bytes
	t.Frames += u.Frames
	t.Reads += u.Reads
	from, err := u.Histogram()
	if err != nil {
		return err
	}
	into, err := t.Histogram()
	if err != nil {
		return err
	}
	into.Merge(from)
	return nil
}

// Histogram returns the latencies in microseconds.
func (t *Totals) Histogram() (*hdrhistogram.Histogram, error) {
	if t.histogram != nil {
		return t.histogram, nil
	}
	if len(t.Latency) == 0 {
		t.histogram = newHistogram()
		return t.histogram, nil
	}
	h, err := hdrhistogram.Decode(t.Latency)
	if err != nil {
		return nil, fmt.Errorf("decode latencies: %w", err)
	}
	t.histogram = h
	return h, nil
}

// seal makes t ready for the way to the parent process.
func (t *Totals) seal() error {
	if t.histogram == nil || t.histogram.TotalCount() == 0 {
		return nil
	}
	var err error
	t.Latency, err = t.histogram.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return fmt.Errorf("encode latencies: %w", err)
	}
	return nil
}

// Correct reports whether every client got every message once and in order.
func (t *Totals) Correct() bool {
	return t.Missing == 0 && t.Duplicates == 0 && t.Late == 0
}

// record adds one latency in nanoseconds.
func record(h *hdrhistogram.Histogram, nanos int64) {
	// RecordValue fails only outside of the range.
	_ = h.RecordValue(min(max(nanos/latencyUnit, 1), latencyHighest))
}
