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
	since   string
	latest  bool

	got int // messages so far
}

func (a *app) subCommand() *cobra.Command {
	s := &subscriber{app: a}
	cmd := &cobra.Command{
		Use:   "sub ROOM…",
		Short: "Join rooms at an edge and print their messages",
		Long: "Join rooms at an edge and print their messages, one JSON object a line.\n\n" +
			"What is not a message, such as a gap, is told on standard error. A connection\n" +
			"that ends is made again as its close code says, and goes on where it was: what\n" +
			"was missed in a room with history follows, or the gap is told.",
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
	f.StringVar(&s.since, "since", "", "begin with what was published in the last so long (10m), or since a time (2026-01-02T15:04:05Z)")
	f.BoolVar(&s.latest, "latest", false, "begin with the newest message of each room")
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
	begin, err := s.begin(cmd)
	if err != nil {
		return err
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
	k, err := client.Keep(ctx, s.edge, client.Options{Token: s.token, Rooms: s.rooms, Begin: begin})
	if err != nil {
		return err
	}
	defer k.Close()
	err = s.print(k)
	switch {
	case ctx.Err() == nil || err == nil:
		return err
	case errors.Is(ctx.Err(), context.DeadlineExceeded) && s.count > 0:
		return fmt.Errorf("%d of %d messages arrived in %s", s.got, s.count, s.timeout)
	}
	return nil
}

// begin is where the rooms begin: now, if no flag says otherwise.
func (s *subscriber) begin(cmd *cobra.Command) ([]client.SubscribeOption, error) {
	isSince := cmd.Flags().Changed("since")
	switch {
	case isSince && s.latest:
		return nil, usage(cmd, "--since and --latest exclude each other")
	case s.latest:
		return []client.SubscribeOption{client.Latest()}, nil
	case !isSince:
		return nil, nil
	}
	if d, err := time.ParseDuration(s.since); err == nil && d > 0 {
		return []client.SubscribeOption{client.Since(d)}, nil
	}
	if at, err := time.Parse(time.RFC3339Nano, s.since); err == nil && at.Unix() > 0 {
		return []client.SubscribeOption{client.SinceTime(at)}, nil
	}
	return nil, usage(cmd, "--since %q: must be a duration such as 10m, or a time such as 2026-01-02T15:04:05Z (RFC 3339)", s.since)
}

// tell says on standard error what is not a message.
func (s *subscriber) tell(format string, args ...any) {
	fmt.Fprintf(s.app.stderr, "nabat sub: "+format+"\n", args...)
}

func (s *subscriber) joined(c *wire.Connected) {
	as := "without a token"
	if c.User != "" {
		as = "as " + c.User
	}
	names := make([]string, len(c.Rooms))
	for i, p := range c.Rooms {
		names[i] = p.Room
	}
	s.tell("joined %s at %s (%s), %s", strings.Join(names, ", "), s.edge, c.Node, as)
}

// print writes what arrives until the end, or until enough came.
func (s *subscriber) print(k *client.Keeper) error {
	for e := range k.Events() {
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
	return k.Err()
}

func (s *subscriber) notice(e client.Event) {
	switch {
	case e.Connected != nil:
		s.joined(e.Connected)
	case e.Down != nil:
		s.tell("%v: again in %s", e.Down.Err, e.Down.Wait.Round(time.Millisecond))
	case e.Recovered != nil && !e.Recovered.OK:
		s.tell("gap in %s: %s", e.Recovered.Room, missed(e.Recovered.Reason))
	case e.Lagging != nil:
		s.tell("lagging in %s: what is behind offset %d follows from history", e.Lagging.Room, e.Lagging.Offset)
	case e.Reset != nil:
		s.tell("the history of %s began anew: epoch %s, offset %d", e.Reset.Room, e.Reset.Epoch, e.Reset.Offset)
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

// missed says in words why messages that were sent meanwhile do not follow.
func missed(reason string) string {
	switch reason {
	case wire.NoHistory:
		return "messages sent meanwhile are not known"
	case wire.EpochChanged:
		return "its history began anew"
	case wire.HistoryCut:
		return "messages sent meanwhile are no longer kept"
	case wire.AheadOfHistory:
		return "its history does not reach as far as what was received"
	case wire.HistoryUnavailable:
		return "its history can not be read now"
	}
	return reason
}
