package chat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// client is one person.
type client struct {
	// Set at creation, never changed.
	chat   *Chat
	number int
	rooms  []string
	conn   net.Conn
	random *rand.Rand // of act

	// mu guards the fields below, which act and read share.
	mu      sync.Mutex
	next    int            // id of the next command
	asked   map[int]ask    // commands by id
	own     map[int]string // own messages that have not come back, by id: their room
	last    map[string]uint64
	out     string // the room that it has left; "": none
	closing bool
}

// ask is one command without an answer yet.
type ask struct {
	verb string
	room string
	due  int64
}

// object is whatever an edge sends.
type object struct {
	ID           int
	Connected    *struct{ Rooms []position }
	Subscribed   *struct{ Rooms []position }
	Unsubscribed *struct{}
	Published    *struct{}
	History      *struct{}
	Error        *struct{ Code, Reason string }
	Room         string
	Offset       uint64
	Data         *struct {
		At     int64
		From   int
		Number int
	}
}

type position struct {
	Room   string
	Offset uint64
}

// open connects client i and waits until it is in its rooms.
func (c *Chat) open(ctx context.Context, i int) (*client, error) {
	one := &client{chat: c, number: i, rooms: c.plan.rooms(i), random: newRandom(i), next: 2,
		asked: make(map[int]ask), own: make(map[int]string), last: make(map[string]uint64)}
	conn, buffered, _, err := ws.Dial(ctx, c.plan.URL)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", c.plan.URL, err)
	}
	one.conn = conn
	var source io.Reader = conn
	if buffered != nil {
		source = buffered
	}
	reader := struct {
		io.Reader
		io.Writer
	}{source, conn}
	var asks []map[string]string
	for _, room := range one.rooms {
		asks = append(asks, map[string]string{"room": room})
	}
	deadline, _ := ctx.Deadline()
	err = conn.SetReadDeadline(deadline)
	if err == nil {
		err = one.send(map[string]any{"id": 1, "connect": map[string]any{"rooms": asks}})
	}
	var first object
	if err == nil {
		err = one.receive(reader, &first)
	}
	if err == nil && first.Connected == nil {
		err = fmt.Errorf("the first answer is not connected, but %+v", first.Error)
	}
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect to %s: %w", c.plan.URL, err)
	}
	for _, p := range first.Connected.Rooms {
		one.last[p.Room] = p.Offset
	}
	c.readers.Go(func() { one.read(reader) })
	return one, nil
}

func (c *client) send(command any) error {
	text, err := json.Marshal(command)
	if err != nil {
		return err
	}
	return wsutil.WriteClientText(c.conn, text)
}

func (c *client) receive(reader io.ReadWriter, o *object) error {
	text, err := wsutil.ReadServerText(reader) // it answers pings
	if err != nil {
		return err
	}
	return json.Unmarshal(text, o)
}

func (c *client) close() {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	_ = c.conn.Close() // it is of no use any more
}

// outstanding counts own messages that should still come back.
func (c *client) outstanding() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.own)
}

// act does one thing after the other, each at its time, however long answers
// take: latency counts from the time at which an act was due.
func (c *client) act(ctx context.Context, start int64) {
	p := &c.chat.plan
	interval := float64(time.Second) / p.Rate
	for n := 0; ; n++ {
		offset := int64(float64(n*p.Clients+c.number) * interval)
		if offset >= int64(p.For) {
			return
		}
		due := start + offset
		select {
		case <-time.After(time.Duration(due - p.Now())):
		case <-ctx.Done():
			return
		}
		if err := c.one(due); err != nil {
			return // read says why
		}
	}
}

func (c *client) one(due int64) error {
	p := &c.chat.plan
	room := c.rooms[c.random.IntN(len(c.rooms))]
	switch {
	case c.away() != "":
		return c.command("subscribe", c.away(), due, map[string]any{"rooms": []map[string]string{{"room": c.away()}}})
	case p.Leave > 0 && c.random.IntN(p.Leave) == 0:
		return c.command("unsubscribe", room, due, map[string]any{"rooms": []string{room}})
	case p.Page > 0 && c.random.IntN(p.Page) == 0:
		return c.command("history", room, due, map[string]any{"room": room, "limit": 20})
	}
	return c.command("publish", room, due, map[string]any{"room": room, "data": map[string]any{
		"at": due, "from": c.number, "number": c.coming(), "text": strings.Repeat("x", p.Payload)}})
}

// coming is the id that the next command gets.
func (c *client) coming() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next
}

// away is the room that it has left.
func (c *client) away() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out
}

func (c *client) command(verb, room string, due int64, body any) error {
	c.mu.Lock()
	id := c.next
	c.next++
	c.asked[id] = ask{verb, room, due}
	switch verb {
	case "publish":
		c.own[id] = room
	case "unsubscribe":
		c.out = room
		for n, r := range c.own { // may or may not come now
			if r == room {
				delete(c.own, n)
			}
		}
	case "subscribe":
		c.out = ""
	}
	c.mu.Unlock()
	return c.send(map[string]any{"id": id, verb: body})
}

// read takes what comes until the connection ends.
func (c *client) read(reader io.ReadWriter) {
	for {
		var o object
		err := c.receive(reader, &o)
		if err == nil {
			c.take(&o)
			continue
		}
		c.mu.Lock()
		closing := c.closing
		c.mu.Unlock()
		if !closing {
			c.chat.note(func(t *Totals) {
				t.Closed++
				var closed wsutil.ClosedError
				if errors.As(err, &closed) {
					t.Errors[fmt.Sprintf("close %d", closed.Code)]++
				}
			})
		}
		return
	}
}

func (c *client) take(o *object) {
	now := c.chat.plan.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	asked, answered := c.asked[o.ID]
	if answered {
		delete(c.asked, o.ID)
	}
	c.chat.note(func(t *Totals) {
		switch {
		case o.Error != nil:
			t.Errors[o.Error.Code]++
			delete(c.own, o.ID)
		case o.Published != nil:
			t.Acked++
			record(t.Ack, now-asked.due)
		case o.Subscribed != nil:
			t.Joined++
			record(t.Join, now-asked.due)
			for _, p := range o.Subscribed.Rooms {
				c.last[p.Room] = p.Offset
			}
		case o.Unsubscribed != nil:
			t.Left++
			delete(c.last, asked.room)
		case o.History != nil:
			t.Paged++
			record(t.Page, now-asked.due)
		case o.Data != nil && o.Room != "":
			t.Delivered++
			record(t.Delivery, now-o.Data.At)
			if o.Offset <= c.last[o.Room] {
				t.Disorder++
			}
			c.last[o.Room] = o.Offset
			if o.Data.From == c.number {
				delete(c.own, o.Data.Number)
			}
		}
	})
}
