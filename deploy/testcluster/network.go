package main

import (
	"os"
	"path/filepath"
	"strconv"
)

// The cluster lives in network namespaces of its own and is not reachable from
// outside of them: one for the control plane, the clients and the routes between
// the nodes, and one for each node.
const (
	routerNS    = "nabat-test"
	routerIP    = "10.88.0.1"
	podNetwork  = "10.244.0.0/16"
	serviceNet  = "10.96.0.0/16"
	dnsAddress  = routerIP
	namespaces  = "/run/netns"
	apiserver   = "https://" + routerIP + ":6443"
	bridge      = "br0"
	nodesSubnet = "10.88.0.0/24"
)

func nodeName(i int) string { return "n" + strconv.Itoa(i) }
func nodeNS(i int) string   { return routerNS + "-" + nodeName(i) }
func nodeIP(i int) string   { return "10.88.0.1" + strconv.Itoa(i) }
func podSubnet(i int) string {
	return "10.244." + strconv.Itoa(i) + ".0/24"
}

// enter is the beginning of a command that runs in a network namespace.
func enter(ns string) []string { return []string{"nsenter", "--net=" + filepath.Join(namespaces, ns)} }

// makeRouter makes the namespace of the control plane.
func makeRouter() error {
	in := "nsenter --net=" + filepath.Join(namespaces, routerNS) + " "
	return all(
		"ip netns add "+routerNS,
		in+"ip link set lo up",
		in+"ip link add "+bridge+" type bridge",
		in+"ip addr add "+routerIP+"/24 dev "+bridge,
		in+"ip link set "+bridge+" up",
		in+"sysctl -qw net.ipv4.ip_forward=1",
		// Services are nowhere: what goes there is turned to a pod on its way out.
		in+"ip route add "+serviceNet+" dev "+bridge,
	)
}

// makeNode makes the namespace of node i and connects it.
func makeNode(i int) error {
	ns, veth := nodeNS(i), "v-"+nodeName(i)
	router := "nsenter --net=" + filepath.Join(namespaces, routerNS) + " "
	in := "nsenter --net=" + filepath.Join(namespaces, ns) + " "
	return all(
		"ip netns add "+ns,
		router+"ip link add "+veth+" type veth peer name eth0 netns "+ns,
		router+"ip link set "+veth+" master "+bridge+" up",
		in+"ip link set lo up",
		in+"ip addr add "+nodeIP(i)+"/24 dev eth0",
		in+"ip link set eth0 up",
		in+"ip route add default via "+routerIP,
		in+"sysctl -qw net.ipv4.ip_forward=1",
		// So that policies also see what goes between two pods of a node.
		in+"sysctl -qw net.bridge.bridge-nf-call-iptables=1",
		router+"ip route replace "+podSubnet(i)+" via "+nodeIP(i),
	)
}

// removeNamespace deletes one, if it is there.
func removeNamespace(ns string) error {
	if _, err := os.Stat(filepath.Join(namespaces, ns)); os.IsNotExist(err) {
		return nil
	}
	_, err := do("ip", "netns", "del", ns)
	return err
}
