package main

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func keysCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "List the keys that sign tokens, or make new ones",
		Long: "List the keys that sign tokens, as control knows them: next ones are published\n" +
			"and wait, so that every edge has them before they sign; verifying ones sign no\n" +
			"more, and go when the longest of their tokens has ended.",
		Example: "  nabat keys\n  nabat keys rotate",
		Args:    exactly(),
	}
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return q.printKeys(cmd, "keys.list", struct{}{}) }
	cmd.AddCommand(rotateCommand(a))
	return cmd
}

func rotateCommand(a *app) *cobra.Command {
	var r struct {
		AtOnce bool `json:"at_once,omitempty"`
		Drop   bool `json:"drop,omitempty"`
	}
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Make new keys, which sign when every edge has them",
		Long: "Make new keys. They sign when every edge has had time to get them (key_lead), and\n" +
			"those before them verify until the longest of their tokens has ended. With --drop\n" +
			"every token that exists is refused from now on: for keys that somebody has stolen.",
		Args: exactly(),
	}
	cmd.Flags().BoolVar(&r.AtOnce, "at-once", false, "let them sign now")
	cmd.Flags().BoolVar(&r.Drop, "drop", false, "let them sign now, and remove all others")
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return q.printKeys(cmd, "keys.rotate", r) }
	return cmd
}

func (q *asker) printKeys(cmd *cobra.Command, verb string, request any) error {
	var answer struct {
		Keys []struct {
			ID        string `json:"kid"`
			Algorithm string `json:"alg"`
			State     string
			Created   int64
			SignsFrom int64 `json:"signs_from"`
			Until     int64
		}
	}
	return q.run(cmd, verb, request, &answer, func() {
		t := newTable(q.app.stdout, "KEY", "ALGORITHM", "STATE", "CREATED", "SIGNS FROM", "UNTIL")
		for _, k := range answer.Keys {
			t.row(k.ID, k.Algorithm, k.State, date(k.Created), date(k.SignsFrom), date(k.Until))
		}
		t.flush()
	})
}

func revokeCommand(a *app) *cobra.Command {
	var token, user, before, reason string
	cmd := &cobra.Command{
		Use:   "revoke [ID]",
		Short: "Revoke a token, or all that a user has",
		Long: "Revoke a token by its id (jti) or by itself, or with --user all tokens of a user\n" +
			"that were issued until now, or before a time. Connections that are open with them\n" +
			"are closed.",
		Example: "  nabat token revoke 5e2b9c0f4a1d7e6b3c8f9a0b\n  nabat token revoke --user alice",
		Args: func(cmd *cobra.Command, args []string) error {
			given := len(args)
			for _, flag := range []string{"token", "user"} {
				if cmd.Flags().Changed(flag) {
					given++
				}
			}
			if given != 1 {
				return usage(cmd, "give one of ID, --token and --user")
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&token, "token", "", "the token itself; it is remembered only as long as it would be valid")
	f.StringVar(&user, "user", "", "all tokens of this user")
	f.StringVar(&before, "issued-before", "", "with --user: those issued before this time (RFC 3339), or so long ago")
	f.StringVar(&reason, "reason", "", "why, for other operators")
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !cmd.Flags().Changed("user") {
			if before != "" {
				return usage(cmd, "--issued-before belongs to --user")
			}
			request := map[string]string{"token": token, "reason": reason}
			if len(args) == 1 {
				request["jti"] = args[0]
			}
			return q.printEntry(cmd, "token.revoke", request)
		}
		request := map[string]any{"user": user, "reason": reason}
		if before != "" {
			at, err := moment(before, time.Now())
			if err != nil {
				return usage(cmd, "--issued-before %q: must be a duration such as 10m, or a time such as 2026-01-02T15:04:05Z (RFC 3339)", before)
			}
			request["issued_before"] = at.Unix()
		}
		return q.printEntry(cmd, "user.revoke", request)
	}
	return cmd
}

// moment is a time, or a duration before now.
func moment(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Parse(time.RFC3339, text)
}

func blockCommand(a *app) *cobra.Command {
	var duration time.Duration
	var reason string
	cmd := &cobra.Command{
		Use:   "block USER",
		Short: "Keep a user out, for a time or for good",
		Long: "Keep a user out, whatever token it shows. Its connections are closed, and do not\n" +
			"come back. nabat unblock lets it in again; nabat blocks lists who is kept out.",
		Example: "  nabat block bob --for 24h --reason spam",
		Args:    exactly("USER"),
	}
	cmd.Flags().DurationVar(&duration, "for", 0, "for how long; 0 is for good")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for other operators")
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := map[string]string{"user": args[0], "reason": reason}
		switch {
		case duration < 0:
			return usage(cmd, "--for %s: must not be negative", duration)
		case duration > 0:
			request["for"] = duration.String()
		}
		return q.printEntry(cmd, "user.block", request)
	}
	return cmd
}

func unblockCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "unblock USER",
		Short: "Let a user in again",
		Args:  exactly("USER"),
	}
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var answer struct {
			Was bool `json:"was_blocked"`
		}
		return q.run(cmd, "user.unblock", map[string]string{"user": args[0]}, &answer, func() {
			if answer.Was {
				fmt.Fprintf(a.stdout, "user %s is let in again\n", args[0])
			} else {
				fmt.Fprintf(a.stdout, "user %s was not blocked\n", args[0])
			}
		})
	}
	return cmd
}

// blockEntry is an entry as control answers.
type blockEntry struct {
	Kind    string
	Token   string `json:"jti"`
	User    string
	Before  int64 `json:"issued_before"`
	Created int64
	Until   int64
	Reason  string
}

// says is what the entry means.
func (e *blockEntry) says() (kind, subject string) {
	switch e.Kind {
	case "token":
		return "token revoked", e.Token
	case "issued":
		return "tokens issued before " + date(e.Before) + " revoked", e.User
	}
	return "user blocked", e.User
}

func (q *asker) printEntry(cmd *cobra.Command, verb string, request any) error {
	var e blockEntry
	return q.run(cmd, verb, request, &e, func() {
		kind, subject := e.says()
		end := "for good"
		if e.Until != 0 {
			end = "until " + date(e.Until)
		}
		fmt.Fprintf(q.app.stdout, "%s: %s, %s\n", subject, kind, end)
	})
}

func blocksCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "blocks",
		Short: "List revoked tokens and blocked users",
		Args:  exactly(),
	}
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var answer struct{ Blocks []blockEntry }
		return q.run(cmd, "block.list", struct{}{}, &answer, func() {
			t := newTable(a.stdout, "SUBJECT", "WHAT", "SINCE", "UNTIL", "REASON")
			for _, e := range answer.Blocks {
				kind, subject := e.says()
				t.row(subject, kind, date(e.Created), date(e.Until), cmp.Or(e.Reason, "-"))
			}
			t.flush()
		})
	}
	return cmd
}

// date is a time in unix seconds as people read it.
func date(unix int64) string {
	if unix == 0 {
		return "-"
	}
	return time.Unix(unix, 0).UTC().Format(time.RFC3339)
}

// table prints columns.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer, columns ...string) *table {
	t := &table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	t.row(columns...)
	return t
}

func (t *table) row(cells ...string) {
	for n, cell := range cells {
		if n > 0 {
			fmt.Fprint(t.w, "\t")
		}
		fmt.Fprint(t.w, cell)
	}
	fmt.Fprintln(t.w)
}

// flush prints what was collected; there is nobody to tell when that fails.
func (t *table) flush() { _ = t.w.Flush() }
