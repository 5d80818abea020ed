// Package api is control's API: the same verbs over NATS, as a micro service,
// and over HTTP.
package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"nabat/control/internal/apikeys"
	"nabat/control/internal/archive"
	"nabat/control/internal/balance"
	"nabat/control/internal/blocks"
	"nabat/control/internal/metrics"
	"nabat/control/internal/orders"
	"nabat/control/internal/policies"
	"nabat/control/internal/tokens"
	"nabat/internal/bus"
)

// Purger removes what is stored of a room.
type Purger interface {
	Purge(ctx context.Context, room string) (upTo uint64, err error)
}

// Options of an API.
type Options struct {
	Tokens    *tokens.Issuer
	Blocks    *blocks.Keeper
	Policies  *policies.Publisher
	NATS      *nats.Conn
	Picture   Picture
	JetStream jetstream.JetStream
	Archive   *archive.Archive
	Streams   Purger
	Orders    *orders.Sender
	Balance   *balance.Balancer
	Prefix    string             // of room subjects
	Bootstrap *apikeys.Bootstrap // the key of the configuration; nil for none
	Keys      *apikeys.Store
	Open      bool // HTTP callers need no key
	Counts    *metrics.Counts
	Log       *slog.Logger

	names []string // of the verbs, set by New
}

// API answers requests. Safe from any goroutine.
type API struct {
	opts   Options
	verbs  []*verb
	taps   *taps
	places chan struct{} // a token for each request that is being answered
}

const (
	// maxRequests bounds the requests that one replica answers at once.
	maxRequests = 256
	// timeout bounds one request.
	timeout = 15 * time.Second
)

// New returns the API.
func New(o Options) *API {
	a := &API{opts: o, places: make(chan struct{}, maxRequests)}
	a.taps = newTaps(&a.opts)
	for _, list := range [][]verb{
		access{&a.opts}.verbs(), a.keyVerbs(), messages{&a.opts}.verbs(), users{&a.opts}.verbs(), a.taps.verbs(), edges{&a.opts}.verbs(), whereabouts{&a.opts}.verbs(), apiKeys{&a.opts}.verbs(),
	} {
		for i := range list {
			a.verbs = append(a.verbs, &list[i])
			a.opts.names = append(a.opts.names, list[i].name)
		}
	}
	return a
}

// Close ends what would go on for long: the taps over HTTP. Safe from any
// goroutine.
func (a *API) Close() { a.taps.close() }

// service is the API over NATS.
type service struct {
	micro.Service
	running sync.WaitGroup
}

// Stop answers what came and takes no more.
func (s *service) Stop() error {
	err := s.Service.Stop()
	s.running.Wait()
	return err
}

// Serve answers over NATS until the service is stopped. Replicas share the work.
func (a *API) Serve() (micro.Service, error) {
	added, err := micro.AddService(a.opts.NATS, micro.Config{Name: "nabat-api", Version: "1.1.0",
		Description:  "Nabat's API. proto/BUS.md describes every request; the endpoints' metadata hold their schemas.",
		StatsHandler: func(e *micro.Endpoint) any { return a.opts.Counts.Of(verbName(e.Name)) }})
	if err != nil {
		return nil, fmt.Errorf("NATS service: %w", err)
	}
	s := &service{Service: added}
	for _, v := range a.verbs {
		err := s.AddEndpoint(endpointName(v.name), micro.HandlerFunc(func(r micro.Request) { a.take(s, v, r) }),
			micro.WithEndpointSubject(bus.APIPrefix+v.name), micro.WithEndpointMetadata(allSchemas()[v.name].metadata(v)))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("NATS endpoint %s: %w", v.name, err), s.Stop())
		}
	}
	return s, nil
}

// take answers one request of NATS on a goroutine of its own: one that waits
// for JetStream must not hold up the next.
func (a *API) take(s *service, v *verb, r micro.Request) {
	from := caller{name: "nats", via: "nats", id: requestID(r.Headers().Get(headerRequest)), seen: r.Headers().Get(bus.HeaderSeen)}
	if !a.enter() {
		a.respond(r.Reply(), from.id, nil, a.crowded(v, from))
		return
	}
	body, reply := r.Data(), r.Reply()
	s.running.Go(func() {
		defer a.leave()
		answer, err := a.run(context.Background(), v, from, body)
		a.respond(reply, from.id, answer, err)
	})
}

func (a *API) enter() bool {
	select {
	case a.places <- struct{}{}:
		return true
	default:
		return false
	}
}

func (a *API) leave() { <-a.places }

func (a *API) crowded(v *verb, from caller) *Error {
	a.opts.Counts.Request(v.name, from.via, overloaded, 0)
	return refuse(overloaded, "%d requests are being answered, as many as this replica takes at once", maxRequests)
}

// headerRequest names a request in logs and answers.
const headerRequest = "Nabat-Request-Id"

// respond answers over NATS in the form of micro services.
func (a *API) respond(to, id string, reply any, err *Error) {
	m := &nats.Msg{Subject: to, Header: nats.Header{headerRequest: {id}}}
	if err != nil {
		m.Header.Set(micro.ErrorCodeHeader, err.Code)
		m.Header.Set(micro.ErrorHeader, oneLine(err.Reason))
		m.Data = encode(map[string]any{"error": err})
	} else {
		m.Data = encode(reply)
	}
	if to == "" {
		return // nobody waits
	}
	if int64(len(m.Data)) > a.opts.NATS.MaxPayload()-4096 {
		a.respond(to, id, nil, refuse(tooLarge, "the answer has %d bytes, more than NATS takes: ask for less", len(m.Data)))
		return
	}
	_ = a.opts.NATS.PublishMsg(m) // NATS is away: the caller waits in vain and asks again
}

// oneLine is a reason as a header can carry it.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// requestID is the id that the caller gave, or a new one.
func requestID(given string) string {
	const most = 64
	ok := given != "" && len(given) <= most
	for _, c := range []byte(given) {
		ok = ok && c > ' ' && c < 0x7f
	}
	if ok {
		return given
	}
	return rand.Text()
}

// endpointName: a micro endpoint's name has no dots.
func endpointName(verb string) string { return strings.ReplaceAll(verb, ".", "-") }
func verbName(endpoint string) string { return strings.ReplaceAll(endpoint, "-", ".") }

// run answers one request and counts it.
func (a *API) run(ctx context.Context, v *verb, from caller, body []byte) (any, *Error) {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(withCaller(ctx, from), timeout)
	defer cancel()
	problem := from.mayUse(v)
	var reply any
	if problem == nil {
		var err error
		if reply, err = v.handle.run(ctx, body); err != nil {
			problem = a.refusal(ctx, v, from, err)
		}
	}
	code := "ok"
	if problem != nil {
		code = problem.Code
	}
	a.opts.Counts.Request(v.name, from.via, code, time.Since(begin).Seconds())
	if v.scope != scopeRead && v.scope != scopePublish && v.scope != scopeOpen {
		a.opts.Log.Info("API request", "verb", v.name, "by", from.name, "via", from.via, "request", from.id, "result", code)
	}
	return reply, problem
}

// refusal is what the caller is told of an error.
func (a *API) refusal(ctx context.Context, v *verb, from caller, err error) *Error {
	var refused *Error
	switch {
	case errors.As(err, &refused):
		return refused
	case ctx.Err() != nil, nobody(err):
		return refuse(unavailable, "%v", err)
	}
	a.opts.Log.Error("an API request failed", "verb", v.name, "by", from.name, "request", from.id, "error", err)
	return refuse(internalCode, "the request failed; control's log says why, under %s", from.id)
}

// nobody reports whether err says that NATS does not answer.
func nobody(err error) bool {
	for _, e := range []error{nats.ErrNoResponders, nats.ErrTimeout, nats.ErrConnectionClosed, nats.ErrConnectionReconnecting, nats.ErrDisconnected,
		nats.ErrReconnectBufExceeded, jetstream.ErrNoStreamResponse, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func encode(v any) []byte {
	if raw, ok := v.(json.RawMessage); ok {
		return raw
	}
	data, err := json.Marshal(v)
	if err != nil {
		panic("api: " + err.Error()) // replies are texts, numbers and JSON
	}
	return data
}
