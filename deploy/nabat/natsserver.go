package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"nabat/internal/natsdev"
)

// natsCommand is the NATS server for those who want one image for everything.
func (a *app) natsCommand() *cobra.Command {
	var config, pid, signal string
	cmd := &cobra.Command{
		Use:   "nats --config FILE",
		Short: "Run the NATS server that is built in, by a configuration file of nats-server",
		Long: "Run the NATS server that is built in, by a configuration file of nats-server.\n\n" +
			"It is the same server as nats-server of its version: files, signals and the\n" +
			"monitoring port are documented there. With --signal the server whose process id\n" +
			"is in --pid is told something: " + strings.Join(natsdev.Commands(), ", ") + ". ldm moves its\n" +
			"clients to other servers and ends it; a SIGTERM meanwhile is ignored.",
		Example: "  nabat nats --config nats.conf --pid nats.pid\n  nabat nats --signal ldm --pid nats.pid",
		Args:    exactly(),
	}
	cmd.Flags().StringVar(&config, "config", "", "configuration file of nats-server")
	cmd.Flags().StringVar(&pid, "pid", "", "file for the process id; goes before pid_file of the configuration")
	cmd.Flags().StringVar(&signal, "signal", "", "tell a running server: "+strings.Join(natsdev.Commands(), ", "))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case signal == "" && config == "":
			return usage(cmd, "--config is missing")
		case signal == "":
			return natsdev.Serve(config, pid)
		case config != "":
			return usage(cmd, "--signal is for a server that runs, --config for one that starts: give one of them")
		case pid == "":
			return usage(cmd, "--signal needs --pid, the file with the server's process id")
		case !slices.Contains(natsdev.Commands(), signal):
			return usage(cmd, "--signal %q: must be one of %s", signal, strings.Join(natsdev.Commands(), ", "))
		}
		return natsdev.Signal(signal, pid)
	}
	return cmd
}
