package history

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"nabat/internal/natsdev"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 60 * time.Second

// place is a NATS server with a stream, its mirror, and a reader of the mirror.
type place struct {
	t      *testing.T
	server *natsdev.Server
	nc     *nats.Conn // the publisher's
	js     jetstream.JetStream
	reader *Reader
	stop   context.CancelFunc // ends Run
	ended  chan struct{}
}

func newPlace(t *testing.T, o Options, config jetstream.StreamConfig) *place {
	t.Helper()
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := &place{t: t, server: server, ended: make(chan struct{})}
	t.Cleanup(server.Shutdown)
	p.nc = p.connect()
	if p.js, err = jetstream.New(p.nc); err != nil {
		t.Fatal(err)
	}
	config.Name, config.Subjects = "S", []string{"room.>"}
	if _, err := p.js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	config.Name, config.Subjects, config.AllowDirect = "S_H", nil, true
	config.Mirror = &jetstream.StreamSource{Name: "S"}
	if _, err := p.js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if p.reader, err = New(p.connect(), o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	go func() {
		defer close(p.ended)
		p.reader.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-p.ended
	})
	return p
}

func (p *place) connect() *nats.Conn {
	p.t.Helper()
	nc, err := nats.Connect(p.server.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(nc.Close)
	return nc
}

// put stores one message and returns its sequence.
func (p *place) put(subject, body string, header nats.Header) uint64 {
	p.t.Helper()
	ack, err := p.js.PublishMsg(p.t.Context(), &nats.Msg{Subject: subject, Header: header, Data: []byte(body)})
	if err != nil {
		p.t.Fatal(err)
	}
	return ack.Sequence
}

// fill stores one message for each subject, in order.
func (p *place) fill(subjects ...string) {
	p.t.Helper()
	end := p.lastOf("S") + uint64(len(subjects))
	for _, s := range subjects {
		if err := p.nc.Publish(s, []byte(s)); err != nil {
			p.t.Fatal(err)
		}
	}
	until(p.t, func() bool { return p.lastOf("S") == end })
}

// raw stores a message whose header is text, byte for byte.
func (p *place) raw(subject, header, body string) {
	p.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(p.server.URL(), "nats://"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "CONNECT {\"headers\":true,\"verbose\":false}\r\nHPUB %s %d %d\r\n%s%s\r\nPING\r\n", subject, len(header), len(header)+len(body), header, body)
	for r := bufio.NewScanner(c); r.Scan(); {
		if strings.HasPrefix(r.Text(), "PONG") {
			return
		}
		if strings.HasPrefix(r.Text(), "-ERR") {
			p.t.Fatal(r.Text())
		}
	}
	p.t.Fatal("NATS closed the connection")
}

// mirrored waits until the mirror has all that the stream has.
func (p *place) mirrored() uint64 {
	p.t.Helper()
	var got, want uint64
	until(p.t, func() bool {
		want, got = p.lastOf("S"), p.lastOf("S_H")
		return got == want
	})
	return want
}

func (p *place) lastOf(stream string) uint64 {
	p.t.Helper()
	s, err := p.js.Stream(p.t.Context(), stream)
	if err != nil {
		p.t.Fatal(err)
	}
	return s.CachedInfo().State.LastSeq
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
	}
}

type batchResult struct {
	batch Batch
	err   error
}

func wait[T any](t *testing.T, c chan T) T {
	t.Helper()
	select {
	case x := <-c:
		return x
	case <-time.After(patience):
		t.Fatal("done was not called")
		panic("unreachable")
	}
}

func (p *place) read(q Read) (Batch, error) {
	p.t.Helper()
	if q.Stream == "" {
		q.Stream = "S_H"
	}
	c := make(chan batchResult, 2)
	p.reader.Read(q, func(b Batch, err error) { c <- batchResult{b, err} })
	r := wait(p.t, c)
	return r.batch, r.err
}

func (p *place) before(subject string, before uint64, limit int) (Batch, error) {
	p.t.Helper()
	c := make(chan batchResult, 2)
	p.reader.Before("S_H", subject, before, limit, func(b Batch, err error) { c <- batchResult{b, err} })
	r := wait(p.t, c)
	return r.batch, r.err
}

type lastResult struct {
	list []Stored
	upTo uint64
	err  error
}

func (p *place) last(subjects []string, upTo uint64) ([]Stored, uint64, error) {
	p.t.Helper()
	c := make(chan lastResult, 2)
	p.reader.Last("S_H", subjects, upTo, func(list []Stored, upTo uint64, err error) { c <- lastResult{list, upTo, err} })
	r := wait(p.t, c)
	return r.list, r.upTo, r.err
}

func sequences(list []Stored) []uint64 {
	out := []uint64{}
	for _, m := range list {
		out = append(out, m.Sequence)
	}
	return out
}
