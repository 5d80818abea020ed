package main

import (
	"net/http"

	"github.com/gorilla/websocket"
)

// gorilla is the chat example of gorilla/websocket: two goroutines and a
// channel of 256 messages for each connection, and a prepared message.
type gorilla struct {
	upgrader websocket.Upgrader
	rooms    *rooms[*gorillaClient]
}

type gorillaClient struct {
	conn *websocket.Conn
	send chan *websocket.PreparedMessage
	done chan struct{} // closed when the reader ends
}

func newGorilla() *gorilla {
	return &gorilla{
		upgrader: websocket.Upgrader{ReadBufferSize: 1024, WriteBufferSize: 1024, CheckOrigin: func(*http.Request) bool { return true }},
		rooms:    newRooms[*gorillaClient](),
	}
}

// ServeHTTP upgrades and starts the two goroutines.
func (g *gorilla) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	names := r.URL.Query()["room"]
	conn, err := g.upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	c := &gorillaClient{conn: conn, send: make(chan *websocket.PreparedMessage, 256), done: make(chan struct{})}
	g.rooms.join(c, names)
	go func() {
		defer conn.Close()
		for {
			select {
			case m := <-c.send:
				if err := conn.WritePreparedMessage(m); err != nil {
					return
				}
			case <-c.done:
				return
			}
		}
	}()
	go func() {
		defer close(c.done)
		defer g.rooms.leave(c, names)
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
		}
	}()
}

// Broadcast queues the message for each member and waits where a queue is
// full: a measurement in which messages are dropped compares nothing.
func (g *gorilla) Broadcast(room string, body []byte) {
	m, err := websocket.NewPreparedMessage(websocket.TextMessage, body)
	if err != nil {
		return
	}
	g.rooms.each(room, func(c *gorillaClient) {
		select {
		case c.send <- m:
		case <-c.done:
		}
	})
}
