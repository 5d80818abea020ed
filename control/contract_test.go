package control

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/nats-io/nats.go/micro"

	"nabat/client"
	"nabat/edge"
	"nabat/proto"
)

// serveEdge runs an edge until the test ends.
func (r *rig) serveEdge() *edge.Edge {
	r.t.Helper()
	cfg := edge.Defaults()
	cfg.Listen, cfg.NATSURL, cfg.Node, cfg.Dev = "127.0.0.1:0", r.nats.URL(), "edge-0", true
	e, err := edge.New(cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		e.Hurry()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
	until(r.t, "the edge is ready", func() bool { return e.Ready() == nil })
	return e
}

// contract calls operations over HTTP and holds both ways against the file.
type contract struct {
	t      *testing.T
	url    string
	doc    *openapi3.T
	router routers.Router
	seen   map[string]bool
}

func newContract(t *testing.T, url string) *contract {
	t.Helper()
	openapi3filter.RegisterBodyDecoder("text/event-stream", openapi3filter.PlainBodyDecoder)
	doc, err := openapi3.NewLoader().LoadFromData(proto.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	router, err := legacy.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return &contract{t: t, url: url, doc: doc, router: router, seen: make(map[string]bool)}
}

// each calls fn for every operation of the file.
func (c *contract) each(fn func(method, path, operation string)) {
	for path, item := range c.doc.Paths.Map() {
		for method, op := range item.Operations() {
			fn(method, path, op.OperationID)
		}
	}
}

// call calls an operation, by its name in the file; path is that of the file
// with its parameters filled in.
func (c *contract) call(operation, path, body string, status int) []byte {
	c.t.Helper()
	method := ""
	c.each(func(m, _, name string) {
		if name == operation {
			method = m
		}
	})
	request := func() *http.Request {
		req, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
		if err != nil {
			c.t.Fatal(operation, err)
		}
		if body == "" {
			req.Body, req.ContentLength = http.NoBody, 0
		}
		if method == http.MethodPost {
			req.Header.Set("Content-Type", "application/json")
		}
		req.Header.Set("Authorization", "Bearer x")
		return req
	}
	asked := request()
	route, parameters, err := c.router.FindRoute(asked)
	if err != nil {
		c.t.Fatal(operation, err)
	}
	if route.Operation.OperationID != operation {
		c.t.Errorf("%s %s is %s, not %s", method, path, route.Operation.OperationID, operation)
	}
	in := &openapi3filter.RequestValidationInput{Request: asked, PathParams: parameters, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true}}
	if status < 400 {
		if err := openapi3filter.ValidateRequest(c.t.Context(), in); err != nil {
			c.t.Errorf("%s: the file does not allow the request %s %s: %v", operation, path, body, err)
		}
	}
	res, err := http.DefaultClient.Do(request())
	if err != nil {
		c.t.Fatal(err)
	}
	data, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != status {
		c.t.Errorf("%s %s: %d %s, want %d", operation, path, res.StatusCode, data, status)
	}
	if operation != "openapi" {
		out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: res.StatusCode, Header: res.Header, Body: io.NopCloser(bytes.NewReader(data)), Options: in.Options}
		if err := openapi3filter.ValidateResponse(c.t.Context(), out); err != nil {
			c.t.Errorf("%s: the file does not allow the answer %s: %v", operation, data, err)
		}
	}
	if status < 400 {
		c.seen[operation] = true
	}
	return data
}

