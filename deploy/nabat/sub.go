package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"nabat/client"
	"nabat/proto/subject"
	"nabat/proto/wire"
)

const defaultEdge = "http://127.0.0.1:8080"

type subscriber struct {
	app     *app
	rooms   []string
	edge    string
	token   string
	count   int
	timeout time.Duration
	raw     bool

	got int // messages so far
}

func (a *app) subCommand() *cobra.Command {
	s := &subscriber{app: a}
	cmd := &cobra.Command{
		Use:   "sub ROOM…",
		Short: "Join rooms at an edge and print their messages",
		Long: "Join rooms at an edge and print their messages, one JSON object a line.\n\n" +
			"What is not a message, such as a gap, is told on standard error. A connection\n" +
			"that ends is made again as its close code says.",
		Example: "  nabat sub sports.news\n  nabat sub chat.42 user.alice --edge https://edge.example --token \"$(nabat token --user alice --subscribe 'chat.*')\"",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(cmd, "ROOM is missing")
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.edge, "edge", "", "address of the edge (NABAT_EDGE; default "+defaultEdge+")")
	f.StringVar(&s.token, "token", "", "token (NABAT_TOKEN)")
	f.IntVar(&s.count, "count", 0, "end after so many messages; 0 for never")
	f.DurationVar(&s.timeout, "timeout", 0, "end after so long; 0 for never. With --count, fewer messages are then a failure")
	f.BoolVar(&s.raw, "raw", false, "print bodies only")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s.rooms = args
		return s.run(cmd)
	}
	return cmd
}

func (s *subscriber) run(cmd *cobra.Command) error {
	switch {
	case s.count < 0:
		return usage(cmd, "--count %d: must be 0 or more", s.count)
	case s.timeout < 0:
		return usage(cmd, "--timeout %s: must be 0 or more", s.timeout)
	}
	for _, room := range s.rooms {
		if err := subject.CheckRoom(room); err != nil {
			return usage(cmd, "%v", err)
		}
	}
	s.edge = cmp.Or(s.edge, s.app.env("NABAT_EDGE"), defaultEdge)
	s.token = cmp.Or(s.token, s.app.env("NABAT_TOKEN"))
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if s.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.timeout)
		defer cancel()
	}
	first := true
	k := client.Keeper{
		Address: s.edge,
		Options: func(context.Context) (client.Options, error) {
			return client.Options{Token: s.token, Rooms: s.rooms}, nil
		},
		Retrying: func(err error, wait time.Duration) {
			s.tell("%v: again in %s", err, wait.Round(time.Millisecond))
		},
	}
	err := k.Run(ctx, func(c *client.Conn) error {
		s.joined(c.Connected(), first)
		first = false
		return s.print(ctx, c)
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded) && s.count > 0:
		return fmt.Errorf("%d of %d messages arrived in %s", s.got, s.count, s.timeout)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return nil
	}
	return err
}

// tell says on standard error what is not a message.
func (s *subscriber) tell(format string, args ...any) {
	fmt.Fprintf(s.app.stderr, "nabat sub: "+format+"\n", args...)
}

func (s *subscriber) joined(c wire.Connected, first bool) {
	as := "without a token"
	if c.User != "" {
		as = "as " + c.User
	}
	names := make([]string, len(c.Rooms))
	for i, p := range c.Rooms {
		names[i] = p.Room
	}
	s.tell("joined %s at %s (%s), %s", strings.Join(names, ", "), s.edge, c.Node, as)
	if !first {
		for _, p := range c.Rooms {
			if p.Recovered == nil || !*p.Recovered {
				s.tell("gap in %s: messages sent meanwhile are not known", p.Room)
			}
		}
	}
}

// print writes what arrives until the connection or ctx ends or enough came.
func (s *subscriber) print(ctx context.Context, c *client.Conn) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-c.Events():
			if !ok {
				return nil // Keeper knows why
			}
			if e.Message == nil {
				s.notice(e)
				continue
			}
			line := []byte(e.Raw)
			if s.raw {
				line = e.Message.Body
			}
			if _, err := fmt.Fprintf(s.app.stdout, "%s\n", line); err != nil {
				return fmt.Errorf("write: %w", err)
			}
			if s.got++; s.got == s.count {
				return nil
			}
		}
	}
}

func (s *subscriber) notice(e client.Event) {
	switch {
	case e.Gap != nil && e.Gap.To != 0:
		s.tell("gap in %s, %d to %d: %s", e.Gap.Room, e.Gap.From, e.Gap.To, e.Gap.Reason)
	case e.Gap != nil:
		s.tell("gap in %s: %s", e.Gap.Room, e.Gap.Reason)
	case e.Expiring > 0:
		s.tell("the token expires in %s", e.Expiring)
	case len(e.Unsubscribed) > 0:
		s.tell("the server ended the subscription of %s", strings.Join(e.Unsubscribed, ", "))
	case e.Error != nil:
		s.tell("%v", e.Error)
	}
}
