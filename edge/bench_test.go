package edge

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"

	"nabat/proto/grant"
	"nabat/proto/policy"
)

// The benchmarks run against a real NATS and real sockets of this process, so
// that time is also that of the clients, which read and write and do nothing
// else. Allocations are the edge's and NATS's. For a figure of the edge alone,
// beside its floor, use the load test.

// peers are raw clients of one node.
type peers struct {
	b      *testing.B
	buffer []byte
	list   []int
}

func (p *peers) dial(e *Edge, path string) int {
	p.b.Helper()
	port := e.listenAddr().Port
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		p.b.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		p.b.Fatal(err)
	}
	p.write(fd, []byte("GET "+path+" HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
	return fd
}

// join dials and waits for "connected".
func (p *peers) join(e *Edge, path string) int {
	p.b.Helper()
	fd := p.dial(e, path)
	p.until(fd, []byte(`{"connected":`), []byte(`}]}}`))
	return fd
}

// until reads up to a text that ends with end.
func (p *peers) until(fd int, text, end []byte) {
	p.b.Helper()
	n := 0
	for {
		k, err := unix.Read(fd, p.buffer[n:])
		if err != nil || k == 0 {
			p.b.Fatalf("%v behind %q", err, p.buffer[:n])
		}
		n += k
		if i := bytes.Index(p.buffer[:n], text); i >= 0 && bytes.HasSuffix(p.buffer[:n], end) {
			return
		}
	}
}

// take reads exactly n bytes.
func (p *peers) take(fd, n int) {
	for n > 0 {
		k, err := unix.Read(fd, p.buffer[:min(n, len(p.buffer))])
		if err != nil || k == 0 {
			p.b.Fatalf("%v, %d bytes before the end", err, n)
		}
		n -= k
	}
}

func (p *peers) write(fd int, text []byte) {
	if _, err := unix.Write(fd, text); err != nil {
		p.b.Fatal(err)
	}
}

func benched(b *testing.B, set *policy.Set) (*cluster, *Edge, *peers) {
	c := newCluster(b, set)
	return c, c.edge(nil), &peers{b: b, buffer: make([]byte, 256<<10)}
}

func live() *policy.Set {
	return &policy.Set{Version: 1, Rooms: []policy.Policy{{Match: ">", Publish: true, Anonymous: policy.Anonymous{Subscribe: true, Publish: true}}}}
}

// BenchmarkHandshake is a connection from connect(2) to "connected", into two
// rooms that others are in, with a token that the node knows or does not know.
func BenchmarkHandshake(b *testing.B) {
	for _, known := range []bool{true, false} {
		b.Run(fmt.Sprintf("known=%v", known), func(b *testing.B) {
			c, e, p := benched(b, live())
			g := &grant.Grant{Subscribe: []string{"sports.>", "chat.>"}}
			path := func(user string) string {
				return "/ws?room=sports.news&room=chat.42&token=" + c.token(c.hs, user, time.Hour, g)
			}
			paths := make([]string, 1)
			if !known {
				paths = make([]string, b.N)
			}
			for i := range paths {
				paths[i] = path(fmt.Sprint("user-", i))
			}
			first := p.join(e, path("first"))
			defer func() { _ = unix.Close(first) }()
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				_ = unix.Close(p.join(e, paths[i%len(paths)]))
			}
		})
	}
}

// BenchmarkDelivery hands messages of 128 bytes to 1000 members of one room;
// an operation is one delivery.
func BenchmarkDelivery(b *testing.B) {
	const members = 1000
	for _, flight := range []int{1, 10} {
		b.Run(fmt.Sprintf("flight=%d", flight), func(b *testing.B) {
			c, e, p := benched(b, live())
			for range members {
				p.list = append(p.list, p.join(e, "/ws?room=a"))
			}
			defer func() {
				for _, fd := range p.list {
					_ = unix.Close(fd)
				}
			}()
			body := `"` + string(bytes.Repeat([]byte("x"), 126)) + `"`
			size := ws.HeaderSize(ws.Header{Length: 256}) + len(`{"room":"a","data":}`) + len(body)
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; done += flight * members {
				for range flight {
					if err := c.nc.PublishMsg(&nats.Msg{Subject: "room.a", Data: []byte(body)}); err != nil {
						b.Fatal(err)
					}
				}
				if err := c.nc.Flush(); err != nil {
					b.Fatal(err)
				}
				for _, fd := range p.list {
					p.take(fd, flight*size)
				}
			}
		})
	}
}

// BenchmarkInbound is a command of a client and its answer, a hundred on their
// way at once.
func BenchmarkInbound(b *testing.B) {
	const flight = 100
	_, e, p := benched(b, live())
	fd := p.join(e, "/ws?room=a")
	defer func() { _ = unix.Close(fd) }()
	var commands []byte
	for range flight {
		commands = append(commands, ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte(`{"ping":{}}`))))...)
	}
	answer := len(ws.MustCompileFrame(ws.NewTextFrame([]byte(`{"pong":{}}`))))
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += flight {
		p.write(fd, commands)
		p.take(fd, flight*answer)
	}
}

// BenchmarkManyRooms hands messages to rooms with one member each, a hundred
// rooms on their way at once; an operation is one delivery.
func BenchmarkManyRooms(b *testing.B) {
	const connections, each, flight = 100, 100, 100
	c, e, p := benched(b, live())
	name := func(i, j int) string { return fmt.Sprintf("board.%03d.%03d", i, j) }
	for i := range connections {
		path := "/ws?"
		for j := range each {
			path += "&room=" + name(i, j)
		}
		p.list = append(p.list, p.join(e, path))
	}
	defer func() {
		for _, fd := range p.list {
			_ = unix.Close(fd)
		}
	}()
	size := 2 + len(`{"room":"","data":123}`) + len(name(0, 0))
	b.ReportAllocs()
	b.ResetTimer()
	for done, j := 0, 0; done < b.N; done, j = done+flight, (j+1)%each {
		for i := range connections {
			if err := c.nc.Publish("room."+name(i, j), []byte("123")); err != nil {
				b.Fatal(err)
			}
		}
		if err := c.nc.Flush(); err != nil {
			b.Fatal(err)
		}
		for _, fd := range p.list {
			p.take(fd, size)
		}
	}
}

// listenAddr is where the node listens.
func (e *Edge) listenAddr() *net.TCPAddr {
	a, err := net.ResolveTCPAddr("tcp", e.Addr())
	if err != nil {
		panic(err)
	}
	return a
}
