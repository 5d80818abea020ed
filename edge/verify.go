package edge

import (
	"context"
	"sync"
	"time"

	"nabat/edge/internal/session"
	"nabat/internal/auth"
	"nabat/proto/wire"
)

// verify checks a token. HS256 costs microseconds and is done at once, as is a
// token seen before; slower algorithms go to the verifiers and come back to the
// loop. done is called on the loop, possibly before verify returns.
func (w *worker) verify(token string, done func(*session.Identity, *wire.Error)) {
	v, now := w.edge.verifier, w.loop.Now()
	if claims := v.Cached(token, now); claims != nil {
		w.vet(identity(claims), nil, done)
		return
	}
	if v.Cheap(token) {
		finishVerify(v, token, now, func(id *session.Identity, err *wire.Error) { w.vet(id, err, done) })
		return
	}
	job := verification{token: token, now: now, answer: func(id *session.Identity, err *wire.Error) {
		// An error of Post means that the loop has stopped: nobody waits.
		_ = w.loop.Post(func() { w.vet(id, err, done) })
	}}
	if !w.edge.verifiers.submit(job) {
		done(nil, &wire.Error{Code: wire.Overloaded, Reason: "too many tokens are being checked", RetryMS: 1000})
	}
}

// vet holds a good token against the blocks, last of all and on the loop: what is
// revoked later meets a connection that the sweep finds.
func (w *worker) vet(id *session.Identity, err *wire.Error, done func(*session.Identity, *wire.Error)) {
	switch {
	case err == nil:
		err = w.edge.blocks.Check(id, w.loop.Now())
	case err.Code == wire.TokenUnknownKey && !w.edge.control.IsConnected():
		// A key may be newer than what this node knows: that is for it to cure.
		err = &wire.Error{Code: wire.Unavailable, Reason: "the token's key is not known here, and this node can not ask for new ones now", RetryMS: 1000}
	}
	if err != nil {
		id = nil
	}
	done(id, err)
}

func finishVerify(v *auth.Verifier, token string, now time.Time, done func(*session.Identity, *wire.Error)) {
	claims, err := v.Verify(token, now)
	if err != nil {
		done(nil, err)
		return
	}
	done(identity(claims), nil)
}

// identity is what a session keeps of a token: what the cache keeps, unchanged.
func identity(v *auth.Verified) *session.Identity { return (*session.Identity)(v) }

// verifiers is a few goroutines that check signatures too slow for a loop.
type verifiers struct {
	verifier *auth.Verifier
	jobs     chan verification
}

type verification struct {
	token  string
	now    time.Time
	answer func(*session.Identity, *wire.Error)
}

func newVerifiers(v *auth.Verifier, waiting int) *verifiers {
	return &verifiers{verifier: v, jobs: make(chan verification, waiting)}
}

// submit reports false when too many wait. Safe from any goroutine.
func (p *verifiers) submit(j verification) bool {
	select {
	case p.jobs <- j:
		return true
	default:
		return false
	}
}

// run checks with n goroutines until ctx ends.
func (p *verifiers) run(ctx context.Context, n int) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case j := <-p.jobs:
					finishVerify(p.verifier, j.token, j.now, j.answer)
				}
			}
		})
	}
	wg.Wait()
}
