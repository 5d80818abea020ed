package bus

import (
	"fmt"

	"github.com/nats-io/nats.go"
)

// Prefixes of the subjects that replies come to. Each role has its own, so that
// permissions can keep others from listening: deploy/nats/accounts.conf.
const (
	InboxEdge    = "_INBOX_edge"
	InboxControl = "_INBOX_control"
	InboxBackend = "_INBOX_backend" // of tools, too
)

// identity is who the connection belongs to.
func (o *Options) identity() (options []nats.Option, err error) {
	if o.Credentials != "" {
		options = append(options, nats.UserCredentials(o.Credentials))
	}
	if o.NKey != "" {
		nkey, err := nats.NkeyOptionFromSeed(o.NKey)
		if err != nil {
			return nil, fmt.Errorf("NATS nkey of file %s: %w", o.NKey, err)
		}
		options = append(options, nkey)
	}
	if o.Token != "" {
		options = append(options, nats.Token(o.Token))
	}
	if o.Inbox != "" {
		options = append(options, nats.CustomInboxPrefix(o.Inbox))
	}
	return options, nil
}
