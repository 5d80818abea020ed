package account

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Runtime is what a Go program says about itself on its operations port.
type Runtime struct {
	Heap       uint64  `json:"heap"`   // bytes of heap spans in use
	Stacks     uint64  `json:"stacks"` // bytes of goroutine stacks
	Objects    uint64  `json:"objects"`
	Goroutines int     `json:"goroutines"`
	Deliveries float64 `json:"deliveries,omitempty"` // nabat_edge_deliveries_total
	Sends      float64 `json:"sends,omitempty"`      // nabat_edge_sends_total
}

// maxScrape bounds the answer of an operations port.
const maxScrape = 8 << 20

// Scrape collects the target's garbage through /debug/pprof/heap?gc=1, where
// the target serves it, and reads /metrics. ops is the base URL.
func Scrape(ctx context.Context, ops string) (Runtime, error) {
	base := strings.TrimSuffix(ops, "/")
	if _, err := fetch(ctx, base+"/debug/pprof/heap?gc=1"); err != nil {
		var status statusError
		if !errors.As(err, &status) {
			return Runtime{}, err
		}
	}
	text, err := fetch(ctx, base+"/metrics")
	if err != nil {
		return Runtime{}, err
	}
	return parseMetrics(string(text))
}

type statusError string

func (e statusError) Error() string { return string(e) }

func fetch(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("operations port: %w", err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("operations port: %w", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxScrape))
	if err != nil {
		return nil, fmt.Errorf("operations port: %s: %w", url, err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, statusError(fmt.Sprintf("operations port: %s answered %s", url, answer.Status))
	}
	return body, nil
}

// Samples reads /metrics. Samples of one name with different labels are added
// up. ops is the base URL.
func Samples(ctx context.Context, ops string) (map[string]float64, error) {
	text, err := fetch(ctx, strings.TrimSuffix(ops, "/")+"/metrics")
	if err != nil {
		return nil, err
	}
	return parseSamples(string(text))
}

// parseSamples reads the Prometheus text format.
func parseSamples(text string) (map[string]float64, error) {
	values := make(map[string]float64)
	for line := range strings.Lines(text) {
		if line[0] == '#' {
			continue
		}
		name, value, found := strings.Cut(strings.TrimSpace(line), " ")
		if at := strings.LastIndexByte(line, '}'); at >= 0 {
			name, _, _ = strings.Cut(line, "{")
			value = strings.TrimSpace(line[at+1:])
		} else if !found {
			continue
		}
		value, _, _ = strings.Cut(value, " ") // a time stamp may follow
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: %s: %w", name, err)
		}
		values[name] += n
	}
	return values, nil
}

// parseMetrics takes what Runtime holds out of the Prometheus text format.
func parseMetrics(text string) (Runtime, error) {
	values, err := parseSamples(text)
	if err != nil {
		return Runtime{}, err
	}
	if _, found := values["go_goroutines"]; !found {
		return Runtime{}, errors.New("metrics: no go_goroutines: not the operations port of a Go program")
	}
	return Runtime{
		Heap:       uint64(values["go_memstats_heap_inuse_bytes"]),
		Stacks:     uint64(values["go_memstats_stack_inuse_bytes"]),
		Objects:    uint64(values["go_memstats_heap_objects"]),
		Goroutines: int(values["go_goroutines"]),
		Deliveries: values["nabat_edge_deliveries_total"],
		Sends:      values["nabat_edge_sends_total"],
	}, nil
}
