package main

import (
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

func TestEveryPeerDeliversToTheMembersOfARoomInOrder(t *testing.T) {
	for name, create := range peers {
		if name == "centrifuge" || name == "mercure" {
			continue // their clients speak otherwise: loadtest's own tests have them
		}
		t.Run(name, func(t *testing.T) {
			p := create()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			if own, ok := p.(*nbioPeer); ok {
				go own.Serve(listener, p)
			} else {
				server := httptest.NewUnstartedServer(p)
				_ = server.Listener.Close()
				server.Listener = listener
				server.Start()
				defer server.Close()
			}
			joined := []string{"room=a", "room=a&room=b", "room=b"}
			conns := make([]net.Conn, len(joined))
			for i, query := range joined {
				conn, _, _, err := ws.Dial(t.Context(), "ws://"+listener.Addr().String()+"/ws?"+query)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conns[i] = conn
			}
			// A peer joins after its 101: publish as long as anybody reads.
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for n := 1; ; n++ {
					select {
					case <-stop:
						return
					default:
						p.Broadcast("a", fmt.Appendf(nil, "a %d", n))
						p.Broadcast("b", fmt.Appendf(nil, "b %d", n))
					}
				}
			}()
			for i, conn := range conns {
				readInOrder(t, conn, joined[i])
			}
			close(stop)
			for _, conn := range conns {
				_ = conn.Close() // unblocks a peer that waits for a reader
			}
			<-stopped
		})
	}
}

func readInOrder(t *testing.T, conn net.Conn, joined string) {
	t.Helper()
	last := make(map[string]int)
	for range 50 {
		text, err := wsutil.ReadServerText(conn)
		if err != nil {
			t.Fatal(err)
		}
		var room string
		var n int
		if _, err := fmt.Sscanf(string(text), "%s %d", &room, &n); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if !strings.Contains(joined, "room="+room) {
			t.Errorf("a member of %s got %q", joined, text)
		}
		if last[room] != 0 && n != last[room]+1 {
			t.Errorf("after %d came %q", last[room], text)
		}
		last[room] = n
	}
	if len(last) != strings.Count(joined, "room=") {
		t.Errorf("a member of %s heard of %v", joined, last)
	}
}

func TestAPeerThatIsNot(t *testing.T) {
	for _, args := range [][]string{nil, {"socketio"}} {
		if err := run(args); err == nil || !strings.Contains(err.Error(), "centrifuge, gorilla, gws, mercure, naive, nbio, nats") {
			t.Errorf("%v: %v", args, err)
		}
	}
	if err := run([]string{"naive", "-nats", "nats://127.0.0.1:1"}); err == nil || !strings.Contains(err.Error(), "NATS at") {
		t.Errorf("%v", err)
	}
}
