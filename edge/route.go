package edge

import (
	"fmt"
	"slices"
	"strings"

	"nabat/edge/internal/frame"
	"nabat/edge/internal/listen"
	"nabat/edge/internal/session"
	"nabat/edge/internal/transport/sse"
	"nabat/edge/internal/transport/ws"
	"nabat/proto/wire"
)

// router answers request heads: it is the worker as the listener sees it.
// Token, origin, limits and sub-protocol are settled before the 101.
type router worker

var _ listen.Router = (*router)(nil)

const (
	protocolJSON  = "nabat.v1.json"
	protocolProto = "nabat.v1.proto"
	tokenProtocol = "nabat.token."
)

// help is the answer to every path that the edge does not serve.
const help = "This is a Nabat edge: it carries messages, not pages.\n\n" +
	"  WebSocket      new WebSocket(\"ws://HOST/ws?room=sports.news\")\n" +
	"  event stream   curl -N \"http://HOST/sse?room=sports.news\"\n" +
	"  publish        curl -d '{\"title\":\"hello\"}' http://HOST/v1/rooms/sports.news\n\n" +
	"Messages come from NATS: nats pub room.sports.news '{\"title\":\"hello\"}'\n"

var errDraining = &wire.Error{Code: wire.Draining, Reason: "this node is stopping; try again", RetryMS: 1000}

// errUninformed: else a good token would be refused for good, by a key not yet known.
var errUninformed = &wire.Error{Code: wire.Unavailable, Reason: "this node has no policies, keys and blocks yet: is a control service running?", RetryMS: 1000}

// Serve implements listen.Router.
func (r *router) Serve(h *listen.Handshake, head *listen.Head, rest []byte) {
	if r.edge.draining.Load() {
		h.Refuse(errDraining)
		return
	}
	path := string(head.Path)
	if strings.HasPrefix(path, listen.PublishPath) {
		r.post(h, head, rest)
		return
	}
	switch path {
	case "/ws", "/sse", "/echo":
		if path == "/echo" && !r.edge.cfg.Echo {
			break
		}
		if string(head.Method) == "OPTIONS" {
			r.preflight(h, head, "Access-Control-Allow-Methods: GET", "Access-Control-Allow-Headers: Authorization, Last-Event-ID")
			return
		}
		if string(head.Method) != "GET" {
			h.Refuse(&wire.Error{Code: wire.MethodNotAllowed, Reason: path + " takes GET"}, "Allow: GET, OPTIONS")
			return
		}
		r.serve(h, head, rest, path)
		return
	case "/":
		if m := string(head.Method); m != "GET" && m != "HEAD" {
			h.Refuse(&wire.Error{Code: wire.MethodNotAllowed, Reason: path + " takes GET"}, "Allow: GET, HEAD")
			return
		}
		h.Respond(200, "text/plain; charset=utf-8", []byte(help))
		return
	case "*": // RFC 9110 §9.3.7: the server as a whole
		h.Respond(204, "", nil, "Allow: GET, HEAD, OPTIONS")
		return
	}
	h.Refuse(&wire.Error{Code: wire.NotFound, Reason: "there is nothing at this path: use /ws?room=NAME for WebSockets, /sse?room=NAME for event streams, POST /v1/rooms/NAME to publish"})
}

// request is what a client asked for, kept while its token is being checked.
type request struct {
	path     string
	protocol string // selected sub-protocol, "" when none was offered
	batch    bool   // several objects may be in a frame
	presence bool   // who comes and leaves is wanted for the rooms of the URL
	token    string
	rooms    []session.Want
	cors     []string // response header lines

	// Of an event stream that comes back: where it stands, by room, or that what
	// it brought is no cursor of this server.
	places  map[string]wire.Position
	foreign bool
}

func (r *router) serve(h *listen.Handshake, head *listen.Head, rest []byte, path string) {
	q, err := r.read(head, path)
	if id, _ := head.Header("Last-Event-ID"); err == nil && path == "/sse" && string(id) == wire.ClosedID {
		h.Respond(204, "", nil, q.cors...)
		return
	}
	if err == nil && path != "/sse" {
		err = ws.Check(head)
	}
	if err == nil && path != "/echo" && !r.edge.informed() {
		err = errUninformed
	}
	if err != nil {
		r.refuse(h, q, err)
		return
	}
	if path == "/echo" {
		r.upgradeEcho(h, head, rest)
		return
	}
	if q.token == "" && path == "/ws" && len(q.rooms) == 0 {
		r.admit(h, head, rest, q, nil) // connect may tell who it is
		return
	}
	r.identify(h, head, rest, q, func(head *listen.Head, rest []byte, id *session.Identity) { r.admit(h, head, rest, q, id) })
}

