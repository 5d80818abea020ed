package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"nabat/control/internal/apikeys"
	"nabat/proto/subject"
)

// apiKeys is the verbs about the keys of the HTTP API.
type apiKeys struct{ *Options }

func (k apiKeys) verbs() []verb {
	return []verb{
		{"apikey.create", scopeAdmin, "POST", "/v1/apikeys", typed(k.create)},
		{"apikey.list", scopeAdmin, "GET", "/v1/apikeys", typed(k.list)},
		{"apikey.revoke", scopeAdmin, "DELETE", "/v1/apikeys/{id}", typed(k.revoke)},
		{"apikey.rotate", scopeAdmin, "POST", "/v1/apikeys/{id}/rotate", typed(k.rotate)},
	}
}

type createRequest struct {
	Name   string   `json:"name"`
	Scopes []string `json:"scopes"`
	Rooms  []string `json:"rooms"`
	TTL    string   `json:"ttl"`
}

type secretReply struct {
	Key    apikeys.Key `json:"key"`
	Secret string      `json:"secret"` // shown once
}

func (k apiKeys) create(ctx context.Context, r *createRequest) (*secretReply, error) {
	ttl, err := duration("ttl", r.TTL, 0)
	if err != nil {
		return nil, err
	}
	if len(r.Name) > 200 {
		return nil, badRequest("name has %d bytes: at most 200", len(r.Name))
	}
	if len(r.Scopes) == 0 {
		return nil, badRequest("scopes is missing: give some of %s, or names of verbs", strings.Join(scopes, ", "))
	}
	for _, s := range r.Scopes {
		if !slices.Contains(scopes, s) && !slices.Contains(k.names, s) {
			return nil, badRequest("there is no scope and no verb %q: scopes are %s", s, strings.Join(scopes, ", "))
		}
	}
	const maxPatterns = 100
	if len(r.Rooms) > maxPatterns {
		return nil, badRequest("rooms has %d patterns: at most %d", len(r.Rooms), maxPatterns)
	}
	for _, p := range r.Rooms {
		if err := subject.CheckPattern(p); err != nil {
			return nil, badRequest("rooms: %v", err)
		}
	}
	key := apikeys.Key{Name: r.Name, Scopes: r.Scopes, Rooms: r.Rooms}
	if ttl > 0 {
		key.Expires = time.Now().Add(ttl).UTC()
	}
	key, secret, err := k.Keys.Create(ctx, key)
	if err != nil {
		return nil, keyError(err)
	}
	return &secretReply{key, secret}, nil
}

var scopes = []string{scopePublish, scopeRead, scopeTokens, scopeUsers, scopeAdmin}

type listReply struct {
	Keys []apikeys.Key `json:"keys"`
}

func (k apiKeys) list(ctx context.Context, _ *struct{}) (*listReply, error) {
	list, err := k.Keys.List(ctx)
	if err != nil {
		return nil, keyError(err)
	}
	return &listReply{list}, nil
}

type apiKeyRequest struct {
	ID string `json:"id"`
}

type apiKeyReply struct {
	Key apikeys.Key `json:"key"`
}

func (k apiKeys) revoke(ctx context.Context, r *apiKeyRequest) (*apiKeyReply, error) {
	key, err := k.Keys.Revoke(ctx, r.ID)
	if err != nil {
		return nil, keyError(err)
	}
	return &apiKeyReply{key}, nil
}

type rotateRequest struct {
	ID    string `json:"id"`
	Grace string `json:"grace"`
}

// Bounds of the time for which the secret before a rotation is accepted.
const (
	defaultGrace = time.Hour
	maxGrace     = 30 * 24 * time.Hour
)

func (k apiKeys) rotate(ctx context.Context, r *rotateRequest) (*secretReply, error) {
	grace := defaultGrace
	if r.Grace != "" {
		var err error
		if grace, err = time.ParseDuration(r.Grace); err != nil || grace < 0 || grace > maxGrace {
			return nil, badRequest("grace is %q: must be a duration from 0s to %s", r.Grace, maxGrace)
		}
	}
	key, secret, err := k.Keys.Rotate(ctx, r.ID, grace)
	if err != nil {
		return nil, keyError(err)
	}
	return &secretReply{key, secret}, nil
}

func keyError(err error) error {
	switch {
	case errors.Is(err, apikeys.ErrNotFound):
		return refuse(notFound, "%v", err)
	case errors.Is(err, apikeys.ErrTooMany):
		return refuse(conflict, "%v", err)
	}
	return refuse(unavailable, "%v", fmt.Errorf("the API keys can not be changed now: %w", err))
}
