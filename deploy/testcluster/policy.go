package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"
)

// The network of the test has no plugin that knows policies: this enforces them,
// with a table of nftables in each node. It knows what networking.k8s.io/v1 says
// of pods, namespaces, blocks of addresses and ports.

type selector struct {
	MatchLabels      map[string]string
	MatchExpressions []struct {
		Key, Operator string
		Values        []string
	}
}

type peer struct {
	PodSelector, NamespaceSelector *selector
	IPBlock                        *struct {
		CIDR   string
		Except []string
	}
}

type portRule struct {
	Protocol string
	Port     any // a number, or a name
	EndPort  int
}

type meta struct {
	Name, Namespace string
	Labels          map[string]string
}

type rule struct {
	Ports    []portRule
	From, To []peer
}

type policy struct {
	Metadata meta
	Spec     struct {
		PodSelector     selector
		PolicyTypes     []string
		Ingress, Egress []rule
	}
}

type pod struct {
	Metadata meta
	Spec     struct {
		HostNetwork bool
		Containers  []struct {
			Ports []struct {
				Name          string
				ContainerPort int
				Protocol      string
			}
		}
	}
	Status struct{ PodIP, Phase string }
}

// world is what policies are about.
type world struct {
	pods       []pod
	namespaces map[string]map[string]string // labels by name
	policies   []policy
}

