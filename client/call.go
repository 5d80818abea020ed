package client

import (
	"context"
	"encoding/json"
	"fmt"

	"nabat/proto/wire"
)

// Text is what Call sends as it is, and not as JSON.
type Text string

// Call asks a backend and waits for its answer. data is sent as JSON, or as it is
// if it is a Text or a []byte; nil sends nothing. A refusal is a *wire.Error: its
// Code is wire.RPCFailed when the backend answered with an error, whose own code
// is then in Backend. A call whose answer was lost may have been carried out.
func (c *Conn) Call(ctx context.Context, method string, data any) (wire.Result, error) {
	call := wire.Call{Method: method, Kind: wire.Text}
	switch data := data.(type) {
	case nil:
	case Text:
		call.Body = []byte(data)
	case []byte:
		call.Kind, call.Body = wire.Binary, data
	default:
		body, err := json.Marshal(data)
		if err != nil {
			return wire.Result{}, fmt.Errorf("call %s: %w", method, err)
		}
		call.Kind, call.Body = wire.Data, body
	}
	reply, err := c.do(ctx, wire.Command{Verb: wire.RPC, Call: call})
	if err != nil {
		return wire.Result{}, err
	}
	if reply.Result == nil {
		return wire.Result{}, fmt.Errorf("call %s: %w", method, reply.unexpected(wire.RPC))
	}
	return *reply.Result, nil
}

// Call is Conn.Call on the connection of the moment, for which it waits. A call
// that was sent is not repeated when the connection ends.
func (k *Keeper) Call(ctx context.Context, method string, data any) (wire.Result, error) {
	c, err := k.live(ctx)
	if err != nil {
		return wire.Result{}, err
	}
	return c.Call(ctx, method, data)
}
