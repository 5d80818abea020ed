package checker

import (
	"net"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

func TestAPingIsAnsweredLongAfterTheLastCommand(t *testing.T) {
	ours, theirs := net.Pipe()
	l := &link{conn: ours, objects: make(chan *object), end: make(chan struct{})}
	if err := ours.SetWriteDeadline(time.Now().Add(-time.Second)); err != nil { // that of the command is over
		t.Fatal(err)
	}
	go l.read(ours)
	if err := ws.WriteFrame(theirs, ws.NewPingFrame([]byte("x"))); err != nil {
		t.Fatal(err)
	}
	if err := theirs.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if h, err := ws.ReadHeader(theirs); err != nil || h.OpCode != ws.OpPong {
		t.Errorf("%+v, %v", h, err)
	}
	l.close()
}
