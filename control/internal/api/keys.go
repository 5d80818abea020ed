package api

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/control/internal/blocks"
	"nabat/control/internal/tokens"
	"nabat/proto/block"
)

// keyVerbs are the requests about keys, revoked tokens and blocked users.
func (a *API) keyVerbs() []verb {
	return []verb{
		{"token.revoke", scopeTokens, "POST", "/v1/tokens/revoke", plain(a.revokeToken)},
		{"user.revoke", scopeTokens, "POST", "/v1/users/revoke", plain(a.revokeUser)},
		{"user.block", scopeUsers, "POST", "/v1/users/block", plain(a.blockUser)},
		{"user.unblock", scopeUsers, "POST", "/v1/users/unblock", plain(a.unblockUser)},
		{"block.list", scopeRead, "GET", "/v1/blocks", plain(a.listBlocks)},
		{"keys.list", scopeRead, "GET", "/v1/keys", plain(a.listKeys)},
		{"keys.rotate", scopeAdmin, "POST", "/v1/keys/rotate", plain(a.rotateKeys)},
	}
}

// storeTimeout is how long a verb waits for NATS to keep or read something.
const storeTimeout = 5 * time.Second

// refused turns the errors of tokens and blocks into refusals.
func refused(err error) error {
	var badToken *tokens.Error
	var badBlock *blocks.Error
	switch {
	case errors.As(err, &badToken):
		return badRequest("%s", badToken.Reason)
	case errors.As(err, &badBlock):
		return badRequest("%s", badBlock.Reason)
	case errors.Is(err, tokens.ErrNotReady), errors.Is(err, blocks.ErrNotReady):
		return refuse(unavailable, "%v", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrTimeout),
		errors.Is(err, nats.ErrConnectionReconnecting), errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrDisconnected):
		return refuse(unavailable, "NATS did not confirm it: %v", err)
	}
	return err
}

func stored() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), storeTimeout)
}

// moment is a time in unix seconds; 0 is none.
func moment(unix int64) time.Time {
	if unix == 0 {
		return time.Time{}
	}
	return time.Unix(unix, 0)
}

type entryReply struct {
	Kind    block.Kind `json:"kind"`
	Token   string     `json:"jti,omitempty"`
	User    string     `json:"user,omitempty"`
	Before  int64      `json:"issued_before,omitempty"`
	Created int64      `json:"created"`
	Until   int64      `json:"until,omitempty"`
	Reason  string     `json:"reason,omitempty"`
}

func reply(e *block.Entry) entryReply {
	r := entryReply{Kind: e.Kind, User: e.Subject, Before: e.Before, Created: e.Created, Until: e.Until, Reason: e.Reason}
	if e.Kind == block.Token {
		r.Token, r.User = e.Subject, ""
	}
	return r
}

func (a *API) revokeToken(body []byte) (any, error) {
	var r struct {
		ID     string `json:"jti"`
		Token  string `json:"token"`
		Reason string `json:"reason"`
	}
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	ctx, cancel := stored()
	defer cancel()
	e, err := a.opts.Blocks.RevokeToken(ctx, blocks.TokenRequest{ID: r.ID, Token: r.Token, Reason: r.Reason}, time.Now())
	if err != nil {
		return nil, refused(err)
	}
	return reply(e), nil
}

func (a *API) revokeUser(body []byte) (any, error) {
	var r struct {
		User   string `json:"user"`
		Before int64  `json:"issued_before"`
		Reason string `json:"reason"`
	}
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	ctx, cancel := stored()
	defer cancel()
	e, err := a.opts.Blocks.RevokeUser(ctx, r.User, moment(r.Before), r.Reason, time.Now())
	if err != nil {
		return nil, refused(err)
	}
	return reply(e), nil
}

func (a *API) blockUser(body []byte) (any, error) {
	var r struct {
		User   string `json:"user"`
		For    string `json:"for"`
		Reason string `json:"reason"`
	}
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	var duration time.Duration
	if r.For != "" {
		var err error
		if duration, err = time.ParseDuration(r.For); err != nil || duration <= 0 {
			return nil, badRequest("for is %q: must be a duration such as 10m or 24h; leave it out to block for good", r.For)
		}
	}
	ctx, cancel := stored()
	defer cancel()
	e, err := a.opts.Blocks.BlockUser(ctx, r.User, duration, r.Reason, time.Now())
	if err != nil {
		return nil, refused(err)
	}
	return reply(e), nil
}

func (a *API) unblockUser(body []byte) (any, error) {
	var r struct {
		User string `json:"user"`
	}
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	ctx, cancel := stored()
	defer cancel()
	was, err := a.opts.Blocks.Unblock(ctx, r.User, time.Now())
	if err != nil {
		return nil, refused(err)
	}
	return map[string]any{"user": r.User, "was_blocked": was}, nil
}

func (a *API) listBlocks([]byte) (any, error) {
	ctx, cancel := stored()
	defer cancel()
	list, err := a.opts.Blocks.List(ctx, "", time.Now())
	if err != nil {
		return nil, refused(err)
	}
	out := make([]entryReply, len(list))
	for n := range list {
		out[n] = reply(&list[n])
	}
	return map[string]any{"blocks": out}, nil
}

type keyReply struct {
	ID        string       `json:"kid"`
	Algorithm string       `json:"alg"`
	State     tokens.State `json:"state"`
	Created   int64        `json:"created,omitempty"`
	SignsFrom int64        `json:"signs_from,omitempty"`
	Until     int64        `json:"until,omitempty"`
}

func keyReplies(list []tokens.Fact) any {
	out := make([]keyReply, len(list))
	for n, f := range list {
		out[n] = keyReply(f)
	}
	return map[string]any{"keys": out}
}

func (a *API) listKeys([]byte) (any, error) {
	list, err := a.opts.Tokens.Keys(time.Now())
	if err != nil {
		return nil, refused(err)
	}
	return keyReplies(list), nil
}

func (a *API) rotateKeys(body []byte) (any, error) {
	var r struct {
		AtOnce bool `json:"at_once"`
		Drop   bool `json:"drop"`
	}
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	ctx, cancel := stored()
	defer cancel()
	list, err := a.opts.Tokens.Rotate(ctx, tokens.Rotation{AtOnce: r.AtOnce, Drop: r.Drop}, time.Now())
	if err != nil {
		return nil, refused(err)
	}
	return keyReplies(list), nil
}
