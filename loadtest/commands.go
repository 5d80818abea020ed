package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nabat/loadtest/report"
	"nabat/loadtest/scenario"
	"nabat/loadtest/target"
)

// common are the flags of all scenarios.
type common struct {
	peers    []string
	external target.External
	noFloor  bool
	agents   string   // NATS server of the agents
	notes    []string // for the report
	json     string
	html     string
	verbose  bool
	shape    target.Shape // of nabat, where it is started here
	setting  scenario.Setting
}

// registerTargets adds the flags that say what is measured.
func (c *common) registerTargets(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&c.peers, "peer", []string{target.NameNabat},
		"servers to build, start and measure, comma separated: "+strings.Join(append([]string{target.NameNabat}, target.Peers...), ", "))
	flags.IntVar(&c.shape.Procs, "procs", 0, "processors and loops of nabat's edge; 0 for all of the machine's. The floor has one")
	flags.StringVar(&c.external.URL, "target", "", "measure a running server instead: its URL (the path is the dialect's if it has none, such as /ws)")
	flags.StringVar(&c.external.Dialect, "dialect", target.Plain, "with --target: what it speaks: "+strings.Join(target.Dialects, ", "))
	flags.StringVar(&c.external.NATS, "nats", "", "with --target: the NATS server to publish to")
	flags.StringVar(&c.external.SubjectPrefix, "subject-prefix", "room.", "with --target: what stands before the room in a subject")
	flags.StringVar(&c.external.PublishURL, "publish-url", "", "with --target: publish with HTTP POST to this URL instead; {room} stands for the room")
	flags.StringArrayVar(&c.external.PublishHeaders, "publish-header", nil, "with --publish-url: a header, 'Name: value'; may be given several times")
	flags.StringVar(&c.external.PublishBody, "publish-body", "", "with --target: what is published, if not what the dialect has: {room}, and the message as {data} (JSON), {text} (a string in JSON) or {form} (a value in a form)")
	flags.StringVar(&c.external.Greeting, "greeting", "", "with --target: text in the first message of an open connection, such as '\"connected\"'")
	flags.IntVar(&c.external.PID, "pid", 0, "with --target: the process whose time and memory count")
	flags.StringVar(&c.external.Ops, "ops", "", "with --target: base URL of its operations port")
	c.registerRun(cmd)
}

// registerRun adds the flags of everything that starts servers.
func (c *common) registerRun(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.noFloor, "no-floor", false, "do not measure the floor")
	cmd.Flags().BoolVar(&c.verbose, "verbose", false, "show what the started servers log")
}

// registerSwarm adds the flags that say how the clients connect; noun is what
// they are called.
func (c *common) registerSwarm(cmd *cobra.Command, noun string, clients int) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.IntVar(&c.setting.Clients, noun, clients, noun+" to open")
	flags.IntVar(&c.setting.Workers, "workers", 0, "processes that hold the clients; 0 for as few as descriptors allow")
	flags.IntVar(&c.setting.Loops, "loops", 1, "threads in each of these processes")
	flags.IntVar(&c.setting.Sources, "sources", 0, "local addresses (127.0.0.1 and following) to connect from; 0 for enough")
	flags.Float64Var(&c.setting.DialRate, "dial-rate", 0, "connections to start per second; 0 for as fast as they open")
	flags.DurationVar(&c.setting.Timeout, "timeout", 10*time.Second, "time for one handshake")
	flags.StringVar(&c.agents, "agents", "", "hold the clients on the machines where loadtest agent waits at this NATS server")
	flags.StringVar(&c.json, "json", "", "also write the result to this file")
	flags.StringVar(&c.html, "html", "", "also write the result to this file, as a page with plots")
}

