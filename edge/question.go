package edge

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/internal/bus"
	"nabat/proto/wire"
)

// Bounds of the questions to control: under way, and waiting.
const (
	askers       = 32
	maxQuestions = 1024
)

// question is a client's, about who is in a room.
type question struct {
	request wire.PresenceRequest
	seen    string    // what the client's loop had to report when it asked
	until   time.Time // nobody waits any more
	answer  func(*wire.PresencePage, *wire.Error)
}

// ask reports false when too many wait. answer is called once, from another
// goroutine. Safe from any goroutine.
func (r *reports) ask(q wire.PresenceRequest, seen string, answer func(*wire.PresencePage, *wire.Error)) bool {
	select {
	case r.jobs <- question{q, seen, time.Now().Add(r.edge.cfg.NATSTimeout), answer}:
		return true
	default:
		return false
	}
}

// answer asks control until ctx ends.
func (r *reports) answer(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-r.jobs:
			page, err := r.members(ctx, &q)
			q.answer(page, err)
		}
	}
}

// members asks control who is in a room, once what the client did itself is on the
// way to it.
func (r *reports) members(ctx context.Context, q *question) (*wire.PresencePage, *wire.Error) {
	ctx, cancel := context.WithDeadline(ctx, q.until)
	defer cancel()
	body, err := json.Marshal(struct {
		Room  string `json:"room"`
		Limit int    `json:"limit"`
		After string `json:"after,omitempty"`
	}{q.request.Room, q.request.Size(), q.request.After})
	if err != nil {
		return nil, noPresence(err.Error()) // texts and a number always encode
	}
	r.reporter.Flush()
	m := nats.NewMsg(bus.APIPrefix + "presence")
	m.Data = body
	m.Header.Set(bus.HeaderSeen, q.seen)
	reply, err := r.edge.control.RequestMsgWithContext(ctx, m)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, noPresence("no control service answers")
	case err != nil:
		return nil, noPresence("control does not answer: " + err.Error())
	}
	return readMembers(reply.Data)
}

func noPresence(why string) *wire.Error {
	return &wire.Error{Code: wire.Unavailable, Reason: "presence can not be read now: " + why, RetryMS: 1000}
}

// readMembers reads control's answer.
func readMembers(body []byte) (*wire.PresencePage, *wire.Error) {
	var a struct {
		Error *struct{ Code, Reason string }
		Room  string

		Users, Anonymous, Connections uint64
		Members                       []struct {
			User        string
			Connections uint64
			Info        json.RawMessage
		}
		Next string
	}
	err := json.Unmarshal(body, &a)
	switch {
	case err != nil:
		return nil, noPresence("control's answer is not usable: " + err.Error())
	case a.Error != nil && a.Error.Code == string(wire.BadRequest):
		return nil, &wire.Error{Code: wire.BadCommand, Reason: a.Error.Reason}
	case a.Error != nil:
		return nil, noPresence(a.Error.Reason)
	}
	page := &wire.PresencePage{Room: a.Room, Users: a.Users, Anonymous: a.Anonymous, Connections: a.Connections, Next: a.Next}
	for _, m := range a.Members {
		one := wire.Member{User: m.User, Connections: m.Connections}
		if kind, info := wire.Classify(m.Info, "json"); kind == wire.Data {
			one.Info = info
		}
		page.Members = append(page.Members, one)
	}
	return page, nil
}
