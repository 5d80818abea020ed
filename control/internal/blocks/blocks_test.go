package blocks

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/auth"
	"nabat/internal/bus"
	"nabat/internal/natsdev"
	"nabat/proto/block"
)

const keep = 24 * time.Hour

func setup(t *testing.T) (*Keeper, jetstream.KeyValue) {
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
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := bus.EnsureBucket(t.Context(), js, bus.BucketBlocks, "", 1)
	if err != nil {
		t.Fatal(err)
	}
	k := New(Options{Keep: keep})
	if _, err := k.BlockUser(t.Context(), "a", 0, "", time.Now()); !errors.Is(err, ErrNotReady) {
		t.Fatal(err)
	}
	k.Prepare(kv)
	return k, kv
}

// stored is the entry that lies in the bucket, nil for none.
func stored(t *testing.T, kv jetstream.KeyValue, kind block.Kind, subject string) *block.Entry {
	t.Helper()
	e, err := kv.Get(t.Context(), block.Key(kind, subject))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	entry, err := block.Decode(e.Value())
	if err != nil {
		t.Fatal(err)
	}
	return entry
}

func TestARevokedTokenIsRememberedUntilItEnds(t *testing.T) {
	k, kv := setup(t)
	now := time.Unix(1_800_000_000, 0)
	key, err := auth.GenerateHS256("h")
	if err != nil {
		t.Fatal(err)
	}
	token, err := auth.Sign(key, auth.Claims{User: "a", ID: "id-1", Expires: now.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.RevokeToken(t.Context(), TokenRequest{Token: token, Reason: "lost"}, now); err != nil {
		t.Fatal(err)
	}
	if e := stored(t, kv, block.Token, "id-1"); e == nil || e.Until != now.Add(time.Hour+margin).Unix() || e.Reason != "lost" || strings.Contains(string(e.Encode()), token) {
		t.Errorf("%+v", e)
	}
	if _, err := k.RevokeToken(t.Context(), TokenRequest{ID: "id-2"}, now); err != nil {
		t.Fatal(err)
	}
	if e := stored(t, kv, block.Token, "id-2"); e == nil || e.Until != now.Add(keep+margin).Unix() {
		t.Errorf("%+v", e)
	}
}

func TestATimeOfIssueNeverGoesBack(t *testing.T) {
	k, kv := setup(t)
	now := time.Unix(1_800_000_000, 500_000_000)
	at := func(before time.Time) int64 {
		t.Helper()
		if _, err := k.RevokeUser(t.Context(), "a", before, "", now); err != nil {
			t.Fatal(err)
		}
		return stored(t, kv, block.Issued, "a").Before
	}
	if got := at(now.Add(-time.Hour)); got != 1_800_000_000-3600 {
		t.Error(got)
	}
	if got := at(time.Time{}); got != 1_800_000_001 {
		t.Errorf("now is the end of this second, not %d", got)
	}
	if got := at(now.Add(-time.Minute)); got != 1_800_000_001 {
		t.Errorf("it went back to %d", got)
	}
	// Whatever order they come in, the latest stays.
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			if _, err := k.RevokeUser(t.Context(), "b", now.Add(-time.Duration(n)*time.Minute), "", now); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if e := stored(t, kv, block.Issued, "b"); e.Before != now.Unix() {
		t.Errorf("%+v", e)
	}
}

func TestBlocksAreListedAndLifted(t *testing.T) {
	k, kv := setup(t)
	now := time.Unix(1_800_000_000, 0)
	for n, b := range []struct {
		user string
		time time.Duration
	}{{"bob", time.Minute}, {"team *.> ö", 0}, {"eve", time.Hour}} {
		if _, err := k.BlockUser(t.Context(), b.user, b.time, "spam", now.Add(time.Duration(n)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.RevokeToken(t.Context(), TokenRequest{ID: "eve"}, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	names := func(user string, at time.Time) string {
		t.Helper()
		list, err := k.List(t.Context(), user, at)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, e := range list {
			out = append(out, fmt.Sprint(e.Kind, " ", e.Subject))
		}
		return strings.Join(out, ", ")
	}
	if got := names("", now); got != "token eve, user eve, user team *.> ö, user bob" {
		t.Error(got)
	}
	if got := names("", now.Add(10*time.Minute)); got != "token eve, user eve, user team *.> ö" {
		t.Error("over is over:", got)
	}
	if got := names("eve", now); got != "user eve" {
		t.Error(got)
	}
	for _, c := range []struct {
		user string
		was  bool
	}{{"eve", true}, {"eve", false}, {"nobody", false}, {"bob", false}} {
		at := now.Add(10 * time.Minute)
		if was, err := k.Unblock(t.Context(), c.user, at); err != nil || was != c.was {
			t.Errorf("%s: %t, %v", c.user, was, err)
		}
		if e := stored(t, kv, block.User, c.user); e != nil {
			t.Errorf("%+v is still there", e)
		}
	}
}

func TestWhatIsOverIsRemovedAndNothingElse(t *testing.T) {
	k, kv := setup(t)
	now := time.Unix(1_800_000_000, 0)
	for user, d := range map[string]time.Duration{"short": time.Minute, "long": 24 * time.Hour, "good": 0} {
		if _, err := k.BlockUser(t.Context(), user, d, "", now); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kv.Put(t.Context(), "user.unreadable", []byte("{")); err != nil {
		t.Fatal(err)
	}
	// Replicas sweep at the same time, and one entry is renewed meanwhile.
	at := now.Add(time.Minute + margin + time.Second)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := k.sweep(t.Context(), at); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if stored(t, kv, block.User, "short") != nil || stored(t, kv, block.User, "long") == nil || stored(t, kv, block.User, "good") == nil {
		t.Error("the wrong entries are left")
	}
	old, err := kv.Get(t.Context(), block.Key(block.User, "long"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.BlockUser(t.Context(), "long", 0, "", now); err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(t.Context(), old.Key(), jetstream.LastRevision(old.Revision())); !bus.Raced(err) {
		t.Errorf("an entry that was renewed is deleted: %v", err)
	}
}

func TestRequestsThatCannotBeFulfilled(t *testing.T) {
	k, _ := setup(t)
	now := time.Now()
	for want, call := range map[string]func() error{
		"one of jti and token": func() error { _, err := k.RevokeToken(t.Context(), TokenRequest{}, now); return err },
		"not a JWT": func() error {
			_, err := k.RevokeToken(t.Context(), TokenRequest{Token: "secret.secret.secret"}, now)
			return err
		},
		"no id (jti)": func() error {
			_, err := k.RevokeToken(t.Context(), TokenRequest{Token: "eyJhbGciOiJIUzI1NiJ9.e30.AAAA"}, now)
			return err
		},
		"user is missing: whose": func() error { _, err := k.BlockUser(t.Context(), "", 0, "", now); return err },
		"user is missing: who":   func() error { _, err := k.Unblock(t.Context(), "", now); return err },
		"must not be negative":   func() error { _, err := k.BlockUser(t.Context(), "a", -1, "", now); return err },
		"in the future":          func() error { _, err := k.RevokeUser(t.Context(), "a", now.Add(time.Hour), "", now); return err },
		"at most 512":            func() error { _, err := k.BlockUser(t.Context(), "a", 0, strings.Repeat("r", 513), now); return err },
		"at most 1024": func() error {
			_, err := k.RevokeToken(t.Context(), TokenRequest{ID: strings.Repeat("i", 1025)}, now)
			return err
		},
	} {
		var fault *Error
		if err := call(); !errors.As(err, &fault) || !strings.Contains(fault.Reason, want) || strings.Contains(fault.Reason, "secret") {
			t.Errorf("%s: %v", want, err)
		}
	}
}
