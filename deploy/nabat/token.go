package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"nabat/proto/grant"
)

// tokenRequest is the body of nabat.api.token.issue; proto/BUS.md has its fields.
type tokenRequest struct {
	User      string          `json:"sub,omitempty"`
	TTL       string          `json:"ttl,omitempty"`
	NotBefore int64           `json:"nbf,omitempty"`
	Algorithm string          `json:"algorithm,omitempty"`
	Subscribe []string        `json:"subscribe,omitempty"`
	Publish   []string        `json:"publish,omitempty"`
	Deny      []string        `json:"deny,omitempty"`
	Rooms     []string        `json:"rooms,omitempty"`
	UserRoom  bool            `json:"user_room,omitempty"`
	Info      json.RawMessage `json:"info,omitempty"`
}

func (a *app) tokenCommand() *cobra.Command {
	var r tokenRequest
	var ttl, wait, timeout time.Duration
	var info string
	cmd := &cobra.Command{
		Use:   "token --user NAME",
		Short: "Ask control for a token and print it",
		Long: "Ask control for a token, over NATS, and print it alone on standard output.\n\n" +
			"Grants are NATS wildcards over room names: * is one token between dots, a last\n" +
			"> one or more. A flag may be given several times.",
		Example: "  nabat token --user alice --subscribe 'sports.>' --publish chat.42 --ttl 1h",
		Args:    exactly(),
	}
	f := cmd.Flags()
	f.StringVar(&r.User, "user", "", "the user (sub)")
	f.StringArrayVar(&r.Subscribe, "subscribe", nil, "rooms to join, as a pattern")
	f.StringArrayVar(&r.Publish, "publish", nil, "rooms to publish to, as a pattern")
	f.StringArrayVar(&r.Deny, "deny", nil, "rooms that are refused whatever else is granted, as a pattern")
	f.StringArrayVar(&r.Rooms, "room", nil, "a room that is joined at connect")
	f.BoolVar(&r.UserRoom, "user-room", false, "join user.NAME at connect: the room of all devices of the user")
	f.DurationVar(&ttl, "ttl", time.Hour, "how long the token is valid")
	f.DurationVar(&wait, "not-before", 0, "from when on it is valid: so long from now")
	f.StringVar(&r.Algorithm, "algorithm", "HS256", "HS256 or EdDSA")
	f.StringVar(&info, "info", "", "JSON about the user, shown to others")
	f.DurationVar(&timeout, "timeout", 10*time.Second, "how long to wait for control")
	server := a.natsFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		r.TTL, r.Info = ttl.String(), json.RawMessage(info)
		if wait > 0 {
			r.NotBefore = time.Now().Add(wait).Unix()
		}
		if err := checkToken(cmd, &r, ttl, timeout); err != nil {
			return err
		}
		token, err := a.issue(cmd.Context(), &r, server, timeout)
		if err != nil {
			return err
		}
		fmt.Fprintln(a.stdout, token)
		return nil
	}
	cmd.AddCommand(revokeCommand(a))
	return cmd
}

// checkToken finds what control would refuse, and names the flag.
func checkToken(cmd *cobra.Command, r *tokenRequest, ttl, timeout time.Duration) error {
	switch {
	case r.User == "":
		return usage(cmd, "--user is missing: whose token is it?")
	case ttl <= 0:
		return usage(cmd, "--ttl %s: must be more than 0", ttl)
	case timeout <= 0:
		return usage(cmd, "--timeout %s: must be more than 0", timeout)
	case r.Algorithm != "HS256" && r.Algorithm != "EdDSA":
		return usage(cmd, "--algorithm %q: must be HS256 or EdDSA", r.Algorithm)
	case len(r.Info) > 0 && !json.Valid(r.Info):
		return usage(cmd, "--info: not JSON")
	}
	for _, one := range []struct {
		flag  string
		grant grant.Grant
	}{
		{"subscribe", grant.Grant{Subscribe: r.Subscribe}}, {"publish", grant.Grant{Publish: r.Publish}},
		{"deny", grant.Grant{Deny: r.Deny}}, {"room", grant.Grant{Rooms: r.Rooms}},
	} {
		if err := one.grant.Check(); err != nil {
			return usage(cmd, "--%s: %v", one.flag, errors.Unwrap(err))
		}
	}
	return nil
}

// issue asks control over NATS.
func (a *app) issue(ctx context.Context, r *tokenRequest, server *natsFlags, timeout time.Duration) (string, error) {
	data, err := a.ask(ctx, server, timeout, "token.issue", r)
	if err != nil {
		return "", err
	}
	var answer struct{ Token string }
	if err := json.Unmarshal(data, &answer); err != nil || answer.Token == "" {
		return "", strange(data)
	}
	return answer.Token, nil
}
