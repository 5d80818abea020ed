package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"nabat/internal/bus"
)

// natsFlags are how the tools reach NATS. Programs connect by internal/bus,
// which waits for a server; a person at a terminal wants to know at once.
type natsFlags struct {
	url, credentials, nkey, inbox, token string
}

const defaultNATS = "nats://127.0.0.1:4222"

func (a *app) natsFlags(cmd *cobra.Command) *natsFlags {
	f := &natsFlags{}
	// The environment is read later: defaults are shown by --help.
	cmd.Flags().StringVar(&f.url, "nats-url", "", "NATS servers, comma separated (NABAT_NATS_URL; default "+defaultNATS+")")
	cmd.Flags().StringVar(&f.credentials, "nats-credentials", "", "file with NATS credentials (NABAT_NATS_CREDENTIALS)")
	cmd.Flags().StringVar(&f.nkey, "nats-nkey", "", "file with the seed of a NATS nkey (NABAT_NATS_NKEY)")
	cmd.Flags().StringVar(&f.inbox, "nats-inbox", "", "prefix of the subjects that NATS replies come to (NABAT_NATS_INBOX; default "+bus.InboxBackend+")")
	cmd.Flags().StringVar(&f.token, "nats-token", "", "NATS token (NABAT_NATS_TOKEN)")
	return f
}

// connect connects once, or says why that is not possible.
func (f *natsFlags) connect(a *app) (*nats.Conn, error) {
	servers := cmp.Or(f.url, a.env("NABAT_NATS_URL"), defaultNATS)
	options := []nats.Option{nats.Name("nabat command line"), nats.Timeout(5 * time.Second), nats.NoReconnect(),
		nats.CustomInboxPrefix(cmp.Or(f.inbox, a.env("NABAT_NATS_INBOX"), bus.InboxBackend)),
		// Errors are asked for with LastError; the default would print them.
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}
	if file := cmp.Or(f.credentials, a.env("NABAT_NATS_CREDENTIALS")); file != "" {
		options = append(options, nats.UserCredentials(file))
	}
	if file := cmp.Or(f.nkey, a.env("NABAT_NATS_NKEY")); file != "" {
		nkey, err := nats.NkeyOptionFromSeed(file)
		if err != nil {
			return nil, fmt.Errorf("NATS nkey of file %s: %w", file, err)
		}
		options = append(options, nkey)
	}
	if token := cmp.Or(f.token, a.env("NABAT_NATS_TOKEN")); token != "" {
		options = append(options, nats.Token(token))
	}
	nc, err := nats.Connect(servers, options...)
	switch {
	case errors.Is(err, nats.ErrNoServers):
		return nil, fmt.Errorf("no NATS server answers at %s: is nabat dev running? Another server is given by --nats-url", withoutSecrets(servers))
	case err != nil:
		return nil, fmt.Errorf("connect to NATS at %s: %w", withoutSecrets(servers), err)
	}
	return nc, nil
}

// withoutSecrets hides the passwords of a list of server addresses.
func withoutSecrets(list string) string {
	servers := strings.Split(list, ",")
	for i, s := range servers {
		if u, err := url.Parse(strings.TrimSpace(s)); err == nil && u.User != nil {
			servers[i] = u.Redacted()
			if _, password := u.User.Password(); !password { // a lone user is a token
				u.User = url.User("xxxxx")
				servers[i] = u.String()
			}
		}
	}
	return strings.Join(servers, ",")
}
