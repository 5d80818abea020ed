package session

import (
	"fmt"
	"slices"

	"nabat/proto/subject"
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

// CheckPublish reports why id may not publish a body of size bytes to room. It is
// for those, too, who publish without a session.
func CheckPublish(h Host, l *Limits, id *Identity, room string, size int64) *wire.Error {
	if err := subject.CheckRoom(room); err != nil {
		return &wire.Error{Code: wire.BadRoom, Reason: err.Error()}
	}
	if err := mayPublish(h, id, room); err != nil {
		return err
	}
	if size > int64(l.MaxPublishBytes) {
		return &wire.Error{Code: wire.TooLarge, Reason: fmt.Sprintf("the body has %d bytes: at most %d", size, l.MaxPublishBytes)}
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

// mayCall: policies are about rooms, so a setting says what is open to clients
// without a token.
func mayCall(l *Limits, id *Identity, method string) *wire.Error {
	switch {
	case id != nil && !id.Grant.MayCall(method):
		return notAllowed("rpc %s is not granted by the token", method)
	case id == nil && !slices.ContainsFunc(l.AnonymousRPC, func(pattern string) bool { return subject.Match(pattern, method) }):
		return notAllowed("rpc %s is not open to clients without a token", method)
	}
	return nil
}

func notAllowed(format, room string) *wire.Error {
	return &wire.Error{Code: wire.NotAllowed, Reason: fmt.Sprintf(format, room)}
}
