package edge

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"nabat/edge/internal/loop"
	"nabat/edge/internal/session"
	"nabat/edge/internal/upstream"
	"nabat/internal/bus"
	"nabat/proto/subject"
	"nabat/proto/wire"
)

// Publish implements session.Host: what a client publishes becomes an ordinary
// NATS message, with the sender in headers that clients cannot set.
func (w *worker) Publish(ref session.Ref, id *session.Identity, p *wire.Publication, done func(wire.Position, *wire.Error)) {
	m, err := w.message(ref, id, p)
	if err != nil {
		done(wire.Position{}, err)
		return
	}
	at := wire.Position{Room: p.Room}
	one := upstream.Publication{Message: m}
	if pol := w.Policy(p.Room); pol != nil && pol.Stream != nil {
		one.Stream, at.Epoch = pol.Stream.Name, pol.Stream.Epoch
	}
	one.Done = func(offset uint64, err error) {
		at.Offset = offset
		// An error of Post means that the loop has stopped: nobody waits.
		_ = w.loop.Post(func() { w.published(ref, at, err, done) })
	}
	if !w.edge.upstream.Publish(one) {
		done(at, &wire.Error{Code: wire.Overloaded, Reason: errBusy.Error(), RetryMS: 200})
	}
}

func (w *worker) message(ref session.Ref, id *session.Identity, p *wire.Publication) (*nats.Msg, *wire.Error) {
	subj, err := subject.Encode(w.edge.cfg.SubjectPrefix, p.Room)
	if err != nil {
		return nil, &wire.Error{Code: wire.BadRoom, Reason: err.Error()}
	}
	if limit := w.edge.upstream.MaxPayload(); limit > 0 && int64(len(p.Body)) > limit {
		return nil, &wire.Error{Code: wire.TooLarge, Reason: fmt.Sprintf("the message has %d bytes, NATS takes %d", len(p.Body), limit)}
	}
	m := &nats.Msg{Subject: subj, Data: append([]byte(nil), p.Body...), Header: nats.Header{}}
	name, _ := w.Name(ref)
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
	if c := w.client(ref); c == nil || c.Leaving() {
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

// Start implements session.Host.
func (w *worker) Start(ref session.Ref) { w.behind.start(loop.Ref(ref)) }

// History implements session.Host.
func (w *worker) History(ref session.Ref, h wire.HistoryRequest, done func(*wire.Page, *wire.Error)) {
	if p := w.Policy(h.Room); p == nil || p.Stream == nil {
		done(nil, &wire.Error{Code: wire.NoHistoryKept, Reason: "the policy of " + h.Room + " keeps no history"})
		return
	}
	w.edge.upstream.Page(h, func(page *wire.Page, err error) {
		_ = w.loop.Post(func() {
			if c := w.client(ref); c == nil || c.Leaving() {
				return
			}
			if err != nil {
				done(nil, &wire.Error{Code: wire.Unavailable, Reason: "history can not be read now: " + err.Error(), RetryMS: 1000})
				return
			}
			done(page, nil)
		})
	})
}
