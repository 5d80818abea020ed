package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"nabat/control"
	"nabat/edge"
	"nabat/internal/natsdev"
)

// devConfig is the configuration of nabat dev.
type devConfig struct {
	// EdgeListen is the first edge's address for clients. Port 0 picks a free one.
	EdgeListen string `config:"edge_listen" help:"address for clients; with several edges, of the first one"`
	// ControlListen is where control serves its page and its API.
	ControlListen string `config:"control_listen" help:"address of the page and the API"`
	// NATSListen is where backends connect.
	NATSListen string `config:"nats_listen" help:"address of the NATS server"`
	// OpsListen serves health, readiness, metrics and profiles of all parts.
	OpsListen string `config:"ops_listen" help:"address of the operations port (health, metrics, pprof)"`
	// Edges is how many edges run. Default 1. Range 1–64.
	Edges int `config:"edges" help:"edges; each takes the next port"`
	// Data is where NATS stores. Empty: a temporary folder, removed at the end.
	Data string `config:"data" help:"folder for what NATS stores; a temporary one when empty"`
	// Policies is a YAML file. Empty: everything is open to anonymous clients.
	Policies string `config:"policies" help:"YAML file with room policies; all open when empty"`
	// APIKeyFile holds the key of control's API. Needed only when ControlListen
	// is not a loopback address.
	APIKeyFile string `config:"api_key_file" help:"file with the key of the HTTP API; needed when control_listen is not a loopback address"`
	// LogLevel is debug, info, warn or error. Default warn.
	LogLevel string `config:"log_level" help:"debug, info, warn or error"`
	// LogFormat is text or json.
	LogFormat string `config:"log_format" help:"text or json"`
}

func devDefaults() devConfig {
	return devConfig{
		EdgeListen: "127.0.0.1:8080", ControlListen: "127.0.0.1:8090", NATSListen: "127.0.0.1:4222", OpsListen: "127.0.0.1:9090",
		Edges: 1, LogLevel: "warn", LogFormat: "text",
	}
}

// Check reports the first setting that cannot work.
func (c *devConfig) Check() error {
	if c.Edges < 1 || c.Edges > 64 {
		return fmt.Errorf("edges is %d: must be 1 to 64", c.Edges)
	}
	for key, address := range map[string]string{"edge_listen": c.EdgeListen, "control_listen": c.ControlListen, "nats_listen": c.NATSListen, "ops_listen": c.OpsListen} {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return fmt.Errorf("%s is %q: must be host:port", key, address)
		}
		n, err := strconv.Atoi(port)
		if err != nil || n < 0 || n > 65535 {
			return fmt.Errorf("%s is %q: the port must be a number from 0 to 65535", key, address)
		}
		if key == "edge_listen" && n != 0 && n+c.Edges-1 > 65535 {
			return fmt.Errorf("edge_listen is %q: there are no %d ports from there", address, c.Edges)
		}
	}
	return nil
}

func (a *app) devCommand() *cobra.Command {
	cfg := devDefaults()
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run NATS, control and an edge in one process, without configuration",
		Long: "Run NATS with JetStream, control and an edge in one process, without\n" +
			"configuration. Clients need no token. For development: everything is open, and\n" +
			"what NATS stores is gone at the end unless --data is given.",
		Example: "  nabat dev\n  nabat dev --edges 2 --data ./data",
		Args:    exactly(),
	}
	s := a.settings(cmd, &cfg)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if printed, err := s.load(); printed || err != nil {
			return err
		}
		stop, hurry, release := signals(cmd.Context())
		defer release()
		return (&dev{app: a, cfg: &cfg}).run(s, stop, hurry)
	}
	return cmd
}

// dev is all parts in one process.
type dev struct {
	app *app
	cfg *devConfig

	host    *host
	nats    *natsdev.Server
	edges   []*unit
	control *unit
}

func (d *dev) run(s *settings, stop, hurry <-chan struct{}) (err error) {
	if d.host, err = d.app.newHost(d.cfg.LogLevel, d.cfg.LogFormat, d.cfg.OpsListen); err != nil {
		return err
	}
	s.logTo(d.host.log)
	err = d.start(stop)
	if err == nil {
		select {
		case err = <-d.host.failed:
		case <-stop:
		}
	}
	return errors.Join(err, d.end(hurry))
}

// start brings everything up and says so. It returns early and without an error
// when stop closes.
func (d *dev) start(stop <-chan struct{}) (err error) {
	if d.nats, err = natsdev.Start(natsdev.Options{Listen: d.cfg.NATSListen, Dir: d.cfg.Data}); err != nil {
		return takenPort(err, "nats-listen", d.cfg.NATSListen)
	}
	for i := range d.cfg.Edges {
		e, err := edge.New(d.edgeConfig(i), d.host.log, d.registry(i))
		if err != nil {
			return takenPort(err, "edge-listen", d.edgeListen(i))
		}
		d.edges = append(d.edges, launch("edge-"+strconv.Itoa(i), e, d.host.failed))
	}
	c, err := control.New(d.controlConfig(d.edges[0].Addr()), d.host.log, d.host.registry)
	if err != nil {
		return takenPort(err, "control-listen", d.cfg.ControlListen)
	}
	d.control = launch("control", c, d.host.failed)
	units := append([]*unit{d.control}, d.edges...)
	d.host.units.Store(&units)
	ready, err := d.wait(stop)
	if ready {
		d.say()
	}
	return err
}

