package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// step is one part of a result set.
type step struct {
	name  string
	args  []string
	flag  string // of the number of clients
	count int
	plain bool // writes no page
}

// steps take about twenty minutes on two processors.
var steps = []step{
	{name: "floor", args: []string{"floor", "--rounds", "5"}, flag: "--members", count: 10_000},
	{name: "idle", args: []string{"idle", "--peer", "nabat,gorilla,gws,nbio,nats,centrifuge"}, flag: "--connections", count: 10_000},
	{name: "connect", args: []string{"connect", "--peer", "nabat,gorilla,gws,nbio"}, flag: "--connections", count: 4000},
	{name: "fanout", args: []string{"fanout", "--peer", "nabat,gorilla,gws,nbio,nats,centrifuge", "--rounds", "3", "--rate", "5"}, flag: "--members", count: 10_000},
	{name: "rooms", args: []string{"rooms", "--peer", "nabat,gorilla,gws,nbio,nats"}, flag: "--clients", count: 2000},
	{name: "mixed", args: []string{"mixed"}, flag: "--clients", count: 1000},
	{name: "slow", args: []string{"slow"}, flag: "--members", count: 2000},
	{name: "storm", args: []string{"storm"}, flag: "--clients", count: 5000},
	{name: "soak", args: []string{"soak"}, flag: "--members", count: 2000},
	{name: "cluster", args: []string{"cluster"}, flag: "--clients", count: 5000},
	{name: "checker", args: []string{"checker"}, flag: "--clients", count: 200, plain: true},
}

func (a *app) allCommand() *cobra.Command {
	var out string
	var only []string
	scale := 1.0
	names := make([]string, len(steps))
	for i, s := range steps {
		names[i] = s.name
	}
	cmd := &cobra.Command{
		Use: "all", Short: "Every scenario, into a folder of results", Args: noArguments,
		Long: "Runs every scenario with its usual size, one after the other, and writes for each the\ntable, JSON and a page into a folder, whose README.md has all tables. It takes about\ntwenty minutes on two processors; the machine should have nothing else to do.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case out == "":
				return &usageError{cmd.CommandPath(), errors.New("--out is missing: a folder for the results")}
			case scale <= 0 || scale > 10:
				return &usageError{cmd.CommandPath(), fmt.Errorf("--scale %g: must be more than 0 and at most 10", scale)}
			}
			for _, name := range only {
				if !slices.Contains(names, name) {
					return &usageError{cmd.CommandPath(), fmt.Errorf("--only %q: choose from %s", name, strings.Join(names, ", "))}
				}
			}
			return a.all(cmd, out, only, scale)
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "folder for the results, such as results/2026-01-31")
	cmd.Flags().StringSliceVar(&only, "only", nil, "only these: "+strings.Join(names, ", "))
	cmd.Flags().Float64Var(&scale, "scale", 1, "share of the usual number of clients")
	return cmd
}

func (a *app) all(cmd *cobra.Command, out string, only []string, scale float64) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	var page bytes.Buffer
	fmt.Fprintf(&page, "# Results of %s\n\nMade by `go run ./loadtest all --out %s`; each has its JSON and its page beside this file.\nRatios count: every column of a table is of the same run.\n", time.Now().Format(time.DateOnly), filepath.Base(out))
	var failed []string
	for _, s := range steps {
		if len(only) > 0 && !slices.Contains(only, s.name) {
			continue
		}
		args := append(slices.Clone(s.args), s.flag, fmt.Sprint(max(int(float64(s.count)*scale), 2)), "--json", filepath.Join(out, s.name+".json"))
		if !s.plain {
			args = append(args, "--html", filepath.Join(out, s.name+".html"))
		}
		_, _ = fmt.Fprintf(a.stderr, "\n== %s\n", strings.Join(args, " "))
		var table bytes.Buffer
		inner := &app{self: a.self, stdin: a.stdin, stdout: io.MultiWriter(&table, a.stdout), stderr: a.stderr, launcher: a.launcher}
		code := inner.run(cmd.Context(), args)
		a.launcher = inner.launcher
		if err := cmd.Context().Err(); err != nil {
			return err
		}
		fmt.Fprintf(&page, "\n## %s\n\n```\n%s\n```\n", s.name, strings.TrimSpace(table.String()))
		if code != 0 {
			failed = append(failed, s.name)
			fmt.Fprintf(&page, "\nIt ended with exit code %d.\n", code)
		}
		// After each step: what there is, is not lost when a later one is stopped.
		if err := os.WriteFile(filepath.Join(out, "README.md"), page.Bytes(), 0o644); err != nil {
			return fmt.Errorf("--out: %w", err)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("not all went well: %s", strings.Join(failed, ", "))
	}
	return nil
}
