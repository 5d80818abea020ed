package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"nabat/internal/bus"
)

// asker asks control over NATS.
type asker struct {
	app     *app
	server  *natsFlags
	timeout time.Duration
	json    bool // print the answer as it came
}

// asker gives cmd the flags of one.
func (a *app) asker(cmd *cobra.Command) *asker {
	q := &asker{app: a}
	cmd.Flags().BoolVar(&q.json, "json", false, "print control's answer as one JSON object")
	cmd.Flags().DurationVar(&q.timeout, "timeout", 10*time.Second, "how long to wait for control")
	q.server = a.natsFlags(cmd)
	return q
}

// run sends a request and prints the answer, by show if it was not wanted as JSON.
func (q *asker) run(cmd *cobra.Command, verb string, request any, answer any, show func()) error {
	if q.timeout <= 0 {
		return usage(cmd, "--timeout %s: must be more than 0", q.timeout)
	}
	data, err := q.app.ask(cmd.Context(), q.server, q.timeout, verb, request)
	if err != nil {
		return err
	}
	if q.json {
		fmt.Fprintf(q.app.stdout, "%s\n", data)
		return nil
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return strange(data)
	}
	show()
	return nil
}

// ask sends one request to control and returns its answer.
func (a *app) ask(ctx context.Context, server *natsFlags, timeout time.Duration, verb string, request any) ([]byte, error) {
	nc, err := server.connect(a)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	body, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	reply, err := nc.RequestWithContext(ctx, bus.APIPrefix+verb, body)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, fmt.Errorf("no control service on NATS at %s: start nabat control (nabat dev has one)", nc.ConnectedUrlRedacted())
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("control did not answer in %s", timeout)
	case err != nil:
		return nil, fmt.Errorf("ask control: %w", err)
	}
	var refused struct {
		Error *struct{ Code, Reason string }
	}
	err = json.Unmarshal(reply.Data, &refused)
	switch {
	case err == nil && refused.Error != nil:
		return nil, fmt.Errorf("control refused: %s: %s", refused.Error.Code, refused.Error.Reason)
	case reply.Header.Get("Nats-Service-Error") != "":
		return nil, fmt.Errorf("control refused: %s", reply.Header.Get("Nats-Service-Error"))
	case err != nil:
		return nil, strange(reply.Data)
	}
	return reply.Data, nil
}

func strange(data []byte) error {
	return fmt.Errorf("control answered what this program does not understand: %.200q", data)
}
