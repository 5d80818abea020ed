package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nabat/loadtest/checker"
	"nabat/loadtest/report"
	"nabat/loadtest/target"
)

// check is the checker as a command.
type check struct {
	plan     checker.Plan
	rooms    int
	edges    int // started here, when the plan names none
	span     time.Duration
	patience time.Duration
	json     string
}

func (a *app) checkerCommand() *cobra.Command {
	c, k := new(common), new(check)
	cmd := &cobra.Command{
		Use: "checker", Short: "Clients that come, go, stall and move lose nothing", Args: noArguments,
		Long: "Publishes numbered messages with acknowledgement to rooms with history, lets clients\ncome, go, stall, leave rooms and move between edges by themselves, and holds what each\nwas told against what was stored: every message once and in order, or its loss\nannounced, and no loss within the window. Any violation makes the exit code 1.\n\n" +
			"Without --edge it starts NATS, control and two edges. With --edge HOST:PORT,… and --nats\nit checks a cluster that runs already, in which you may kill what you like; --window is\nthen what its policy keeps of a room.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := k.check(); err != nil {
				return &usageError{cmd.CommandPath(), err}
			}
			return a.check(cmd.Context(), c, k)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.IntVar(&k.plan.Clients, "clients", 200, "clients")
	flags.IntVar(&k.rooms, "rooms", 40, "rooms, with a publisher each")
	flags.IntVar(&k.plan.RoomsEach, "rooms-each", 3, "rooms of each client")
	flags.DurationVar(&k.plan.Every, "every", 200*time.Millisecond, "time between two messages of a room")
	flags.DurationVar(&k.span, "for", 40*time.Second, "how long messages are published")
	flags.DurationVar(&k.patience, "patience", time.Minute, "longest wait for all to have everything, afterwards")
	flags.IntVar(&k.plan.Padding, "padding", 100, "bytes added to a message")
	flags.IntVar(&k.plan.Patience, "restless", 40, "messages that a client takes, on average, before it goes, stalls, leaves or moves; 0: it stays")
	flags.Uint64Var(&k.plan.Seed, "seed", 1, "seed of what clients do")
	flags.IntVar(&k.edges, "edges", 2, "edges to start")
	flags.StringSliceVar(&k.plan.Edges, "edge", nil, "edges that run already, host:port, comma separated")
	flags.StringVar(&k.plan.NATS, "nats", "", "with --edge: their NATS server")
	flags.StringVar(&k.plan.Prefix, "subject-prefix", "room.", "with --edge: what stands before the room in a subject")
	flags.IntVar(&k.plan.Window, "window", 10_000, "messages that the policy keeps of a room")
	flags.StringVar(&k.json, "json", "", "also write the verdict to this file")
	flags.BoolVar(&c.verbose, "verbose", false, "show what the started servers log")
	return cmd
}

func (k *check) check() error {
	switch {
	case len(k.plan.Edges) > 0 && k.plan.NATS == "":
		return errors.New("--edge needs --nats, the NATS server of these edges")
	case len(k.plan.Edges) == 0 && k.plan.NATS != "":
		return errors.New("--nats goes with --edge, which is missing")
	case k.plan.Clients < 1 || k.rooms < 1 || k.plan.RoomsEach < 1 || k.plan.RoomsEach > k.rooms || k.edges < 1:
		return errors.New("at least one client, room and edge, and not more rooms for each than there are")
	case k.plan.Every <= 0 || k.span <= 0 || k.plan.Window < 1 || k.plan.Padding < 0 || k.plan.Patience < 0:
		return errors.New("--every, --for and --window must be more than nothing, --padding and --restless not less")
	}
	k.plan.Restless = k.plan.Patience > 0
	for i := range k.rooms {
		k.plan.Rooms = append(k.plan.Rooms, fmt.Sprintf("loadtest.checker.%d", i))
	}
	return nil
}

func (a *app) check(ctx context.Context, c *common, k *check) (err error) {
	if k.json != "" {
		if err := os.WriteFile(k.json, nil, 0o644); err != nil {
			return fmt.Errorf("--json: %w", err)
		}
	}
	progress := report.NewProgress(a.stderr)
	if len(k.plan.Edges) == 0 {
		t, failed := a.prepare(c, progress).Nabat(ctx, target.Shape{Edges: k.edges, Long: true})
		if failed != nil {
			return failed
		}
		defer func() { err = errors.Join(err, t.Close()) }()
		watched, cancel := t.Watch(ctx)
		defer cancel()
		ctx, k.plan.NATS = watched, t.NATS
		for _, e := range t.Edges {
			address, err := url.Parse(e.URL)
			if err != nil {
				return err
			}
			k.plan.Edges = append(k.plan.Edges, address.Host)
		}
	}
	verdict, err := k.watch(ctx, progress)
	if err != nil {
		return err
	}
	if k.json != "" {
		text, err := json.MarshalIndent(verdict, "", "  ")
		if err == nil {
			err = os.WriteFile(k.json, append(text, '\n'), 0o644)
		}
		if err != nil {
			return fmt.Errorf("--json: %w", err)
		}
	}
	_, _ = fmt.Fprintf(a.stdout, "\nchecker: %d clients, each in %d of %d rooms, %d edges, %s\n%s\n", k.plan.Clients, k.plan.RoomsEach, k.rooms, len(k.plan.Edges), k.span,
		strings.ReplaceAll(verdict.String(), "; ", "\n"))
	if verdict.Broken > 0 {
		return errors.New("a promise was broken: see the violations above")
	}
	return nil
}

// watch runs the plan for its time and shows how it goes.
func (k *check) watch(ctx context.Context, progress *report.Progress) (*checker.Report, error) {
	run, err := checker.Start(ctx, k.plan)
	if err != nil {
		return nil, err
	}
	began, tick := time.Now(), time.NewTicker(100*time.Millisecond)
	defer tick.Stop()
	for time.Since(began) < k.span && ctx.Err() == nil {
		progress.Show(report.State{Phase: "checking", Done: time.Since(began).Seconds(), Total: k.span.Seconds(), Of: "seconds",
			Detail: fmt.Sprintf("%d messages stored, %d of %d clients in all of their rooms", run.Published(), run.Present(), k.plan.Clients)})
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	stored := run.Published()
	progress.Show(report.State{Phase: "waiting until all have everything", Detail: fmt.Sprintf("%d messages", stored)})
	bounded, cancel := context.WithTimeout(ctx, k.patience)
	defer cancel()
	verdict := run.Finish(bounded)
	progress.End()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case stored == 0:
		return nil, fmt.Errorf("not one message was stored through %s: is there a stream for %s>?", k.plan.NATS, k.plan.Prefix)
	case verdict.Connections == 0:
		return nil, fmt.Errorf("no client could connect to any of %s", strings.Join(k.plan.Edges, ", "))
	}
	return verdict, nil
}
