package main

import (
	"net/http"
	"slices"

	"github.com/lxzan/gws"
)

// gwsPeer is lxzan/gws with its Broadcaster, which encodes a message once.
type gwsPeer struct {
	gws.BuiltinEventHandler
	upgrader *gws.Upgrader
	rooms    *rooms[*gws.Conn]
}

const sessionRooms = "rooms"

func newGws() *gwsPeer {
	p := &gwsPeer{rooms: newRooms[*gws.Conn]()}
	p.upgrader = gws.NewUpgrader(p, &gws.ServerOption{})
	return p
}

// ServeHTTP upgrades and starts the goroutine that reads.
func (p *gwsPeer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	names := slices.Clone(r.URL.Query()["room"])
	conn, err := p.upgrader.Upgrade(w, r)
	if err != nil {
		return
	}
	conn.Session().Store(sessionRooms, names)
	p.rooms.join(conn, names)
	go conn.ReadLoop()
}

// OnClose leaves the rooms.
func (p *gwsPeer) OnClose(conn *gws.Conn, _ error) {
	if names, found := conn.Session().Load(sessionRooms); found {
		p.rooms.leave(conn, names.([]string))
	}
}

// OnPing answers.
func (p *gwsPeer) OnPing(conn *gws.Conn, payload []byte) { _ = conn.WritePong(payload) }

// Broadcast hands the message to each member's write queue.
func (p *gwsPeer) Broadcast(room string, body []byte) {
	b := gws.NewBroadcaster(gws.OpcodeText, body)
	defer b.Close()
	p.rooms.each(room, func(c *gws.Conn) { _ = b.Broadcast(c) })
}
