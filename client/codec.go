package client

import (
	"fmt"

	"github.com/gobwas/ws"

	"nabat/proto/wire"
)

// codec is one encoding of the protocol, for both ways of a connection.
type codec interface {
	subprotocol() string
	encoding() wire.Encoding
	op() ws.OpCode // of its frames
	write(c *wire.Command) ([]byte, error)
	read(object []byte) (*inbound, error)
}

func codecOf(o *Options) codec {
	if o.Protobuf {
		return protoCodec{}
	}
	return jsonCodec{}
}

// inbound is one object that the server sends: an answer, which has an ID, a
// notice, or a message. What a later version of the protocol says has nothing set.
type inbound struct {
	ID           *uint64
	Message      *wire.Message
	Connected    *wire.Connected
	Subscribed   *wire.Subscribed
	Unsubscribed *wire.Unsubscribed
	Published    *wire.Position
	History      *wire.Page
	Result       *wire.Result
	Presence     *presenceState
	Gap          *wire.Gap
	Lagging      *wire.Position
	Reset        *wire.Position
	Expiring     *wire.Expiring
	Error        *wire.Error
	Ping         bool

	raw []byte
}

// presenceState is both, a page and a change.
type presenceState struct {
	page   wire.PresencePage
	change wire.PresenceChange
}

// unexpected is the error of an answer of another kind than its command's.
func (in *inbound) unexpected(verb wire.Verb) error {
	return fmt.Errorf("%s: the server answered %q", verb, in.raw)
}
