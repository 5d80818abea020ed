package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"nabat/internal/bus"
	"nabat/proto/order"
	"nabat/proto/subject"
)

func kickCommand(a *app) *cobra.Command {
	var session, reason string
	var returns bool
	cmd := &cobra.Command{
		Use:   "kick USER",
		Short: "End all connections of a user, or one session",
		Long: "End all connections of a user, wherever they are, or with --session one. They do\n" +
			"not come back, unless --returns says so: then each comes back to another node.\n" +
			"A kicked user may connect again by hand: revoke the token to keep them out.",
		Example: "  nabat kick alice --reason 'the account is closed'",
		Args: func(cmd *cobra.Command, args []string) error {
			if session != "" {
				return exactly()(cmd, args)
			}
			return exactly("USER")(cmd, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&session, "session", "", "instead of USER: the id of one connection")
	f.StringVar(&reason, "reason", "", "words for people, in the close")
	f.BoolVar(&returns, "returns", false, "they should come back, elsewhere")
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := map[string]any{"reason": reason, "returns": returns}
		if session != "" {
			request["session"] = session
		} else {
			request["user"] = args[0]
		}
		var got obeyed
		return q.run(cmd, "disconnect", request, &got, func() { got.show(a, "ended") })
	}
	return cmd
}

func explainCommand(a *app) *cobra.Command {
	var token, user string
	var anonymous bool
	cmd := &cobra.Command{
		Use:   "explain ACTION ROOM",
		Short: "Say why somebody may do something in a room, or may not",
		Long: "Say why somebody may do something in a room, or may not: each rule that was asked,\n" +
			"in order. ACTION is subscribe, publish, history or presence.",
		Example: "  nabat explain publish chat.42 --token \"$TOKEN\"\n  nabat explain subscribe sports.news --anonymous",
		Args:    exactly("ACTION", "ROOM"),
	}
	f := cmd.Flags()
	f.StringVar(&token, "token", "", "for the holder of this token (NABAT_TOKEN)")
	f.StringVar(&user, "user", "", "for a user who is connected")
	f.BoolVar(&anonymous, "anonymous", false, "for a client without a token")
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if token == "" && user == "" && !anonymous {
			token = a.env("NABAT_TOKEN")
		}
		if token == "" && user == "" && !anonymous {
			return usage(cmd, "for whom? Give one of --token, --user and --anonymous")
		}
		if err := subject.CheckRoom(args[1]); err != nil {
			return usage(cmd, "%v", err)
		}
		var got struct {
			Explanations []struct {
				Allowed       bool
				User, Session string
				Rules         []struct {
					Rule   string
					Allows bool
					Text   string
				}
			}
		}
		request := map[string]any{"action": args[0], "room": args[1], "token": token, "user": user, "anonymous": anonymous}
		return q.run(cmd, "explain", request, &got, func() {
			for _, e := range got.Explanations {
				rows := [][]string{{map[bool]string{true: "ALLOWED", false: "REFUSED"}[e.Allowed], e.User, e.Session}}
				for _, r := range e.Rules {
					rows = append(rows, []string{map[bool]string{true: "  yes", false: "  no"}[r.Allows], r.Rule, r.Text})
				}
				printTable(a, rows...)
			}
		})
	}
	return cmd
}

func drainCommand(a *app) *cobra.Command {
	var over time.Duration
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Take an edge out of service and hand its clients to others",
		Long: "Take an edge out of service: it accepts nobody, is not ready, and hands its\n" +
			"clients to others over some time. The process goes on until you end it; started\n" +
			"again, it serves.",
		Example: "  nabat drain edge-0 --over 30s",
		Args:    exactly("NODE"),
	}
	cmd.Flags().DurationVar(&over, "over", 0, "hand the clients over in this time (default: the node's setting)")
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := map[string]any{"node": args[0]}
		if over > 0 {
			request["over"] = over.String()
		}
		var got struct {
			Node     string
			Affected int
		}
		return q.run(cmd, "node.drain", request, &got, func() {
			fmt.Fprintf(a.stdout, "%s drains: %d connections go elsewhere\n", got.Node, got.Affected)
		})
	}
	return cmd
}

