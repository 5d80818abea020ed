// Package tracing tells an OpenTelemetry collector how long a message took from
// its arrival at the edge to the last socket of each loop. A publisher asks for
// it with a traceparent header whose sampled flag is set (W3C Trace Context).
package tracing

import (
	"context"
	"fmt"
	"net/url"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Options of a Tracer.
type Options struct {
	Endpoint  string // URL of a collector that takes OTLP over HTTP
	Node      string
	Version   string
	PerSecond int // messages that are traced at most; others pass untraced
}

// Tracer makes spans and sends them, in batches, from a goroutine of its own.
// What the collector does not take in time is dropped. Safe from any goroutine.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	limit    int64

	// Atomic.
	second atomic.Int64 // unix time that count is of
	count  atomic.Int64
}

// CheckEndpoint says what is wrong with the URL of a collector.
func CheckEndpoint(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return fmt.Errorf("%q is not a URL such as http://collector:4318", s)
	}
	return nil
}

// New returns a Tracer. It does not wait for the collector.
func New(ctx context.Context, o Options) (*Tracer, error) {
	if err := CheckEndpoint(o.Endpoint); err != nil {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(o.Endpoint))
	if err != nil {
		return nil, fmt.Errorf("exporter of traces: %w", err)
	}
	// The publisher has decided; what it did not sample never gets here.
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithSampler(sdktrace.AlwaysSample()),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "nabat-edge"),
			attribute.String("service.instance.id", o.Node), attribute.String("service.version", o.Version))))
	return &Tracer{provider: provider, tracer: provider.Tracer("nabat/edge"), limit: int64(o.PerSecond)}, nil
}

// Close sends what waits, until ctx ends.
func (t *Tracer) Close(ctx context.Context) error { return t.provider.Shutdown(ctx) }

// Trace is one message under way. Immutable; safe from any goroutine.
type Trace struct {
	tracer  *Tracer
	parent  trace.SpanContext
	arrived time.Time
	room    string
}

// Begin returns the trace of a message that has just arrived with this header,
// nil for one that is not sampled or goes beyond the bound.
func (t *Tracer) Begin(parent, room string) *Trace {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": parent})
	span := trace.SpanContextFromContext(ctx)
	now := time.Now()
	if !span.IsValid() || !span.IsSampled() || !t.allow(now.Unix()) {
		return nil
	}
	return &Trace{t, span, now, room}
}

func (t *Tracer) allow(second int64) bool {
	if old := t.second.Load(); old != second && t.second.CompareAndSwap(old, second) {
		t.count.Store(0)
	}
	return t.count.Add(1) <= t.limit
}

// Delivered makes the span of one loop, which has just handed the message to the
// sockets of its members.
func (m *Trace) Delivered(loop, members int, offset uint64) {
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), m.parent)
	_, span := m.tracer.tracer.Start(ctx, "deliver", trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(m.arrived),
		trace.WithAttributes(attribute.String("messaging.system", "nats"), attribute.String("messaging.operation.type", "send"),
			attribute.String("messaging.destination.name", m.room), attribute.Int("nabat.loop", loop),
			attribute.Int("nabat.members", members), attribute.Int64("nabat.offset", int64(offset))))
	span.End()
}
