package edge

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/nats-io/nats.go"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"nabat/proto/policy"
)

// receiver takes OTLP over HTTP as a collector does.
func receiver(t *testing.T) (url string, spans <-chan *otlp.Span) {
	t.Helper()
	out := make(chan *otlp.Span, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(body)
			if err != nil {
				t.Error(err)
				return
			}
			body = z
		}
		data, err := io.ReadAll(body)
		var request collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(data, &request)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL, err)
			return
		}
		for _, resource := range request.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				for _, span := range scope.Spans {
					out <- span
				}
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(s.Close)
	return s.URL, out
}

func TestASampledMessageIsTracedToItsSockets(t *testing.T) {
	url, spans := receiver(t)
	c := newCluster(t, policy.Dev())
	e, stop := c.start(func(cfg *Config) { cfg.TraceEndpoint, cfg.Loops = url, 1 })
	a, b := dial(t, e, "/ws?room=a"), dial(t, e, "/ws?room=a")
	for _, r := range []*client{a, b} {
		r.connected("a")
	}
	const trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for body, header := range map[string]string{
		"1": "00-" + trace + "-" + parent + "-01",
		"2": "00-" + trace + "-" + parent + "-00", // not sampled
		"3": "nonsense",
		"4": "",
	} {
		c.publish("a", body, nats.Header{"traceparent": {header}})
		a.want(`{"room":"a","data":` + body + `}`)
		b.want(`{"room":"a","data":` + body + `}`)
	}
	stop() // what waits is sent
	span := <-spans
	if hex.EncodeToString(span.TraceId) != trace || hex.EncodeToString(span.ParentSpanId) != parent || span.Name != "deliver" ||
		span.EndTimeUnixNano < span.StartTimeUnixNano {
		t.Errorf("%v", span)
	}
	attributes := make(map[string]any)
	for _, kv := range span.Attributes {
		attributes[kv.Key] = kv.Value.GetStringValue()
		if attributes[kv.Key] == "" {
			attributes[kv.Key] = kv.Value.GetIntValue()
		}
	}
	if attributes["messaging.destination.name"] != "a" || attributes["nabat.members"] != int64(2) {
		t.Errorf("%v", attributes)
	}
	if len(spans) != 0 {
		t.Errorf("another span: %v", <-spans)
	}
}

func TestACollectorThatIsNoURLIsRefused(t *testing.T) {
	cfg := Defaults()
	for endpoint, want := range map[string]string{
		"collector:4318":        `trace_endpoint: "collector:4318" is not a URL such as http://collector:4318`,
		"ftp://collector":       `trace_endpoint: "ftp://collector" is not a URL such as http://collector:4318`,
		"http://collector:4318": "",
	} {
		cfg.TraceEndpoint = endpoint
		got := ""
		if err := cfg.Check(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q", endpoint, got)
		}
	}
}
