package client

import (
	"context"
	"crypto/rand"
	"errors"
	"iter"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"nabat/proto/wire"
)

// Back-off of a client whose server says nothing about when to return.
const (
	firstWait = 200 * time.Millisecond
	lastWait  = 20 * time.Second
)

// Keeper holds a connection over the ends of connections: it comes back as the
// close codes say and goes on in every room where it was, so that Events has
// each message of a room with history once and in order, or says that it does
// not. All methods are safe from any goroutine.
type Keeper struct {
	// Set by Keep, never changed.
	address string
	options Options
	outlet  *outlet
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed at the end, after err is set
	outbox  outbox

	// Owned by run until done is closed, constant after.
	err error

	// mu guards the fields below.
	mu      sync.Mutex
	conn    *Conn         // nil while there is none
	changed chan struct{} // closed when conn changes
	token   string
}

// Keep begins to connect to the edge at address, as Dial does, and stays until
// Close, until ctx ends or until the server says not to come back.
func Keep(ctx context.Context, address string, o Options) (*Keeper, error) {
	target, err := parseAddress(address, &o)
	if err != nil {
		return nil, err
	}
	o.Queue, o.Outbox = orDefault(o.Queue, defaultQueue), orDefault(o.Outbox, defaultOutbox)
	ctx, cancel := context.WithCancelCause(ctx)
	k := &Keeper{
		address: target.String(), options: o, outlet: newOutlet(0), cancel: cancel, done: make(chan struct{}),
		changed: make(chan struct{}), token: o.Token, outbox: outbox{rooms: map[string][]*sending{}},
	}
	go k.run(ctx)
	return k, nil
}

// Events returns what happens, in order, over all connections, but what Follow and
// Watch take. It must be read, also while a method waits; only a program that
// follows or watches rooms, or publishes by Send, need not ask for it. It is closed
// at the end; Err then says why.
func (k *Keeper) Events() <-chan Event { return k.outlet.listen() }

// Err is nil until the end, and then why it came.
func (k *Keeper) Err() error {
	select {
	case <-k.done:
		return k.err
	default:
		return nil
	}
}

// Close ends the connection for good. It returns when all has ended; events that
// nobody read are dropped.
func (k *Keeper) Close() {
	k.cancel(ErrClosed)
	<-k.done
	k.outlet.leaving.wait()
	k.outbox.workers.wait()
}

// Subscribe joins rooms, all or none, for this and later connections.
func (k *Keeper) Subscribe(ctx context.Context, rooms []string, options ...SubscribeOption) ([]wire.Position, error) {
	return onConn(ctx, k, func(c *Conn) ([]wire.Position, error) { return c.Subscribe(ctx, rooms, options...) })
}

// Unsubscribe leaves rooms.
func (k *Keeper) Unsubscribe(ctx context.Context, rooms ...string) error {
	_, err := onConn(ctx, k, func(c *Conn) (struct{}, error) { return struct{}{}, c.Unsubscribe(ctx, rooms...) })
	return err
}

// Publish sends a message until the server has answered, on later connections
// too: with the same MessageID, which is made up where p has none, so that it is
// published once. A room without history can not know a message again: there an
// answer that was lost with its connection makes two of it.
func (k *Keeper) Publish(ctx context.Context, p wire.Publication) (wire.Position, error) {
	if p.MessageID == "" {
		p.MessageID = rand.Text()
	}
	return onConn(ctx, k, func(c *Conn) (wire.Position, error) { return c.Publish(ctx, p) })
}

// History is Conn.History.
func (k *Keeper) History(ctx context.Context, room string, options ...HistoryOption) (wire.Page, error) {
	return k.page(ctx, historyRequest(room, options))
}

// Messages is Conn.Messages, over the ends of connections.
func (k *Keeper) Messages(ctx context.Context, room string, options ...HistoryOption) iter.Seq2[*wire.Message, error] {
	return messages(ctx, k.page, historyRequest(room, options))
}

func (k *Keeper) page(ctx context.Context, h wire.HistoryRequest) (wire.Page, error) {
	return onConn(ctx, k, func(c *Conn) (wire.Page, error) { return c.page(ctx, h) })
}

// Auth renews or replaces the token, for this and later connections.
func (k *Keeper) Auth(ctx context.Context, token string) error {
	_, err := onConn(ctx, k, func(c *Conn) (struct{}, error) { return struct{}{}, c.Auth(ctx, token) })
	if err == nil {
		k.mu.Lock()
		k.token = token
		k.mu.Unlock()
	}
	return err
}

// onConn runs a command until it is answered, as often as connections end before
// that or the server says to try again.
func onConn[T any](ctx context.Context, k *Keeper, command func(*Conn) (T, error)) (none T, err error) {
	for {
		c, err := k.live(ctx)
		if err != nil {
			return none, err
		}
		answer, err := command(c)
		var refused *wire.Error
		switch {
		case err == nil:
			return answer, nil
		case errors.As(err, &refused):
			if refused.RetryMS == 0 || !pause(ctx, time.Duration(refused.RetryMS)*time.Millisecond) {
				return none, err
			}
		case ctx.Err() != nil || c.Err() == nil:
			return none, err
		}
	}
}

func (k *Keeper) ended() <-chan struct{} { return k.done }

func (k *Keeper) in(ctx context.Context, room string) (bool, error) {
	c, err := k.live(ctx)
	if err != nil {
		return false, err
	}
	return c.in(ctx, room)
}

