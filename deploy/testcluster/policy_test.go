package main

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

// someWorld has three pods and the policies of text.
func someWorld(t *testing.T, policies string) *world {
	t.Helper()
	w := &world{namespaces: map[string]map[string]string{"a": {"team": "a"}, "b": {"team": "b"}}}
	pods := `[
		{"metadata":{"name":"edge","namespace":"a","labels":{"app":"edge"}},"status":{"podIP":"10.244.1.2","phase":"Running"},
		 "spec":{"containers":[{"ports":[{"name":"http","containerPort":8080,"protocol":"TCP"},{"name":"ops","containerPort":9090}]}]}},
		{"metadata":{"name":"nats","namespace":"a","labels":{"app":"nats"}},"status":{"podIP":"10.244.2.2","phase":"Running"}},
		{"metadata":{"name":"other","namespace":"b","labels":{"app":"nats"}},"status":{"podIP":"10.244.1.3","phase":"Running"}},
		{"metadata":{"name":"done","namespace":"a","labels":{"app":"edge"}},"status":{"podIP":"10.244.1.9","phase":"Succeeded"}},
		{"metadata":{"name":"host","namespace":"a","labels":{"app":"edge"}},"status":{"podIP":"10.88.0.11","phase":"Running"},"spec":{"hostNetwork":true}}]`
	for text, into := range map[string]any{pods: &w.pods, policies: &w.policies} {
		if err := json.Unmarshal([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// about makes a list of one policy about the pods app=edge of namespace a.
func about(spec string) string {
	return `[{"metadata":{"namespace":"a"},"spec":{"podSelector":{"matchLabels":{"app":"edge"}},` + spec + `}}]`
}

func TestPoliciesBecomeRules(t *testing.T) {
	for _, c := range []struct {
		rule, policies string
		want           []string // of the chain of the edge
		direction      string
	}{
		{"a policy without rules lets nothing in", about(`"policyTypes":["Ingress"]`), nil, "Ingress"},
		{"a rule without peers is for anybody", about(`"policyTypes":["Ingress"],"ingress":[{"ports":[{"port":8080}]}]`), []string{"tcp dport 8080-8080 return"}, "Ingress"},
		{"a named port is the pod's", about(`"policyTypes":["Ingress"],"ingress":[{"ports":[{"port":"http"}]}]`), []string{"tcp dport 8080-8080 return"}, "Ingress"},
		{"a port of a pod that names no protocol is TCP's", about(`"policyTypes":["Ingress"],"ingress":[{"ports":[{"port":"ops"}]}]`), []string{"tcp dport 9090-9090 return"}, "Ingress"},
		{"a name that no pod has lets nothing in", about(`"policyTypes":["Ingress"],"ingress":[{"ports":[{"port":"none"}]}]`), nil, "Ingress"},
		{"pods are those of the namespace", about(`"policyTypes":["Ingress"],"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"nats"}}}]}]`), []string{"ip saddr { 10.244.2.2 } return"}, "Ingress"},
		{"pods of other namespaces need a selector", about(`"policyTypes":["Ingress"],"ingress":[{"from":[{"namespaceSelector":{"matchLabels":{"team":"b"}},"podSelector":{"matchLabels":{"app":"nats"}}}]}]`), []string{"ip saddr { 10.244.1.3 } return"}, "Ingress"},
		{"an empty selector of namespaces is all that run", about(`"policyTypes":["Ingress"],"ingress":[{"from":[{"namespaceSelector":{}}]}]`), []string{"ip saddr { 10.244.1.2, 10.244.1.3, 10.244.2.2 } return"}, "Ingress"},
		{"a peer that matches nobody lets nobody in", about(`"policyTypes":["Ingress"],"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"none"}}}]}]`), nil, "Ingress"},
		{"a block with a hole", about(`"policyTypes":["Ingress"],"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.88.0.0/24"]}}]}]`), []string{"ip saddr { 10.0.0.0/8 } ip saddr != { 10.88.0.0/24 } return"}, "Ingress"},
		{"outwards it is the destination", about(`"policyTypes":["Egress"],"egress":[{"to":[{"podSelector":{"matchLabels":{"app":"nats"}}}],"ports":[{"port":4222}]},{"ports":[{"port":53,"protocol":"UDP"}]}]`), []string{"ip daddr { 10.244.2.2 } tcp dport 4222-4222 return", "udp dport 53-53 return"}, "Egress"},
		{"a range of ports", about(`"policyTypes":["Egress"],"egress":[{"ports":[{"port":100,"endPort":200}]}]`), []string{"tcp dport 100-200 return"}, "Egress"},
	} {
		w := someWorld(t, c.policies)
		lines, isolated := w.chain(&w.pods[0], c.direction)
		for i := range lines {
			lines[i] = strings.TrimSpace(lines[i])
		}
		if !isolated || strings.Join(lines, "\n") != strings.Join(c.want, "\n") {
			t.Errorf("%s: %q, isolated %t", c.rule, lines, isolated)
		}
		if _, isolated := w.chain(&w.pods[1], c.direction); isolated {
			t.Errorf("%s: the policy is about another pod", c.rule)
		}
		checkTable(t, c.rule, w)
	}
}

// checkTable lets nft read the table; only policies about running pods are in it.
func checkTable(t *testing.T, rule string, w *world) {
	t.Helper()
	table := w.table()
	if strings.Contains(table, "10.244.1.9 :") || strings.Contains(table, "10.88.0.11 :") {
		t.Errorf("%s: pods that have ended, or use the node's network, have chains:\n%s", rule, table)
	}
	if !strings.Contains(table, "10.244.1.2 : jump") {
		t.Errorf("%s: the edge has no chain:\n%s", rule, table)
	}
	if _, err := exec.LookPath("nft"); err != nil || needed() != nil {
		return
	}
	if _, err := feed(table, "unshare", "--net", "nft", "-f", "-"); err != nil {
		t.Errorf("%s: %v\n%s", rule, err, table)
	}
}

func TestSelectorsMatchLabels(t *testing.T) {
	labels := map[string]string{"app": "edge", "tier": "front"}
	for text, want := range map[string]bool{
		`{}`:                             true,
		`{"matchLabels":{"app":"edge"}}`: true,
		`{"matchLabels":{"app":"nats"}}`: false,
		`{"matchExpressions":[{"key":"app","operator":"In","values":["edge","nats"]}]}`:   true,
		`{"matchExpressions":[{"key":"app","operator":"NotIn","values":["edge"]}]}`:       false,
		`{"matchExpressions":[{"key":"none","operator":"NotIn","values":["edge"]}]}`:      true,
		`{"matchExpressions":[{"key":"none","operator":"In","values":[""]}]}`:             false,
		`{"matchExpressions":[{"key":"tier","operator":"Exists"}]}`:                       true,
		`{"matchExpressions":[{"key":"tier","operator":"DoesNotExist"}]}`:                 false,
		`{"matchExpressions":[{"key":"tier","operator":"Resembles","values":["front"]}]}`: false,
	} {
		var s selector
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatal(err)
		}
		if got := s.matches(labels); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
}
