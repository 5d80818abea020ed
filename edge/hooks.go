package edge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"nabat/edge/internal/ask"
	"nabat/edge/internal/hook"
	"nabat/edge/internal/session"
	"nabat/edge/internal/upstream"
	"nabat/proto/grant"
	"nabat/proto/subject"
	"nabat/proto/wire"
)

// What hook_unanswered may be.
const (
	unansweredDeny  = "deny"
	unansweredAllow = "allow"
)

func (c *Config) checkHooks() error {
	if c.HookUnanswered != unansweredDeny && c.HookUnanswered != unansweredAllow {
		return fmt.Errorf("hook_unanswered is %q: must be deny or allow", c.HookUnanswered)
	}
	prefix := strings.TrimSuffix(c.HookPrefix, ".")
	if encoded, err := subject.Encode("", prefix); err != nil || encoded != prefix || prefix == c.HookPrefix {
		return fmt.Errorf("hook_prefix is %q: must be tokens of a subject with a dot behind each, as hook. is", c.HookPrefix)
	}
	if c.HookConnect && c.HookTimeout >= c.HandshakeTimeout {
		return fmt.Errorf("hook_timeout is %s: must be less than handshake_timeout (%s), which is for the token and the hook together", c.HookTimeout, c.HandshakeTimeout)
	}
	return nil
}

// questionOf is one about a connection.
func questionOf(w *worker, event hook.Event, ref session.Ref, id *session.Identity) *hook.Question {
	q := &hook.Question{Event: event}
	q.Connection, q.Node = w.host().Name(ref)
	if id != nil {
		q.User, q.TokenID = id.User, id.TokenID
		if id.Grant != nil && len(id.Grant.Info) <= maxInfo {
			q.Info = id.Grant.Info
		}
	}
	return q
}

// consult asks a backend, unless it has answered q lately. done is called on the
// loop, possibly before consult returns, also when the connection has gone.
func (w *worker) consult(q *hook.Question, done func(*hook.Answer, *wire.Error)) {
	event, gate := string(q.Event), w.edge.hooks
	if a := gate.Known(q, w.loop.Now()); a != nil {
		w.counts.Hooks.Add(event+" cached", 1)
		done(verdict(a))
		return
	}
	finish := func(a *hook.Answer, err error) {
		w.counts.Hooks.Add(event+" "+outcome(a, err), 1)
		if err == nil {
			done(verdict(a))
			return
		}
		done(unanswered(&w.edge.cfg, q.Event, err))
	}
	err := gate.Ask(q, func(a *hook.Answer, err error) {
		if errors.Is(err, hook.ErrBadAnswer) {
			noteBadAnswer(w.edge, q.Event, err)
		}
		// An error of Post means that the loop has stopped: nobody waits.
		_ = w.loop.Post(func() {
			w.counts.HooksWaiting.Add(-1)
			finish(a, err)
		})
	})
	if err != nil {
		finish(nil, err)
		return
	}
	w.counts.HooksWaiting.Add(1)
}

func verdict(a *hook.Answer) (*hook.Answer, *wire.Error) {
	if a.Allow {
		return a, nil
	}
	return nil, &wire.Error{Code: wire.NotAllowed, Reason: cut(cmp.Or(a.Reason, "the backend does not allow it"), 1000)}
}

// outcome is the metric label of an answer.
func outcome(a *hook.Answer, err error) string {
	switch {
	case err == nil && a.Allow:
		return "allowed"
	case err == nil:
		return "denied"
	case errors.Is(err, ask.ErrNoResponders):
		return "no_responders"
	case errors.Is(err, ask.ErrTimeout):
		return "timeout"
	case errors.Is(err, hook.ErrBadAnswer):
		return "bad_answer"
	case errors.Is(err, hook.ErrBusy):
		return "overloaded"
	case errors.Is(err, hook.ErrTooLarge):
		return "too_large"
	}
	return "not_sent"
}

// unanswered is what counts where a backend has not decided. What the node itself
// has no room for is refused in any case.
func unanswered(c *Config, event hook.Event, err error) (*hook.Answer, *wire.Error) {
	subj := c.HookPrefix + string(event)
	switch {
	case errors.Is(err, hook.ErrBusy):
		return nil, &wire.Error{Code: wire.Overloaded, RetryMS: 1000, Reason: "too many questions of this node wait for " + subj}
	case errors.Is(err, hook.ErrTooLarge):
		return nil, &wire.Error{Code: wire.TooLarge, Reason: "the question for " + subj + " would be larger than NATS takes"}
	case c.HookUnanswered == unansweredAllow:
		return &hook.Answer{Allow: true}, nil
	}
	why := err.Error()
	if errors.Is(err, hook.ErrBadAnswer) {
		why = hook.ErrBadAnswer.Error() // the rest is for the log
	}
	return nil, &wire.Error{Code: wire.HookUnavailable, RetryMS: 1000, Reason: subj + ": " + why}
}