// live waits for a connection.
func (k *Keeper) live(ctx context.Context) (*Conn, error) {
	for {
		k.mu.Lock()
		c, changed := k.conn, k.changed
		k.mu.Unlock()
		if c != nil && c.Err() == nil {
			return c, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-k.done:
			return nil, k.err
		}
	}
}

func (k *Keeper) setConn(c *Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conn = c
	close(k.changed)
	k.changed = make(chan struct{})
}

// run is the Keeper's goroutine.
func (k *Keeper) run(ctx context.Context) {
	k.err = k.keep(ctx)
	if ctx.Err() != nil {
		k.err = context.Cause(ctx)
	}
	k.cancel(nil)
	close(k.done)
	close(k.outlet.events)
}

func (k *Keeper) keep(ctx context.Context) error {
	options, backoff, revoked := k.options, firstWait, false
	for {
		began := time.Now()
		if err := k.refresh(ctx, &options); err != nil {
			return err
		}
		c, err := Dial(ctx, k.address, options)
		if err == nil {
			k.pass(ctx, c, options.Previous != "")
			err = c.Err()
			options.resume(c)
		}
		wait, again := retry(err)
		if k.options.TokenSource != nil && codeOf(err) == wire.TokenRevoked && !revoked {
			again = true // another token may do; one that is revoked, too, says that it will not
		}
		revoked = codeOf(err) == wire.TokenRevoked
		if !again || ctx.Err() != nil {
			return err
		}
		if elsewhere(err) || time.Since(began) > lastWait {
			backoff = firstWait
		}
		// Everyone of a dead edge is on the way at the same time: spread out.
		wait += mathrand.N(backoff)
		backoff = min(2*backoff, lastWait)
		if !k.tell(ctx, Event{Down: &Down{err, wait}}) || !pause(ctx, wait) {
			return err
		}
	}
}

// refresh puts the newest token into o.
func (k *Keeper) refresh(ctx context.Context, o *Options) (err error) {
	if k.options.TokenSource != nil {
		o.Token, err = k.options.TokenSource(ctx)
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	o.Token = k.token
	return nil
}

// pass hands on what a connection says until it ends.
func (k *Keeper) pass(ctx context.Context, c *Conn, continues bool) {
	k.setConn(c)
	defer k.setConn(nil)
	var errands sync.WaitGroup // they end with c
	defer errands.Wait()
	defer c.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	connected := c.Connected()
	if !k.tell(ctx, Event{Connected: &connected}) {
		return
	}
	for _, p := range connected.Rooms {
		if !continues && p.Recovered == nil {
			continue
		}
		if !k.tell(ctx, Event{Recovered: recoveryOf(p)}) {
			return
		}
	}
	if continues && !k.tellLost(ctx, c) {
		return
	}
	errands.Go(func() { c.joinApart(ctx) })
	for {
		select {
		case e, ok := <-c.Events():
			if ok && e.Expiring > 0 && k.options.TokenSource != nil {
				errands.Go(func() { c.renew(ctx, k.options.TokenSource, e.Expiring) })
			}
			if !ok || !k.tell(ctx, e) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// renew gives the connection another token before its own ends. Where that fails the
// server ends the connection, and the next one asks again.
func (c *Conn) renew(ctx context.Context, source func(context.Context) (string, error), left time.Duration) {
	// Not at once: a token that lives shorter than the server's warning is warned of
	// as soon as it is given. And not all at the same time.
	if !pause(ctx, left/4+mathrand.N(left/4+1)) {
		return
	}
	if token, err := source(ctx); err == nil {
		_ = c.Auth(ctx, token)
	}
}

func (k *Keeper) tell(ctx context.Context, e Event) bool {
	return k.outlet.put(e, ctx.Done(), nil)
}

// resume makes o continue c, whose events have all been passed on.
func (o *Options) resume(c *Conn) {
	positions := c.Positions()
	o.Previous = c.Connected().Session
	if len(c.apart.Rooms) == 0 { // else the longer absence of those counts
		o.AwaySince = time.Unix(0, c.socket.lastRead.Load())
	}
	c.noteWatches(c.apart.Rooms)
	for _, r := range c.apart.Rooms {
		positions = append(positions, wire.Position{Room: r.Room, Epoch: r.Epoch, Offset: r.Offset})
	}
	o.each = true
	o.Rooms, o.Begin = nil, []SubscribeOption{From(positions...), c.again()}
	for _, p := range positions {
		o.Rooms = append(o.Rooms, p.Room)
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// retry is the server's advice about coming back after err.
func retry(err error) (wait time.Duration, again bool) {
	var closed *CloseError
	var refused *wire.Error
	switch {
	case errors.As(err, &closed):
		return closed.Retry()
	case errors.As(err, &refused):
		return time.Duration(refused.RetryMS) * time.Millisecond, refused.RetryMS > 0
	}
	return 0, true // nobody answered
}

// codeOf is what the server said when it refused or closed a connection.
func codeOf(err error) wire.Code {
	var closed *CloseError
	var refused *wire.Error
	switch {
	case errors.As(err, &closed):
		return closed.Code
	case errors.As(err, &refused):
		return refused.Code
	}
	return ""
}

// elsewhere reports whether the server said to come back now, to another node.
func elsewhere(err error) bool {
	var closed *CloseError
	return errors.As(err, &closed) && closed.Status >= 4200 && closed.Status < 4300
}
