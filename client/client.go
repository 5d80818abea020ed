// Package client connects to a Nabat edge over WebSocket: it joins rooms,
// receives their messages and publishes.
package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
}

const defaultQueue = 256

// Conn is one connection. All methods are safe from any goroutine.
type Conn struct {
	// Set by Dial, never changed.
	conn      net.Conn
	options   Options
	codec     codec
	connected wire.Connected
	outlet    *outlet
	done      chan struct{} // closed by the reader when it ends, after err is set

	// Owned by the reader until done is closed, constant after.
	err *CloseError

	unasked   chan wire.Connected // at most one
	closing   chan struct{}       // closed by Close
	closeOnce sync.Once

	// writeMu guards writes to conn.
	writeMu sync.Mutex

	// mu guards the fields below.
	mu      sync.Mutex
	nextID  uint64
	waiting map[uint64]chan *inbound
	places  places
	watched map[string]bool // rooms joined with Presence

	// Atomic.
	lastRead atomic.Int64 // unix nanoseconds
	held     atomic.Bool  // the reader waits for room in events
}

// Dial connects to the edge at address, http://host:port or ws://host:port with
// or without the path /ws, and joins the rooms of o. A refusal by the server is
// a *wire.Error, an end before the answer a *CloseError.
func Dial(ctx context.Context, address string, o Options) (*Conn, error) {
	target, err := parseAddress(address, &o)
	if err != nil {
		return nil, err
	}
	o.Queue = orDefault(o.Queue, defaultQueue)
	o.MaxMessageBytes = orDefault(o.MaxMessageBytes, 64<<20)
	o.Silence = orDefault(o.Silence, 30*time.Second)

	var later string // the token of the first command
	if len(o.Begin) > 0 {
		// A token that joins rooms joins them at once, and now: where that matters
		// it goes with the rooms.
		later, o.Token = o.Token, ""
	}
	codec := codecOf(&o)
	conn, buffered, err := upgrade(ctx, target, o, codec.subprotocol())
	if err != nil {
		return nil, err
	}
	c := &Conn{
		conn: conn, options: o, codec: codec, outlet: newOutlet(o.Queue), done: make(chan struct{}), closing: make(chan struct{}),
		waiting: make(map[uint64]chan *inbound), places: make(places), watched: make(map[string]bool), unasked: make(chan wire.Connected, 1),
	}
	c.lastRead.Store(time.Now().UnixNano())
	go c.read(buffered)
	go c.watch()
	if err := c.connect(ctx, later); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// connect is the first command. Where the token joins rooms by itself the edge
// has connected already, says so, and the rooms are joined by a second one.
func (c *Conn) connect(ctx context.Context, token string) error {
	request := wire.Command{Verb: wire.Connect, Token: token, Previous: c.options.Previous, Rooms: requests(c.options.Rooms, c.options.Begin)}
	if away := c.options.AwaySince; !away.IsZero() {
		request.AwayMS = uint64(max(time.Since(away).Milliseconds(), 1)) // 0 is: not said
	}
	reply, err := c.do(ctx, request)
	var refused *wire.Error
	if errors.As(err, &refused) && refused.Code == wire.AlreadyConnected {
		select {
		case c.connected = <-c.unasked: // it came before the refusal
		default:
			return err
		}
		if len(c.options.Rooms) == 0 {
			return nil
		}
		more, err := c.Subscribe(ctx, c.options.Rooms, c.options.Begin...)
		for _, p := range more {
			if !slices.Contains(c.connected.Rooms, p) {
				c.connected.Rooms = append(c.connected.Rooms, p)
			}
		}
		return err
	}
	if err != nil {
		return err
	}
	if reply.Connected == nil {
		return reply.unexpected(wire.Connect)
	}
	c.connected = *reply.Connected
	c.noteWatches(request.Rooms)
	return nil
}

func upgrade(ctx context.Context, target *url.URL, o Options, subprotocol string) (net.Conn, *bufio.Reader, error) {
	header := o.Header.Clone()
	if o.Token != "" {
		if header == nil {
			header = make(http.Header)
		}
		header.Set("Authorization", "Bearer "+o.Token)
	}
	var refusal error
	dialer := ws.Dialer{
		Protocols: []string{subprotocol}, TLSConfig: o.TLS, Timeout: 30 * time.Second,
		Header:        ws.HandshakeHeaderHTTP(header),
		OnStatusError: func(_ int, _ []byte, response io.Reader) { refusal = readRefusal(response) },
	}
	conn, buffered, handshake, err := dialer.Dial(ctx, target.String())
	switch {
	case refusal != nil:
		return nil, nil, refusal
	case err != nil:
		return nil, nil, fmt.Errorf("connect to %s: %w", target.Host, err)
	case o.Protobuf && handshake.Protocol != subprotocol:
		_ = conn.Close() // it is of no use
		return nil, nil, fmt.Errorf("connect to %s: the server does not speak %s", target.Host, subprotocol)
	}
	if buffered == nil {
		buffered = bufio.NewReader(conn)
	}
	return conn, buffered, nil
}

// readRefusal turns an HTTP answer into the *wire.Error that it carries.
func readRefusal(r io.Reader) error {
	const limit = 16 << 10
	response, err := http.ReadResponse(bufio.NewReader(io.LimitReader(r, limit)), nil)
	if err != nil {
		return fmt.Errorf("the server refused the connection: %w", err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body) // a refusal that was cut short has a status at least
	if in, err := (jsonCodec{}).read(body); err == nil && in.Error != nil {
		return in.Error
	}
	return fmt.Errorf("the server answered %s: is this a Nabat edge?", response.Status)
}

// parseAddress accepts what people have at hand, and takes the rooms out of the
// query: they go into the first command.
func parseAddress(address string, o *Options) (*url.URL, error) {
	if !strings.Contains(address, "://") {
		address = "ws://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("edge address: %w", err)
	}
	switch u.Scheme {
	case "http", "ws":
		u.Scheme = "ws"
	case "https", "wss":
		u.Scheme = "wss"
	default:
		return nil, fmt.Errorf("edge address %q: the scheme must be ws, wss, http or https", address)
	}
	if u.Host == "" {
		return nil, fmt.Errorf("edge address %q: no host", address)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/ws"
	}
	query := u.Query()
	o.Rooms = slices.Concat(query["room"], o.Rooms)
	query.Del("room")
	if o.Batch = o.Batch || query.Get("batch") == "1"; o.Batch {
		query.Set("batch", "1")
	}
	u.RawQuery = query.Encode()
	return u, nil
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
		_ = c.write(ws.OpClose, ws.NewCloseFrameBody(ws.StatusNormalClosure, "")) // the connection ends either way
		// RFC 6455 §7.1.1: the server closes first; it has a second to do so.
		_ = c.conn.SetReadDeadline(time.Now().Add(time.Second))
	})
	<-c.done
	c.outlet.leaving.wait()
}

