package manifests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

// known are the metrics of METRICS.md, which a test beside the program holds to
// the code, with their labels.
func known(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile(root + "/deploy/METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(nabat_[a-z_]+)` \\| ([a-z]+) \\| ([^|]*) \\|").FindAllStringSubmatch(string(page), -1) {
		all[m[1]] = m[3]
		if m[2] == "histogram" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				all[m[1]+suffix] = m[3] + ", le"
			}
		}
	}
	// Of the client library: in every Go program.
	for _, name := range []string{"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "process_max_fds"} {
		all[name] = ""
	}
	if len(all) < 40 {
		t.Fatalf("only %d metrics in METRICS.md", len(all))
	}
	return all
}

// check parses an expression and looks up its metrics and the labels that it
// selects and groups by.
func check(t *testing.T, what, expr string, metrics map[string]string) {
	t.Helper()
	for from, to := range map[string]string{"$__rate_interval": "1m", "$node": ".*"} {
		expr = strings.ReplaceAll(expr, from, to)
	}
	tree, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		t.Errorf("%s: %v in %s", what, err, expr)
		return
	}
	labels := map[string]bool{"instance": true, "job": true, "namespace": true, "pod": true}
	var wanted []string
	parser.Inspect(tree, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			own, ok := metrics[n.Name]
			if !ok {
				t.Errorf("%s: no metric %s in METRICS.md", what, n.Name)
			}
			for l := range strings.SplitSeq(own, ", ") {
				labels[l] = true
			}
			for _, m := range n.LabelMatchers {
				if m.Name != "__name__" && !strings.Contains(own, m.Name) && !labels[m.Name] {
					t.Errorf("%s: %s has no label %s", what, n.Name, m.Name)
				}
			}
		case *parser.AggregateExpr:
			wanted = append(wanted, n.Grouping...)
		}
		return nil
	})
	for _, l := range wanted {
		if !labels[l] {
			t.Errorf("%s: grouped by %s, which none of its metrics has", what, l)
		}
	}
}

func TestAlerts(t *testing.T) {
	text, err := os.ReadFile(root + "/deploy/prometheus/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalStrict(text, &rules); err != nil {
		t.Fatal(err)
	}
	operations, err := os.ReadFile(root + "/deploy/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	metrics := known(t)
	count := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			count++
			check(t, r.Alert, r.Expr, metrics)
			if r.Annotations["summary"] == "" || r.Annotations["runbook"] == "" || r.For == "" || (r.Labels["severity"] != "critical" && r.Labels["severity"] != "warning") {
				t.Errorf("%s: needs a summary, a runbook, a time and a severity", r.Alert)
			}
			if !strings.Contains(string(operations), "`"+r.Alert+"`") {
				t.Errorf("OPERATIONS.md does not say what to do for %s", r.Alert)
			}
		}
	}
	if count < 10 {
		t.Errorf("only %d alerts", count)
	}
}

func TestDashboard(t *testing.T) {
	text, err := os.ReadFile(root + "/deploy/grafana/nabat.json")
	if err != nil {
		t.Fatal(err)
	}
	type panel struct {
		ID      int
		Title   string
		Type    string
		GridPos struct{ X, Y, W, H int }
		Targets []struct{ Expr, RefID string }
	}
	var board struct {
		Title, UID string
		Panels     []panel
		Templating struct {
			List []struct {
				Name  string
				Query any
			}
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	metrics := known(t)
	ids := map[int]bool{}
	for i, p := range board.Panels {
		if ids[p.ID] || p.Title == "" {
			t.Errorf("panel %d %q: id twice, or no title", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			check(t, p.Title, target.Expr, metrics)
		}
		for _, q := range board.Panels[:i] {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("%s lies over %s", p.Title, q.Title)
			}
		}
	}
	if len(board.Panels) < 20 {
		t.Errorf("only %d panels", len(board.Panels))
	}
}

// The chart can only read files of its own folder.
func TestTheChartHasTheSameFiles(t *testing.T) {
	for file, source := range map[string]string{"nabat.json": "grafana/nabat.json", "rules.yaml": "prometheus/rules.yaml"} {
		want, err := os.ReadFile(filepath.Join(root, "deploy", source))
		if err != nil {
			t.Fatal(err)
		}
		golden(t, filepath.Join(chartDir, "files", file), want)
	}
}
