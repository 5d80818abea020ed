package manifests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/nats-io/nats-server/v2/server"
	"sigs.k8s.io/yaml"
)

func TestCompose(t *testing.T) {
	dir := root + "/deploy/compose"
	options, err := cli.NewProjectOptions([]string{filepath.Join(dir, "compose.yaml")}, cli.WithResolvedPaths(true))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	program := nabat(t)
	for name, s := range project.Services {
		kind, _, _ := strings.Cut(name, "-")
		counts[kind]++
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind {
				if _, err := os.Stat(v.Source); err != nil {
					t.Errorf("%s mounts what is not there: %v", name, err)
				}
			}
		}
		for _, p := range s.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %d is open to other machines", name, p.Target)
			}
		}
		if kind != "edge" && kind != "control" {
			continue
		}
		// The program takes the variables. Files of the container are not here.
		check := exec.Command(program, "check", kind)
		check.Env = os.Environ()
		for k, v := range s.Environment {
			check.Env = append(check.Env, k+"="+*v)
		}
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		} else if !strings.Contains(string(out), *s.Environment["NABAT_NATS_URL"]) {
			t.Errorf("%s: the variables are not in force: %s", name, out)
		}
		if s.StopGracePeriod == nil && kind == "edge" {
			t.Errorf("%s: killed before it has drained", name)
		}
	}
	for kind, want := range map[string]int{"nats": 3, "control": 2, "edge": 2, "proxy": 1, "prometheus": 1, "grafana": 1} {
		if counts[kind] != want {
			t.Errorf("%d of %s, want %d", counts[kind], kind, want)
		}
	}
	if out, err := exec.Command(program, "check", "--policies", filepath.Join(dir, "policies.yaml")).CombinedOutput(); err != nil {
		t.Errorf("policies: %v: %s", err, out)
	}
	t.Setenv("SERVER_NAME", "nats-1")
	if _, err := server.ProcessConfigFile(filepath.Join(dir, "nats.conf")); err != nil {
		t.Errorf("nats.conf: %v", err)
	}
}

// Every file that something else reads is at least YAML.
func TestYAMLFiles(t *testing.T) {
	for _, file := range []string{"compose/prometheus.yml", "compose/grafana.yaml", "compose/dashboards.yaml", "proxy/traefik.yaml", "proxy/envoy.yaml"} {
		text, err := os.ReadFile(filepath.Join(root, "deploy", file))
		if err != nil {
			t.Fatal(err)
		}
		var any map[string]any
		if err := yaml.UnmarshalStrict(text, &any); err != nil || len(any) == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
}
