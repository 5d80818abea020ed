package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"nabat/internal/bus"
)

// asker is what the commands share that ask control and print the answer.
type asker struct {
	app     *app
	server  *natsFlags
	json    bool
	timeout time.Duration
}

func newAsker(a *app, cmd *cobra.Command) *asker {
	q := &asker{app: a}
	cmd.Flags().BoolVar(&q.json, "json", false, "print the answer as JSON")
	cmd.Flags().DurationVar(&q.timeout, "timeout", 10*time.Second, "how long to wait for control")
	q.server = a.natsFlags(cmd)
	return q
}

// ask sends a request to control and reads its answer into reply. With --json it
// prints the answer, and printed is true.
func (q *asker) ask(cmd *cobra.Command, verb string, request, reply any) (printed bool, err error) {
	if q.timeout <= 0 {
		return false, usage(cmd, "--timeout %s: must be more than 0", q.timeout)
	}
	nc, err := q.server.connect(q.app)
	if err != nil {
		return false, err
	}
	defer nc.Close()
	body, err := json.Marshal(request)
	if err != nil {
		return false, fmt.Errorf("request: %w", err)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), q.timeout)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, bus.APIPrefix+verb, body)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return false, fmt.Errorf("no control service on NATS at %s: start nabat control (nabat dev has one)", nc.ConnectedUrlRedacted())
	case errors.Is(err, context.DeadlineExceeded):
		return false, fmt.Errorf("control did not answer in %s", q.timeout)
	case err != nil:
		return false, fmt.Errorf("ask control: %w", err)
	}
	var refused struct {
		Error *struct{ Code, Reason string }
	}
	if err := json.Unmarshal(m.Data, &refused); err == nil && refused.Error != nil {
		return false, fmt.Errorf("control refused: %s: %s", refused.Error.Code, refused.Error.Reason)
	}
	if err := json.Unmarshal(m.Data, reply); err != nil {
		return false, fmt.Errorf("control answered what this program does not understand: %.200q", m.Data)
	}
	if q.json {
		_, err = fmt.Fprintf(q.app.stdout, "%s\n", m.Data)
	}
	return q.json, err
}

// table prints rows under a heading, in columns.
func (q *asker) table(heading []string, rows [][]string) error {
	w := tabwriter.NewWriter(q.app.stdout, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{heading}, rows...) {
		if _, err := fmt.Fprintln(w, strings.Join(row, "\t")); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	return w.Flush()
}

// say prints one line.
func (q *asker) say(format string, args ...any) error {
	if _, err := fmt.Fprintf(q.app.stdout, format+"\n", args...); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// plain makes a text of somebody else's fit for a terminal.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '�'
		}
		return r
	}, text)
}

// counted is a number and its noun, in the plural where it belongs.
func counted[N int | uint32](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
