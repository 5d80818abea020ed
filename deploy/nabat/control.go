package main

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"nabat/control"
)

func (a *app) controlCommand() *cobra.Command {
	cfg := control.Defaults()
	cmd := &cobra.Command{
		Use:   "control",
		Short: "Run control: keys, tokens, policies, the page and the API",
		Long: "Run control: keys, tokens, policies, the page and the API.\n\n" +
			"Two or three replicas are enough for any number of edges. Every flag is also a\n" +
			"variable of the environment, in brackets below, and a key of the --config file.\n" +
			"Flags win over the environment, that wins over the file.",
		Example: "  nabat control --listen :8090 --nats-url nats://nats-0:4222 --policies policies.yaml",
		Args:    exactly(),
	}
	s := a.settings(cmd, &cfg)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if printed, err := s.load(); printed || err != nil {
			return err
		}
		return a.runOne(cmd, s, cfg.LogLevel, cfg.LogFormat, cfg.OpsListen, cfg.Listen,
			func(log *slog.Logger, reg *prometheus.Registry) (program, error) { return control.New(cfg, log, reg) })
	}
	return cmd
}
