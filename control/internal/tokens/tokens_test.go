package tokens

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/auth"
	"nabat/internal/bus"
	"nabat/internal/natsdev"
	"nabat/proto/grant"
)

// buckets are the two of a fresh cluster.
func buckets(t *testing.T) (config, secrets jetstream.KeyValue) {
	t.Helper()
	config, secrets, _ = bucketsAnd(t)
	return config, secrets
}

func bucketsAnd(t *testing.T) (config, secrets jetstream.KeyValue, js jetstream.JetStream) {
	t.Helper()
	s, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	nc, err := bus.Connect(t.Context(), bus.Options{URL: s.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err = jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if config, err = bus.EnsureBucket(t.Context(), js, bus.BucketConfig, "", 1); err != nil {
		t.Fatal(err)
	}
	if secrets, err = bus.EnsureBucket(t.Context(), js, bus.BucketKeys, "", 1); err != nil {
		t.Fatal(err)
	}
	return config, secrets, js
}

func get(t *testing.T, kv jetstream.KeyValue, key string) []byte {
	t.Helper()
	e, err := kv.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return e.Value()
}

var options = Options{TTL: time.Hour, MaxTTL: 24 * time.Hour}

func prepared(t *testing.T, o Options, config, secrets jetstream.KeyValue) *Issuer {
	t.Helper()
	i := New(o)
	if err := i.Prepare(t.Context(), config, secrets); err != nil {
		t.Fatal(err)
	}
	return i
}

// verifier knows what edges read.
func verifier(t *testing.T, o auth.Options, config, secrets jetstream.KeyValue) *auth.Verifier {
	t.Helper()
	public, err := auth.ParseJWKS(get(t, config, bus.KeyJWKS))
	if err != nil {
		t.Fatal(err)
	}
	symmetric, err := auth.ParseSymmetric(get(t, secrets, bus.KeySymmetric))
	if err != nil {
		t.Fatal(err)
	}
	v := auth.NewVerifier(o)
	v.SetKeys(auth.Merge(public, symmetric))
	return v
}

func TestTheDocuments(t *testing.T) {
	config, secrets := buckets(t)
	i := New(options)
	if _, err := i.Issue(Request{User: "a"}, time.Now()); !errors.Is(err, ErrNotReady) {
		t.Fatalf("issue: %v", err)
	}
	if _, err := i.JWKS(); !errors.Is(err, ErrNotReady) {
		t.Fatalf("JWKS: %v", err)
	}
	if err := i.Prepare(t.Context(), config, secrets); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kv         jetstream.KeyValue
		key, kinds string
		members    string // of the keys, beside those every key has
	}{
		{config, bus.KeyJWKS, "OKP", "crv use x"},
		{secrets, bus.KeySymmetric, "oct", "k"},
		{secrets, bus.KeySigning, "oct OKP", "created crv d k longest signs_from"},
	} {
		var doc struct{ Keys []map[string]any }
		if err := json.Unmarshal(get(t, c.kv, c.key), &doc); err != nil {
			t.Fatal(err)
		}
		var kinds []string
		members := make(map[string]bool)
		for _, k := range doc.Keys {
			kinds = append(kinds, k["kty"].(string))
			for name := range k {
				members[name] = true
			}
		}
		if got := strings.Join(kinds, " "); got != c.kinds {
			t.Errorf("%s holds %s", c.key, got)
		}
		for _, name := range []string{"created", "crv", "d", "k", "longest", "signs_from", "use", "x"} {
			if members[name] != strings.Contains(" "+c.members+" ", " "+name+" ") {
				t.Errorf("%s: %s is there: %t", c.key, name, members[name])
			}
		}
	}
	if own, err := i.JWKS(); err != nil || !bytes.Equal(own, get(t, config, bus.KeyJWKS)) {
		t.Errorf("what is served is not what is published: %v", err)
	}
	if keys, err := config.Keys(t.Context()); err != nil || len(keys) != 1 {
		t.Errorf("the bucket that everybody reads holds %v, %v", keys, err)
	}
}

func TestReplicasThatStartTogetherAgree(t *testing.T) {
	config, secrets := buckets(t)
	var wg sync.WaitGroup
	issuers := make([]*Issuer, 8)
	for n := range issuers {
		wg.Go(func() {
			issuers[n] = New(options)
			if err := issuers[n].Prepare(t.Context(), config, secrets); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	v := verifier(t, auth.Options{}, config, secrets)
	ids := make(map[string]bool)
	for _, i := range issuers {
		for _, algorithm := range []string{auth.HS256, auth.EdDSA} {
			token, err := i.Issue(Request{User: "a", Algorithm: algorithm}, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := v.Verify(token.Token, time.Now()); err != nil {
				t.Fatal(err)
			}
			ids[token.ID] = true
		}
	}
	if len(ids) != 2*len(issuers) {
		t.Fatalf("%d ids for %d tokens", len(ids), 2*len(issuers))
	}
}

func TestKeysThatCannotBeReadAreNotReplaced(t *testing.T) {
	config, secrets := buckets(t)
	for _, doc := range []string{"{", `{"keys":[{"kty":"oct","kid":"a","alg":"HS256","k":"c2hvcnQ"}]}`} {
		if _, err := secrets.PutString(t.Context(), bus.KeySigning, doc); err != nil {
			t.Fatal(err)
		}
		i := New(options)
		if err := i.Prepare(t.Context(), config, secrets); err == nil || !strings.HasPrefix(err.Error(), "signing keys: ") {
			t.Fatal(err)
		}
		if got := get(t, secrets, bus.KeySigning); string(got) != doc {
			t.Fatalf("became %s", got)
		}
		if _, err := i.JWKS(); !errors.Is(err, ErrNotReady) {
			t.Fatal(err)
		}
		if _, err := config.Get(t.Context(), bus.KeyJWKS); !errors.Is(err, jetstream.ErrKeyNotFound) {
			t.Fatal(err)
		}
	}
}

func TestWhatATokenSays(t *testing.T) {
	config, secrets := buckets(t)
	o := options
	o.Issuer, o.Audience = "nabat-test", "edges"
	i := prepared(t, o, config, secrets)
	now := time.Now()
	token, err := i.Issue(Request{User: "alice", Grant: grant.Grant{Subscribe: []string{"sports.>"}, Rooms: []string{"user.alice"}}}, now)
	if err != nil {
		t.Fatal(err)
	}
	if got := token.Expires.Sub(now); got != o.TTL {
		t.Errorf("it lives %s", got)
	}
	claims, werr := verifier(t, auth.Options{Issuer: o.Issuer, Audience: o.Audience}, config, secrets).Verify(token.Token, now)
	if werr != nil {
		t.Fatal(werr)
	}
	if claims.User != "alice" || claims.TokenID != token.ID || int64(claims.Expires) != token.Expires.Unix() || !claims.Grant.MaySubscribe("sports.a") || claims.Grant.MaySubscribe("chat") {
		t.Errorf("%+v", claims)
	}
	for _, other := range []auth.Options{{Issuer: "x", Audience: o.Audience}, {Issuer: o.Issuer, Audience: "x"}} {
		if _, err := verifier(t, other, config, secrets).Verify(token.Token, now); err == nil {
			t.Errorf("%+v takes it", other)
		}
	}
}

func TestRequestsThatCannotBeFulfilled(t *testing.T) {
	config, secrets := buckets(t)
	i := prepared(t, options, config, secrets)
	for _, c := range []struct {
		rule string
		r    Request
		want string // empty: a token
	}{
		{"no user", Request{}, "sub is missing"},
		{"a life of nothing", Request{User: "a", TTL: time.Millisecond}, "ttl is 1ms: must be 1s to 24h0m0s"},
		{"a negative life", Request{User: "a", TTL: -time.Hour}, "ttl is -1h0m0s"},
		{"the shortest", Request{User: "a", TTL: time.Second}, ""},
		{"the longest", Request{User: "a", TTL: 24 * time.Hour}, ""},
		{"too long", Request{User: "a", TTL: 24*time.Hour + 1}, "must be 1s to 24h0m0s"},
		{"an algorithm without a key", Request{User: "a", Algorithm: "RS256"}, `algorithm "RS256": must be HS256 or EdDSA`},
		{"a bad pattern", Request{User: "a", Grant: grant.Grant{Publish: []string{"a..b"}}}, "publish: "},
	} {
		t.Run(c.rule, func(t *testing.T) {
			token, err := i.Issue(c.r, time.Now())
			var fault *Error
			switch {
			case c.want == "" && (err != nil || token.Token == ""):
				t.Fatal(err)
			case c.want != "" && (!errors.As(err, &fault) || !strings.Contains(fault.Reason, c.want)):
				t.Fatalf("got %v, want %s", err, c.want)
			}
		})
	}
}