// identify finds out who the client is, and calls next with that and with head and
// rest as they are then. It refuses the client whose token is not good.
func (r *router) identify(h *listen.Handshake, head *listen.Head, rest []byte, q request, next func(*listen.Head, []byte, *session.Identity)) {
	if q.token == "" && !r.edge.cfg.HookConnect {
		next(head, rest, nil)
		return
	}
	// A check in line answers before identify returns, and nothing is copied.
	inline, answered := true, false
	var heldHead *listen.Head
	var heldRest []byte
	(*worker)(r).identify(session.Ref(h.Ref()), h.Client(), q.token, func(id *session.Identity, err *wire.Error) {
		answered = true
		useHead, useRest := head, rest
		if !inline {
			useHead, useRest = heldHead, heldRest
		}
		switch {
		case !h.Open():
		case r.edge.draining.Load():
			r.refuse(h, q, errDraining) // those who are told to move are listed already
		case err != nil:
			r.refuse(h, q, err)
		default:
			next(useHead, useRest, id)
		}
	})
	if inline = false; !answered {
		heldHead, heldRest = h.Hold(head, rest)
	}
}

// read takes what the edge needs out of a request. The request it returns is
// valid for refuse also when there is an error.
func (r *router) read(head *listen.Head, path string) (request, *wire.Error) {
	q := request{path: path}
	origin, _ := head.Header("Origin")
	host, _ := head.Header("Host")
	ok, exact := r.edge.origins.allows(string(origin), string(host))
	if !ok {
		return q, &wire.Error{Code: wire.OriginNotAllowed, Reason: fmt.Sprintf("origin %q is not on the allow-list: add it to origins", clip(string(origin)))}
	}
	if len(origin) > 0 {
		q.cors = cors(origin, exact)
	}
	if err := q.readProtocols(head); err != nil {
		return q, err
	}
	rooms, qerr := head.QueryAll("room")
	token, _, qerr2 := head.Query("token")
	if qerr != nil || qerr2 != nil {
		return q, &wire.Error{Code: wire.BadRequest, Reason: "the query holds a % that is not followed by two hexadecimal digits"}
	}
	if err := q.readFlags(head); err != nil {
		return q, err
	}
	q.readRooms(head, rooms)
	if token != "" {
		q.token = token
	}
	if q.token == "" {
		if a, found := head.Header("Authorization"); found {
			scheme, credentials, _ := strings.Cut(string(a), " ")
			if !strings.EqualFold(scheme, "Bearer") || credentials == "" {
				return q, &wire.Error{Code: wire.TokenMalformed, Reason: "Authorization must be \"Bearer TOKEN\""}
			}
			q.token = strings.TrimSpace(credentials)
		}
	}
	if q.token == "" && exact {
		q.token, _ = head.Cookie("nabat_token")
	}
	return q, nil
}

// readRooms takes the rooms of the URL and, for an event stream that comes back,
// its positions in them. What is no cursor of this server is a position in
// another history: the client is told that it was not recovered, rather than
// refused for good.
func (q *request) readRooms(head *listen.Head, rooms []string) {
	if q.path == "/sse" {
		cursor, _ := head.Header("Last-Event-ID")
		text := string(cursor)
		if text == "" {
			text, _, _ = head.Query("last_event_id") // a broken query was refused before
		}
		if text != "" {
			var err *wire.Error
			q.places, err = wire.ParseCursor(text)
			q.foreign = err != nil
		}
	}
	q.ask(rooms, q.presence)
}

// ask adds rooms, from where the client stands in them.
func (q *request) ask(rooms []string, presence bool) {
	q.rooms = slices.Grow(q.rooms, len(rooms))
	for _, room := range rooms {
		want := session.Want{Room: room, Presence: presence, Epoch: q.places[room].Epoch, Offset: q.places[room].Offset}
		if q.foreign {
			want.Epoch = "?"
		}
		q.rooms = append(q.rooms, want)
	}
}

// readProtocols selects the sub-protocol and takes a token out of the offer.
func (q *request) readProtocols(head *listen.Head) *wire.Error {
	if q.path != "/ws" {
		return nil
	}
	offered := 0
	head.Tokens("Sec-WebSocket-Protocol", func(t []byte) bool {
		offered++
		switch s := string(t); {
		case s == protocolJSON || s == protocolProto:
			if q.protocol == "" { // RFC 6455 §4.1: the client's order is its preference
				q.protocol = s
			}
		case strings.HasPrefix(s, tokenProtocol):
			q.token = s[len(tokenProtocol):]
		}
		return true
	})
	switch {
	case q.protocol != "":
	case offered == 1 && q.token != "":
		return &wire.Error{Code: wire.BadSubprotocol, Reason: "offer \"nabat.v1.json\" or \"nabat.v1.proto\" beside the token: a browser fails the connection when the server selects none"}
	case offered > 0:
		return &wire.Error{Code: wire.BadSubprotocol, Reason: "none of the offered sub-protocols is served here: offer \"nabat.v1.json\", \"nabat.v1.proto\", or none"}
	}
	return nil
}

