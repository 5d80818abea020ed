// Package manifests checks what is deployed: the chart, the dashboard, the
// alerts and the compose file. It is a module of its own, since it needs Helm,
// Kubernetes and Prometheus as libraries.
package manifests

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write golden files and generated pages anew")

const (
	root     = "../.."
	chartDir = root + "/charts/nabat"
	release  = "rel"
	space    = "prod"
)

// loadChart reads the chart as Helm does.
func loadChart(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// values reads one file of values.
func values(t *testing.T, file string) map[string]any {
	t.Helper()
	v, err := chartutil.ReadValuesFile(filepath.Join(chartDir, file))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// cluster answers lookup with secrets.
type cluster []runtime.Object

func (c cluster) GetClientFor(apiVersion, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	s := runtime.NewScheme()
	if err := corev1.AddToScheme(s); err != nil {
		return nil, false, err
	}
	if apiVersion != "v1" || kind != "Secret" {
		return nil, false, fmt.Errorf("the chart looks up %s %s: only secrets are expected", apiVersion, kind)
	}
	return fake.NewSimpleDynamicClient(s, c...).Resource(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}), true, nil
}

func secret(name string, keys ...string) *corev1.Secret {
	s := &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: space}, Data: map[string][]byte{}}
	for _, k := range keys {
		s.Data[k] = []byte("kept-" + k)
	}
	return s
}

var roles = []string{"admin", "backend", "control", "edge", "route", "system"}

// installed is a cluster that has the secrets of an earlier install.
func installed() cluster {
	return cluster{secret("rel-nabat-control-api-key", "api-key"), secret("rel-nabat-nats-auth", roles...)}
}

// render returns the chart's files for values, or why it refuses them.
func render(t *testing.T, v map[string]any, c cluster) (map[string]string, error) {
	t.Helper()
	ch := loadChart(t)
	caps := chartutil.DefaultCapabilities.Copy()
	caps.KubeVersion = chartutil.KubeVersion{Version: "v1.30.0", Major: "1", Minor: "30"}
	top, err := chartutil.ToRenderValues(ch, v, chartutil.ReleaseOptions{Name: release, Namespace: space, Revision: 1, IsInstall: true}, caps)
	if err != nil {
		return nil, err
	}
	return engine.RenderWithClientProvider(ch, top, c)
}

// mustRender is render for values that are good.
func mustRender(t *testing.T, v map[string]any) map[string]string {
	t.Helper()
	files, err := render(t, v, installed())
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// documents are the objects of a render, in order.
func documents(files map[string]string) []string {
	var docs []string
	names := make([]string, 0, len(files))
	for name := range files {
		if strings.HasSuffix(name, ".yaml") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		for _, doc := range strings.Split("\n"+files[name], "\n---") {
			var any map[string]any
			if err := yaml.Unmarshal([]byte(doc), &any); err == nil && len(any) == 0 {
				continue
			}
			docs = append(docs, "# "+name+"\n"+strings.Trim(doc, "\n")+"\n")
		}
	}
	return docs
}

// find decodes the object of that kind and name into out.
func find(t *testing.T, files map[string]string, kind, name string, out any) {
	t.Helper()
	for _, doc := range documents(files) {
		var id struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if err := yaml.Unmarshal([]byte(doc), &id); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if id.Kind == kind && id.Metadata.Name == name {
			if err := yaml.Unmarshal([]byte(doc), out); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no %s %s", kind, name)
}

// cases are the sets of values that must render.
func cases(t *testing.T) map[string]map[string]any {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(chartDir, "ci", "*-values.yaml"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%v: %v", files, err)
	}
	all := map[string]map[string]any{"production": values(t, "values-production.yaml")}
	for _, f := range files {
		all[strings.TrimSuffix(filepath.Base(f), "-values.yaml")] = values(t, filepath.Join("ci", filepath.Base(f)))
	}
	return all
}

func TestLint(t *testing.T) {
	for name, v := range cases(t) {
		l := lint.AllWithKubeVersion(chartDir, v, space, &chartutil.KubeVersion{Version: "v1.30.0", Major: "1", Minor: "30"})
		for _, m := range l.Messages {
			if m.Severity > support.InfoSev {
				t.Errorf("%s: %s", name, m)
			}
		}
	}
}

// golden compares got with a file, which -update writes.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return
	}
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			t.Fatalf("%s is stale at line %d: run go test -update here and look at the difference\ngot  %q\nwant %q", file, i+1, g[i], w[min(i, len(w)-1)])
		}
	}
	t.Fatalf("%s is stale: it is longer than what is rendered", file)
}

func TestGolden(t *testing.T) {
	for name, v := range cases(t) {
		t.Run(name, func(t *testing.T) {
			files := mustRender(t, v)
			text := strings.Join(documents(files), "---\n")
			// The version of the chart and the dashboard change for other reasons.
			text = strings.ReplaceAll(text, "helm.sh/chart: nabat-"+loadChart(t).Metadata.Version, "helm.sh/chart: nabat-X")
			if board, err := os.ReadFile(filepath.Join(chartDir, "files", "nabat.json")); err == nil {
				indented := strings.ReplaceAll(strings.TrimSpace(string(board)), "\n", "\n    ")
				text = strings.Replace(text, indented, "(the dashboard)", 1)
			}
			golden(t, "testdata/"+name+".yaml", []byte(text+"---\n"+files["nabat/templates/NOTES.txt"]))
		})
	}
}

func TestSecretsSurviveUpgrades(t *testing.T) {
	first, err := render(t, nil, cluster{})
	if err != nil {
		t.Fatal(err)
	}
	var auth corev1.Secret
	find(t, first, "Secret", "rel-nabat-nats-auth", &auth)
	seen := map[string]bool{}
	for _, role := range roles {
		v := string(auth.Data[role])
		if len(v) != 40 || strings.Trim(v, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" || seen[v] {
			t.Errorf("password of %s: %q", role, v)
		}
		seen[v] = true
	}
	if auth.Annotations["helm.sh/resource-policy"] != "keep" {
		t.Error("an uninstall would take the passwords with it")
	}
	// An upgrade keeps what is there and adds what is missing.
	delete(auth.Data, "backend")
	auth.Data["edge"] = []byte("mine")
	second, err := render(t, nil, cluster{&auth})
	if err != nil {
		t.Fatal(err)
	}
	var after corev1.Secret
	find(t, second, "Secret", "rel-nabat-nats-auth", &after)
	if string(after.Data["edge"]) != "mine" || string(after.Data["admin"]) != string(auth.Data["admin"]) || len(after.Data["backend"]) != 40 {
		t.Errorf("after the upgrade: %q", after.Data)
	}
	// Pods do not change with them.
	for _, name := range []string{"edge.yaml", "control.yaml", "nats.yaml"} {
		if first["nabat/templates/"+name] != second["nabat/templates/"+name] {
			t.Errorf("%s changes with a generated secret", name)
		}
	}
}
