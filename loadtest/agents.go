package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"nabat/loadtest/remote"
	"nabat/loadtest/report"
	"nabat/loadtest/swarm"
	"nabat/loadtest/target"
)

// Variables that a child gets beside its kind.
const (
	variableNATS   = "LOADTEST_NATS"
	variableAgent  = "LOADTEST_AGENT"
	variableAdjust = "LOADTEST_ADJUST" // nanoseconds to add to the clock
)

func (a *app) agentCommand() *cobra.Command {
	var url, name string
	cmd := &cobra.Command{
		Use: "agent", Short: "Hold clients for a loadtest that runs on another machine", Args: noArguments,
		Long: "Waits at a NATS server for a loadtest with --agents, and runs its clients here. Any\nnumber of machines may have one. Latency is corrected by the difference of the\nmachines' clocks, which is measured by round trips; the result says how far it may be\nwrong. Ends with ctrl-C.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			nc, err := connect(cmd.Context(), url)
			if err != nil {
				return err
			}
			defer nc.Close()
			say := func(format string, args ...any) { _, _ = fmt.Fprintf(a.stderr, format+"\n", args...) }
			return remote.Serve(cmd.Context(), nc, remote.Options{Name: name, Now: swarm.Now, Say: say, Spawn: func(adjust int64) *exec.Cmd {
				return a.childWith(target.ChildSwarm, variableAdjust+"="+strconv.FormatInt(adjust, 10))
			}}, func(string) { say("ready: %s at %s", name, nc.ConnectedUrlRedacted()) })
		},
	}
	host, err := os.Hostname()
	if err != nil {
		host = "agent"
	}
	cmd.Flags().StringVar(&url, "nats", nats.DefaultURL, "the NATS server that the loadtest uses, too")
	cmd.Flags().StringVar(&name, "name", host, "what the loadtest calls this machine")
	return cmd
}

func connect(ctx context.Context, url string) (*nats.Conn, error) {
	nc, err := nats.Connect(url, nats.Name("loadtest"), nats.MaxReconnects(-1), nats.ReconnectWait(200*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("NATS at %s: %w", url, err)
	}
	return nc, ctx.Err()
}

// childWith is a child with a variable in its environment.
func (a *app) childWith(kind string, variables ...string) *exec.Cmd {
	cmd := a.self(kind)
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, variables...)
	return cmd
}

// work is a child that holds clients.
func work(ctx context.Context) error {
	if text := os.Getenv(variableAdjust); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %w", variableAdjust, err)
		}
		swarm.AdjustClock(n)
	}
	return swarm.Work(ctx, os.Stdin, os.Stdout)
}

// relay is a child that stands in for a worker elsewhere.
func relay(ctx context.Context) error {
	signal.Ignore(os.Interrupt)
	nc, err := connect(ctx, os.Getenv(variableNATS))
	if err != nil {
		return err
	}
	defer nc.Close()
	adjust, err := strconv.ParseInt(os.Getenv(variableAdjust), 10, 64)
	if err != nil {
		return fmt.Errorf("%s: %w", variableAdjust, err)
	}
	return remote.Relay(ctx, nc, os.Getenv(variableAgent), adjust, os.Stdin, os.Stdout)
}

// findAgents lets the clients of c run at the agents that answer, in turn.
func (a *app) findAgents(ctx context.Context, c *common, progress *report.Progress) error {
	if c.agents == "" {
		return nil
	}
	nc, err := connect(ctx, c.agents)
	if err != nil {
		return fmt.Errorf("--agents: %w", err)
	}
	defer nc.Close()
	list, err := remote.Find(ctx, nc, time.Second, swarm.Now)
	if err != nil {
		return fmt.Errorf("--agents: %w", err)
	}
	for _, one := range list {
		text := fmt.Sprintf("clients at %s, whose processor time is not known here; its clock is known to ±%s", one.Name, time.Duration(one.Err).Round(time.Microsecond))
		progress.Say("%s", text)
		c.notes = append(c.notes, text)
	}
	c.setting.Workers = max(c.setting.Workers, len(list))
	next := 0
	c.setting.Spawn = func() *exec.Cmd {
		one := list[next%len(list)]
		next++
		return a.childWith(target.ChildRelay, variableNATS+"="+c.agents, variableAgent+"="+one.ID, variableAdjust+"="+strconv.FormatInt(-one.Off, 10))
	}
	return nil
}
