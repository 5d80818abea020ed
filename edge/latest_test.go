package edge

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"nabat/proto/wire"
)

// Where many rooms stand, and everything after it: that costs the store a few
// questions and not one for each room.
func TestTheNewestOfManyRoomsCostsFewQuestions(t *testing.T) {
	const rooms = 120
	c := newHistory(t, kept100())
	var last uint64
	want := make(map[string]string)
	list := make([]string, rooms)
	for i := range rooms {
		room := fmt.Sprintf("board.%d", i)
		last = c.store(room, fmt.Sprint(i))
		want[room] = message(room, last, i)
		list[i] = fmt.Sprintf(`{"room":%q,"latest":true}`, room)
	}
	c.mirrored(last)
	e := c.readyForHistory(c.edge(func(cfg *Config) { cfg.Loops = 1 }))
	a := dial(t, e, "/ws?room=other")
	a.connected("other")
	before := e.history.Requests()
	a.send(`{"id":1,"subscribe":{"rooms":[` + strings.Join(list, ",") + `]}}`)
	a.wantPrefix(`{"id":1,"subscribed":`)
	for range rooms {
		text := a.wantPrefix(`{"room":"board.`)
		var m wire.Message
		if err := json.Unmarshal([]byte(text), &m); err != nil || want[m.Room] != text {
			t.Fatalf("%s (%v), want %s", text, err, want[m.Room])
		}
		delete(want, m.Room)
	}
	// Two live connections: two questions after the newest messages, each with one
	// after the stream's head, and one more of each when rooms came in two batches.
	if n := e.history.Requests() - before; n > 12 {
		t.Errorf("%d requests to the store for %d rooms", n, rooms)
	}
	c.store("board.7", `"new"`)
	a.wantPrefix(`{"room":"board.7",`)
}
