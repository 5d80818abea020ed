// Loadtest proves the numbers: it connects swarms of clients to a Nabat edge,
// or to another server, publishes over NATS, and shows what each connection
// and each delivery cost beside the floor of the same run.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"nabat/internal/natsdev"
	"nabat/loadtest/floor"
	"nabat/loadtest/target"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{self: selfCommand, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	code := a.run(ctx, os.Args[1:])
	a.close()
	stop()
	os.Exit(code)
}

// selfCommand runs this program as a child.
func selfCommand(kind string) *exec.Cmd {
	path, err := os.Executable()
	if err != nil {
		path = os.Args[0]
	}
	return exec.Command(path, kind)
}

// app is what the commands see of the world.
type app struct {
	self           func(kind string) *exec.Cmd // this program as a child of that kind
	stdin          io.Reader
	stdout, stderr io.Writer
	launcher       *target.Launcher // made by the first command that needs it
}

// close removes what was built.
func (a *app) close() {
	if a.launcher == nil {
		return
	}
	if err := a.launcher.Close(); err != nil {
		_, _ = fmt.Fprintf(a.stderr, "loadtest: %v\n", err)
	}
}

// usageError is a fault of the command line: exit code 2, and a hint.
type usageError struct {
	command string
	err     error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

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
		_, _ = fmt.Fprintf(a.stderr, "%s: %v\nSee: %s --help\n", bad.command, bad, bad.command)
		return 2
	case ctx.Err() != nil:
		_, _ = fmt.Fprintf(a.stderr, "%s: interrupted\n", cmd.CommandPath())
		return 1
	}
	_, _ = fmt.Fprintf(a.stderr, "%s: %v\n", cmd.CommandPath(), err)
	return 1
}

const about = `Loadtest measures a Nabat edge, or another server, on this machine or elsewhere.

It connects many clients from processes of its own, publishes over plain NATS, or
with HTTP POST where a server wants that (--dialect, --publish-url), checks that
every client gets every message once and in order, and shows what a connection and
a delivery cost: the server's processor time by the kernel's account, memory,
latency. The floor is a program that makes the same system calls and nothing else;
figures are shown as ratios to it, because an absolute one says more about the
machine than about the server.

Without --target it builds and starts what it measures (NATS, control and one
edge in processes of their own) and stops it afterwards. Without a command it runs a
tour of one minute against "nabat dev".`

const examples = `  go run ./loadtest                                 a tour of one minute
  go run ./loadtest idle                            memory of 10,000 idle connections
  go run ./loadtest fanout                          10,000 members of a room
  go run ./loadtest fanout --peer nabat,gorilla,gws the same, side by side
  go run ./loadtest fanout --in-flight 1 --rate 20  latency at a fixed rate
  go run ./loadtest fanout --target ws://127.0.0.1:8080 --nats nats://127.0.0.1:4222 \
      --ops http://127.0.0.1:9090 --pid "$(pgrep -n nabat)"
                                                    a server that runs already
  go run ./loadtest fanout --dialect socketio --target ws://127.0.0.1:3000 \
      --publish-url http://127.0.0.1:3000/publish   one that speaks something else
  go run ./loadtest storm                           an edge dies, and its clients come back elsewhere
  go run ./loadtest checker                         nothing is lost, whatever clients do
  go run ./loadtest floor                           what this machine can do at all
  go run ./loadtest all --out results/today         everything, in about twenty minutes
  go run ./loadtest agent --nats nats://HOST:4222   on other machines, and then here with --agents
  go run ./loadtest compare old.json new.json       two results side by side`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use: "loadtest", Short: "Measure a Nabat edge or a server like it", Long: about, Example: examples,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &usageError{cmd.CommandPath(), fmt.Errorf("there is no command %q", args[0])}
			}
			return nil
		},
		RunE:          func(cmd *cobra.Command, _ []string) error { return a.tour(cmd) },
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usageError{cmd.CommandPath(), plain(err)} })
	cobra.EnableCommandSorting = false
	root.AddCommand(a.idleCommand(), a.connectCommand(), a.fanoutCommand(), a.roomsCommand(), a.mixedCommand(), a.slowCommand(), a.stormCommand(), a.soakCommand(), a.clusterCommand(),
		a.checkerCommand(), a.floorCommand(), a.allCommand(), a.compareCommand(), a.agentCommand(), a.child(target.ChildSwarm, work), a.child(target.ChildRelay, relay), a.child(target.ChildFloor, func(context.Context) error {
			return floor.Serve()
		}), a.child(target.ChildTLS, func(context.Context) error {
			return floor.ServeTLS()
		}), a.child(target.ChildBroker, broker))
	return root
}

// wanted says in words what a type of flag takes.
var wanted = map[string]string{
	"int": "a whole number", "float64": "a number", "intSlice": "whole numbers, comma separated",
	"duration": "a duration, such as 500ms or 2s", "bool": "true or false", "stringSlice": "names, comma separated",
}

// plain turns the flag parser's words into those of a person.
func plain(err error) error {
	var unknown *pflag.NotExistError
	var invalid *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "":
		return fmt.Errorf("there is no flag --%s", unknown.GetSpecifiedName())
	case errors.As(err, &invalid):
		return fmt.Errorf("--%s %q: must be %s", invalid.GetFlag().Name, invalid.GetValue(), wanted[invalid.GetFlag().Value.Type()])
	}
	return err
}

// child is a hidden command: this program as one of its own children.
func (a *app) child(kind string, run func(context.Context) error) *cobra.Command {
	return &cobra.Command{
		Use: kind, Hidden: true, Args: cobra.NoArgs,
		// A child ends when its standard input does; a Ctrl-C is the parent's.
		RunE: func(*cobra.Command, []string) error {
			signal.Ignore(os.Interrupt)
			return run(context.Background())
		},
	}
}

// broker runs NATS until standard input ends.
func broker(context.Context) error {
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		return err
	}
	defer server.Shutdown()
	if _, err := fmt.Printf("{\"url\":%q}\n", server.URL()); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // its end is the signal
	return nil
}
