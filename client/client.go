// Package client connects to a Nabat edge over WebSocket: it joins rooms,
// receives their messages and publishes.
//
// A Conn, which Dial makes, is one connection: it ends, and says why. A Keeper, which
// Keep makes, comes back and goes on where it was. Both have the same methods. What
// the server says unasked is in Events, or in loops: All has everything, Follow the
// messages of a room, Messages its history, Members who is in it. A Keeper also
// publishes without waiting (Send), keeps the list of a room's members (Watch), and
// renews its token (Options.TokenSource).
//
// What the server refuses is a *wire.Error, whose Code is one of PROTOCOL.md, the end
// of a connection a *CloseError.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"nabat/proto/wire"
)

// Options say how to connect. The zero value is an anonymous client in no room.
type Options struct {
	Token    string            // sent before the connection is upgraded
	Rooms    []string          // joined with the first command, all or none
	Begin    []SubscribeOption // where those rooms begin: From, Since or Latest
	Previous string            // the session that this one continues
	// AwaySince is when the positions of From were last known to be the newest.
	// It helps the server to prove that nothing was missed.
	AwaySince time.Time
	// TokenSource, if set, is asked by a Keeper for each connection's token, where an
	// error ends the Keeper, and for another one before that ends (Event.Expiring).
	TokenSource func(context.Context) (string, error)
	Header      http.Header // more request headers, such as Origin
	TLS         *tls.Config // for wss
	// Queue bounds the events that wait to be read, by Events and by each loop over a
	// room. Default 256. When it is full the connection is not read on, and the
	// server's slow rule applies.
	Queue int
	// Outbox bounds the publications that a Keeper's Send has taken and that are not
	// answered. Default 256.
	Outbox int
	// MaxMessageBytes bounds one message from the server. Default 64 MiB.
	MaxMessageBytes int64
	// Protobuf speaks nabat.v1.proto, which takes fewer bytes than JSON, and binary
	// bodies as they are. All else is the same, but Event.Raw is nil.
	Protobuf bool
	// Batch lets the server put several messages of a room into one frame.
	Batch bool
	// Silence is after how much of it the server is asked for a sign of life;
	// twice as much ends the connection. Default 30 s.
	Silence time.Duration

	each bool // of a Keeper: where a room is refused, joinApart is to be called
}

const defaultQueue = 256

// Conn is one connection. All methods are safe from any goroutine.
type Conn struct {
	// Set by Dial, never changed.
	socket    *socket
	options   Options
	connected wire.Connected
	apart     wire.Command // with rooms that joinApart is to join
	outlet    *outlet
	done      chan struct{} // closed by the reader when it ends, after err is set

	// Owned by the reader until done is closed, constant after.
	err *CloseError

	unasked   chan wire.Connected // at most one
	closing   chan struct{}       // closed by Close
	closeOnce sync.Once

	// mu guards the fields below.
	mu      sync.Mutex
	nextID  uint64
	waiting map[uint64]waiter
	places  places
	watched map[string]bool // rooms joined with Presence
}

// Connected is what the server said about this connection when it began.
func (c *Conn) Connected() wire.Connected { return c.connected }

// Events returns what the server says unasked, in order, but what Follow takes. It
// must be read, also while a command waits for its answer; only a program that
// follows rooms need not ask for it. It is closed when the connection ends; Err
// then says why.
func (c *Conn) Events() <-chan Event { return c.outlet.listen() }

// Err is nil while the connection lives, and then why it ended.
func (c *Conn) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

func (c *Conn) ended() <-chan struct{} { return c.done }

func (c *Conn) in(_ context.Context, room string) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.places[room]
	return ok, nil
}

// Positions lists the rooms of the connection, each with the position of what
// was read last. Where Events is not empty that is ahead of what was taken.
func (c *Conn) Positions() []wire.Position {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.places.list()
}

