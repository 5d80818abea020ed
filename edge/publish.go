package edge

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"nabat/edge/internal/listen"
	"nabat/edge/internal/loop"
	"nabat/edge/internal/session"
	"nabat/edge/internal/transport"
	"nabat/edge/internal/upstream"
	"nabat/internal/bus"
	"nabat/proto/subject"
	"nabat/proto/wire"
)

func (w *worker) message(ref session.Ref, id *session.Identity, p *wire.Publication) (*nats.Msg, *wire.Error) {
	subj, err := subject.Encode(w.edge.cfg.SubjectPrefix, p.Room)
	if err != nil {
		return nil, &wire.Error{Code: wire.BadRoom, Reason: err.Error()}
	}
	if limit := w.edge.upstream.MaxPayload(); limit > 0 && int64(len(p.Body)) > limit {
		return nil, &wire.Error{Code: wire.TooLarge, Reason: fmt.Sprintf("the message has %d bytes, NATS takes %d", len(p.Body), limit)}
	}
	m := &nats.Msg{Subject: subj, Data: append([]byte(nil), p.Body...), Header: nats.Header{}}
	name, _ := w.host().Name(ref)
	m.Header.Set(bus.HeaderConnection, name)
	if id != nil && id.User != "" {
		m.Header.Set(bus.HeaderUser, id.User)
	}
	if p.Event != "" {
		m.Header.Set(bus.HeaderEvent, p.Event)
	}
	if p.Key != "" {
		m.Header.Set(bus.HeaderKey, p.Key)
	}
	if p.MessageID != "" {
		m.Header.Set(nats.MsgIdHdr, messageID(id, p.Room, p.MessageID))
	}
	m.Header.Set(bus.HeaderBody, p.Kind.String())
	return m, nil
}

// messageID keeps clients from suppressing each other's messages: JetStream
// deduplicates over the whole stream, so the id covers user and room.
func messageID(id *session.Identity, room, own string) string {
	user := ""
	if id != nil {
		user = id.User
	}
	h := sha256.New()
	for _, part := range []string{user, room, own} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func (w *worker) published(ref session.Ref, at wire.Position, err error, done func(wire.Position, *wire.Error)) {
	if !w.waits(ref) {
		return
	}
	switch {
	case err == nil:
		w.counts.Published.Add(1)
		done(at, nil)
	case errors.Is(err, nats.ErrMaxPayload):
		done(at, &wire.Error{Code: wire.TooLarge, Reason: "NATS refused the message: " + err.Error()})
	case errors.Is(err, upstream.ErrUnavailable):
		done(at, &wire.Error{Code: wire.Unavailable, Reason: err.Error(), RetryMS: 1000})
	default:
		done(at, &wire.Error{Code: wire.Unavailable, RetryMS: 1000,
			Reason: "NATS did not confirm the message, which may or may not have been published: " + err.Error()})
	}
}

// waits reports that who published is there to hear of it.
func (w *worker) waits(ref session.Ref) bool {
	switch c := w.loop.Handler(loop.Ref(ref)).(type) {
	case transport.Client:
		return !c.Leaving()
	case *listen.Handshake:
		return c.Open()
	}
	return false
}