// readFlags takes what says whether a frame may hold several objects, and whether
// presence is wanted.
func (q *request) readFlags(head *listen.Head) *wire.Error {
	for name, to := range map[string]*bool{"batch": &q.batch, "presence": &q.presence} {
		value, given, _ := head.Query(name) // a broken query was refused before
		if !given || name == "batch" && q.path != "/ws" {
			continue
		}
		if value != "0" && value != "1" {
			return &wire.Error{Code: wire.BadRequest, Reason: fmt.Sprintf("%s must be 1 or 0, and is %q", name, clip(value))}
		}
		*to = value == "1"
	}
	return nil
}

// encoding is what a WebSocket client asked for.
func (q *request) encoding() frame.Encoding {
	switch {
	case q.protocol == protocolProto && q.batch:
		return frame.WebSocketProtoBatch
	case q.protocol == protocolProto:
		return frame.WebSocketProto
	case q.batch:
		return frame.WebSocketJSONBatch
	}
	return frame.WebSocketJSON
}

// admit upgrades a client whose token, if any, is good.
func (r *router) admit(h *listen.Handshake, head *listen.Head, rest []byte, q request, id *session.Identity) {
	if q.path == "/sse" && len(q.rooms) == 0 && (id == nil || id.Grant == nil || len(id.Grant.Rooms) == 0) {
		// It could never send the connect that the session would wait for.
		r.refuse(h, q, &wire.Error{Code: wire.BadRequest, Reason: "an event stream needs at least one room: /sse?room=NAME"})
		return
	}
	if id != nil && id.Grant != nil {
		q.ask(id.Grant.Rooms, false) // they have positions, too
	}
	w := (*worker)(r)
	probe := new(session.Session)
	if err := probe.Admit(w.host(), &w.limits, id, q.rooms); err != nil {
		r.refuse(h, q, err)
		return
	}
	if id != nil {
		if err := w.host().Seat(session.Ref(h.Ref()), id.User); err != nil {
			r.refuse(h, q, err)
			return
		}
	}
	w.noteClient(h, q.path)
	if w.came != nil {
		w.came[h.Ref().Slot] = h.Client()
	}
	if q.path == "/sse" {
		c := new(sse.Conn)
		c.Start(w.env, h.Ref(), h.Upgrade(c), sse.Head(w.loop.Now(), q.cors...))
		c.Session.Open(w.host(), c.SessionRef(), &w.limits, id, q.rooms)
		return
	}
	answer, err := ws.Accept(head, q.protocol, w.env.Deflater != nil)
	if err != nil {
		r.refuse(h, q, &wire.Error{Code: wire.BadRequest, Reason: err.Error()})
		return
	}
	c := ws.New(q.encoding())
	c.Start(w.env, h.Ref(), h.Upgrade(c), answer)
	c.Session.Open(w.host(), c.SessionRef(), &w.limits, id, q.rooms)
	if len(rest) > 0 {
		c.Feed(rest)
	}
}

func (r *router) upgradeEcho(h *listen.Handshake, head *listen.Head, rest []byte) {
	answer, err := ws.Accept(head, "", r.env.Deflater != nil)
	if err != nil {
		h.Refuse(&wire.Error{Code: wire.BadRequest, Reason: err.Error()})
		return
	}
	const maxEcho = 64 << 20
	e := new(ws.Echo)
	e.Start(r.env, h.Ref(), h.Upgrade(e), maxEcho, answer)
	e.Feed(rest)
}

// refuse answers with an HTTP status. An EventSource does not come back after
// any but 200 (WHATWG HTML, "fail the connection").
func (r *router) refuse(h *listen.Handshake, q request, err *wire.Error) {
	headers := q.cors
	switch err.Code.HTTPStatus() {
	case 401:
		headers = append(headers, `WWW-Authenticate: Bearer realm="nabat"`)
	case 426:
		headers = append(headers, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
	}
	h.Refuse(err, headers...)
}

// preflight answers a page that asks what it may do: allows says.
func (r *router) preflight(h *listen.Handshake, head *listen.Head, allows ...string) {
	origin, _ := head.Header("Origin")
	host, _ := head.Header("Host")
	ok, exact := r.edge.origins.allows(string(origin), string(host))
	if !ok || len(origin) == 0 {
		h.Refuse(&wire.Error{Code: wire.OriginNotAllowed, Reason: "this origin is not on the allow-list: add it to origins"})
		return
	}
	h.Respond(204, "", nil, append(append(cors(origin, exact), allows...), "Access-Control-Max-Age: 600")...)
}

// cors lets a page of origin read the answer; exact is what allows said.
func cors(origin []byte, exact bool) []string {
	lines := []string{"Access-Control-Allow-Origin: " + string(origin), "Vary: Origin"}
	if exact {
		lines = append(lines, "Access-Control-Allow-Credentials: true")
	}
	return lines
}

func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
