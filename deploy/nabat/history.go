package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"nabat/client"
	"nabat/proto/subject"
	"nabat/proto/wire"
)

type historian struct {
	app           *app
	edge, token   string
	limit         int
	before, after uint64
	json          bool
	timeout       time.Duration
}

func (a *app) historyCommand() *cobra.Command {
	h := &historian{app: a}
	cmd := &cobra.Command{
		Use:   "history ROOM",
		Short: "Print the kept messages of a room, as an edge gives them to clients",
		Long: "Print the kept messages of a room, as an edge gives them to clients, oldest first:\n" +
			"the newest, or those before or after an offset. A line is the offset, the sender\n" +
			"if there is one, and the body.",
		Example: "  nabat history chat.42\n  nabat history chat.42 --after 0 --limit 1000 --json",
		Args:    exactly("ROOM"),
	}
	f := cmd.Flags()
	f.StringVar(&h.edge, "edge", "", "address of the edge (NABAT_EDGE; default "+defaultEdge+")")
	f.StringVar(&h.token, "token", "", "token (NABAT_TOKEN)")
	f.IntVar(&h.limit, "limit", 20, "print at most so many messages")
	f.Uint64Var(&h.before, "before", 0, "the messages before this offset")
	f.Uint64Var(&h.after, "after", 0, "the messages after this offset; 0 is the beginning")
	f.BoolVar(&h.json, "json", false, "print one JSON object a line, as nabat sub does")
	f.DurationVar(&h.timeout, "timeout", 10*time.Second, "how long to wait for the edge")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return h.run(cmd, args[0]) }
	return cmd
}

func (h *historian) run(cmd *cobra.Command, room string) error {
	isBefore, isAfter := cmd.Flags().Changed("before"), cmd.Flags().Changed("after")
	switch {
	case isBefore && isAfter:
		return usage(cmd, "--before and --after exclude each other")
	case isBefore && h.before == 0:
		return usage(cmd, "--before 0: there is nothing before the first offset, which is 1")
	case h.limit <= 0:
		return usage(cmd, "--limit %d: must be more than 0", h.limit)
	case h.timeout <= 0:
		return usage(cmd, "--timeout %s: must be more than 0", h.timeout)
	}
	if err := subject.CheckRoom(room); err != nil {
		return usage(cmd, "%v", err)
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	edge := cmp.Or(h.edge, h.app.env("NABAT_EDGE"), defaultEdge)
	c, err := client.Dial(ctx, edge, client.Options{Token: cmp.Or(h.token, h.app.env("NABAT_TOKEN"))})
	if err != nil {
		return err
	}
	defer c.Close()
	list, err := h.read(ctx, c, room, isAfter)
	if err != nil {
		return err
	}
	for _, m := range list {
		if err := h.print(m); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	return nil
}

// read returns the messages that were asked for, oldest first.
func (h *historian) read(ctx context.Context, c *client.Conn, room string, forwards bool) (list []*wire.Message, err error) {
	options := []client.HistoryOption{client.Limit(h.limit), client.After(h.after)}
	if !forwards {
		// The newest are a page of their own; what is missing comes before it.
		options[1] = client.Before(h.before)
		if h.before == 0 {
			page, err := c.History(ctx, room, options[0])
			if err != nil || !page.More || len(page.Messages) == 0 || len(page.Messages) >= h.limit {
				return page.Messages, err
			}
			slices.Reverse(page.Messages)
			list, options[1] = page.Messages, client.Before(page.Messages[len(page.Messages)-1].Offset)
		}
		defer func() { slices.Reverse(list) }()
	}
	for m, err := range c.Messages(ctx, room, options...) {
		if err != nil {
			return nil, err
		}
		if list = append(list, m); len(list) == h.limit {
			break
		}
	}
	return list, nil
}

func (h *historian) print(m *wire.Message) error {
	if h.json {
		shown := *m
		shown.Epoch = "" // as the edge sends messages
		_, err := fmt.Fprintf(h.app.stdout, "%s\n", wire.AppendMessage(nil, &shown))
		return err
	}
	from := ""
	if m.User != "" {
		from = m.User + ": "
	}
	body := string(m.Body)
	if m.Kind == wire.Binary {
		body = fmt.Sprintf("(%d bytes) %q", len(m.Body), m.Body)
	}
	_, err := fmt.Fprintf(h.app.stdout, "%-8d %s%s\n", m.Offset, from, body)
	return err
}
