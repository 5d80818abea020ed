package main

import (
	"net"
	"net/http"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// naive is gobwas/ws as in its README: net.Conn, a goroutine that reads each
// connection, ws.WriteFrame for each member.
type naive struct {
	rooms *rooms[net.Conn]
}

func newNaive() *naive { return &naive{rooms: newRooms[net.Conn]()} }

// ServeHTTP upgrades and reads until the connection ends.
func (n *naive) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	names := r.URL.Query()["room"]
	conn, _, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return
	}
	n.rooms.join(conn, names)
	go func() {
		defer conn.Close()
		defer n.rooms.leave(conn, names)
		for {
			if _, _, err := wsutil.ReadClientData(conn); err != nil {
				return
			}
		}
	}()
}

// Broadcast writes to one member after the other.
func (n *naive) Broadcast(room string, body []byte) {
	n.rooms.each(room, func(c net.Conn) {
		_ = ws.WriteFrame(c, ws.NewTextFrame(body))
	})
}
