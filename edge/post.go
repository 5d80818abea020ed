package edge

import (
	"fmt"
	"strings"
	"time"

	"nabat/edge/internal/listen"
	"nabat/edge/internal/session"
	"nabat/proto/wire"
)

// posting is a publish over HTTP, for clients that can only receive. It has no
// session: what a publish command is held to is held against the request.
type posting struct {
	request
	publication wire.Publication // without its body
	media       string           // the body's type
}

// bodyBytes bounds the request bodies that are under way on one loop.
func (c *Config) bodyBytes() int { return max(16<<20, 2*int(c.MaxMessageBytes)) }

// publishTime is how long a publish waits for its answer: a backend may decide
// first, and then NATS confirms.
func (c *Config) publishTime() time.Duration { return c.HookTimeout + c.NATSTimeout + time.Second }

// post serves the paths below listen.PublishPath. Everything that can be refused
// is refused before the body is read.
func (r *router) post(h *listen.Handshake, head *listen.Head, rest []byte) {
	switch string(head.Method) {
	case "POST":
	case "OPTIONS":
		r.preflight(h, head, "Access-Control-Allow-Methods: POST", "Access-Control-Allow-Headers: Authorization, Content-Type, Nabat-Event, Nabat-Key, Nats-Msg-Id")
		return
	default:
		h.Refuse(&wire.Error{Code: wire.MethodNotAllowed, Reason: "a room takes POST, which publishes: read it at /ws or /sse"}, "Allow: POST, OPTIONS")
		return
	}
	p, err := r.readPosting(head)
	if err == nil && !r.edge.informed() {
		err = errUninformed
	}
	if err != nil {
		r.refuse(h, p.request, err)
		return
	}
	r.identify(h, head, rest, p.request, func(head *listen.Head, rest []byte, id *session.Identity) {
		w, size := (*worker)(r), head.Length
		err := session.CheckPublish(w.host(), &w.limits, id, p.publication.Room, size)
		if err == nil {
			if reason, wait := w.host().Within(session.Ref(h.Ref()), id, session.OfFrames, int(size)); wait > 0 {
				err = tooFast(reason, wait)
			}
		}
		if err != nil {
			r.refuse(h, p.request, err)
			return
		}
		h.Collect(head, rest, func(body *listen.Body) { r.publish(h, p, id, body) })
	})
}

// readPosting takes what the edge needs out of the head. What it returns is valid
// for refuse also when there is an error.
func (r *router) readPosting(head *listen.Head) (posting, *wire.Error) {
	q, err := r.read(head, listen.PublishPath)
	p := posting{request: q}
	if err != nil {
		return p, err
	}
	room, ok := head.Segment(listen.PublishPath)
	if !ok {
		return p, &wire.Error{Code: wire.NotFound, Reason: "the path is /v1/rooms/ROOM: write a / in a room's name as %2F"}
	}
	p.publication.Room = room
	for _, part := range []struct {
		query, header string
		to            *string
	}{{"event", "Nabat-Event", &p.publication.Event}, {"key", "Nabat-Key", &p.publication.Key}, {"message_id", "Nats-Msg-Id", &p.publication.MessageID}} {
		value, given, err := head.Query(part.query)
		if err != nil {
			return p, &wire.Error{Code: wire.BadRequest, Reason: "the query holds a % that is not followed by two hexadecimal digits"}
		}
		if !given {
			header, _ := head.Header(part.header)
			value = string(header)
		}
		if err := wire.CheckHeader(part.query, value); err != nil {
			return p, &wire.Error{Code: wire.BadRequest, Reason: err.Reason}
		}
		*part.to = value
	}
	if head.Length < 0 {
		return p, &wire.Error{Code: wire.LengthRequired, Reason: "there is no Content-Length: say how long the body is (RFC 9112 §6.3)"}
	}
	if coding, coded := head.Header("Content-Encoding"); coded && !strings.EqualFold(string(coding), "identity") {
		return p, &wire.Error{Code: wire.BadRequest, Reason: fmt.Sprintf("Content-Encoding %q is not taken: send the body as it is", clip(string(coding)))}
	}
	media, _ := head.Header("Content-Type")
	essence, _, _ := strings.Cut(string(media), ";")
	p.media = strings.ToLower(strings.TrimSpace(essence))
	return p, nil
}

// publish is called with the whole body, and answers when NATS has the message.
func (r *router) publish(h *listen.Handshake, p posting, id *session.Identity, body *listen.Body) {
	var err *wire.Error
	if p.publication.Kind, p.publication.Body, err = wire.ParseBody(body.Bytes(), p.media); err != nil {
		r.refuse(h, p.request, err)
		return
	}
	body.Await(r.edge.cfg.publishTime(), &wire.Error{Code: wire.Unavailable, RetryMS: 1000,
		Reason: "NATS did not confirm the message in time, which may or may not have been published"})
	(*worker)(r).host().Publish(session.Ref(h.Ref()), id, &p.publication, func(at wire.Position, err *wire.Error) {
		if err != nil {
			r.refuse(h, p.request, err)
			return
		}
		h.Respond(200, "application/json; charset=utf-8", append(wire.Object{Value: wire.Published{Position: at}}.AppendJSON(nil), '\n'), p.cors...)
	})
}
