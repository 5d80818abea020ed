package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"nabat/loadtest/report"
	"nabat/loadtest/scenario"
)

func (a *app) clusterCommand() *cobra.Command {
	c := new(common)
	cluster := new(scenario.Cluster)
	cmd := &cobra.Command{
		Use: "cluster", Short: "Many edges, as many clients as the machine holds, one room", Args: noArguments,
		Long: "Starts NATS, control and many edges, connects clients to each, all in one room, and\nsends messages to all of them. Shows memory, the time to connect and the time until\nthe last one has a message. A million clients on 24 GiB:\n\n" +
			"  go run ./loadtest cluster --edges 53 --clients 19000\n\nThe kernel's limits are looked at first; what is too low is named with the command that\nraises it.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.measure(cmd, c, func(ctx context.Context) (*report.Report, error) {
				cluster.Setting = c.setting
				return cluster.Run(ctx)
			})
		},
	}
	cmd.Flags().IntVar(&cluster.Edges, "edges", 4, "edge processes")
	c.registerSwarm(cmd, "clients", 5000)
	cmd.Flags().Lookup("clients").Usage = "clients of each edge"
	cmd.Flags().IntVar(&cluster.Messages, "messages", 5, "messages to all, one after the other")
	cmd.Flags().IntVar(&cluster.Payload, "payload", 128, "bytes of a message")
	cmd.Flags().DurationVar(&cluster.Patience, "patience", 2*time.Minute, "longest wait for one edge's clients to connect, and for a message to reach all")
	cmd.Flags().BoolVar(&cluster.Force, "force", false, "try although a limit of the kernel is too low")
	cmd.Flags().BoolVar(&c.verbose, "verbose", false, "show what the started servers log")
	return cmd
}