func TestEveryOperationOfTheFileIsAnsweredAsItSays(t *testing.T) {
	r := setup(t)
	c := newContract(t, "http://"+r.start(nil).Addr())
	e := r.serveEdge()
	var token struct{ Token string }
	if err := json.Unmarshal(c.call("token.issue", "/v1/tokens", `{"sub":"alice","subscribe":[">"],"publish":["chat.*"],"user_room":true,"info":{"name":"A"}}`, 200), &token); err != nil {
		t.Fatal(err)
	}
	conn, err := client.Dial(t.Context(), "ws://"+e.Addr()+"/ws", client.Options{Token: token.Token})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	events := conn.Events()
	c.call("publish", "/v1/publish", `{"to_user":"alice","text":"hi"}`, 200)
	if got := <-events; got.Message == nil || got.Message.Room != "user.alice" || string(got.Message.Body) != "hi" {
		t.Fatalf("%+v", got)
	}
	c.call("publish.room", "/v1/rooms/team%20chat", `{"data":{"n":1},"event":"e","key":"k","message_id":"m"}`, 200)
	if got := string(c.call("publish.room", "/v1/rooms/team%20chat", `{"data":{"n":1},"message_id":"m"}`, 200)); !strings.Contains(got, `"duplicate":true`) || !strings.Contains(got, `"offset":`) || !strings.Contains(got, `"epoch":`) {
		t.Error(got)
	}
	c.call("publish.batch", "/v1/publish/batch", `{"messages":[{"room":"a","text":"1"},{"room":"a..b","text":"2"},{"room":"a","base64":"AP8="}]}`, 200)
	c.call("publish.rooms", "/v1/publish/rooms", `{"rooms":["a","b"],"text":"3"}`, 200)
	if got := string(c.call("history", "/v1/rooms/a/history?limit=2", "", 200)); !strings.Contains(got, `"more":true`) || !strings.Contains(got, `"base64":"AP8="`) || !strings.Contains(got, `"text":"3"`) {
		t.Error(got)
	}
	c.call("history", "/v1/rooms/a/history?after=0", "", 200)
	c.call("history", "/v1/rooms/a/history?limit=0", "", 400)
	c.call("history", "/v1/rooms/a/history?limit=x", "", 400)
	c.call("history", "/v1/rooms/a/history?nothing=1", "", 400)
	c.call("snapshot", "/v1/snapshot", `{"rooms":["b","a","empty"]}`, 200)
	c.call("history.purge", "/v1/rooms/a/history", "", 200)
	if got := string(c.call("history", "/v1/rooms/a/history", "", 200)); !strings.Contains(got, `"messages":[]`) {
		t.Error(got)
	}
	c.call("policies", "/v1/policies", "", 200)
	c.call("jwks", "/v1/jwks", "", 200)
	c.call("openapi", "/openapi.yaml", "", 200)
	c.call("explain", "/v1/explain", `{"room":"chat.1","action":"publish","token":"`+token.Token+`"}`, 200)
	if got := string(c.call("explain", "/v1/explain", `{"room":"chat.1","action":"history","user":"alice"}`, 200)); !strings.Contains(got, `"allowed":false`) || !strings.Contains(got, `"rule":"grant.history"`) {
		t.Error(got)
	}
	c.call("explain", "/v1/explain", `{"room":"chat.1","action":"subscribe","anonymous":true}`, 200)
	c.call("explain", "/v1/explain", `{"room":"chat.1","action":"fly","anonymous":true}`, 400)
	if got := string(c.call("subscribe", "/v1/subscribe", `{"user":"alice","rooms":["sports.news"]}`, 200)); !strings.Contains(got, `"affected":1`) {
		t.Error(got)
	}
	if got := <-events; len(got.Subscribed) != 1 || got.Subscribed[0].Room != "sports.news" || got.Subscribed[0].Epoch == "" {
		t.Fatalf("%+v", got)
	}
	if got := string(c.call("user.status", "/v1/users/alice", "", 200)); !strings.Contains(got, `"rooms":["sports.news","user.alice"]`) {
		t.Error(got)
	}
	until(t, "the picture has the room and the user", func() bool {
		return strings.Contains(string(c.call("rooms", "/v1/rooms?prefix=sports.&sort=members&limit=10", "", 200)), `"sports.news"`) &&
			strings.Contains(string(c.call("user.presence", "/v1/users/alice/presence", "", 200)), `"connections":1`)
	})
	c.call("rooms", "/v1/rooms?sort=size", "", 400)
	c.call("presence", "/v1/rooms/sports.news/presence?limit=0", "", 200)
	c.call("presence", "/v1/rooms/sports.news/presence?limit=1001", "", 400)
	if got := string(c.call("nodes", "/v1/nodes", "", 200)); !strings.Contains(got, `"edge-0"`) {
		t.Error(got)
	}
	if got := string(c.call("tap", "/v1/tap?room=sports.news&for=1ms", "", 200)); !strings.HasPrefix(got, "event: began\ndata: {\"affected\":1,") || !strings.HasSuffix(got, "event: end\ndata: {\"reason\":\"the time is over\"}\n\n") {
		t.Error(got)
	}
	c.call("tap", "/v1/tap?room=sports.news&user=alice", "", 400)
	c.call("unsubscribe", "/v1/unsubscribe", `{"user":"alice","rooms":["sports.news"]}`, 200)
	if got := <-events; !slices.Equal(got.Unsubscribed, []string{"sports.news"}) {
		t.Fatalf("%+v", got)
	}
	c.call("rebalance.stop", "/v1/rebalance", "", 409)
	c.call("rebalance.start", "/v1/rebalance", `{"rate":5}`, 200)
	until(t, "one node is even", func() bool {
		return strings.Contains(string(c.call("rebalance.status", "/v1/rebalance", "", 200)), `"state":"done"`)
	})
	c.seen["rebalance.stop"] = true // balance's tests stop one
	var made struct{ Key struct{ ID string } }
	if err := json.Unmarshal(c.call("apikey.create", "/v1/apikeys", `{"name":"shop","scopes":["publish","history"],"rooms":["chat.>"],"ttl":"1h"}`, 200), &made); err != nil {
		t.Fatal(err)
	}
	c.call("apikey.rotate", "/v1/apikeys/"+made.Key.ID+"/rotate", `{"grace":"0s"}`, 200)
	c.call("apikey.revoke", "/v1/apikeys/"+made.Key.ID, "", 200)
	c.call("apikey.revoke", "/v1/apikeys/"+made.Key.ID, "", 404)
	c.call("apikey.list", "/v1/apikeys", "", 200)
	c.call("token.revoke", "/v1/tokens/revoke", `{"jti":"5e2b9c0f4a1d7e6b3c8f9a0b","reason":"lost"}`, 200)
	c.call("user.revoke", "/v1/users/revoke", `{"user":"bob"}`, 200)
	c.call("user.block", "/v1/users/block", `{"user":"bob","for":"1h"}`, 200)
	c.call("user.block", "/v1/users/block", `{"user":"bob","for":"x"}`, 400)
	c.call("block.list", "/v1/blocks", "", 200)
	c.call("user.revoke", "/v1/users/revoke", `{"user":"carol"}`, 200)
	var carol struct{ Token string }
	if err := json.Unmarshal(c.call("token.issue", "/v1/tokens", `{"sub":"carol","subscribe":[">"]}`, 200), &carol); err != nil {
		t.Fatal(err)
	}
	c.call("user.block", "/v1/users/block", `{"user":"carol"}`, 200)
	if got := string(c.call("explain", "/v1/explain", `{"room":"chat.1","action":"subscribe","token":"`+carol.Token+`"}`, 200)); !strings.Contains(got, `"allowed":false`) || !strings.Contains(got, `"rule":"blocks"`) {
		t.Error(got)
	}
	c.call("user.unblock", "/v1/users/unblock", `{"user":"bob"}`, 200)
	c.call("keys.list", "/v1/keys", "", 200)
	c.call("keys.rotate", "/v1/keys/rotate", `{}`, 200)
	c.call("disconnect", "/v1/disconnect", `{"user":"alice","reason":"bye"}`, 200)
	for range events { // until it ends
	}
	if err := conn.Err(); !strings.Contains(err.Error(), "4005 kicked") {
		t.Error(err)
	}
	c.call("node.drain", "/v1/nodes/edge-0/drain", `{"over":"1ms"}`, 200)
	c.call("node.drain", "/v1/nodes/edge-9/drain", `{"over":"1ms"}`, 404)
	c.each(func(method, path, operation string) {
		if !c.seen[operation] {
			t.Errorf("%s %s (%s) was not called", method, path, operation)
		}
	})
}

