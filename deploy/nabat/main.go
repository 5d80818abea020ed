// Nabat is the one binary: the edge and control programs, both with NATS in one
// process for development, and the tools for terminals.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func main() {
	os.Exit((&app{environ: os.Environ(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}).run(context.Background(), os.Args[1:]))
}

// app is what the commands see of the world.
type app struct {
	environ        []string
	stdin          io.Reader
	stdout, stderr io.Writer
}

// usageError is a fault of the command line: exit code 2, and a hint.
type usageError struct {
	command string // "nabat pub"
	text    string
}

func (e *usageError) Error() string { return e.text }

func usage(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{cmd.CommandPath(), fmt.Sprintf(format, args...)}
}

// run parses and runs one command and returns the exit code: 0, 1 for a
// failure, 2 for a command line that makes no sense.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	var bad *usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &bad):
		fmt.Fprintf(a.stderr, "%s: %s\nSee: %s --help\n", bad.command, bad.text, bad.command)
		return 2
	}
	fmt.Fprintf(a.stderr, "%s: %v\n", cmd.CommandPath(), err)
	return 1
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "nabat",
		Short: "A clustered real-time broker on NATS",
		Long: "Nabat carries messages from NATS to browsers, phones and devices.\n\n" +
			"Backends publish over plain NATS; clients join rooms over WebSocket and event\n" +
			"streams through stateless edges. Start with: nabat dev",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			cmd.SuggestionsMinimumDistance = 2
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				return usage(cmd, "there is no command %q: did you mean %q?", args[0], "nabat "+near[0])
			}
			return usage(cmd, "there is no command %q", args[0])
		},
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(flagError)
	cobra.EnableCommandSorting = false
	for _, c := range []*cobra.Command{
		a.devCommand(), a.edgeCommand(), a.controlCommand(), a.natsCommand(),
		a.pubCommand(), a.subCommand(), a.historyCommand(), rpcCommand(a), a.tokenCommand(), keysCommand(a), apikeyCommand(a),
		presenceCommand(a), roomsCommand(a), nodesCommand(a), userCommand(a), eventsCommand(a),
		explainCommand(a), kickCommand(a), blockCommand(a), unblockCommand(a), blocksCommand(a), tapCommand(a), purgeCommand(a), drainCommand(a), rebalanceCommand(a),
		a.subjectCommand(), a.nkeysCommand(), a.checkCommand(), a.probeCommand(), a.versionCommand(),
	} {
		c.Flags().SortFlags = false
		root.AddCommand(c)
	}
	return root
}

// flagError says what is wrong with a flag, and what may have been meant.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var missing *pflag.ValueRequiredError
	var invalid *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		if short := unknown.GetSpecifiedShortnames(); short != "" {
			// One dash where two belong: the flag package's habit.
			if cmd.Flags().Lookup(short) != nil {
				return usage(cmd, "there is no flag -%s: write --%s", short, short)
			}
			return usage(cmd, "there is no flag -%s", short)
		}
		if near := nearestFlag(cmd.Flags(), name); near != "" {
			return usage(cmd, "there is no flag --%s: did you mean --%s?", name, near)
		}
		return usage(cmd, "there is no flag --%s", name)
	case errors.As(err, &missing):
		return usage(cmd, "--%s needs a value", missing.GetSpecifiedName())
	case errors.As(err, &invalid):
		return usage(cmd, "--%s %q: %s", invalid.GetFlag().Name, invalid.GetValue(), valueWanted(invalid))
	}
	return usage(cmd, "%v", err)
}

// valueWanted turns the parser's words into those of a person.
func valueWanted(e *pflag.InvalidValueError) string {
	switch e.GetFlag().Value.Type() {
	case "int", "int64", "uint", "uint64":
		return "must be a whole number"
	case "float64":
		return "must be a number"
	case "bool":
		return "must be true or false"
	case "duration":
		return "must be a duration, such as 500ms, 10s or 1h"
	}
	return e.Unwrap().Error()
}

// nearestFlag is the flag that differs from name in at most two letters.
func nearestFlag(flags *pflag.FlagSet, name string) (near string) {
	best := 3
	flags.VisitAll(func(f *pflag.Flag) {
		if d := distance(name, f.Name); d < best && !f.Hidden {
			best, near = d, f.Name
		}
	})
	return near
}

// distance counts the letters to insert, delete or replace (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal, row[j+1] = row[j+1], min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// exactly wants these arguments and says which one is missing.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usage(cmd, "%s is missing", names[len(args)])
		case len(args) > len(names) && len(names) == 0:
			return usage(cmd, "takes no arguments, but was given %q", args[0])
		case len(args) > len(names):
			return usage(cmd, "%q is one argument too many: quote what holds spaces", args[len(names)])
		}
		return nil
	}
}

// env is the value of an environment variable, "" when it is not set.
func (a *app) env(name string) string {
	for _, entry := range a.environ {
		if key, value, ok := strings.Cut(entry, "="); ok && key == name {
			return value
		}
	}
	return ""
}
