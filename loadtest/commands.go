package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nabat/loadtest/report"
	"nabat/loadtest/scenario"
	"nabat/loadtest/swarm"
	"nabat/loadtest/target"
)

// common are the flags of all scenarios.
type common struct {
	peers    []string
	external target.External
	noFloor  bool
	json     string
	verbose  bool
	setting  scenario.Setting
}

// registerTargets adds the flags that say what is measured.
func (c *common) registerTargets(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&c.peers, "peer", []string{target.NameNabat},
		"servers to build, start and measure, comma separated: "+strings.Join(append([]string{target.NameNabat}, target.Peers...), ", "))
	flags.StringVar(&c.external.URL, "target", "", "measure a running server instead: its WebSocket URL (path /ws if it has none)")
	flags.StringVar(&c.external.NATS, "nats", "", "with --target: the NATS server to publish to")
	flags.StringVar(&c.external.SubjectPrefix, "subject-prefix", "room.", "with --target: what stands before the room in a subject")
	flags.StringVar(&c.external.Greeting, "greeting", "", "with --target: text in the first message of an open connection, such as '\"connected\"'")
	flags.IntVar(&c.external.PID, "pid", 0, "with --target: the process whose time and memory count")
	flags.StringVar(&c.external.Ops, "ops", "", "with --target: base URL of its operations port")
	flags.BoolVar(&c.noFloor, "no-floor", false, "do not measure the floor")
	flags.BoolVar(&c.verbose, "verbose", false, "show what the started servers log")
}

// registerSwarm adds the flags that say how the clients connect; noun is what
// they are called.
func (c *common) registerSwarm(cmd *cobra.Command, noun string) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.IntVar(&c.setting.Clients, noun, 10_000, noun+" to open")
	flags.IntVar(&c.setting.Workers, "workers", 0, "processes that hold the clients; 0 for as few as descriptors allow")
	flags.IntVar(&c.setting.Loops, "loops", 1, "threads in each of these processes")
	flags.IntVar(&c.setting.Sources, "sources", 0, "local addresses (127.0.0.1 and following) to connect from; 0 for enough")
	flags.Float64Var(&c.setting.DialRate, "dial-rate", 0, "connections to start per second; 0 for as fast as they open")
	flags.DurationVar(&c.setting.Timeout, "timeout", 10*time.Second, "time for one handshake")
	flags.StringVar(&c.json, "json", "", "also write the result to this file")
}

