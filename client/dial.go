package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gobwas/ws"

	"nabat/proto/wire"
)

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
		socket: newSocket(conn, codec, &o), options: o, outlet: newOutlet(o.Queue), done: make(chan struct{}), closing: make(chan struct{}),
		waiting: make(map[uint64]waiter), places: make(places), watched: make(map[string]bool), unasked: make(chan wire.Connected, 1),
	}
	go c.read(buffered)
	go c.socket.watch(c.done)
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
	if errors.As(err, &refused) && c.options.each && ofRooms(refused.Code) && len(request.Rooms) > 0 {
		c.apart = request
		request.Rooms, request.AwayMS = nil, 0
		reply, err = c.do(ctx, request)
	}
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

// ofRooms reports whether a connect was refused because of its rooms.
func ofRooms(code wire.Code) bool {
	return code == wire.NotAllowed || code == wire.BadRoom || code == wire.TooManyRooms
}

// joinApart joins each of the rooms that were asked for together by itself: one that
// is refused must not keep the others from coming back. What becomes of each is an
// event, in its place before the room's messages. Those that are left in c.apart are
// not joined yet.
func (c *Conn) joinApart(ctx context.Context) {
	for len(c.apart.Rooms) > 0 {
		command := wire.Command{Verb: wire.Subscribe, Rooms: c.apart.Rooms[:1], AwayMS: c.apart.AwayMS}
		_, err := c.ask(ctx, command, command.Rooms[0].Room)
		var refused *wire.Error
		switch {
		case err == nil:
			c.noteWatches(command.Rooms)
		case !errors.As(err, &refused):
			return
		case refused.RetryMS > 0:
			if !pause(ctx, time.Duration(refused.RetryMS)*time.Millisecond) {
				return
			}
			continue
		}
		c.apart.Rooms = c.apart.Rooms[1:]
	}
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
