// Package hook asks backends whether clients may connect, subscribe and publish,
// and keeps their answers for as long as they say.
package hook

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"nabat/edge/internal/ask"
	"nabat/internal/bus"
	"nabat/proto/grant"
)

// Event is what a backend is asked about, and the last token of the subject.
type Event string

// The events.
const (
	Connect   Event = "connect"
	Subscribe Event = "subscribe"
	Publish   Event = "publish"
)

// Why there is no answer, beside the errors of package ask and of NATS.
var (
	ErrBusy      = errors.New("too many questions wait for backends")
	ErrTooLarge  = errors.New("the question is larger than NATS takes")
	ErrBadAnswer = errors.New("the answer makes no sense")
)

// Bounds of answers.
const (
	MaxAnswer = 64 << 10 // bytes
	MaxTTL    = 24 * time.Hour
)

// Question is what a backend is told. BUS.md describes the fields.
type Question struct {
	Event      Event           `json:"-"`
	Node       string          `json:"node"`
	Connection string          `json:"connection"`
	User       string          `json:"user,omitempty"`
	TokenID    string          `json:"token_id,omitempty"`
	Info       json.RawMessage `json:"info,omitempty"`
	Address    string          `json:"address,omitempty"`
	Room       string          `json:"room,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"`
	Text       *string         `json:"text,omitempty"`
	Base64     *[]byte         `json:"base64,omitempty"`
	Name       string          `json:"event,omitempty"` // of what is published
	Key        string          `json:"key,omitempty"`
	MessageID  string          `json:"message_id,omitempty"`
}

// Answer is what a backend decided. Immutable: those kept are shared.
type Answer struct {
	Allow  bool
	Reason string        // for the client, of a denial; may be empty
	TTL    time.Duration // how long it counts for the same question; 0: once

	// Of connect: who the client is from now on, where they are given.
	User  *string
	Grant *grant.Grant
	Rooms []string
	Info  json.RawMessage
}

// Says reports whether a says who the client is.
func (a *Answer) Says() bool {
	return a.User != nil || a.Grant != nil || a.Rooms != nil || a.Info != nil
}

// Gate asks over one Asker, and keeps answers. Safe from any goroutine.
type Gate struct {
	asker  *ask.Asker
	prefix string
	kept   *cache
}

// NewGate returns a gate that asks at prefix and the event's name, and keeps at
// most max answers.
func NewGate(asker *ask.Asker, prefix string, max int) *Gate {
	return &Gate{asker: asker, prefix: prefix, kept: newCache(max)}
}

// Known is the answer to q that still counts at now, nil when there is none.
func (g *Gate) Known(q *Question, now time.Time) *Answer { return g.kept.find(q, now) }

// Ask puts q to a backend. done is called once, from another goroutine. An error
// means that q was not asked, and done is not called. Ask never blocks.
func (g *Gate) Ask(q *Question, done func(*Answer, error)) error {
	body, err := json.Marshal(q)
	if err != nil {
		return fmt.Errorf("encode the question: %w", err)
	}
	if limit := g.asker.MaxPayload(); limit > 0 && int64(len(body)) > limit {
		return ErrTooLarge
	}
	about := keyOf(q)
	if !g.asker.Ask(&nats.Msg{Subject: g.prefix + string(q.Event), Data: body}, func(m *nats.Msg, err error) {
		if err != nil {
			done(nil, err)
			return
		}
		a, err := parse(m)
		if err == nil {
			g.kept.keep(about, a, time.Now())
		}
		done(a, err)
	}) {
		return ErrBusy
	}
	return nil
}

// parse reads an answer. What could be read two ways is none.
func parse(m *nats.Msg) (*Answer, error) {
	failed := m.Header.Get(bus.HeaderError)
	if failed == "" {
		failed = m.Header.Get(micro.ErrorHeader)
	}
	if failed != "" || m.Header.Get(micro.ErrorCodeHeader) != "" {
		return nil, fmt.Errorf("%w: the backend answered with an error: %s", ErrBadAnswer, failed)
	}
	if len(m.Data) > MaxAnswer {
		return nil, fmt.Errorf("%w: it has %d bytes, at most %d", ErrBadAnswer, len(m.Data), MaxAnswer)
	}
	var said struct {
		Allow  *bool           `json:"allow"`
		Reason string          `json:"reason"`
		TTLMS  int64           `json:"ttl_ms"`
		User   *string         `json:"user"`
		Grant  *grant.Grant    `json:"grant"`
		Rooms  []string        `json:"rooms"`
		Info   json.RawMessage `json:"info"`
	}
	if !utf8.Valid(m.Data) {
		return nil, fmt.Errorf("%w: it is not UTF-8", ErrBadAnswer)
	}
	if err := json.Unmarshal(m.Data, &said); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrBadAnswer, err)
	}
	a := &Answer{Reason: said.Reason, TTL: time.Duration(min(said.TTLMS, MaxTTL.Milliseconds())) * time.Millisecond,
		User: said.User, Grant: said.Grant, Rooms: said.Rooms, Info: said.Info}
	switch err := (&grant.Grant{Rooms: said.Rooms}).Check(); {
	case said.Allow == nil:
		return nil, fmt.Errorf("%w: allow is missing", ErrBadAnswer)
	case said.TTLMS < 0:
		return nil, fmt.Errorf("%w: ttl_ms is negative", ErrBadAnswer)
	case err != nil:
		return nil, fmt.Errorf("%w: %v", ErrBadAnswer, err)
	}
	if a.Allow = *said.Allow; a.Grant != nil {
		if err := a.Grant.Check(); err != nil {
			return nil, fmt.Errorf("%w: grant: %v", ErrBadAnswer, err)
		}
	}
	return a, nil
}