// wait returns true when all parts are ready.
func (d *dev) wait(stop <-chan struct{}) (ready bool, err error) {
	const patience = time.Minute
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		problem := d.host.ready()
		if problem == nil {
			return true, nil
		}
		select {
		case <-poll.C:
		case <-stop:
			return false, nil
		case err := <-d.host.failed:
			return false, err
		case <-deadline.C:
			return false, fmt.Errorf("not ready after %s: %w", patience, problem)
		}
	}
}

// end stops in the order in which parts depend on each other.
func (d *dev) end(hurry <-chan struct{}) error {
	err := stopAll(d.edges, hurry)
	if d.control != nil {
		err = errors.Join(err, stopAll([]*unit{d.control}, hurry))
	}
	err = errors.Join(err, d.host.close())
	if d.nats != nil {
		d.nats.Shutdown()
	}
	return err
}

// registry is where edge i counts. The edges' metrics cannot share one.
func (d *dev) registry(i int) *prometheus.Registry {
	if i > 0 {
		return nil
	}
	return d.host.registry
}

func (d *dev) edgeListen(i int) string {
	host, port, _ := net.SplitHostPort(d.cfg.EdgeListen) // Check has seen it
	n, _ := strconv.Atoi(port)
	if n != 0 {
		n += i
	}
	return net.JoinHostPort(host, strconv.Itoa(n))
}

func (d *dev) edgeConfig(i int) edge.Config {
	cfg := edge.Defaults()
	cfg.Listen, cfg.NATSURL, cfg.Node = d.edgeListen(i), d.nats.URL(), "edge-"+strconv.Itoa(i)
	cfg.Dev, cfg.Echo, cfg.AnonymousRPC = true, true, []string{">"}
	cfg.Drain = time.Second // a person waits
	return cfg
}

func (d *dev) controlConfig(edgeAddress string) control.Config {
	cfg := control.Defaults()
	cfg.Listen, cfg.NATSURL, cfg.Dev = d.cfg.ControlListen, d.nats.URL(), true
	cfg.Policies, cfg.APIKeyFile = d.cfg.Policies, d.cfg.APIKeyFile
	// A page seen from another machine finds the edge on the host it came from.
	if host, port, _ := net.SplitHostPort(edgeAddress); port != "8080" || !unspecified(host) {
		cfg.EdgeURL = "http://" + reachable(edgeAddress)
	}
	return cfg
}

// say prints where everything is and four lines to paste.
func (d *dev) say() {
	var b strings.Builder
	nats := "nats://" + reachable(strings.TrimPrefix(d.nats.URL(), "nats://"))
	page := "http://" + reachable(d.control.Addr()) + "/"
	firstEdge := "http://" + reachable(d.edges[0].Addr())
	fmt.Fprintf(&b, "nabat dev is ready; ctrl-C ends it.\n\n")
	for _, e := range d.edges {
		fmt.Fprintf(&b, "  edge        http://%s\n", reachable(e.Addr()))
	}
	fmt.Fprintf(&b, "  control     %s\n  nats        %s\n  operations  http://%s\n\n", strings.TrimSuffix(page, "/"), nats, reachable(d.host.ops.Addr()))
	fmt.Fprintf(&b, "Paste the first line into a browser, the others into terminals:\n\n")

	name := commandName()
	natsFlag, edgeFlag := "", ""
	if nats != defaultNATS {
		natsFlag = " --nats-url " + nats
	}
	if firstEdge != defaultEdge {
		edgeFlag = " --edge " + firstEdge
	}
	fmt.Fprintf(&b, "%s\n", page)
	fmt.Fprintf(&b, "curl -N '%s/sse?room=sports.news'\n", firstEdge)
	fmt.Fprintf(&b, "%s pub sports.news '{\"title\":\"hello\"}'%s\n", name, natsFlag)
	fmt.Fprintf(&b, "%s sub sports.news%s\n", name, edgeFlag)
	fmt.Fprint(d.app.stdout, b.String())
}

// reachable is an address that this machine can connect to, for one that
// listens on all.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if unspecified(host) {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func unspecified(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || (ip != nil && ip.IsUnspecified())
}

// commandName is what to type for this program.
func commandName() string {
	self, err := os.Executable()
	if err != nil {
		return "nabat"
	}
	if strings.Contains(filepath.ToSlash(self), "/go-build") {
		return "go run ./deploy/nabat" // built by go run, and gone with it
	}
	if found, err := exec.LookPath("nabat"); err == nil && sameFile(found, self) {
		return "nabat"
	}
	return cmp.Or(os.Args[0], "nabat")
}

func sameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}
