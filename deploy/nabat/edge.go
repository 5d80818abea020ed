package main

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"nabat/edge"
)

func (a *app) edgeCommand() *cobra.Command {
	cfg := edge.Defaults()
	cmd := &cobra.Command{
		Use:   "edge",
		Short: "Run an edge: what clients connect to",
		Long: "Run an edge: what clients connect to.\n\n" +
			"An edge keeps nothing: run as many as you like against one NATS cluster that a\n" +
			"control service uses too. Every flag is also a variable of the environment, in\n" +
			"brackets below, and a key of the --config file: --max-rooms, NABAT_MAX_ROOMS and\n" +
			"max_rooms. Flags win over the environment, that wins over the file.",
		Example: "  nabat edge --listen :8080 --nats-url nats://nats-0:4222,nats://nats-1:4222",
		Args:    exactly(),
	}
	s := a.settings(cmd, &cfg)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if printed, err := s.load(); printed || err != nil {
			return err
		}
		return a.runOne(cmd, s, cfg.LogLevel, cfg.LogFormat, cfg.OpsListen, cfg.Listen,
			func(log *slog.Logger, reg *prometheus.Registry) (program, error) { return edge.New(cfg, log, reg) })
	}
	return cmd
}