func (s *selector) matches(labels map[string]string) bool {
	for key, value := range s.MatchLabels {
		if has, there := labels[key]; !there || has != value {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		value, there := labels[e.Key]
		listed := there && slices.Contains(e.Values, value)
		ok := false
		switch e.Operator {
		case "In":
			ok = listed
		case "NotIn":
			ok = !listed
		case "Exists":
			ok = there
		case "DoesNotExist":
			ok = !there
		}
		if !ok {
			return false
		}
	}
	return true
}

// running reports whether p has an address that policies can be about.
func (p *pod) running() bool {
	return p.Status.PodIP != "" && !p.Spec.HostNetwork && p.Status.Phase != "Succeeded" && p.Status.Phase != "Failed"
}

// others are matches for the other side's address; field is saddr or daddr.
func (w *world) others(peers []peer, namespace, field string) (matches []string) {
	if len(peers) == 0 {
		return []string{""} // anybody
	}
	var addresses []string
	for _, p := range peers {
		if p.IPBlock != nil {
			m := fmt.Sprintf("ip %s { %s } ", field, p.IPBlock.CIDR)
			if len(p.IPBlock.Except) > 0 {
				m += fmt.Sprintf("ip %s != { %s } ", field, strings.Join(p.IPBlock.Except, ", "))
			}
			matches = append(matches, m)
			continue
		}
		for _, q := range w.pods {
			there := q.Metadata.Namespace == namespace
			if p.NamespaceSelector != nil {
				there = p.NamespaceSelector.matches(w.namespaces[q.Metadata.Namespace])
			}
			if q.running() && there && (p.PodSelector == nil || p.PodSelector.matches(q.Metadata.Labels)) {
				addresses = append(addresses, q.Status.PodIP)
			}
		}
	}
	if len(addresses) > 0 {
		slices.Sort(addresses)
		matches = append(matches, fmt.Sprintf("ip %s { %s } ", field, strings.Join(slices.Compact(addresses), ", ")))
	}
	return matches
}

// ports are matches for ports; names are those of targets.
func ports(rules []portRule, targets []pod) (matches []string) {
	if len(rules) == 0 {
		return []string{""}
	}
	for _, r := range rules {
		protocol := strings.ToLower(r.Protocol)
		if protocol == "" {
			protocol = "tcp"
		}
		switch port := r.Port.(type) {
		case nil:
			matches = append(matches, "meta l4proto "+protocol+" ")
		case float64:
			last := max(int(port), r.EndPort)
			matches = append(matches, fmt.Sprintf("%s dport %d-%d ", protocol, int(port), last))
		case string:
			for _, t := range targets {
				for _, c := range t.Spec.Containers {
					for _, p := range c.Ports {
						if p.Name == port && (p.Protocol == "" || strings.EqualFold(p.Protocol, protocol)) {
							matches = append(matches, fmt.Sprintf("%s dport %d-%d ", protocol, p.ContainerPort, p.ContainerPort))
						}
					}
				}
			}
		}
	}
	slices.Sort(matches)
	return slices.Compact(matches)
}

// chain is what may pass to or from one pod; isolated is false when no policy
// says anything about it.
func (w *world) chain(p *pod, direction string) (lines []string, isolated bool) {
	for _, policy := range w.policies {
		if policy.Metadata.Namespace != p.Metadata.Namespace || !policy.Spec.PodSelector.matches(p.Metadata.Labels) || !slices.Contains(policy.Spec.PolicyTypes, direction) {
			continue
		}
		isolated = true
		rules, field, targets := policy.Spec.Ingress, "saddr", []pod{*p}
		if direction == "Egress" {
			rules, field, targets = policy.Spec.Egress, "daddr", w.pods
		}
		for _, r := range rules {
			for _, who := range w.others(append(r.From, r.To...), policy.Metadata.Namespace, field) {
				for _, port := range ports(r.Ports, targets) {
					lines = append(lines, "  "+who+port+"return")
				}
			}
		}
	}
	return lines, isolated
}

// table is the whole table, for nft -f.
func (w *world) table() string {
	var b strings.Builder
	b.WriteString("table ip policies\ndelete table ip policies\ntable ip policies {\n")
	jumps := map[string][]string{}
	for i := range w.pods {
		p := &w.pods[i]
		if !p.running() {
			continue
		}
		for _, direction := range []string{"Ingress", "Egress"} {
			lines, isolated := w.chain(p, direction)
			if !isolated {
				continue
			}
			name := strings.ToLower(direction) + "_" + strings.ReplaceAll(p.Status.PodIP, ".", "_")
			fmt.Fprintf(&b, " chain %s {\n%s\n  counter drop\n }\n", name, strings.Join(lines, "\n"))
			jumps[direction] = append(jumps[direction], p.Status.PodIP+" : jump "+name)
		}
	}
	// After the translation of service addresses, so that pods are seen.
	b.WriteString(" chain forwarded {\n  type filter hook forward priority 10; policy accept;\n  ct state established,related accept\n")
	for direction, field := range map[string]string{"Egress": "saddr", "Ingress": "daddr"} {
		if len(jumps[direction]) > 0 {
			fmt.Fprintf(&b, "  ip %s vmap { %s }\n", field, strings.Join(jumps[direction], ", "))
		}
	}
	b.WriteString(" }\n}\n")
	return b.String()
}

// bePolicy enforces until ctx ends; args are a token and the nodes' namespaces.
func bePolicy(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return errors.New("-policy needs a token and namespaces")
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	var last world
	for first := true; ctx.Err() == nil; time.Sleep(300 * time.Millisecond) {
		w, err := look(ctx, client, args[0])
		if err != nil {
			fmt.Fprintln(os.Stderr, err) // the server restarts, or is slow: the old rules stay
			continue
		}
		if !first && reflect.DeepEqual(*w, last) {
			continue
		}
		table := w.table()
		for _, ns := range args[1:] {
			if _, err := feed(table, append(enter(ns), "nft", "-f", "-")...); err != nil {
				return fmt.Errorf("%w\n%s", err, table)
			}
		}
		fmt.Printf("%d policies, %d pods\n", len(w.policies), len(w.pods))
		first, last = false, *w
	}
	return nil
}

// look asks the API server for the world.
func look(ctx context.Context, client *http.Client, token string) (*world, error) {
	get := func(path string, into any) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, apiserver+path, nil)
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+token)
		response, err := client.Do(r)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }() // it was read
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", path, response.Status)
		}
		return json.NewDecoder(response.Body).Decode(into)
	}
	var pods struct{ Items []pod }
	var spaces struct{ Items []struct{ Metadata meta } }
	var policies struct{ Items []policy }
	err := errors.Join(get("/api/v1/pods", &pods), get("/api/v1/namespaces", &spaces), get("/apis/networking.k8s.io/v1/networkpolicies", &policies))
	if err != nil {
		return nil, err
	}
	w := &world{pods: pods.Items, policies: policies.Items, namespaces: make(map[string]map[string]string)}
	for _, s := range spaces.Items {
		w.namespaces[s.Metadata.Name] = s.Metadata.Labels
	}
	return w, nil
}
