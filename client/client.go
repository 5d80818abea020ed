// Package client connects to a Nabat edge over WebSocket: it joins rooms,
// receives their messages and publishes.
package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
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
	// TokenSource, if set, is asked by a Keeper for each connection's token. Its
	// error ends the Keeper.
	TokenSource func(context.Context) (string, error)
	Header      http.Header // more request headers, such as Origin
	TLS         *tls.Config // for wss
	// Queue bounds the events that wait to be read. Default 256. When it is
	// full the connection is not read on, and the server's slow rule applies.
	Queue int
	// MaxMessageBytes bounds one message from the server. Default 64 MiB.
	MaxMessageBytes int64
	// Silence is after how much of it the server is asked for a sign of life;
	// twice as much ends the connection. Default 30 s.
	Silence time.Duration
}

// Conn is one connection. All methods are safe from any goroutine.
type Conn struct {
	// Set by Dial, never changed.
	conn      net.Conn
	options   Options
	connected wire.Connected
	events    chan Event
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
	target, rooms, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	o.Rooms = append(rooms, o.Rooms...)
	o.Queue = orDefault(o.Queue, 256)
	o.MaxMessageBytes = orDefault(o.MaxMessageBytes, 64<<20)
	o.Silence = orDefault(o.Silence, 30*time.Second)

	var later string // the token of the first command
	if len(o.Begin) > 0 {
		// A token that joins rooms joins them at once, and now: where that matters
		// it goes with the rooms.
		later, o.Token = o.Token, ""
	}
	conn, buffered, err := upgrade(ctx, target, o)
	if err != nil {
		return nil, err
	}
	c := &Conn{
		conn: conn, options: o, events: make(chan Event, o.Queue), done: make(chan struct{}), closing: make(chan struct{}),
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
	request := map[string]any{}
	if token != "" {
		request["token"] = token
	}
	if len(c.options.Rooms) > 0 {
		request["rooms"] = requests(c.options.Rooms, c.options.Begin)
	}
	if c.options.Previous != "" {
		request["previous"] = c.options.Previous
	}
	if away := c.options.AwaySince; !away.IsZero() {
		request["away_ms"] = max(time.Since(away).Milliseconds(), 1) // 0 is: not said
	}
	reply, err := c.do(ctx, "connect", request)
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
		return fmt.Errorf("connect: the server answered %s", reply.raw)
	}
	c.connected = *reply.Connected
	c.noteWatches(requests(c.options.Rooms, c.options.Begin))
	return nil
}

func upgrade(ctx context.Context, target *url.URL, o Options) (net.Conn, *bufio.Reader, error) {
	header := o.Header.Clone()
	if o.Token != "" {
		if header == nil {
			header = make(http.Header)
		}
		header.Set("Authorization", "Bearer "+o.Token)
	}
	var refusal error
	dialer := ws.Dialer{
		Protocols: []string{"nabat.v1.json"}, TLSConfig: o.TLS, Timeout: 30 * time.Second,
		Header:        ws.HandshakeHeaderHTTP(header),
		OnStatusError: func(_ int, _ []byte, response io.Reader) { refusal = readRefusal(response) },
	}
	conn, buffered, _, err := dialer.Dial(ctx, target.String())
	switch {
	case refusal != nil:
		return nil, nil, refusal
	case err != nil:
		return nil, nil, fmt.Errorf("connect to %s: %w", target.Host, err)
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
	var in inbound
	if json.Unmarshal(body, &in) == nil && in.Error != nil {
		return in.Error.wire()
	}
	return fmt.Errorf("the server answered %s: is this a Nabat edge?", response.Status)
}

// parseAddress accepts what people have at hand, and takes the rooms out of the
// query: they go into the first command.
func parseAddress(address string) (*url.URL, []string, error) {
	if !strings.Contains(address, "://") {
		address = "ws://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, nil, fmt.Errorf("edge address: %w", err)
	}
	switch u.Scheme {
	case "http", "ws":
		u.Scheme = "ws"
	case "https", "wss":
		u.Scheme = "wss"
	default:
		return nil, nil, fmt.Errorf("edge address %q: the scheme must be ws, wss, http or https", address)
	}
	if u.Host == "" {
		return nil, nil, fmt.Errorf("edge address %q: no host", address)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/ws"
	}
	query := u.Query()
	rooms := query["room"]
	query.Del("room")
	u.RawQuery = query.Encode()
	return u, rooms, nil
}

// Connected is what the server said about this connection when it began.
func (c *Conn) Connected() wire.Connected { return c.connected }

// Events returns what the server says unasked, in order. It must be read, also
// while a command waits for its answer. It is closed when the connection ends;
// Err then says why.
func (c *Conn) Events() <-chan Event { return c.events }

// Err is nil while the connection lives, and then why it ended.
func (c *Conn) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
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
	reply, err := c.do(ctx, "subscribe", map[string]any{"rooms": wanted})
	if err != nil || reply.Subscribed == nil {
		return nil, err
	}
	c.noteWatches(wanted)
	return reply.Subscribed.Rooms, nil
}

// Unsubscribe leaves rooms.
func (c *Conn) Unsubscribe(ctx context.Context, rooms ...string) error {
	_, err := c.do(ctx, "unsubscribe", map[string]any{"rooms": rooms})
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
	body := map[string]any{"room": p.Room}
	switch p.Kind {
	case wire.Data:
		body["data"] = json.RawMessage(p.Body)
	case wire.Text:
		body["text"] = string(p.Body)
	case wire.Binary:
		body["base64"] = append([]byte{}, p.Body...) // a nil slice would be null
	}
	for key, value := range map[string]string{"event": p.Event, "key": p.Key, "message_id": p.MessageID} {
		if value != "" {
			body[key] = value
		}
	}
	reply, err := c.do(ctx, "publish", body)
	if err != nil || reply.Published == nil {
		return wire.Position{}, err
	}
	return *reply.Published, nil
}

// Auth renews or replaces the token of the open connection.
func (c *Conn) Auth(ctx context.Context, token string) error {
	_, err := c.do(ctx, "auth", map[string]any{"token": token})
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
}

// do sends a command and waits for its answer.
func (c *Conn) do(ctx context.Context, verb string, body any) (*inbound, error) {
	answer := make(chan *inbound, 1)
	c.mu.Lock()
	c.nextID++
	id := c.nextID
	c.waiting[id] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	text, err := json.Marshal(map[string]any{"id": id, verb: body})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", verb, err)
	}
	if err := c.write(ws.OpText, text); err != nil {
		// Half a frame may be out: nothing can follow it. The reader gets a
		// second to find the server's reason.
		_ = c.conn.SetReadDeadline(time.Now().Add(time.Second))
	}
	var reply *inbound
	select {
	case reply = <-answer:
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: no answer: %w", verb, ctx.Err())
	case <-c.done:
		select {
		case reply = <-answer: // it came before the end
		default:
			return nil, c.err
		}
	}
	if reply.Error != nil {
		return nil, reply.Error.wire()
	}
	return reply, nil
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