// Subscribe joins rooms, all or none. A refusal is a *wire.Error. The answer says
// where each room begins and, with From, whether nothing was missed.
func (c *Conn) Subscribe(ctx context.Context, rooms []string, options ...SubscribeOption) ([]wire.Position, error) {
	wanted := requests(rooms, options)
	reply, err := c.do(ctx, wire.Command{Verb: wire.Subscribe, Rooms: wanted})
	if err != nil || reply.Subscribed == nil {
		return nil, err
	}
	c.noteWatches(wanted)
	return reply.Subscribed.Rooms, nil
}

// Unsubscribe leaves rooms.
func (c *Conn) Unsubscribe(ctx context.Context, rooms ...string) error {
	_, err := c.do(ctx, wire.Command{Verb: wire.Unsubscribe, Rooms: requests(rooms, nil)})
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, room := range rooms {
			delete(c.watched, room)
		}
	}
	return err
}

// Publish sends a message to p.Room and waits until it is published. Where the
// room has history the answer is the message's position, and the same MessageID
// again, within the server's time for it, publishes nothing and has the same
// answer.
func (c *Conn) Publish(ctx context.Context, p wire.Publication) (wire.Position, error) {
	reply, err := c.do(ctx, wire.Command{Verb: wire.Publish, Publish: p})
	if err != nil || reply.Published == nil {
		return wire.Position{}, err
	}
	return *reply.Published, nil
}

// Auth renews or replaces the token of the open connection.
func (c *Conn) Auth(ctx context.Context, token string) error {
	_, err := c.do(ctx, wire.Command{Verb: wire.Auth, Token: token})
	return err
}

// Close says goodbye and ends the connection. It returns when the reader has
// ended; events that nobody read are dropped.
func (c *Conn) Close() {
	c.closeOnce.Do(func() {
		close(c.closing)
		_ = c.socket.write(ws.OpClose, ws.NewCloseFrameBody(ws.StatusNormalClosure, "")) // the connection ends either way
		// RFC 6455 §7.1.1: the server closes first; it has a second to do so.
		_ = c.socket.conn.SetReadDeadline(time.Now().Add(time.Second))
	})
	<-c.done
	c.outlet.leaving.wait()
}

// do sends a command and waits for its answer.
func (c *Conn) do(ctx context.Context, command wire.Command) (*inbound, error) {
	return c.ask(ctx, command, "")
}

// waiter is who waits for an answer.
type waiter struct {
	answer chan *inbound // has room for it
	joins  string        // the room of which it is also an event
}

func (c *Conn) ask(ctx context.Context, command wire.Command, joins string) (*inbound, error) {
	answer := make(chan *inbound, 1)
	c.mu.Lock()
	c.nextID++
	id := c.nextID
	c.waiting[id] = waiter{answer, joins}
	c.mu.Unlock()
	command.ID, command.HasID = id, true
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	object, err := c.socket.codec.write(&command)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command.Verb, err)
	}
	if err := c.socket.send(object); err != nil {
		// Half a frame may be out: nothing can follow it. The reader gets a
		// second to find the server's reason.
		_ = c.socket.conn.SetReadDeadline(time.Now().Add(time.Second))
	}
	var reply *inbound
	select {
	case reply = <-answer:
	case <-ctx.Done():
		if c.socket.held.Load() {
			return nil, fmt.Errorf("%s: no answer, because events wait that nobody reads: %w", command.Verb, ctx.Err())
		}
		return nil, fmt.Errorf("%s: no answer: %w", command.Verb, ctx.Err())
	case <-c.done:
		select {
		case reply = <-answer: // it came before the end
		default:
			return nil, c.err
		}
	}
	if reply.Error != nil {
		return nil, reply.Error
	}
	return reply, nil
}

func orDefault[T int | int64 | time.Duration](value, standard T) T {
	if value <= 0 {
		return standard
	}
	return value
}

// ErrClosed is why a connection ended that its own side closed.
var ErrClosed = errors.New("closed by the client")
