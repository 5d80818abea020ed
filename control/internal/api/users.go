package api

import (
	"context"
	"strings"
	"unicode/utf8"

	"nabat/control/internal/orders"
	"nabat/proto/order"
)

// users is the verbs about users and their connections, wherever those are.
type users struct{ *Options }

func (u users) verbs() []verb {
	return []verb{
		{"disconnect", scopeUsers, "POST", "/v1/disconnect", typed(u.disconnect)},
		{"subscribe", scopeUsers, "POST", "/v1/subscribe", typed(u.subscribe)},
		{"unsubscribe", scopeUsers, "POST", "/v1/unsubscribe", typed(u.unsubscribe)},
		{"user.status", scopeRead, "GET", "/v1/users/{user}", typed(u.status)},
	}
}

// target is whose connections are meant.
type target struct {
	User    string `json:"user"`
	Session string `json:"session"`
}

// maxName bounds the name of a user in a request.
const maxName = 1024

func (t target) check() error {
	if (t.User == "") == (t.Session == "") {
		return badRequest("give one of user and session")
	}
	if len(t.User)+len(t.Session) > maxName {
		return badRequest("the name has more than %d bytes", maxName)
	}
	return nil
}

func (t target) order() order.Target { return order.Target{User: t.User, Session: t.Session} }

// obeyed is what the nodes did.
type obeyed struct {
	Affected int      `json:"affected"` // connections
	Nodes    []node   `json:"nodes"`    // those that did something or could not
	Missing  []string `json:"missing"`  // nodes that are alive and did not answer: they may or may not have obeyed
}

type node struct {
	Node     string       `json:"node"`
	Affected int          `json:"affected"`
	Error    *order.Error `json:"error,omitempty"`
}

func summary(r *orders.Result) *obeyed {
	o := &obeyed{Affected: r.Affected(), Nodes: []node{}, Missing: append([]string{}, r.Missing...)}
	for _, a := range r.Answers {
		if a.Affected > 0 || a.Error != nil {
			o.Nodes = append(o.Nodes, node{a.Node, a.Affected, a.Error})
		}
	}
	return o
}

func (u users) all(ctx context.Context, verb string, request any) (*obeyed, error) {
	r, err := u.Orders.All(ctx, verb, request)
	if err != nil {
		return nil, refuse(unavailable, "%v", err)
	}
	return summary(r), nil
}

type disconnectRequest struct {
	target
	Reason  string `json:"reason"`
	Returns bool   `json:"returns"`
}

func (u users) disconnect(ctx context.Context, r *disconnectRequest) (*obeyed, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if len(r.Reason) > maxReason || !utf8.ValidString(r.Reason) || strings.ContainsFunc(r.Reason, func(c rune) bool { return c < ' ' }) {
		return nil, badRequest("reason must be at most %d bytes without control characters", maxReason)
	}
	return u.all(ctx, order.Disconnect, order.DisconnectRequest{Target: r.order(), Reason: r.Reason, Returns: r.Returns})
}

// maxReason is what fits into a close frame beside the code.
const maxReason = 64

type membershipRequest struct {
	target
	Rooms []string `json:"rooms"`
}

func (r *membershipRequest) rooms() []string { return r.Rooms }

// maxMemberships bounds the rooms of one subscribe or unsubscribe.
const maxMemberships = 100

func (r *membershipRequest) check() error {
	if err := r.target.check(); err != nil {
		return err
	}
	if n := len(r.Rooms); n < 1 || n > maxMemberships {
		return badRequest("rooms has %d entries: must be 1 to %d", n, maxMemberships)
	}
	for _, room := range r.Rooms {
		if err := checkRoom(room); err != nil {
			return err
		}
	}
	return nil
}

func (u users) subscribe(ctx context.Context, r *membershipRequest) (*obeyed, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	return u.all(ctx, order.Subscribe, order.RoomsRequest{Target: r.order(), Rooms: r.Rooms})
}

func (u users) unsubscribe(ctx context.Context, r *membershipRequest) (*obeyed, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	return u.all(ctx, order.Unsubscribe, order.RoomsRequest{Target: r.order(), Rooms: r.Rooms})
}

type statusRequest struct {
	User string `json:"user"`
}

type statusReply struct {
	User        string       `json:"user"`
	Connections []connection `json:"connections"`
	Missing     []string     `json:"missing"`
}

type connection struct {
	Node string `json:"node"`
	order.Connection
}

func (u users) status(ctx context.Context, r *statusRequest) (*statusReply, error) {
	if err := (target{User: r.User}).check(); err != nil {
		return nil, err
	}
	got, err := u.Orders.All(ctx, order.Status, order.StatusRequest{Target: order.Target{User: r.User}})
	if err != nil {
		return nil, refuse(unavailable, "%v", err)
	}
	reply := &statusReply{User: r.User, Connections: []connection{}, Missing: append([]string{}, got.Missing...)}
	for _, a := range got.Answers {
		for _, c := range a.Connections {
			reply.Connections = append(reply.Connections, connection{a.Node, c})
		}
	}
	return reply, nil
}
