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
	"nabat/proto/grant"
)

// tokenRequest is the body of nabat.api.token.issue; proto/BUS.md has its fields.
type tokenRequest struct {
	User      string          `json:"sub,omitempty"`
	TTL       string          `json:"ttl,omitempty"`
	Algorithm string          `json:"algorithm,omitempty"`
	Subscribe []string        `json:"subscribe,omitempty"`
	Publish   []string        `json:"publish,omitempty"`
	Deny      []string        `json:"deny,omitempty"`
	Rooms     []string        `json:"rooms,omitempty"`
	Info      json.RawMessage `json:"info,omitempty"`
}

func (a *app) tokenCommand() *cobra.Command {
	var r tokenRequest
	var ttl, timeout time.Duration
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
	f.DurationVar(&ttl, "ttl", time.Hour, "how long the token is valid")
	f.StringVar(&r.Algorithm, "algorithm", "HS256", "HS256 or EdDSA")
	f.StringVar(&info, "info", "", "JSON about the user, shown to others")
	f.DurationVar(&timeout, "timeout", 10*time.Second, "how long to wait for control")
	server := a.natsFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		r.TTL, r.Info = ttl.String(), json.RawMessage(info)
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
	nc, err := server.connect(a)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	body, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("token request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	reply, err := nc.RequestWithContext(ctx, bus.APIPrefix+"token.issue", body)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return "", fmt.Errorf("no control service on NATS at %s: start nabat control (nabat dev has one)", nc.ConnectedUrlRedacted())
	case errors.Is(err, context.DeadlineExceeded):
		return "", fmt.Errorf("control did not answer in %s", timeout)
	case err != nil:
		return "", fmt.Errorf("ask control: %w", err)
	}
	return readToken(reply)
}

func readToken(reply *nats.Msg) (string, error) {
	var answer struct {
		Token string
		Error *struct{ Code, Reason string }
	}
	err := json.Unmarshal(reply.Data, &answer)
	switch {
	case err == nil && answer.Error != nil:
		return "", fmt.Errorf("control refused: %s: %s", answer.Error.Code, answer.Error.Reason)
	case reply.Header.Get("Nats-Service-Error") != "":
		return "", fmt.Errorf("control refused: %s", reply.Header.Get("Nats-Service-Error"))
	case err != nil || answer.Token == "":
		return "", fmt.Errorf("control answered what this program does not understand: %.200q", reply.Data)
	}
	return answer.Token, nil
}
