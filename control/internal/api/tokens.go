package api

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"nabat/control/internal/tokens"
	"nabat/proto/grant"
	"nabat/proto/subject"
)

// access is the verbs about who may do what.
type access struct{ *Options }

func (a access) verbs() []verb {
	return []verb{
		{"token.issue", scopeTokens, "POST", "/v1/tokens", typed(a.issueToken)},
		{"policies", scopeRead, "GET", "/v1/policies", typed(a.policies)},
		{"jwks", scopeOpen, "GET", "/v1/jwks", typed(a.jwks)},
		{"explain", scopeRead, "POST", "/v1/explain", typed(a.explain)},
	}
}

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
	UserRoom  bool            `json:"user_room"`
	Info      json.RawMessage `json:"info"`
}

type tokenReply struct {
	Token   string `json:"token"`
	Expires int64  `json:"expires"` // unix seconds
	Key     string `json:"kid"`
	ID      string `json:"jti"`
}

func (a access) issueToken(_ context.Context, r *tokenRequest) (*tokenReply, error) {
	ttl, err := duration("ttl", r.TTL, 0)
	if err != nil {
		return nil, err
	}
	if r.NotBefore < 0 {
		return nil, badRequest("nbf is %d: must be unix seconds", r.NotBefore)
	}
	if r.UserRoom && r.User != "" {
		room, err := userRoom(r.User)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(r.Rooms, room) {
			r.Rooms = append(r.Rooms, room)
		}
	}
	t, err := a.Tokens.Issue(tokens.Request{User: r.User, TTL: ttl, NotBefore: moment(r.NotBefore), Algorithm: r.Algorithm, Grant: grant.Grant{Subscribe: r.Subscribe,
		Publish: r.Publish, Presence: r.Presence, History: r.History, RPC: r.RPC, Deny: r.Deny, Rooms: r.Rooms, Info: r.Info}}, time.Now())
	if err != nil {
		return nil, refused(err)
	}
	return &tokenReply{t.Token, t.Expires.Unix(), t.Key, t.ID}, nil
}

// userRoomPrefix stands before a user's name in the room of all their devices.
const userRoomPrefix = "user."

// userRoom is the room of all devices of a user.
func userRoom(user string) (string, error) {
	room := userRoomPrefix + user
	if err := subject.CheckRoom(room); err != nil {
		return "", refuse(badRoom, "the user %q has no room of their own: %v", user, err)
	}
	return room, nil
}

// duration reads an optional duration, which must be positive.
func duration(field, text string, absent time.Duration) (time.Duration, error) {
	if text == "" {
		return absent, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, badRequest("%s is %q: must be a duration such as 10m or 1h", field, text)
	}
	return d, nil
}

func (a access) policies(context.Context, *struct{}) (json.RawMessage, error) {
	return a.Policies.Set().Encode(), nil
}

func (a access) jwks(context.Context, *struct{}) (json.RawMessage, error) {
	keys, err := a.Tokens.JWKS()
	if err != nil {
		return nil, refused(err)
	}
	return keys, nil
}