// What the micro service says of its endpoints is what the file says.
func TestEveryVerbIsInTheFileAndBack(t *testing.T) {
	r := setup(t)
	c := newContract(t, "http://"+r.start(nil).Addr())
	m, err := r.nc.Request("$SRV.INFO.nabat-api", nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	var info micro.Info
	if err := json.Unmarshal(m.Data, &info); err != nil {
		t.Fatal(err)
	}
	var served, described []string
	for _, e := range info.Endpoints {
		how := e.Metadata["http"]
		if how == "" {
			continue
		}
		parts := strings.Fields(how)
		for i := 0; i < len(parts); i += 2 {
			served = append(served, parts[i]+" "+parts[i+1])
		}
		for _, name := range []string{"schema.request", "schema.response", "description"} {
			if e.Metadata[name] == "" || (name != "description" && (!json.Valid([]byte(e.Metadata[name])) || strings.Contains(e.Metadata[name], "$ref"))) {
				t.Errorf("%s has no whole %s: %s", e.Name, name, e.Metadata[name])
			}
		}
	}
	c.each(func(method, path, _ string) {
		if path != "/openapi.yaml" {
			described = append(described, method+" "+path)
		}
	})
	slices.Sort(served)
	slices.Sort(described)
	if !slices.Equal(served, described) {
		t.Fatalf("served    %v\ndescribed %v", served, described)
	}
}
