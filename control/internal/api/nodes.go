package api

import (
	"context"
	"errors"
	"time"

	"nabat/control/internal/balance"
	"nabat/control/internal/orders"
	"nabat/proto/order"
)

// edges is the verbs about edges.
type edges struct{ *Options }

func (n edges) verbs() []verb {
	return []verb{
		{"node.drain", scopeAdmin, "POST", "/v1/nodes/{node}/drain", typed(n.drain)},
		{"rebalance.start", scopeAdmin, "POST", "/v1/rebalance", typed(n.start)},
		{"rebalance.status", scopeRead, "GET", "/v1/rebalance", typed(n.progress)},
		{"rebalance.stop", scopeAdmin, "DELETE", "/v1/rebalance", typed(n.stop)},
	}
}

type drainRequest struct {
	Node string `json:"node"`
	Over string `json:"over"`
}

// maxDrain bounds the time over which clients are handed to other nodes.
const maxDrain = time.Hour

func (n edges) drain(ctx context.Context, r *drainRequest) (*node, error) {
	if r.Node == "" || len(r.Node) > maxName {
		return nil, badRequest("node is missing: which one?")
	}
	over, err := duration("over", r.Over, 0)
	if err != nil {
		return nil, err
	}
	if over > maxDrain {
		return nil, badRequest("over is %s: at most %s", over, maxDrain)
	}
	a, err := n.Orders.Node(ctx, r.Node, order.Drain, order.DrainRequest{OverMS: over.Milliseconds()})
	switch {
	case errors.Is(err, orders.ErrNoNode):
		return nil, refuse(notFound, "%v", err)
	case err != nil:
		return nil, refuse(unavailable, "%v", err)
	}
	return &node{a.Node, a.Affected, a.Error}, nil
}

type rebalanceRequest struct {
	Rate      int `json:"rate"`
	Tolerance int `json:"tolerance"`
}

func (n edges) start(ctx context.Context, r *rebalanceRequest) (*balance.Progress, error) {
	const maxRate = 100_000
	switch {
	case r.Rate < 0 || r.Rate > maxRate:
		return nil, badRequest("rate is %d: must be 1 to %d connections in a second, or 0 for 1 %% of all", r.Rate, maxRate)
	case r.Tolerance < 0 || r.Tolerance > 100:
		return nil, badRequest("tolerance is %d: must be 1 to 100 percent, or 0 for 5", r.Tolerance)
	}
	p, err := n.Balance.Start(ctx, r.Rate, r.Tolerance)
	return &p, balanced(err)
}

func (n edges) progress(ctx context.Context, _ *struct{}) (*balance.Progress, error) {
	p, err := n.Balance.Status(ctx)
	return &p, balanced(err)
}

func (n edges) stop(ctx context.Context, _ *struct{}) (*balance.Progress, error) {
	p, err := n.Balance.Stop(ctx)
	return &p, balanced(err)
}

func balanced(err error) error {
	if errors.Is(err, balance.ErrRunning) || errors.Is(err, balance.ErrIdle) {
		return refuse(conflict, "%v", err)
	}
	if err != nil {
		return refuse(unavailable, "%v", err)
	}
	return nil
}
