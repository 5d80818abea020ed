package checker

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// link is one connection to an edge. Objects arrive in the channel, which is
// closed with the connection; who does not take them stalls it.
type link struct {
	conn    net.Conn
	objects chan *object
	end     chan struct{} // closed by close
}

// object is whatever an edge sends.
type object struct {
	ID           int
	Connected    *struct{ Rooms []position }
	Subscribed   *struct{ Rooms []position }
	Unsubscribed *struct{ Rooms []string }
	Gap          *struct {
		Room     string
		From, To uint64
		Reason   string
	}
	Lagging *position
	Reset   *position
	Error   *struct{ Code, Reason string }
	Pong    *struct{}

	Room   string
	Offset uint64
	Data   *struct{ Number int }
}

// position is a room in an answer or a notice.
type position struct {
	Room      string
	Epoch     string
	Offset    uint64
	Recovered *bool
	Reason    string
}

// ask is a room in a command.
type ask struct {
	Room   string  `json:"room"`
	Epoch  string  `json:"epoch,omitempty"`
	Offset *uint64 `json:"offset,omitempty"`
}

const (
	dialTimeout  = 5 * time.Second
	writeTimeout = 10 * time.Second
	// receiveBuffer is small, so that a client that stalls is noticed soon.
	receiveBuffer = 4 << 10
)

func dialEdge(ctx context.Context, address string) (*link, error) {
	d := ws.Dialer{Timeout: dialTimeout, NetDial: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if tcp, ok := conn.(*net.TCPConn); ok {
			err = tcp.SetReadBuffer(receiveBuffer)
		}
		return conn, err
	}}
	conn, buffered, _, err := d.Dial(ctx, "ws://"+address+"/ws")
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	l := &link{conn: conn, objects: make(chan *object), end: make(chan struct{})}
	if buffered == nil {
		buffered = bufio.NewReaderSize(conn, receiveBuffer)
	}
	go l.read(buffered)
	return l, nil
}

// read ends with the connection.
func (l *link) read(source io.Reader) {
	defer close(l.objects)
	both := struct {
		io.Reader
		io.Writer
	}{source, timely{l.conn}}
	for {
		text, err := wsutil.ReadServerText(both) // it answers pings
		if err != nil {
			return
		}
		o := new(object)
		if err := json.Unmarshal(text, o); err != nil {
			o = &object{Error: &struct{ Code, Reason string }{"not_json", err.Error()}}
		}
		select {
		case l.objects <- o:
		case <-l.end:
			return
		}
	}
}

// timely gives every write its own time: a pong must not fail by the deadline of
// a command that was sent long ago.
type timely struct{ net.Conn }

func (t timely) Write(p []byte) (int, error) {
	if err := t.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return t.Conn.Write(p)
}

// send writes one command.
func (l *link) send(id int, verb string, body any) error {
	text, err := json.Marshal(map[string]any{"id": id, verb: body})
	if err != nil {
		return err
	}
	return wsutil.WriteClientText(timely{l.conn}, text)
}

// close breaks the connection off without a word.
func (l *link) close() {
	close(l.end)
	_ = l.conn.Close() // it is of no use any more
	for range l.objects {
	}
}
