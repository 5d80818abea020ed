package tokens

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"nabat/internal/auth"
	"nabat/internal/bus"
	"nabat/proto/wire"
)

var aging = Options{TTL: time.Hour, MaxTTL: 24 * time.Hour, KeyAge: 30 * 24 * time.Hour, KeyLead: time.Minute}

// states are the keys as text: algorithm, state and index of appearance.
func states(t *testing.T, i *Issuer, now time.Time) string {
	t.Helper()
	list, err := i.Keys(now)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range list {
		out = append(out, f.Algorithm+" "+string(f.State))
	}
	return strings.Join(out, ", ")
}

func issue(t *testing.T, i *Issuer, algorithm string, ttl time.Duration, now time.Time) *Token {
	t.Helper()
	token, err := i.Issue(Request{User: "a", Algorithm: algorithm, TTL: ttl}, now)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestAKeyIsPublishedThenSignsThenVerifiesThenGoes(t *testing.T) {
	config, secrets := buckets(t)
	i := prepared(t, aging, config, secrets)
	start := time.Now()
	verifies := func(token *Token, at time.Time) *wire.Error {
		t.Helper()
		_, err := verifier(t, auth.Options{}, config, secrets).Verify(token.Token, at)
		return err
	}
	tend := func(at time.Time) {
		t.Helper()
		if err := i.tend(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	old := map[string]*Token{}
	for _, a := range algorithms {
		old[a] = issue(t, i, a, 24*time.Hour, start)
	}
	if _, err := i.Rotate(t.Context(), Rotation{}, start); err != nil {
		t.Fatal(err)
	}
	if got := states(t, i, start); got != "HS256 signing, HS256 next, EdDSA signing, EdDSA next" {
		t.Fatal(got)
	}
	// The new keys are with the edges before they sign.
	before, after := start.Add(59*time.Second), start.Add(61*time.Second)
	for _, a := range algorithms {
		if token := issue(t, i, a, time.Hour, before); token.Key != old[a].Key {
			t.Errorf("%s: signed by %s before its time", a, token.Key)
		}
		token := issue(t, i, a, time.Hour, after)
		if token.Key == old[a].Key {
			t.Errorf("%s: the old key signs on", a)
		}
		if err := verifies(token, after); err != nil {
			t.Error(err)
		}
		last := issue(t, i, a, 24*time.Hour, before) // the longest that the old one may sign
		end := last.Expires.Add(-time.Second)
		tend(end)
		if err := verifies(last, end); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	if got := states(t, i, after); got != "HS256 verifying, HS256 signing, EdDSA verifying, EdDSA signing" {
		t.Fatal(got)
	}
	tend(after.Add(24*time.Hour + 2*margin))
	if got := states(t, i, after.Add(48*time.Hour)); got != "HS256 signing, EdDSA signing" {
		t.Fatal(got)
	}
	if err := verifies(old[auth.HS256], start); err == nil || err.Code != wire.TokenUnknownKey {
		t.Errorf("a key that is removed verifies: %v", err)
	}
}

func TestKeysRotateByAge(t *testing.T) {
	config, secrets := buckets(t)
	i := prepared(t, aging, config, secrets)
	now := time.Now()
	for _, c := range []struct {
		after time.Duration
		want  string
	}{
		{aging.KeyAge - time.Hour, "HS256 signing, EdDSA signing"},
		{aging.KeyAge + time.Second, "HS256 signing, HS256 next, EdDSA signing, EdDSA next"},
		{aging.KeyAge + 30*time.Second, "HS256 signing, HS256 next, EdDSA signing, EdDSA next"}, // one is enough
		{aging.KeyAge + 2*time.Minute, "HS256 verifying, HS256 signing, EdDSA verifying, EdDSA signing"},
		{aging.KeyAge + 25*time.Hour, "HS256 signing, EdDSA signing"},
		{2*aging.KeyAge + time.Minute, "HS256 signing, HS256 next, EdDSA signing, EdDSA next"},
	} {
		at := now.Add(c.after)
		if err := i.tend(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		if got := states(t, i, at); got != c.want {
			t.Errorf("after %s: %s", c.after, got)
		}
	}
	never := prepared(t, Options{TTL: time.Hour, MaxTTL: time.Hour}, config, secrets)
	had := states(t, never, now)
	if err := never.tend(t.Context(), now.Add(100*365*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := states(t, never, now.Add(200*365*24*time.Hour)); strings.Contains(got, "next") {
		t.Errorf("rotation is off, and %s became %s", had, got)
	}
}

func TestReplicasThatRotateTogetherMakeOneKey(t *testing.T) {
	config, secrets := buckets(t)
	now := time.Now()
	issuers := make([]*Issuer, 6)
	for n := range issuers {
		issuers[n] = prepared(t, aging, config, secrets)
	}
	var wg sync.WaitGroup
	at := now.Add(aging.KeyAge + time.Second)
	for _, i := range issuers {
		wg.Go(func() {
			if err := i.tend(t.Context(), at); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	signing, err := auth.ParseSigning(get(t, secrets, bus.KeySigning))
	if err != nil || len(signing) != 4 {
		t.Fatalf("%d keys, %v", len(signing), err)
	}
	// What edges read follows from what was agreed on, and each replica has it.
	if got := get(t, config, bus.KeyJWKS); string(got) != string(auth.EncodeJWKS(signing...)) {
		t.Errorf("public: %s", got)
	}
	if got := get(t, secrets, bus.KeySymmetric); string(got) != string(auth.EncodeSymmetric(signing...)) {
		t.Errorf("symmetric: %s", got)
	}
	for n, i := range issuers {
		if err := i.tend(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		if got := states(t, i, at); got != "HS256 signing, HS256 next, EdDSA signing, EdDSA next" {
			t.Errorf("replica %d: %s", n, got)
		}
	}
}

func TestASlowReplicaDoesNotPutBackAnOlderSet(t *testing.T) {
	config, secrets := buckets(t)
	i := prepared(t, aging, config, secrets)
	public, err := read(t.Context(), config, bus.KeyJWKS)
	if err != nil {
		t.Fatal(err)
	}
	old, err := secrets.Get(t.Context(), bus.KeySigning)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Rotate(t.Context(), Rotation{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	keys, err := auth.ParseSigning(old.Value())
	if err != nil {
		t.Fatal(err)
	}
	if err := public.publish(t.Context(), append(auth.EncodeJWKS(keys...), ' ')); !bus.Raced(err) {
		t.Fatalf("an older set was published: %v", err)
	}
}

func TestRotationByCommand(t *testing.T) {
	config, secrets := buckets(t)
	i := prepared(t, options, config, secrets)
	i.opts.KeyLead = time.Minute
	now := time.Now()
	old := issue(t, i, auth.EdDSA, time.Hour, now)
	var fault *Error
	rotate := func(o Rotation) ([]Fact, error) { return i.Rotate(t.Context(), o, now) }
	if _, err := rotate(Rotation{}); err != nil {
		t.Fatal(err)
	}
	if _, err := rotate(Rotation{}); !errors.As(err, &fault) || !strings.Contains(fault.Reason, "waits already and signs from") {
		t.Fatalf("while a key waits: %v", err)
	}
	list, err := rotate(Rotation{AtOnce: true})
	if err != nil || len(list) != 4 {
		t.Fatal(list, err)
	}
	if got := states(t, i, now); got != "HS256 verifying, HS256 signing, EdDSA verifying, EdDSA signing" {
		t.Fatalf("the waiting keys sign at once: %s", got)
	}
	if _, err := verifier(t, auth.Options{}, config, secrets).Verify(old.Token, now); err != nil {
		t.Fatal(err)
	}
	list, err = rotate(Rotation{Drop: true})
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	if _, err := verifier(t, auth.Options{}, config, secrets).Verify(old.Token, now); err == nil || err.Code != wire.TokenUnknownKey {
		t.Fatalf("a stolen key verifies: %v", err)
	}
	for _, a := range algorithms {
		if _, err := verifier(t, auth.Options{}, config, secrets).Verify(issue(t, i, a, time.Hour, now).Token, now); err != nil {
			t.Error(err)
		}
	}
}

func TestAKeyOutlivesTheLongestTokenItMayHaveSigned(t *testing.T) {
	config, secrets := buckets(t)
	now := time.Now()
	prepared(t, Options{TTL: time.Hour, MaxTTL: 48 * time.Hour}, config, secrets)
	// Then the bound is lowered, and the key rotated.
	i := prepared(t, Options{TTL: time.Hour, MaxTTL: time.Hour}, config, secrets)
	if _, err := i.Rotate(t.Context(), Rotation{AtOnce: true}, now); err != nil {
		t.Fatal(err)
	}
	if err := i.tend(t.Context(), now.Add(47*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := states(t, i, now.Add(47*time.Hour)); !strings.Contains(got, "verifying") {
		t.Fatal(got)
	}
}

func TestKeysOfBeforeThereWereDates(t *testing.T) {
	config, secrets := buckets(t)
	hs, err := auth.GenerateHS256("hs-old")
	if err != nil {
		t.Fatal(err)
	}
	ed, err := auth.GenerateEd25519("ed-old")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := secrets.Put(t.Context(), bus.KeySigning, auth.EncodeSigning(hs, ed)); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	i := prepared(t, options, config, secrets)
	if token := issue(t, i, auth.HS256, time.Hour, now); token.Key != "hs-old" {
		t.Fatal(token.Key)
	}
	if _, err := i.Rotate(t.Context(), Rotation{AtOnce: true}, now); err != nil {
		t.Fatal(err)
	}
	if err := i.tend(t.Context(), now.Add(23*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := states(t, i, now.Add(23*time.Hour)); got != "HS256 verifying, HS256 signing, EdDSA verifying, EdDSA signing" {
		t.Fatal(got)
	}
}

func TestAReplicaFollowsWhatAnotherDoes(t *testing.T) {
	config, secrets, js := bucketsAnd(t)
	a, b := prepared(t, options, config, secrets), prepared(t, options, config, secrets)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.Run(ctx, js) }()
	t.Cleanup(func() { cancel(); <-done })
	if _, err := a.Rotate(t.Context(), Rotation{AtOnce: true}, time.Now()); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprint(a.Keys(time.Now()))
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); fmt.Sprint(b.Keys(time.Now())) != want; {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the other replica has other keys")
		}
	}
}

func TestATokenOfTomorrow(t *testing.T) {
	config, secrets := buckets(t)
	i := prepared(t, options, config, secrets)
	now := time.Now()
	token, err := i.Issue(Request{User: "a", TTL: time.Hour, NotBefore: now.Add(30 * time.Minute)}, now)
	if err != nil {
		t.Fatal(err)
	}
	v := verifier(t, auth.Options{}, config, secrets)
	if _, err := v.Verify(token.Token, now); err == nil || err.Code != wire.TokenNotYetValid {
		t.Error(err)
	}
	if _, err := v.Verify(token.Token, now.Add(31*time.Minute)); err != nil {
		t.Error(err)
	}
	if _, err := i.Issue(Request{User: "a", TTL: time.Hour, NotBefore: now.Add(time.Hour)}, now); err == nil {
		t.Error("a token that ends before it begins")
	}
}
