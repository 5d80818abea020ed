package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// apiKey is a key of the HTTP API, as control shows it.
type apiKey struct {
	ID, Name          string
	Scopes, Rooms     []string
	Created           time.Time
	Expires, Revoked  time.Time
	Rotated, OldUntil time.Time
}

func (k *apiKey) state(now time.Time) string {
	switch {
	case !k.Revoked.IsZero():
		return "revoked"
	case !k.Expires.IsZero() && !now.Before(k.Expires):
		return "expired"
	case !k.Expires.IsZero():
		return "until " + k.Expires.Format(time.DateOnly)
	}
	return "valid"
}

func apikeyCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apikey",
		Short: "Make, list, revoke and rotate keys of control's HTTP API",
		Args:  exactly(),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, c := range []*cobra.Command{apikeyCreate(a), apikeyList(a), apikeyRevoke(a), apikeyRotate(a)} {
		c.Flags().SortFlags = false
		cmd.AddCommand(c)
	}
	return cmd
}

func apikeyCreate(a *app) *cobra.Command {
	var name string
	var scopes, rooms []string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "create --scope SCOPE",
		Short: "Make a key and print its secret, which is shown once",
		Long: "Make a key and print its secret alone on standard output. A scope is publish, read,\n" +
			"tokens, users or admin (everything), or the name of one verb, such as history.\n" +
			"With --room the key is for requests about these rooms only.",
		Example: "  nabat apikey create --name shop --scope publish --room 'orders.>'",
		Args:    exactly(),
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "what it is for")
	f.StringArrayVar(&scopes, "scope", nil, "what it may do; may be given several times")
	f.StringArrayVar(&rooms, "room", nil, "only these rooms, as a pattern; may be given several times")
	f.DurationVar(&ttl, "ttl", 0, "how long it is valid (default: for ever)")
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(scopes) == 0 {
			return usage(cmd, "--scope is missing: what may the key do?")
		}
		request := map[string]any{"name": name, "scopes": scopes, "rooms": rooms}
		if ttl > 0 {
			request["ttl"] = ttl.String()
		}
		return q.secret(cmd, "apikey.create", request)
	}
	return cmd
}

// secret asks for a key and prints its secret.
func (q *asker) secret(cmd *cobra.Command, verb string, request any) error {
	var got struct {
		Key    apiKey
		Secret string
	}
	return q.run(cmd, verb, request, &got, func() {
		fmt.Fprintf(q.app.stderr, "key %s; the secret is not shown again:\n", got.Key.ID)
		fmt.Fprintln(q.app.stdout, got.Secret)
	})
}

func apikeyList(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the keys, without their secrets", Args: exactly()}
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var got struct{ Keys []apiKey }
		return q.run(cmd, "apikey.list", map[string]any{}, &got, func() {
			rows := [][]string{{"ID", "NAME", "SCOPES", "ROOMS", "CREATED", "STATE"}}
			for _, k := range got.Keys {
				rooms := strings.Join(k.Rooms, " ")
				if rooms == "" {
					rooms = "all"
				}
				rows = append(rows, []string{k.ID, k.Name, strings.Join(k.Scopes, " "), rooms, k.Created.Format(time.DateOnly), k.state(time.Now())})
			}
			printTable(a, rows...)
		})
	}
	return cmd
}

func apikeyRevoke(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "revoke ID", Short: "End a key", Args: exactly("ID")}
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var got struct{ Key apiKey }
		return q.run(cmd, "apikey.revoke", map[string]any{"id": args[0]}, &got, func() { fmt.Fprintf(a.stdout, "revoked %s\n", got.Key.ID) })
	}
	return cmd
}

func apikeyRotate(a *app) *cobra.Command {
	var grace time.Duration
	cmd := &cobra.Command{Use: "rotate ID", Short: "Give a key another secret and print it", Args: exactly("ID")}
	cmd.Flags().DurationVar(&grace, "grace", time.Hour, "how long the old secret is accepted")
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return q.secret(cmd, "apikey.rotate", map[string]any{"id": args[0], "grace": grace.String()})
	}
	return cmd
}
