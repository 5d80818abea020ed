package natsdev

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Cluster is servers that share JetStream.
type Cluster struct{ Servers []*Server }

// StartCluster runs n servers and returns when each takes part in JetStream.
func StartCluster(n int) (*Cluster, error) {
	addresses, err := FreeAddresses(n)
	if err != nil {
		return nil, err
	}
	c := &Cluster{}
	for i := range n {
		s, err := Start(Member(i, addresses, Options{}))
		if err != nil {
			c.Shutdown()
			return nil, err
		}
		c.Servers = append(c.Servers, s)
	}
	if err := c.wait(); err != nil {
		c.Shutdown()
		return nil, err
	}
	return c, nil
}

// Member are the options of server i of a cluster whose servers listen for each
// other at routes, for those who run each in a process of its own. The server is
// named after i.
func Member(i int, routes []string, o Options) Options {
	o.name, o.cluster, o.routes = MemberName(i), routes[i], routes
	return o
}

// MemberName is what server i of a cluster is called.
func MemberName(i int) string { return fmt.Sprintf("nabat-dev-%d", i) }

// wait returns when one server leads JetStream and knows all.
func (c *Cluster) wait() error {
	const patience, pause = 30 * time.Second, 10 * time.Millisecond
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(pause) {
		for _, s := range c.Servers {
			if s.server.JetStreamIsLeader() && len(s.server.JetStreamClusterPeers()) == len(c.Servers) {
				return nil
			}
		}
	}
	return errors.New("the NATS cluster has no leader")
}

// URL names all servers.
func (c *Cluster) URL() string {
	var urls []string
	for _, s := range c.Servers {
		urls = append(urls, s.URL())
	}
	return strings.Join(urls, ",")
}

// Shutdown ends all servers and removes their stores.
func (c *Cluster) Shutdown() {
	for _, s := range c.Servers {
		s.Shutdown()
	}
}

// join adds the settings of a clustered server.
func (o *Options) join(so *server.Options) error {
	if o.cluster == "" {
		return nil
	}
	addr, err := net.ResolveTCPAddr("tcp", o.cluster)
	if err != nil {
		return fmt.Errorf("cluster address: %w", err)
	}
	so.ServerName = o.name
	so.Cluster = server.ClusterOpts{Name: "nabat-dev", Host: addr.IP.String(), Port: addr.Port}
	for _, route := range o.routes {
		so.Routes = append(so.Routes, &url.URL{Scheme: "nats-route", Host: route})
	}
	return nil
}
