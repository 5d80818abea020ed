package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"nabat/client"
	"nabat/proto/subject"
	"nabat/proto/wire"
)

type caller struct {
	app         *app
	edge, token string
	text        bool
	timeout     time.Duration
}

func rpcCommand(a *app) *cobra.Command {
	c := &caller{app: a}
	cmd := &cobra.Command{
		Use:   "rpc METHOD [DATA]",
		Short: "Call a method of a backend, as clients do, and print what it answers",
		Long: "Call a method of a backend, as clients do, and print what it answers.\n\n" +
			"DATA is JSON if it can be read so, else a text; - reads it from standard input,\n" +
			"and without it nothing is sent. An error of the backend is told on standard error.",
		Example: "  nabat rpc orders.create '{\"item\":12}'\n  nabat rpc orders.create --edge https://edge.example --token \"$(nabat token --user alice --rpc 'orders.*')\"",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return exactly("METHOD")(cmd, args)
			}
			return exactly("METHOD", "DATA")(cmd, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.edge, "edge", "", "address of the edge (NABAT_EDGE; default "+defaultEdge+")")
	f.StringVar(&c.token, "token", "", "token (NABAT_TOKEN)")
	f.BoolVar(&c.text, "text", false, "DATA is a text, also if it is JSON")
	f.DurationVar(&c.timeout, "timeout", 15*time.Second, "how long to wait for the answer")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return c.run(cmd, args) }
	return cmd
}

func (c *caller) run(cmd *cobra.Command, args []string) error {
	method := args[0]
	if c.timeout <= 0 {
		return usage(cmd, "--timeout %s: must be more than 0", c.timeout)
	}
	if err := subject.CheckRoom(method); err != nil {
		return usage(cmd, "METHOD: %v", err)
	}
	data, err := c.data(args[1:])
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	edge := cmp.Or(c.edge, c.app.env("NABAT_EDGE"), defaultEdge)
	conn, err := client.Dial(ctx, edge, client.Options{Token: cmp.Or(c.token, c.app.env("NABAT_TOKEN"))})
	if err != nil {
		return err
	}
	defer conn.Close()
	result, err := conn.Call(ctx, method, data)
	if err != nil {
		var refused *wire.Error
		if errors.As(err, &refused) && refused.Backend != "" {
			return fmt.Errorf("%w (the backend's code is %s)", err, refused.Backend)
		}
		return err
	}
	if _, err := fmt.Fprintf(c.app.stdout, "%s\n", result.Body); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// data is what is sent: nil for nothing.
func (c *caller) data(args []string) (any, error) {
	if len(args) == 0 {
		return nil, nil
	}
	body := []byte(args[0])
	if args[0] == "-" {
		var err error
		if body, err = io.ReadAll(c.app.stdin); err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
	}
	if !c.text && json.Valid(body) {
		return json.RawMessage(body), nil
	}
	if !utf8.Valid(body) {
		return body, nil
	}
	return client.Text(body), nil
}
