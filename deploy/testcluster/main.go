// Testcluster runs a real Kubernetes on one machine, in network namespaces and
// from sources, installs the chart into it and verifies that whatever an operator
// does costs no client a message. It needs root, and ip, nsenter, nft and runc.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

const help = `usage: testcluster COMMAND [flags]

  build [quick]   build the programs of Kubernetes, or those of quick alone
  up              run the cluster until ctrl-C, and say how to reach it
  quick           hold the chart against an API server, without root
  e2e             install the chart in a cluster, and do to it what operators do

The programs are kept in the folder NABAT_TESTCLUSTER_CACHE, by default one in the
user's cache.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "testcluster: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, help)
		return flag.ErrHelp
	}
	// Those with a dash are this program again, inside of namespaces.
	commands := map[string]func(context.Context, []string) error{
		"build": buildCommand, "up": upCommand, "quick": quickCommand, "e2e": e2eCommand,
		"-node": beNode, "-policy": bePolicy, "-fleet": beFleet,
	}
	command, known := commands[args[0]]
	if !known {
		fmt.Fprint(os.Stderr, help)
		return fmt.Errorf("there is no command %q", args[0])
	}
	return command(ctx, args[1:])
}

// cache is the folder that keeps the programs.
func cache() (string, error) {
	if dir := os.Getenv("NABAT_TESTCLUSTER_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "nabat-testcluster"), err
}

// flags parses args, of which there are none but flags.
func flags(f *flag.FlagSet, args []string) error {
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("%s takes flags only, but was given %q", f.Name(), f.Arg(0))
	}
	return nil
}

func buildCommand(ctx context.Context, args []string) error {
	dir, err := cache()
	if err != nil {
		return err
	}
	set := everything
	if len(args) == 1 && args[0] == "quick" {
		set = forQuick
	} else if len(args) > 0 {
		return fmt.Errorf("build takes no arguments but quick")
	}
	return (&builder{cache: dir, say: say}).build(ctx, set)
}

func upCommand(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("up", flag.ContinueOnError)
	nodes := f.Int("nodes", 2, "how many nodes")
	root := f.String("root", "../..", "the repository, for the image")
	if err := flags(f, args); err != nil {
		return err
	}
	c, err := up(ctx, *root, *nodes)
	if err != nil {
		return err
	}
	fmt.Printf("The cluster runs; ctrl-C ends it. In another terminal:\n\n  alias kubectl='%s'\n", c.inside(c.tool("kindless"), "kubectl", "--kubeconfig", c.kubeconfig()))
	<-ctx.Done()
	return c.down()
}

// say tells the person what happens.
func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }
