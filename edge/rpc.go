package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"nabat/edge/internal/ask"
	"nabat/edge/internal/session"
	"nabat/internal/bus"
	"nabat/proto/subject"
	"nabat/proto/wire"
)

// maxInfo bounds what a request says of its user, in bytes.
const maxInfo = 1 << 10

// Call implements session.Host: what a client calls becomes a NATS request, with
// the caller in headers that clients cannot set.
func (h host) Call(ref session.Ref, id *session.Identity, c *wire.Call, done func(*wire.Result, *wire.Error)) {
	subj, err := subject.Encode(h.edge.cfg.RPCPrefix, c.Method)
	if err != nil {
		done(nil, &wire.Error{Code: wire.BadRoom, Reason: "rpc.method: " + err.Error()})
		return
	}
	asker := h.edge.calls
	if limit := asker.MaxPayload(); limit > 0 && int64(len(c.Body)) > limit {
		done(nil, &wire.Error{Code: wire.TooLarge, Reason: fmt.Sprintf("the body has %d bytes, NATS takes %d", len(c.Body), limit)})
		return
	}
	m := &nats.Msg{Subject: subj, Data: bytes.Clone(c.Body), Header: h.caller(ref, id)}
	m.Header.Set(bus.HeaderBody, c.Kind.String())
	method := c.Method
	if !asker.Ask(m, func(reply *nats.Msg, err error) {
		result, refused := h.edge.replied(method, reply, err)
		// An error of Post means that the loop has stopped: nobody waits.
		_ = h.loop.Post(func() { h.called(ref, result, refused, done) })
	}) {
		done(nil, &wire.Error{Code: wire.Overloaded, RetryMS: 500, Reason: "too many calls of this node wait for backends"})
		return
	}
	h.counts.CallsWaiting.Add(1)
}

// caller is who a request is made for, as headers.
func (h host) caller(ref session.Ref, id *session.Identity) nats.Header {
	header := nats.Header{}
	name, _ := h.Name(ref)
	header.Set(bus.HeaderConnection, name)
	if id == nil {
		return header
	}
	if id.User != "" {
		header.Set(bus.HeaderUser, id.User)
	}
	if id.Grant != nil && len(id.Grant.Info) > 0 {
		var info bytes.Buffer
		if json.Compact(&info, id.Grant.Info) == nil && info.Len() <= maxInfo {
			header.Set(bus.HeaderInfo, info.String())
		}
	}
	return header
}

func (h host) called(ref session.Ref, result *wire.Result, refused *wire.Error, done func(*wire.Result, *wire.Error)) {
	h.counts.CallsWaiting.Add(-1)
	outcome := "ok"
	if refused != nil {
		outcome = string(refused.Code)
	}
	h.counts.Calls.Add(outcome, 1)
	if c := h.client(ref); c != nil && !c.Leaving() {
		done(result, refused)
	}
}

// replied makes the client's answer out of a backend's. Safe from any goroutine.
func (e *Edge) replied(method string, reply *nats.Msg, err error) (*wire.Result, *wire.Error) {
	switch {
	case errors.Is(err, ask.ErrNoResponders):
		return nil, &wire.Error{Code: wire.NoResponders, RetryMS: 1000, Reason: "no backend answers " + method + " now"}
	case errors.Is(err, ask.ErrTimeout):
		return nil, &wire.Error{Code: wire.RPCTimeout, Reason: fmt.Sprintf("the backend of %s did not answer in %s", method, e.cfg.RPCTimeout)}
	case errors.Is(err, nats.ErrMaxPayload):
		return nil, &wire.Error{Code: wire.TooLarge, Reason: "NATS refused the call: " + err.Error()}
	case err != nil:
		return nil, &wire.Error{Code: wire.Unavailable, RetryMS: 1000, Reason: "the call was not sent: " + err.Error()}
	}
	if failed := failure(reply); failed != nil {
		return nil, failed
	}
	if limit := int(e.cfg.MaxReplyBytes); len(reply.Data) > limit {
		return nil, &wire.Error{Code: wire.TooLarge, Reason: fmt.Sprintf("the backend's reply to %s has %d bytes: at most %d", method, len(reply.Data), limit)}
	}
	kind, body := wire.Classify(reply.Data, reply.Header.Get(bus.HeaderBody))
	return &wire.Result{Kind: kind, Body: body}, nil
}

// failure is the error that a backend replied, by Nabat-Error or as NATS micro
// services do; nil when there is none.
func failure(reply *nats.Msg) *wire.Error {
	code, reason := reply.Header.Get(bus.HeaderError), string(reply.Data)
	if code == "" {
		code, reason = reply.Header.Get(micro.ErrorCodeHeader), reply.Header.Get(micro.ErrorHeader)
	}
	if code == "" && reply.Header.Get(micro.ErrorHeader) == "" {
		return nil
	}
	if reason == "" || !utf8.ValidString(reason) {
		reason = "the backend answered with the error " + code
	}
	return &wire.Error{Code: wire.RPCFailed, Reason: cut(reason, 1000), Backend: cut(code, 100)}
}

// cut shortens a text, to whole characters.
func cut(s string, limit int) string {
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}
