package report

import (
	"bytes"
	"strings"
	"testing"
)

// measured is a report of a scenario with one figure for nabat and the floor.
func measured(scenario string, nabat, floor float64) *Report {
	r := &Report{Scenario: scenario, Summary: "3 members", Columns: []string{"nabat", "floor"}}
	s := r.Section("one message at a time")
	s.Set("nabat", "server CPU per delivery", Nanoseconds, nabat)
	s.Set("floor", "server CPU per delivery", Nanoseconds, floor)
	return r
}

func TestCompareShowsRatiosAndNoise(t *testing.T) {
	for _, test := range []struct {
		floor float64
		noise bool
	}{{1050, false}, {1500, true}} {
		r, err := Compare(measured("fanout", 4000, 1000), measured("fanout", 3000, test.floor))
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := r.Table(&out); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"compare fanout: 3 members", "nabat, one message at a time", "4.00 µs  3.00 µs          0.75 ×"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("no %q in:\n%s", want, out.String())
			}
		}
		if got := strings.Contains(out.String(), "The floors differ"); got != test.noise {
			t.Errorf("floor %v: noise %v:\n%s", test.floor, got, out.String())
		}
	}
}

func TestCompareRefuses(t *testing.T) {
	other := measured("fanout", 1, 1)
	other.Sections[0].Title = "something else"
	if _, err := Compare(measured("fanout", 1, 1), other); err == nil || !strings.Contains(err.Error(), "no figure in common") {
		t.Errorf("%v", err)
	}
	if _, err := Compare(measured("fanout", 1, 1), measured("idle", 1, 1)); err == nil || !strings.Contains(err.Error(), "one report is of fanout, the other of idle") {
		t.Errorf("%v", err)
	}
	for _, text := range []string{"", "hello", "{}", `{"scenario":"idle"}`} {
		if _, err := Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), "not a report") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestPageHasFiguresAndPlots(t *testing.T) {
	r := measured("fanout", 4000, 1000)
	r.Faults = []string{"<b>3</b> are missing"}
	r.Plot("latency <1>", "percentile", Decimal, Nanoseconds).Add(Line{Name: "nabat", X: []float64{1, 50, 99, 100}, Y: []float64{1e3, 2e3, 5e6, 8e6}}, 1)
	r.Plot("rate", "time", Nanoseconds, PerSecond).Add(Line{Name: "nabat", X: []float64{0, 1, 2}, Y: []float64{0, 500, 700}}, 1e9)
	r.Plot("flat", "time", Nanoseconds, Count).Add(Line{Name: "nabat", X: []float64{1, 2}, Y: []float64{0, 0}}, 1e9)
	r.Plot("one point", "time", Nanoseconds, Count).Add(Line{Name: "nabat", X: []float64{1}, Y: []float64{3}}, 1)
	var text bytes.Buffer
	if err := r.WriteJSON(&text); err != nil {
		t.Fatal(err)
	}
	again, err := Read(&text)
	if err != nil || len(again.Plots) != 4 {
		t.Fatalf("%+v, %v", again, err)
	}
	var out strings.Builder
	if err := again.WriteHTML(&out); err != nil {
		t.Fatal(err)
	}
	page := out.String()
	for _, want := range []string{"4.00 µs", "FAULT: &lt;b&gt;3", "p99.9", "10.0 ms", "latency &lt;1&gt;", "600/s"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if got := strings.Count(page, "<polyline"); got != 3 {
		t.Errorf("%d lines, want 3", got)
	}
	for _, bad := range []string{"NaN", "Inf", "http://", "https://"} {
		if strings.Contains(page, bad) {
			t.Errorf("%q in the page", bad)
		}
	}
}
