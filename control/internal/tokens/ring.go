package tokens

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"nabat/internal/auth"
)

// ring is all signing keys, old and new. What each is for follows from the times
// in it, so that replicas agree without asking each other: of the keys for one
// algorithm, the newest that signs already does so; younger ones are published
// and wait; older ones verify until the longest token of theirs has ended.
type ring []*auth.SigningKey

// margin is added to the end of a key: clocks differ, and edges forgive a little.
const margin = 10 * time.Minute

// algorithms are those that the cluster signs with.
var algorithms = []string{auth.HS256, auth.EdDSA}

func generate(algorithm string, now, signsFrom time.Time, longest time.Duration) (*auth.SigningKey, error) {
	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("key id: %w", err)
	}
	make, prefix := auth.GenerateHS256, "hs-"
	if algorithm == auth.EdDSA {
		make, prefix = auth.GenerateEd25519, "ed-"
	}
	k, err := make(prefix + hex.EncodeToString(id[:]))
	if err != nil {
		return nil, err
	}
	k.Created, k.SignsFrom, k.Longest = now.Unix(), signsFrom.Unix(), seconds(longest)
	return k, nil
}

// seconds rounds up.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// of lists the keys for one algorithm, those that sign first at first.
func (r ring) of(algorithm string) ring {
	var list ring
	for _, k := range r {
		if k.Algorithm == algorithm {
			list = append(list, k)
		}
	}
	slices.SortStableFunc(list, func(a, b *auth.SigningKey) int { return cmp.Compare(a.SignsFrom, b.SignsFrom) })
	return list
}

// signer is the key that signs now, nil when there is none.
func (r ring) signer(algorithm string, now time.Time) (k *auth.SigningKey) {
	for _, candidate := range r.of(algorithm) {
		if candidate.SignsFrom <= now.Unix() {
			k = candidate
		}
	}
	return k
}

// end is when a key may go, in unix seconds: 0 while it has no successor.
func (r ring) end(k *auth.SigningKey) int64 {
	list := r.of(k.Algorithm)
	at := slices.Index(list, k) + 1
	if at == len(list) {
		return 0
	}
	return list[at].SignsFrom + k.Longest + seconds(margin)
}

// State is what a key is for.
type State string

// The states.
const (
	Next      State = "next"      // published, so that every edge has it before it signs
	Signing   State = "signing"   //
	Verifying State = "verifying" // signs no more; tokens of it are still valid
)

// Fact is what anybody may know of a key.
type Fact struct {
	ID        string
	Algorithm string
	State     State
	Created   int64 // unix seconds, 0 unknown
	SignsFrom int64 // unix seconds
	Until     int64 // unix seconds; 0 while it has no successor
}

func (r ring) facts(now time.Time) []Fact {
	var list []Fact
	for _, algorithm := range algorithms {
		signer := r.signer(algorithm, now)
		for _, k := range r.of(algorithm) {
			f := Fact{ID: k.ID, Algorithm: k.Algorithm, State: Verifying, Created: k.Created, SignsFrom: k.SignsFrom, Until: r.end(k)}
			switch {
			case k == signer:
				f.State = Signing
			case k.SignsFrom > now.Unix():
				f.State = Next
			}
			list = append(list, f)
		}
	}
	return list
}

// tidied is the ring without keys that may go, and with the longest life of a
// token noted at those that may still sign. It reports whether that is a change.
func (r ring) tidied(now time.Time, longest time.Duration) (ring, bool) {
	var list ring
	changed := false
	for _, k := range r {
		end := r.end(k)
		if end != 0 && end <= now.Unix() {
			changed = true
			continue
		}
		if k.Longest < seconds(longest) && (end == 0 || end-k.Longest-seconds(margin) > now.Unix()) {
			raised := *k
			raised.Longest = seconds(longest)
			k, changed = &raised, true
		}
		list = append(list, k)
	}
	return list, changed
}

// aged lists the algorithms whose newest key is older than age.
func (r ring) aged(now time.Time, age time.Duration) (list []string) {
	for _, algorithm := range algorithms {
		keys := r.of(algorithm)
		if age > 0 && len(keys) > 0 && keys[len(keys)-1].Created+seconds(age) <= now.Unix() {
			list = append(list, algorithm)
		}
	}
	return list
}
