package subject

import "testing"

func TestWatch(t *testing.T) {
	if err := CheckRoom(Watch("chat.42")); err == nil {
		t.Error("a client could name it")
	}
	if room, ok := Watched(Watch("chat.42")); !ok || room != "chat.42" {
		t.Errorf("%q, %v", room, ok)
	}
	if _, ok := Watched("chat.42"); ok {
		t.Error("a room is not its watch")
	}
}