// do sends a command and waits for its answer.
func (c *Conn) do(ctx context.Context, command wire.Command) (*inbound, error) {
	answer := make(chan *inbound, 1)
	c.mu.Lock()
	c.nextID++
	id := c.nextID
	c.waiting[id] = answer
	c.mu.Unlock()
	command.ID, command.HasID = id, true
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	object, err := c.codec.write(&command)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command.Verb, err)
	}
	if err := c.send(object); err != nil {
		// Half a frame may be out: nothing can follow it. The reader gets a
		// second to find the server's reason.
		_ = c.conn.SetReadDeadline(time.Now().Add(time.Second))
	}
	var reply *inbound
	select {
	case reply = <-answer:
	case <-ctx.Done():
		if c.held.Load() {
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

// send writes one object in a frame of its own.
func (c *Conn) send(object []byte) error {
	if c.options.Batch {
		object = c.codec.encoding().AppendBatched(nil, object, true)
	}
	return c.write(c.codec.op(), object)
}

// write sends one frame, masked as RFC 6455 §5.3 wants it of a client.
func (c *Conn) write(op ws.OpCode, payload []byte) error {
	frame, err := ws.CompileFrame(ws.MaskFrame(ws.NewFrame(op, true, payload)))
	if err != nil {
		return err
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if err := c.conn.SetWriteDeadline(time.Now().Add(c.options.Silence)); err != nil {
		return err
	}
	_, err = c.conn.Write(frame)
	return err
}

func orDefault[T int | int64 | time.Duration](value, standard T) T {
	if value <= 0 {
		return standard
	}
	return value
}

// ErrClosed is why a connection ended that its own side closed.
var ErrClosed = errors.New("closed by the client")
