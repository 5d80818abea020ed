package main

import (
	"net"
	"net/http"
	"slices"

	"github.com/lesismal/nbio/logging"
	"github.com/lesismal/nbio/nbhttp"
	"github.com/lesismal/nbio/nbhttp/websocket"
)

// nbioPeer is lesismal/nbio with its own event loops.
type nbioPeer struct {
	rooms *rooms[*websocket.Conn]
}

func newNbio() *nbioPeer { return &nbioPeer{rooms: newRooms[*websocket.Conn]()} }

// ServeHTTP upgrades; the engine reads.
func (p *nbioPeer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	names := slices.Clone(r.URL.Query()["room"])
	upgrader := websocket.NewUpgrader()
	upgrader.CheckOrigin = func(*http.Request) bool { return true }
	upgrader.OnOpen(func(c *websocket.Conn) { p.rooms.join(c, names) })
	upgrader.OnClose(func(c *websocket.Conn, _ error) { p.rooms.leave(c, names) })
	upgrader.OnMessage(func(*websocket.Conn, websocket.MessageType, []byte) {})
	_, _ = upgrader.Upgrade(w, r, nil) // the error has been answered
}

// Broadcast writes to one member after the other.
func (p *nbioPeer) Broadcast(room string, body []byte) {
	p.rooms.each(room, func(c *websocket.Conn) { _ = c.WriteMessage(websocket.TextMessage, body) })
}

// Serve listens with the library's engine instead of net/http.
func (p *nbioPeer) Serve(listener net.Listener, handler http.Handler) error {
	logging.SetLevel(logging.LevelNone)
	engine := nbhttp.NewEngine(nbhttp.Config{
		Network: "tcp", Addrs: []string{listener.Addr().String()}, Handler: handler, MaxLoad: 1_000_000, ReleaseWebsocketPayload: true,
		IOMod: nbhttp.IOModNonBlocking, Listen: func(string, string) (net.Listener, error) { return listener, nil },
	})
	if err := engine.Start(); err != nil {
		return err
	}
	select {} // until the process ends
}
