package main

import (
	"cmp"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"nabat/control"
	"nabat/edge"
	"nabat/internal/natsdev"
)

var updatePages = flag.Bool("update", false, "write generated pages anew")

// metric is one line of METRICS.md.
type metric struct{ name, kind, labels, help string }

var descOf = regexp.MustCompile(`^Desc\{fqName: "([^"]*)", help: "((?:[^"\\]|\\.)*)", constLabels: \{[^}]*\}, variableLabels: \{([^}]*)\}\}$`)

// metricsOf lists what the programs register.
func metricsOf(t *testing.T) []metric {
	t.Helper()
	reg := prometheus.NewRegistry()
	edgeConfig, controlConfig := edge.Defaults(), control.Defaults()
	edgeConfig.Listen, edgeConfig.OpsListen = "127.0.0.1:0", ""
	controlConfig.Listen, controlConfig.OpsListen, controlConfig.Dev = "127.0.0.1:0", "", true
	server, _ := startNATS(t, natsdev.Options{})
	edgeConfig.NATSURL, controlConfig.NATSURL = server.URL(), server.URL()
	log := slog.New(slog.DiscardHandler)
	if _, err := edge.New(edgeConfig, log, reg); err != nil {
		t.Fatal(err)
	}
	if _, err := control.New(controlConfig, log, reg); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	kinds := make(map[string]string) // of those that have samples
	for _, f := range families {
		kinds[f.GetName()] = strings.ToLower(f.GetType().String())
	}
	descs := make(chan *prometheus.Desc)
	go func() { reg.Describe(descs); close(descs) }()
	var all []metric
	for d := range descs {
		m := descOf.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("%s: not understood", d)
		}
		kind := "gauge"
		switch {
		case strings.HasSuffix(m[1], "_total"):
			kind = "counter"
		case strings.HasSuffix(m[1], "_request_seconds"):
			kind = "histogram"
		}
		if k := cmp.Or(kinds[m[1]], kind); k != kind {
			t.Errorf("%s is a %s and is named like a %s", m[1], k, kind)
		}
		all = append(all, metric{m[1], kind, strings.ReplaceAll(m[3], ",", ", "), m[2]})
	}
	slices.SortFunc(all, func(a, b metric) int { return strings.Compare(a.name, b.name) })
	return all
}

const metricsHead = `# Metrics

What the operations port serves at ` + "`/metrics`" + `, beside the Go runtime's and the process's own metrics
(` + "`go_…`, `process_…`" + `). This page is made by TestMetricsPage in deploy/nabat, with -update, from what the programs
register; the same test fails when it is stale.

Labels: ` + "`node`" + ` is the edge's name. ` + "`code`" + ` is a code of [PROTOCOL.md](../proto/PROTOCOL.md); refusals also
count under ` + "`max_connections`, `no_descriptors` and `accept_rate`" + `, what clients see as ` + "`overloaded`" + `. ` + "`reason`" + ` and
` + "`outcome`" + ` come from small closed sets. No label grows with clients or rooms.

The dashboard is [grafana/nabat.json](grafana/nabat.json), the alerts are
[prometheus/rules.yaml](prometheus/rules.yaml).

| metric | kind | labels | what |
|---|---|---|---|
`

func TestMetricsPage(t *testing.T) {
	var page strings.Builder
	page.WriteString(metricsHead)
	all := metricsOf(t)
	for _, m := range all {
		if m.help == "" {
			t.Errorf("%s has no help", m.name)
		}
		fmt.Fprintf(&page, "| `%s` | %s | %s | %s |\n", m.name, m.kind, cmp.Or(m.labels, "–"), strings.ReplaceAll(m.help, "|", "\\|"))
	}
	if len(all) < 40 {
		t.Errorf("only %d metrics", len(all))
	}
	const file = "../METRICS.md"
	if *updatePages {
		if err := os.WriteFile(file, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != page.String() {
		t.Errorf("deploy/METRICS.md is stale (%v): run go test ./deploy/nabat -run TestMetricsPage -update", err)
	}
}