func rebalanceCommand(a *app) *cobra.Command {
	var rate, tolerance int
	var status, stop bool
	cmd := &cobra.Command{
		Use:   "rebalance",
		Short: "Move clients from full edges to others until the edges are even",
		Long: "Move clients from full edges to others, some in each second, until the edges are\n" +
			"even. Control works on it; --status shows how far it is, --stop ends it.",
		Example: "  nabat rebalance --rate 200\n  nabat rebalance --status",
		Args:    exactly(),
	}
	f := cmd.Flags()
	f.IntVar(&rate, "rate", 0, "connections that move in a second (default: one percent of all)")
	f.IntVar(&tolerance, "tolerance", 0, "percent of the mean that a node may have too many (default 5)")
	f.BoolVar(&status, "status", false, "show how far it is")
	f.BoolVar(&stop, "stop", false, "end the one that runs")
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		verb, request := "rebalance.start", map[string]any{"rate": rate, "tolerance": tolerance}
		switch {
		case status && stop:
			return usage(cmd, "--status and --stop exclude each other")
		case status:
			verb, request = "rebalance.status", nil
		case stop:
			verb, request = "rebalance.stop", nil
		}
		if request == nil {
			request = map[string]any{}
		}
		var got struct {
			State, Reason string
			Moved, Left   int
			Nodes         map[string]int
		}
		return q.run(cmd, verb, request, &got, func() {
			fmt.Fprintf(a.stdout, "%s: %d moved, %d left", got.State, got.Moved, got.Left)
			if got.Reason != "" {
				fmt.Fprintf(a.stdout, " (%s)", got.Reason)
			}
			fmt.Fprintln(a.stdout)
			rows := [][]string{{"NODE", "CONNECTIONS"}}
			for node, n := range got.Nodes {
				rows = append(rows, []string{node, strconv.Itoa(n)})
			}
			slices.SortFunc(rows[1:], func(a, b []string) int { return slices.Compare(a, b) })
			printTable(a, rows...)
		})
	}
	return cmd
}

func purgeCommand(a *app) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "purge ROOM --yes",
		Short: "Remove what is stored of a room up to now",
		Long: "Remove what is stored of a room up to now, everywhere. Clients that come back from\n" +
			"before it are told that they were not recovered. There is no way back.",
		Example: "  nabat purge chat.42 --yes",
		Args:    exactly("ROOM"),
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := subject.CheckRoom(args[0]); err != nil {
			return usage(cmd, "%v", err)
		}
		if !yes {
			return usage(cmd, "this removes the history of %s for good: say --yes", args[0])
		}
		var got struct {
			Room string
			UpTo uint64 `json:"up_to"`
		}
		return q.run(cmd, "history.purge", map[string]any{"room": args[0]}, &got, func() {
			fmt.Fprintf(a.stdout, "purged %s up to offset %d\n", got.Room, got.UpTo)
		})
	}
	return cmd
}

func tapCommand(a *app) *cobra.Command {
	var user, session string
	var length time.Duration
	cmd := &cobra.Command{
		Use:   "tap [ROOM]",
		Short: "Show what a room, a user or a session gets, for a while",
		Long: "Show what a room, a user (--user) or one connection (--session) gets: messages,\n" +
			"answers, losses, and how many bytes wait for the client. It ends by itself.",
		Example: "  nabat tap chat.42 --for 10s\n  nabat tap --user alice --json",
		Args: func(cmd *cobra.Command, args []string) error {
			given := len(args)
			for _, flag := range []string{user, session} {
				if flag != "" {
					given++
				}
			}
			if given != 1 {
				return usage(cmd, "give one of ROOM, --user and --session")
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&user, "user", "", "all connections of a user")
	f.StringVar(&session, "session", "", "one connection")
	f.DurationVar(&length, "for", 30*time.Second, "for how long, at most "+order.MaxTap.String())
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := map[string]any{"user": user, "session": session, "for": length.String()}
		if len(args) == 1 {
			request["room"] = args[0]
		}
		return q.tap(cmd, request, length)
	}
	return cmd
}

// tap prints what nodes tell until all have said that it is over.
func (q *asker) tap(cmd *cobra.Command, request map[string]any, length time.Duration) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	nc, err := q.server.connect(q.app)
	if err != nil {
		return err
	}
	defer nc.Close()
	inbox := bus.TapPrefix + rand.Text()
	come := make(chan *nats.Msg, 1024)
	if _, err := nc.ChanSubscribe(inbox, come); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	request["reply"] = inbox
	data, err := q.app.ask(ctx, q.server, q.timeout, "tap", request)
	if err != nil {
		return err
	}
	var got obeyed
	if err := json.Unmarshal(data, &got); err == nil && !q.json {
		fmt.Fprintf(q.app.stderr, "listening to %d connections for %s\n", got.Affected, length)
	}
	over := time.NewTimer(length + 2*time.Second)
	defer over.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-over.C:
			return nil
		case m := <-come:
			q.printTap(m.Data)
		}
	}
}

func (q *asker) printTap(data []byte) {
	if q.json {
		fmt.Fprintf(q.app.stdout, "%s\n", data)
		return
	}
	var e order.TapEvent
	if json.Unmarshal(data, &e) != nil || e.Kind == order.TapEnd {
		return
	}
	who := e.User
	if who == "" {
		who = e.Session
	}
	fmt.Fprintf(q.app.stdout, "%s %-8s %-8s %s %s", time.UnixMilli(e.At).Format("15:04:05.000"), e.Node, e.Kind, e.Room, who)
	if e.Queued > 0 {
		fmt.Fprintf(q.app.stdout, " (%d bytes wait)", e.Queued)
	}
	if e.Count > 0 {
		fmt.Fprintf(q.app.stdout, " %d", e.Count)
	}
	fmt.Fprintf(q.app.stdout, " %s\n", e.Frame)
}