// check refuses combinations that make no sense.
func (c *common) check(cmd *cobra.Command) error {
	given := func(name string) bool { return cmd.Flags().Changed(name) }
	if c.external.URL == "" && cmd.Flags().Lookup("target") != nil {
		for _, name := range []string{"nats", "subject-prefix", "greeting", "pid", "ops"} {
			if given(name) {
				return fmt.Errorf("--%s goes with --target, which is missing", name)
			}
		}
	}
	if given("target") && given("peer") {
		return errors.New("--target measures a running server and --peer starts some: give one of them")
	}
	if given("target") {
		if _, err := swarm.Resolve(c.external.URL); err != nil {
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
	for name, value := range map[string]float64{"workers": float64(c.setting.Workers), "sources": float64(c.setting.Sources), "dial-rate": c.setting.DialRate, "pid": float64(c.external.PID)} {
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
	if c.json != "" { // before a minute of work
		if err := os.WriteFile(c.json, nil, 0o644); err != nil {
			return fmt.Errorf("--json: %w", err)
		}
	}
	progress := report.NewProgress(a.stderr)
	launcher := &target.Launcher{Self: a.self, Say: progress.Say}
	if c.verbose {
		launcher.Log = a.stderr
	}
	c.setting.Progress = progress
	c.setting.Spawn = func() *exec.Cmd { return a.self(target.ChildSwarm) }
	if !c.noFloor {
		c.setting.Floor = launcher.Floor
	}
	if c.external.URL != "" {
		c.external.Name = "target"
		c.setting.Targets = []scenario.Starter{{Name: c.external.Name, Start: c.external.Open}}
	} else {
		for _, name := range c.peers {
			c.setting.Targets = append(c.setting.Targets, scenario.Starter{Name: name, Own: true, Start: func(ctx context.Context) (*target.Target, error) {
				return launcher.Start(ctx, name)
			}})
		}
	}
	r, err := run(cmd.Context())
	progress.End()
	if err = errors.Join(err, launcher.Close()); err != nil {
		return err
	}
	if c.json != "" {
		var text bytes.Buffer
		if err := r.WriteJSON(&text); err != nil {
			return err
		}
		if err := os.WriteFile(c.json, text.Bytes(), 0o644); err != nil {
			return fmt.Errorf("--json: %w", err)
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

func (a *app) idleCommand() *cobra.Command {
	c := new(common)
	idle := new(scenario.Idle)
	cmd := &cobra.Command{
		Use: "idle", Short: "Memory of connections that do nothing", Args: noArguments,
		Long: "Opens connections, each in some rooms, waits until the server's memory has come to\nrest, and shows what each connection costs the server and the kernel, and what it\ncost to open it.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.measure(cmd, c, func(ctx context.Context) (*report.Report, error) {
				idle.Setting = c.setting
				return idle.Run(ctx)
			})
		},
	}
	c.registerSwarm(cmd, "connections")
	cmd.Flags().IntVar(&idle.Rooms, "rooms", 2, "rooms that each connection joins")
	cmd.Flags().DurationVar(&idle.Settle, "settle", 10*time.Second, "longest wait for memory to come to rest")
	c.registerTargets(cmd)
	return cmd
}

func (a *app) fanoutCommand() *cobra.Command {
	c := new(common)
	fanout := new(scenario.Fanout)
	cmd := &cobra.Command{
		Use: "fanout", Short: "Messages to one room with many members", Args: noArguments,
		Long: "Opens members of one room, publishes to it over NATS, and shows the server's\nprocessor time per delivery, deliveries per second and latency; every message is\nchecked at every member: once, and in order.\n\n" +
			"Messages go one at a time (the next when all members have the last), k in flight,\nor at a fixed rate, where latency counts from the time at which a message was due.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.external.URL != "" && c.external.NATS == "" {
				return &usageError{cmd.CommandPath(), errors.New("--target needs --nats, the NATS server to which messages are published")}
			}
			return a.measure(cmd, c, func(ctx context.Context) (*report.Report, error) {
				fanout.Setting = c.setting
				return fanout.Run(ctx)
			})
		},
	}
	c.registerSwarm(cmd, "members")
	registerRounds(cmd, fanout)
	cmd.Flags().IntSliceVar(&fanout.InFlight, "in-flight", []int{1, 16}, "messages in flight, a measurement for each")
	cmd.Flags().Float64Var(&fanout.Rate, "rate", 0, "also publish at this fixed rate, messages per second")
	c.registerTargets(cmd)
	return cmd
}

func registerRounds(cmd *cobra.Command, fanout *scenario.Fanout) {
	cmd.Flags().IntVar(&fanout.Payload, "payload", 128, "bytes of a message")
	cmd.Flags().IntVar(&fanout.Rounds, "rounds", 5, "rounds of each measurement; the best and the median count")
	cmd.Flags().DurationVar(&fanout.Round, "round", 2*time.Second, "time of publishing in each round")
	cmd.Flags().DurationVar(&fanout.WarmUp, "warm-up", 15*time.Second, "longest wait for the first message that reaches every member")
}

func (a *app) floorCommand() *cobra.Command {
	c := new(common)
	fanout := new(scenario.Fanout)
	cmd := &cobra.Command{
		Use: "floor", Short: "What this machine can do at all", Args: noArguments,
		Long: "Makes the system calls that no server can avoid, and nothing else, towards the\nsame clients as the other scenarios: accept4, epoll_ctl, read and write of 129\nbytes for each connection, one sendto for each delivery.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.measure(cmd, c, func(ctx context.Context) (*report.Report, error) {
				fanout.Setting, fanout.InFlight = c.setting, []int{1}
				r, err := fanout.Run(ctx)
				if err == nil {
					r.Scenario = target.NameFloor
				}
				return r, err
			})
		},
	}
	c.registerSwarm(cmd, "members")
	registerRounds(cmd, fanout)
	return cmd
}
