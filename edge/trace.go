package edge

import (
	"context"
	"time"

	"nabat/edge/internal/frame"
	"nabat/edge/internal/tracing"
)

// startTracing begins to trace, where a collector is set.
func (e *Edge) startTracing() (err error) {
	if e.cfg.TraceEndpoint == "" {
		return nil
	}
	e.tracer, err = tracing.New(context.Background(), tracing.Options{Endpoint: e.cfg.TraceEndpoint, Node: e.cfg.Node, PerSecond: e.cfg.TraceRate})
	return err
}

// trace is what begins to follow a message; nil when nothing is traced.
func (e *Edge) trace() func(traceparent, room string) frame.Trace {
	if e.tracer == nil {
		return nil
	}
	return func(traceparent, room string) frame.Trace {
		if t := e.tracer.Begin(traceparent, room); t != nil {
			return t
		}
		return nil
	}
}

func (e *Edge) stopTracing() {
	if e.tracer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := e.tracer.Close(ctx); err != nil {
		e.log.Warn("the last traces were not sent", "error", err)
	}
}