// check refuses combinations that make no sense.
func (c *common) check(cmd *cobra.Command) error {
	given := func(name string) bool { return cmd.Flags().Changed(name) }
	if c.external.URL == "" && cmd.Flags().Lookup("target") != nil {
		for _, name := range target.Flags {
			if given(name) {
				return fmt.Errorf("--%s goes with --target, which is missing", name)
			}
		}
	}
	if given("target") && given("peer") {
		return errors.New("--target measures a running server and --peer starts some: give one of them")
	}
	if given("target") && given("procs") {
		return errors.New("--procs bounds an edge that is started here, and --target runs already")
	}
	if given("target") {
		if err := c.external.Check(given); err != nil {
			return err
		}
	}
	for i, name := range c.peers {
		if name != target.NameNabat && !slices.Contains(target.Peers, name) {
			return fmt.Errorf("--peer %q: choose from %s, %s", name, target.NameNabat, strings.Join(target.Peers, ", "))
		}
		if slices.Contains(c.peers[:i], name) {
			return fmt.Errorf("--peer %s stands twice", name)
		}
	}
	for name, value := range map[string]float64{"workers": float64(c.setting.Workers), "sources": float64(c.setting.Sources), "dial-rate": c.setting.DialRate, "procs": float64(c.shape.Procs), "pid": float64(c.external.PID)} {
		if value < 0 {
			return fmt.Errorf("--%s must not be negative", name)
		}
	}
	if c.setting.Loops < 1 || c.setting.Timeout <= 0 {
		return errors.New("--loops must be at least 1, and --timeout more than nothing")
	}
	return nil
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{cmd.CommandPath(), fmt.Errorf("takes no arguments, but was given %q", args[0])}
	}
	return nil
}

// measure runs one scenario from its flags to its report.
func (a *app) measure(cmd *cobra.Command, c *common, run func(context.Context) (*report.Report, error)) error {
	if err := c.check(cmd); err != nil {
		return &usageError{cmd.CommandPath(), err}
	}
	for flag, file := range map[string]string{"json": c.json, "html": c.html} {
		if file == "" { // tried before a minute of work
			continue
		}
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			return fmt.Errorf("--%s: %w", flag, err)
		}
	}
	progress := report.NewProgress(a.stderr)
	a.prepare(c, progress)
	if err := a.findAgents(cmd.Context(), c, progress); err != nil {
		return err
	}
	r, err := run(cmd.Context())
	progress.End()
	if err != nil {
		return err
	}
	r.Notes = append(r.Notes, c.notes...)
	return a.deliver(r, c.json, c.html)
}

// prepare completes the setting from the flags.
func (a *app) prepare(c *common, progress *report.Progress) *target.Launcher {
	if a.launcher == nil {
		a.launcher = &target.Launcher{Self: a.self}
	}
	launcher := a.launcher
	launcher.Say, launcher.Log = progress.Say, nil
	if c.verbose {
		launcher.Log = a.stderr
	}
	c.setting.Progress = progress
	c.setting.Spawn = func() *exec.Cmd { return a.self(target.ChildSwarm) }
	c.setting.Nabat = launcher.Nabat
	if !c.noFloor {
		c.setting.Floor, c.setting.FloorTLS = launcher.Floor, launcher.FloorTLS
	}
	if c.external.URL != "" {
		if c.external.Name = "target"; c.external.Dialect != target.Plain {
			c.external.Name = c.external.Dialect
		}
		c.setting.Targets = []scenario.Starter{{Name: c.external.Name, Start: c.external.Open}}
		return launcher
	}
	for _, name := range c.peers {
		c.setting.Targets = append(c.setting.Targets, scenario.Starter{Name: name, Own: true, Start: func(ctx context.Context) (*target.Target, error) {
			if name == target.NameNabat {
				return launcher.Nabat(ctx, c.shape)
			}
			return launcher.Start(ctx, name)
		}})
	}
	return launcher
}

// deliver writes the report to the files and shows the table.
func (a *app) deliver(r *report.Report, json, html string) error {
	for _, output := range []struct {
		flag, file string
		write      func(io.Writer) error
	}{{"json", json, r.WriteJSON}, {"html", html, r.WriteHTML}} {
		if output.file == "" {
			continue
		}
		var text bytes.Buffer
		if err := output.write(&text); err != nil {
			return err
		}
		if err := os.WriteFile(output.file, text.Bytes(), 0o644); err != nil {
			return fmt.Errorf("--%s: %w", output.flag, err)
		}
	}
	_, _ = fmt.Fprintln(a.stdout)
	if err := r.Table(a.stdout); err != nil {
		return err
	}
	if len(r.Faults) > 0 {
		return errors.New("a promise was broken: see FAULT above")
	}
	return nil
}
