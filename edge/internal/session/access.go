package session

import (
	"fmt"

	"nabat/proto/wire"
)

// maySubscribe: a client with a token has exactly what the token grants, one
// without has what the room's policy opens to everybody.
func maySubscribe(h Host, id *Identity, room string) *wire.Error {
	p := h.Policy(room)
	switch {
	case p == nil:
		return notAllowed("no policy matches room %s", room)
	case id != nil && !id.Grant.MaySubscribe(room):
		return notAllowed("subscribe to %s is not granted by the token", room)
	case id == nil && !p.Anonymous.Subscribe:
		return notAllowed("subscribe to %s is not open to clients without a token", room)
	}
	return nil
}

func mayPublish(h Host, id *Identity, room string) *wire.Error {
	p := h.Policy(room)
	switch {
	case p == nil:
		return notAllowed("no policy matches room %s", room)
	case !p.Publish:
		return notAllowed("the policy of %s does not let clients publish", room)
	case id != nil && !id.Grant.MayPublish(room):
		return notAllowed("publish to %s is not granted", room)
	case id == nil && !p.Anonymous.Publish:
		return notAllowed("publish to %s is not open to clients without a token", room)
	}
	return nil
}

// mayReadHistory: a client without a token reads what it may join.
func mayReadHistory(h Host, id *Identity, room string) *wire.Error {
	p := h.Policy(room)
	switch {
	case p == nil:
		return notAllowed("no policy matches room %s", room)
	case id != nil && !id.Grant.MayReadHistory(room):
		return notAllowed("history of %s is not granted by the token", room)
	case id == nil && !p.Anonymous.Subscribe:
		return notAllowed("history of %s is not open to clients without a token", room)
	}
	return nil
}

func notAllowed(format, room string) *wire.Error {
	return &wire.Error{Code: wire.NotAllowed, Reason: fmt.Sprintf(format, room)}
}
