package session

import (
	"fmt"

	"nabat/edge/internal/rate"
	"nabat/proto/subject"
	"nabat/proto/wire"
)

// rpc calls a backend. Without an id only a failure is answered, as for publish.
func rpc(c call, cmd *wire.Command) {
	r := &cmd.Call
	if err := refusedCall(c, r); err != nil {
		c.refuse(cmd, err)
		return
	}
	bucket := func(m *meter) *rate.Bucket { return &m.calls }
	if !c.withinRate(cmd, c.limits.Rates.Calls, bucket, 1, "this connection makes too many calls in a second", OfCalls) {
		return
	}
	number := id(cmd)
	c.inFlight++
	c.calls++
	c.host.Call(c.ref, c.identity, r, func(result *wire.Result, err *wire.Error) {
		if c.state == closed {
			return
		}
		c.inFlight--
		c.calls--
		switch {
		case err != nil:
			c.fail(number, err)
		case number != nil:
			c.say(number, result)
		}
	})
}

func refusedCall(c call, r *wire.Call) *wire.Error {
	if err := subject.CheckRoom(r.Method); err != nil {
		return &wire.Error{Code: wire.BadRoom, Reason: "rpc.method: " + err.Error()}
	}
	if err := mayCall(c.limits, c.identity, r.Method); err != nil {
		return err
	}
	if len(r.Body) > c.limits.MaxPublishBytes {
		return &wire.Error{Code: wire.TooLarge, Reason: fmt.Sprintf("the body has %d bytes: at most %d", len(r.Body), c.limits.MaxPublishBytes)}
	}
	if int(c.calls) >= c.limits.MaxCalls {
		return &wire.Error{Code: wire.RateLimited, RetryMS: 100, Reason: fmt.Sprintf("%d calls of this connection wait for backends, as many as may", c.calls)}
	}
	return nil
}
