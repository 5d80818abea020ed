package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"nabat/control/internal/tokens"
	"nabat/internal/bus"
	"nabat/proto/grant"
	"nabat/proto/subject"
)

// flushTimeout is how long a publish waits for NATS to have the message.
const flushTimeout = 5 * time.Second

type tokenRequest struct {
	User      string          `json:"sub"`
	TTL       string          `json:"ttl"`
	NotBefore int64           `json:"nbf"`
	Algorithm string          `json:"algorithm"`
	Subscribe []string        `json:"subscribe"`
	Publish   []string        `json:"publish"`
	Presence  []string        `json:"presence"`
	History   []string        `json:"history"`
	RPC       []string        `json:"rpc"`
	Deny      []string        `json:"deny"`
	Rooms     []string        `json:"rooms"`
	Info      json.RawMessage `json:"info"`
}

type tokenReply struct {
	Token   string `json:"token"`
	Expires int64  `json:"expires"` // unix seconds
	Key     string `json:"kid"`
	ID      string `json:"jti"`
}

func (a *API) issueToken(body []byte) (any, error) {
	var r tokenRequest
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	var ttl time.Duration
	if r.TTL != "" {
		var err error
		if ttl, err = time.ParseDuration(r.TTL); err != nil || ttl <= 0 {
			return nil, badRequest("ttl is %q: must be a duration such as 10m or 1h", r.TTL)
		}
	}
	if r.NotBefore < 0 {
		return nil, badRequest("nbf is %d: must be unix seconds", r.NotBefore)
	}
	t, err := a.opts.Tokens.Issue(tokens.Request{User: r.User, TTL: ttl, NotBefore: moment(r.NotBefore), Algorithm: r.Algorithm, Grant: grant.Grant{Subscribe: r.Subscribe,
		Publish: r.Publish, Presence: r.Presence, History: r.History, RPC: r.RPC, Deny: r.Deny, Rooms: r.Rooms, Info: r.Info}}, time.Now())
	if err != nil {
		return nil, refused(err)
	}
	return tokenReply{t.Token, t.Expires.Unix(), t.Key, t.ID}, nil
}

type publishRequest struct {
	Room      string          `json:"room"`
	Data      json.RawMessage `json:"data"`
	Text      *string         `json:"text"`
	Base64    *string         `json:"base64"`
	Event     string          `json:"event"`
	User      string          `json:"user"`
	Key       string          `json:"key"`
	Exclude   string          `json:"exclude"`
	MessageID string          `json:"message_id"`
}

func (a *API) publish(body []byte) (any, error) {
	var r publishRequest
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	m, err := a.message(&r)
	if err != nil {
		return nil, err
	}
	perr := a.opts.NATS.PublishMsg(m)
	if perr == nil {
		perr = a.opts.NATS.FlushTimeout(flushTimeout)
	}
	switch {
	case errors.Is(perr, nats.ErrMaxPayload):
		return nil, &Error{413, "too_large", "the message is larger than NATS takes"}
	case perr != nil:
		return nil, &Error{503, "unavailable", "NATS did not confirm the message: " + perr.Error()}
	}
	return map[string]any{"published": map[string]string{"room": r.Room}}, nil
}

// message makes the NATS message that a backend would have published itself.
func (a *API) message(r *publishRequest) (*nats.Msg, *Error) {
	subj, err := subject.Encode(a.opts.Prefix, r.Room)
	if err != nil {
		return nil, &Error{400, "bad_room", err.Error()}
	}
	m := &nats.Msg{Subject: subj, Header: nats.Header{}}
	bodies := 0
	if r.Data != nil {
		bodies++
		m.Data = r.Data
		m.Header.Set(bus.HeaderBody, "json")
	}
	if r.Text != nil {
		bodies++
		m.Data = []byte(*r.Text)
		m.Header.Set(bus.HeaderBody, "text")
	}
	if r.Base64 != nil {
		bodies++
		if m.Data, err = base64.StdEncoding.DecodeString(*r.Base64); err != nil {
			return nil, badRequest("base64 is not standard base64")
		}
		m.Header.Set(bus.HeaderBody, "binary")
	}
	if bodies != 1 {
		return nil, badRequest("give exactly one of data, text and base64")
	}
	for _, h := range []struct{ field, name, value string }{
		{"event", bus.HeaderEvent, r.Event}, {"user", bus.HeaderUser, r.User}, {"key", bus.HeaderKey, r.Key},
		{"exclude", bus.HeaderExclude, r.Exclude}, {"message_id", nats.MsgIdHdr, r.MessageID},
	} {
		if h.value == "" {
			continue
		}
		if len(h.value) > 256 || !utf8.ValidString(h.value) || strings.ContainsFunc(h.value, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			return nil, badRequest("%s must be at most 256 bytes without control characters", h.field)
		}
		m.Header.Set(h.name, h.value)
	}
	return m, nil
}

func (a *API) policies([]byte) (any, error) {
	return json.RawMessage(a.opts.Policies.Set().Encode()), nil
}

func (a *API) jwks([]byte) (any, error) {
	keys, err := a.opts.Tokens.JWKS()
	if err != nil {
		return nil, refused(err)
	}
	return json.RawMessage(keys), nil
}
