package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/auth"
	"nabat/internal/bus"
	"nabat/proto/block"
	"nabat/proto/grant"
	"nabat/proto/order"
	"nabat/proto/policy"
	"nabat/proto/subject"
)

// Actions that explain knows.
const (
	actSubscribe = "subscribe"
	actPublish   = "publish"
	actHistory   = "history"
	actPresence  = "presence"
)

var actions = []string{actSubscribe, actPublish, actHistory, actPresence}

type explainRequest struct {
	Room      string `json:"room"`
	Action    string `json:"action"`
	Token     string `json:"token"`
	User      string `json:"user"`
	Anonymous bool   `json:"anonymous"`
}

func (r *explainRequest) rooms() []string { return []string{r.Room} }

type explainReply struct {
	Allowed      bool          `json:"allowed"` // by all of the explanations
	Room         string        `json:"room"`
	Action       string        `json:"action"`
	Explanations []explanation `json:"explanations"`
}

// explanation is one decision: the rules that were asked, in order, the last of
// which decided.
type explanation struct {
	Allowed bool   `json:"allowed"`
	User    string `json:"user,omitempty"`
	Session string `json:"session,omitempty"` // of a user who is connected
	Rules   []rule `json:"rules"`
}

type rule struct {
	Rule   string `json:"rule"`
	Allows bool   `json:"allows"`
	Text   string `json:"text"`
}

// say adds a rule and reports what it says.
func (e *explanation) say(name string, allows bool, format string, args ...any) bool {
	e.Rules = append(e.Rules, rule{name, allows, fmt.Sprintf(format, args...)})
	e.Allowed = allows
	return allows
}

func (a access) explain(ctx context.Context, r *explainRequest) (*explainReply, error) {
	given := 0
	for _, is := range []bool{r.Token != "", r.User != "", r.Anonymous} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return nil, badRequest("give one of token, user and anonymous")
	case !slices.Contains(actions, r.Action):
		return nil, badRequest("action is %q: must be one of %q", r.Action, actions)
	}
	if err := checkRoom(r.Room); err != nil {
		return nil, err
	}
	reply := &explainReply{Room: r.Room, Action: r.Action, Allowed: true}
	var err error
	switch {
	case r.Anonymous:
		reply.Explanations = []explanation{a.decide(explanation{}, r, nil)}
	case r.Token != "":
		var one explanation
		if one, err = a.explainToken(ctx, r); err == nil {
			reply.Explanations = []explanation{one}
		}
	default:
		reply.Explanations, err = a.explainUser(ctx, r)
	}
	if err != nil {
		return nil, err
	}
	for _, e := range reply.Explanations {
		reply.Allowed = reply.Allowed && e.Allowed
	}
	return reply, nil
}

func (a access) explainToken(ctx context.Context, r *explainRequest) (e explanation, err error) {
	issuers, err := a.issuers(ctx)
	if err != nil {
		return e, err
	}
	who, fault, err := a.Tokens.Verify(r.Token, issuers, time.Now())
	if err != nil {
		return e, refused(err)
	}
	if fault != nil {
		e.say("token", false, "%s: %s", fault.Code, fault.Reason)
		return e, nil
	}
	e.User = who.User
	e.say("token", true, "the token of %s is valid", who.User)
	list, err := a.Blocks.List(ctx, "", time.Now())
	if err != nil {
		return e, refused(err)
	}
	for i := range list {
		if against(&list[i], who) {
			e.say("blocks", false, "%s is on the list of what is revoked and blocked, as %s", list[i].Subject, list[i].Kind)
			return e, nil
		}
	}
	e.say("blocks", true, "neither the token nor its user is revoked or blocked")
	return a.decide(e, r, holder(who.Grant)), nil
}

// against reports whether an entry shuts out the holder of a token.
func against(b *block.Entry, who *auth.Verified) bool {
	switch b.Kind {
	case block.Token:
		return who.TokenID != "" && b.Subject == who.TokenID
	case block.User:
		return b.Subject == who.User
	}
	return b.Subject == who.User && int64(who.Issued) < b.Before
}

