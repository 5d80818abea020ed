package checker

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Report is what a run came to.
type Report struct {
	Published   int            `json:"published"`
	Retried     int            `json:"retried"` // publishes that were tried again
	Delivered   int            `json:"delivered"`
	Connections int            `json:"connections"` // that came about
	Recovered   int            `json:"recovered"`   // resumes of one room
	Unrecovered map[string]int `json:"unrecovered"` // the same, by reason
	Gaps        map[string]int `json:"gaps"`        // notices, by reason
	Lost        int            `json:"lost"`        // messages that clients were told they lost
	Unstored    int            `json:"unstored"`    // messages that came without an offset, while nothing was stored
	Repeated    int            `json:"repeated"`    // of those, that came once more to clients that came back
	Lagging     int            `json:"lagging"`
	Resets      int            `json:"resets"`
	Acts        map[string]int `json:"acts"`       // what clients did by themselves
	Errors      map[string]int `json:"errors"`     // what the edges refused, by code
	Broken      int            `json:"broken"`     // all violations
	Violations  []Violation    `json:"violations"` // the first of them
}

// maxViolations bounds what a report lists.
const maxViolations = 50

func newReport() *Report {
	return &Report{Unrecovered: make(map[string]int), Gaps: make(map[string]int), Acts: make(map[string]int), Errors: make(map[string]int)}
}

func (r *Report) fault(v Violation) {
	if r.Broken++; len(r.Violations) < maxViolations {
		r.Violations = append(r.Violations, v)
	}
}

// String is the report for people: counts, and each violation on its line.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d messages published (%d tries failed), %d delivered over %d connections; %d resumes recovered, %d not %s; "+
		"%d messages announced as lost, gaps %s, %d came unstored and %d of them once more, lagging %d, resets %d; acts %s; errors %s; %d violations",
		r.Published, r.Retried, r.Delivered, r.Connections, r.Recovered, sum(r.Unrecovered), list(r.Unrecovered),
		r.Lost, list(r.Gaps), r.Unstored, r.Repeated, r.Lagging, r.Resets, list(r.Acts), list(r.Errors), r.Broken)
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "\n  %s", v)
	}
	if more := r.Broken - len(r.Violations); more > 0 {
		fmt.Fprintf(&b, "\n  and %d more", more)
	}
	return b.String()
}

func sum(m map[string]int) (n int) {
	for _, k := range m {
		n += k
	}
	return n
}

func list(m map[string]int) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", key, m[key]))
	}
	return "(" + strings.Join(parts, ", ") + ")"
}
