package api

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/control/internal/apikeys"
	"nabat/control/internal/metrics"
	"nabat/control/internal/policies"
	"nabat/internal/bus"
	"nabat/proto/policy"
)

// closed is setup with an API that wants keys.
func closed(t *testing.T) *rig {
	t.Helper()
	r := setup(t)
	js, err := jetstream.New(r.own)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bus.EnsureBucket(t.Context(), js, bus.BucketKeys, "", 1); err != nil {
		t.Fatal(err)
	}
	a := New(Options{Tokens: r.issuer, Policies: policies.New(policy.Dev(), slog.New(slog.DiscardHandler)), NATS: r.own, JetStream: js,
		Keys: apikeys.New(js), Bootstrap: apikeys.NewBootstrap("bootstrap-secret"), Prefix: "room.", Counts: metrics.New(), Log: slog.New(slog.DiscardHandler)})
	r.http = httptest.NewServer(a.HTTP())
	t.Cleanup(r.http.Close)
	return r
}

// key makes a key by HTTP and returns its id and secret.
func (r *rig) key(path, body string) (id, secret string) {
	r.t.Helper()
	status, _, data := r.viaHTTPBody("POST", path, body, "Authorization", "Bearer bootstrap-secret")
	var got struct {
		Key    struct{ ID string }
		Secret string
	}
	if err := json.Unmarshal(data, &got); err != nil || status != 200 || got.Secret == "" {
		r.t.Fatal(status, string(data), err)
	}
	return got.Key.ID, got.Secret
}

func TestAKeyMayDoWhatItsScopesAndRoomsSay(t *testing.T) {
	r := closed(t)
	_, publishes := r.key("/v1/apikeys", `{"scopes":["publish"],"rooms":["chat.>"]}`)
	_, reads := r.key("/v1/apikeys", `{"scopes":["read"]}`)
	_, one := r.key("/v1/apikeys", `{"scopes":["policies"]}`)
	_, admin := r.key("/v1/apikeys", `{"scopes":["admin"]}`)
	_, short := r.key("/v1/apikeys", `{"scopes":["admin"],"ttl":"1ns"}`)
	for _, c := range []struct {
		rule, secret, method, path, body string
		status                           int
		reason                           string
	}{
		{"no key", "", "GET", "/v1/policies", "", 401, "show an API key"},
		{"a wrong key", "nope", "GET", "/v1/policies", "", 401, "not known"},
		{"an altered key", reads[:len(reads)-1] + "!", "GET", "/v1/policies", "", 401, "not known"},
		{"a key that expired", short, "GET", "/v1/policies", "", 401, "has expired"},
		{"the bootstrap key", "bootstrap-secret", "GET", "/v1/policies", "", 200, ""},
		{"the scope of the verb", reads, "GET", "/v1/policies", "", 200, ""},
		{"the verb itself", one, "GET", "/v1/policies", "", 200, ""},
		{"admin is for everything", admin, "GET", "/v1/policies", "", 200, ""},
		{"another scope", reads, "POST", "/v1/publish", `{"room":"chat.1","text":"x"}`, 403, "not for publish"},
		{"a room of the key", publishes, "POST", "/v1/rooms/chat.1", `{"text":"x"}`, 200, ""},
		{"a room in the path counts", publishes, "POST", "/v1/rooms/news", `{"text":"x"}`, 403, "not for room news"},
		{"the room of a user counts", publishes, "POST", "/v1/publish", `{"to_user":"a","text":"x"}`, 403, "not for room user.a"},
		{"one of several rooms", publishes, "POST", "/v1/publish/rooms", `{"rooms":["chat.1","news"],"text":"x"}`, 403, "not for room news"},
		{"one of several messages", publishes, "POST", "/v1/publish/batch", `{"messages":[{"room":"chat.1","text":"x"},{"room":"news","text":"x"}]}`, 403, "not for room news"},
		{"keys are made by admins only", reads, "POST", "/v1/apikeys", `{"scopes":["admin"]}`, 403, "not for apikey.create"},
		{"a scope that is none", "bootstrap-secret", "POST", "/v1/apikeys", `{"scopes":["everything"]}`, 400, "no scope and no verb"},
		{"a pattern that is none", "bootstrap-secret", "POST", "/v1/apikeys", `{"scopes":["read"],"rooms":["a..b"]}`, 400, "rooms"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			status, _, reason := r.viaHTTP(c.method, c.path, c.body, "Authorization", "Bearer "+c.secret)
			if status != c.status || !strings.Contains(reason, c.reason) {
				t.Fatal(status, reason)
			}
		})
	}
}

func TestAKeyEndsWhenItIsRevokedOrRotated(t *testing.T) {
	r := closed(t)
	use := func(secret string) int {
		status, _, _ := r.viaHTTP("GET", "/v1/policies", "", "Authorization", "Bearer "+secret)
		return status
	}
	id, first := r.key("/v1/apikeys", `{"scopes":["read"]}`)
	_, second := r.key("/v1/apikeys/"+id+"/rotate", `{}`)
	if use(first) != 200 || use(second) != 200 || first == second {
		t.Error("both secrets hold for a while")
	}
	_, third := r.key("/v1/apikeys/"+id+"/rotate", `{"grace":"0s"}`)
	if use(first) != 401 || use(second) != 401 || use(third) != 200 {
		t.Error("only the newest holds after a rotation without grace")
	}
	if status, _, data := r.viaHTTPBody("GET", "/v1/apikeys", "", "Authorization", "Bearer bootstrap-secret"); status != 200 || strings.Contains(string(data), "digest") {
		t.Errorf("%d %s", status, data)
	}
	if status, code, reason := r.viaHTTP("DELETE", "/v1/apikeys/"+id, "", "Authorization", "Bearer bootstrap-secret"); status != 200 {
		t.Error(status, code, reason)
	}
	if use(third) != 401 {
		t.Error("a revoked key is taken")
	}
	// What is stored can not be used as a key.
	js, err := jetstream.New(r.own)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), bus.BucketKeys)
	if err != nil {
		t.Fatal(err)
	}
	e, err := kv.Get(t.Context(), bus.KeyAPIKeys)
	if err != nil || strings.Contains(string(e.Value()), strings.TrimPrefix(third, "nabat_"+id+"_")) {
		t.Fatalf("%v %s", err, e.Value())
	}
}

func TestTheCodesOfTheTextAreThoseOfTheCode(t *testing.T) {
	data, err := os.ReadFile("../../../proto/BUS.md")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	want.WriteString("| code | HTTP | means |\n|---|---|---|\n")
	for _, c := range codes {
		fmt.Fprintf(&want, "| `%s` | %d | %s |\n", c.name, c.status, c.meaning)
	}
	if !strings.Contains(string(data), want.String()+"\n") {
		t.Errorf("BUS.md must have\n%s", want.String())
	}
	file, err := os.ReadFile("../../../proto/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range codes {
		names = append(names, c.name)
	}
	if enum := "enum: [" + strings.Join(names, ", ") + "]"; !strings.Contains(string(file), enum) {
		t.Errorf("openapi.yaml must have %s", enum)
	}
}