// issuers is the keys of other issuers, as edges read them; nil when there are
// none.
func (a access) issuers(ctx context.Context) (*auth.KeySet, error) {
	kv, err := a.JetStream.KeyValue(ctx, bus.BucketKeys)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, refuse(unavailable, "%v", err)
	}
	e, err := kv.Get(ctx, bus.KeyIssuers)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, refuse(unavailable, "%v", err)
	}
	return auth.ParseIssuers(e.Value())
}

// holder is a grant that may be missing, as that of a client with a token.
func holder(g *grant.Grant) *grant.Grant {
	if g == nil {
		return new(grant.Grant)
	}
	return g
}

// explainUser explains each connection of a user: their tokens may differ.
func (a access) explainUser(ctx context.Context, r *explainRequest) ([]explanation, error) {
	got, err := a.Orders.All(ctx, order.Status, order.StatusRequest{Target: order.Target{User: r.User}, Grants: true})
	if err != nil {
		return nil, refuse(unavailable, "%v", err)
	}
	var list []explanation
	for _, answer := range got.Answers {
		for _, c := range answer.Connections {
			e := explanation{User: c.User, Session: c.Session}
			e.say("token", true, "%s is connected to %s with the token %s", c.User, answer.Node, c.TokenID)
			list = append(list, a.decide(e, r, holder(c.Grant)))
		}
	}
	if len(list) == 0 {
		return nil, refuse(notFound, "%s is not connected: what a user may do stands in their token, so give that", r.User)
	}
	return list, nil
}

// decide asks the rules that an edge asks, in its order. g is nil for a client
// without a token.
func (a access) decide(e explanation, r *explainRequest, g *grant.Grant) explanation {
	p := a.Policies.Set().For(r.Room)
	if p == nil {
		e.say("policy", false, "no policy matches room %s", r.Room)
		return e
	}
	e.say("policy", true, "the policy %s matches room %s", p.Match, r.Room)
	if r.Action == actPublish {
		if !p.Publish {
			e.say("policy.publish", false, "the policy %s does not let clients publish", p.Match)
			return e
		}
		e.say("policy.publish", true, "the policy %s lets clients publish", p.Match)
	}
	allowed := false
	if g == nil {
		allowed = e.anonymous(r.Action, p)
	} else {
		allowed = e.granted(r, g)
	}
	if allowed && r.Action == actHistory {
		if p.History == nil {
			e.say("policy.history", false, "the policy %s keeps no history", p.Match)
		} else {
			e.say("policy.history", true, "the policy %s keeps history", p.Match)
		}
	}
	return e
}

func (e *explanation) anonymous(action string, p *policy.Policy) bool {
	name, open := "subscribe", p.Anonymous.Subscribe
	if action == actPublish {
		name, open = "publish", p.Anonymous.Publish
	}
	if action == actPresence {
		return e.say("policy.anonymous", false, "presence is not open to clients without a token")
	}
	if !open {
		return e.say("policy.anonymous", false, "the policy %s does not open %s to clients without a token", p.Match, name)
	}
	return e.say("policy.anonymous", true, "the policy %s opens %s to clients without a token", p.Match, name)
}

func (e *explanation) granted(r *explainRequest, g *grant.Grant) bool {
	if p, ok := first(g.Deny, r.Room); ok {
		return e.say("grant.deny", false, "the token denies %s, which matches %s", p, r.Room)
	}
	list := map[string][]string{actSubscribe: g.Subscribe, actPublish: g.Publish, actHistory: g.History, actPresence: g.Presence}[r.Action]
	if p, ok := first(list, r.Room); ok {
		return e.say("grant."+r.Action, true, "the token grants %s in %s, which matches %s", r.Action, p, r.Room)
	}
	if r.Action == actSubscribe && slices.Contains(g.Rooms, r.Room) {
		return e.say("grant.rooms", true, "the token itself joins %s", r.Room)
	}
	return e.say("grant."+r.Action, false, "the token grants %s in %q, of which none matches %s", r.Action, list, r.Room)
}

// first is the first of patterns that matches room.
func first(patterns []string, room string) (string, bool) {
	for _, p := range patterns {
		if subject.Match(p, room) {
			return p, true
		}
	}
	return "", false
}
