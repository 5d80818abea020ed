package manifests

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// setting is one value of values.yaml.
type setting struct{ key, fallback, text string }

var (
	valueLine   = regexp.MustCompile(`^( *)([A-Za-z][A-Za-z0-9]*):(?: (.*))?$`)
	commentLine = regexp.MustCompile(`^ *# -- (.+)$`)
)

// settings reads values.yaml by its lines: each key with a comment "# -- …" is a
// setting, and its value the default.
func settings(t *testing.T, text string) []setting {
	t.Helper()
	var all []setting
	var path []string
	comment, documented := "", -1
	for i, line := range strings.Split(text, "\n") {
		if m := commentLine.FindStringSubmatch(line); m != nil {
			comment = m[1]
			continue
		}
		m := valueLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		depth := len(m[1]) / 2
		if documented >= 0 && depth > documented {
			continue // within a value that was described as a whole
		}
		documented = -1
		path = append(path[:min(depth, len(path))], m[2])
		if comment == "" {
			if m[3] != "" {
				t.Errorf("values.yaml:%d: %s has no comment \"# -- …\"", i+1, strings.Join(path, "."))
			}
			continue
		}
		if m[3] == "" {
			documented = depth
		}
		all = append(all, setting{strings.Join(path, "."), m[3], comment})
		comment = ""
	}
	return all
}

const readmeHead = `# The chart

Nabat on Kubernetes 1.30 or later: an edge Deployment, a control Deployment, and NATS with JetStream as a
StatefulSet, or an external NATS. All three run from one image.

` + "```" + `
helm install nabat charts/nabat
helm test nabat
` + "```" + `

That is complete and small: two edges, two controls, one NATS server with a volume. Nothing is open to clients
without a token until ` + "`policies`" + ` says so. ` + "`values-production.yaml`" + ` is a start for more, and
[OPERATIONS.md](../../deploy/OPERATIONS.md) the way from an empty cluster to a monitored installation behind a
balancer.

**Image.** ` + "`image.repository`" + ` is the image that ` + "`deploy/image`" + ` builds; push it where your cluster pulls from, and
name that place in ` + "`image.registry`" + `.

**Rollouts.** A stopping edge waits ` + "`edge.preStopSeconds`" + ` until no balancer sends it new clients, then closes its
connections over ` + "`edge.drainSeconds`" + `; the grace period is the sum and ` + "`edge.slackSeconds`" + `. All new pods are there
before the first old one stops (` + "`maxSurge: 100%`" + `), so that each client reconnects once. Without room for twice
the pods take ` + "`maxSurge: 1`" + `: some clients then reconnect to a pod that goes next.

**Secrets.** The API key and one password for each role at NATS are generated at the first install, found again by
upgrades, and kept over an uninstall. Tools that render without a cluster, as Argo CD does, would make new ones
each time: make the secrets yourself, name them in ` + "`existingSecret`" + `, and set ` + "`global.gitops`" + ` so that the chart
refuses to generate any. No change of a secret restarts a pod; after a rotation run
` + "`kubectl rollout restart`" + `. Passwords are letters and digits.

**NATS.** With ` + "`nats.enabled`" + ` backends publish to ` + "`nats://<release>-nabat-nats:4222`" + ` as the user ` + "`backend`" + `. Each
role may do what it needs, as in [deploy/nats](../../deploy/nats/README.md); ` + "`nats.permissions`" + ` says otherwise. For a NATS of your own see ` + "`externalNats`" + `; values for the
official chart are in [OPERATIONS.md](../../deploy/OPERATIONS.md#8-nats-of-your-own).

**Values.** Unknown keys and impossible combinations are refused. Settings of the programs that have no value here
go into ` + "`edge.config`" + ` and ` + "`control.config`" + ` under their own names (` + "`nabat edge --help`" + `, with ` + "`_`" + ` for ` + "`-`" + `).

| value | default | what |
|---|---|---|
`

func TestReadmeIsMadeOfTheValues(t *testing.T) {
	text, err := os.ReadFile(chartDir + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var page strings.Builder
	page.WriteString(readmeHead)
	all := settings(t, string(text))
	for _, s := range all {
		fallback := "see values.yaml"
		if s.fallback != "" {
			fallback = "`" + s.fallback + "`"
		}
		fmt.Fprintf(&page, "| `%s` | %s | %s |\n", s.key, fallback, strings.ReplaceAll(s.text, "|", "\\|"))
	}
	if len(all) < 150 {
		t.Errorf("only %d settings", len(all))
	}
	page.WriteString("\nThe table is made of values.yaml: `go test -run Readme -update` in deploy/manifests.\n")
	golden(t, chartDir+"/README.md", []byte(page.String()))
}

// TestTheSchemaFollowsTheValues: every fixed object refuses unknown keys, and
// knows all that values.yaml has.
func TestTheSchemaFollowsTheValues(t *testing.T) {
	text, err := os.ReadFile(chartDir + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if text, err = os.ReadFile(chartDir + "/values.schema.json"); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	compare(t, "", v, schema)
}

func compare(t *testing.T, path string, v any, schema map[string]any) {
	properties, fixed := schema["properties"].(map[string]any)
	if !fixed {
		return
	}
	if path != ".global" && schema["additionalProperties"] != false {
		t.Errorf("schema of %s takes unknown keys", path)
	}
	object, ok := v.(map[string]any)
	if !ok {
		t.Errorf("%s is no object in values.yaml", path)
		return
	}
	var keys []string
	for k := range object {
		keys = append(keys, k)
	}
	for k := range properties {
		if !slices.Contains(keys, k) && !strings.HasPrefix(path, ".nats.permissions.") {
			t.Errorf("%s.%s is in the schema, not in values.yaml", path, k)
		}
	}
	for _, k := range keys {
		sub, ok := properties[k].(map[string]any)
		if !ok {
			t.Errorf("%s.%s is not in the schema", path, k)
			continue
		}
		compare(t, path+"."+k, object[k], sub)
	}
}