// noteBadAnswer logs answers that make no sense, not more than one in a second.
// Safe from any goroutine.
func noteBadAnswer(e *Edge, event hook.Event, err error) {
	now := int64(time.Since(e.began))
	if last := e.badAnswer.Load(); (last == 0 || now-last > int64(time.Second)) && e.badAnswer.CompareAndSwap(last, now) {
		e.log.WarnContext(context.Background(), "the answer of a hook is not usable", "hook", event, "error", err)
	}
}

// identify is verify, and asks who decides on connections where somebody does.
func (w *worker) identify(ref session.Ref, from netip.Addr, token string, done func(*session.Identity, *wire.Error)) {
	if !w.edge.cfg.HookConnect {
		w.verify(token, done)
		return
	}
	greet := func(id *session.Identity, err *wire.Error) {
		if err != nil {
			done(nil, err)
			return
		}
		q := questionOf(w, hook.Connect, ref, id)
		if from.IsValid() {
			q.Address = from.Unmap().String()
		}
		w.consult(q, func(a *hook.Answer, err *wire.Error) {
			if err != nil {
				done(nil, err)
				return
			}
			// The word of a backend can name somebody who is blocked, and who was let in
			// may have been blocked while it was asked.
			w.vet(become(id, a), nil, done)
		})
	}
	if token == "" {
		greet(nil, nil)
		return
	}
	w.verify(token, greet)
}

// become is who the client is by its token, which may be none, and by a's word.
func become(id *session.Identity, a *hook.Answer) *session.Identity {
	if !a.Says() {
		return id
	}
	var who session.Identity
	var g grant.Grant
	if id != nil {
		who = *id
		if id.Grant != nil {
			g = *id.Grant
		}
	}
	if a.User != nil {
		who.User = *a.User
	}
	if a.Grant != nil {
		rooms, info := g.Rooms, g.Info
		g = *a.Grant
		if g.Rooms == nil {
			g.Rooms = rooms
		}
		if g.Info == nil {
			g.Info = info
		}
	}
	if a.Rooms != nil {
		g.Rooms = a.Rooms
	}
	if a.Info != nil {
		g.Info = a.Info
	}
	who.Grant = &g
	return &who
}

// mayJoin calls done with what a backend says of a room, on the loop, while the
// connection is there.
func mayJoin(h host, ref session.Ref, room string, done func(*wire.Error)) {
	client := h.client(ref)
	if client == nil {
		return
	}
	q := questionOf(h.worker, hook.Subscribe, ref, client.Identity())
	q.Room = room
	h.consult(q, func(_ *hook.Answer, err *wire.Error) {
		if c := h.client(ref); c != nil && !c.Leaving() {
			done(err)
		}
	})
}

// outbox keeps one connection's publishes in order while backends decide. It is
// there as long as one waits; as many wait as may be in flight.
type outbox struct{ list []*outgoing }

type outgoing struct {
	publication upstream.Publication
	at          wire.Position
	done        func(wire.Position, *wire.Error)
	decided     bool
	denied      *wire.Error
}

// line puts a publish at the end of its connection's outbox, and asks a backend if
// the policy says so.
func (h host) line(ref session.Ref, id *session.Identity, p *wire.Publication, one *outgoing) {
	box := h.outboxes[ref]
	if box == nil {
		box = new(outbox)
		h.outboxes[ref] = box
	}
	box.list = append(box.list, one)
	if one.decided {
		return // it waits for those before it
	}
	h.consult(publishQuestion(h.worker, ref, id, p), func(_ *hook.Answer, err *wire.Error) {
		if h.outboxes[ref] == box { // else the connection has gone, and what it had with it
			one.decided, one.denied = true, err
			box.flush(h, ref)
		}
	})
}

func publishQuestion(w *worker, ref session.Ref, id *session.Identity, p *wire.Publication) *hook.Question {
	q := questionOf(w, hook.Publish, ref, id)
	q.Room, q.Name, q.Key, q.MessageID = p.Room, p.Event, p.Key, p.MessageID
	switch p.Kind {
	case wire.Data:
		q.Data = p.Body
	case wire.Text:
		text := string(p.Body)
		q.Text = &text
	default:
		q.Base64 = &p.Body
	}
	return q
}

// flush sends what is decided up to the first that is not. An answer may end
// the connection, and with it the outbox.
func (box *outbox) flush(h host, ref session.Ref) {
	for len(box.list) > 0 && box.list[0].decided && h.outboxes[ref] == box {
		one := box.list[0]
		box.list[0] = nil
		if box.list = box.list[1:]; len(box.list) == 0 {
			delete(h.outboxes, ref)
		}
		if one.denied != nil {
			one.done(one.at, one.denied)
			continue
		}
		h.send(one.publication, one.at, one.done)
	}
}

// send gives a publish to the NATS side.
func (h host) send(p upstream.Publication, at wire.Position, done func(wire.Position, *wire.Error)) {
	if !h.edge.upstream.Publish(p) {
		done(at, &wire.Error{Code: wire.Overloaded, Reason: errBusy.Error(), RetryMS: 200})
	}
}
