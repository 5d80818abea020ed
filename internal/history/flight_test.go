package history

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestFewInFlightAndABoundOnTheRest(t *testing.T) {
	const inFlight, waiting = 3, 5
	p := newPlace(t, Options{InFlight: inFlight, Waiting: waiting}, jetstream.StreamConfig{})
	requests := make(chan *nats.Msg, 100)
	if _, err := p.nc.ChanSubscribe("$JS.API.DIRECT.GET.SLOW", requests); err != nil || p.nc.Flush() != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // held by the caller while it asks, and wanted by done
	busy := make(chan error, 100)
	results := make(chan error, 100)
	ask := func() {
		mu.Lock()
		defer mu.Unlock()
		p.reader.Read(Read{Stream: "SLOW", From: 1, Batch: 1}, func(_ Batch, err error) {
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(err, ErrBusy) {
				busy <- err
				return
			}
			results <- err
		})
	}
	var held []*nats.Msg
	for range inFlight {
		ask()
		held = append(held, wait(t, requests))
	}
	for range waiting + 4 {
		ask()
	}
	for range 4 {
		wait(t, busy)
	}
	// Each answer lets exactly one more go.
	for range waiting {
		if len(requests) > 0 {
			t.Fatal("more than the bound are in flight")
		}
		answerNothing(t, held[0])
		held = append(held[1:], wait(t, requests))
		if err := wait(t, results); err != nil {
			t.Error(err)
		}
	}
	for _, m := range held {
		answerNothing(t, m)
		if err := wait(t, results); err != nil {
			t.Error(err)
		}
	}
	if len(busy) > 0 || len(results) > 0 || len(requests) > 0 {
		t.Error("something was answered twice")
	}
}

func answerNothing(t *testing.T, m *nats.Msg) {
	t.Helper()
	if err := m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {"404"}, "Description": {"Message Not Found"}}}); err != nil {
		t.Fatal(err)
	}
}

// message is one of an answer, as the server sends it.
func message(stream, sequence, previous string) nats.Header {
	return nats.Header{headerStream: {stream}, headerSubject: {"room.a"}, headerSequence: {sequence},
		headerTime: {"2026-01-02T03:04:05Z"}, headerPending: {"0"}, headerPrevious: {previous}}
}

func status(code, description string) nats.Header {
	return nats.Header{"Status": {code}, "Description": {description}}
}

func TestAnAnswerIsWholeOrAnError(t *testing.T) {
	eob := func(previous string) nats.Header {
		h := status("204", "EOB")
		h[headerPrevious], h[headerPending] = []string{previous}, []string{"0"}
		return h
	}
	p := newPlace(t, Options{Timeout: 200 * time.Millisecond}, jetstream.StreamConfig{})
	for _, c := range []struct {
		name  string
		reply []nats.Header
		want  error
	}{
		{"whole", []nats.Header{message("X", "3", "0"), message("X", "5", "3"), eob("5")}, nil},
		{"the first is missing", []nats.Header{message("X", "5", "3"), eob("5")}, ErrIncomplete},
		{"one in the middle is missing", []nats.Header{message("X", "3", "0"), message("X", "7", "5"), eob("7")}, ErrIncomplete},
		{"the last is missing", []nats.Header{message("X", "3", "0"), eob("5")}, ErrIncomplete},
		{"all are missing", []nats.Header{eob("5")}, ErrIncomplete},
		{"one comes twice", []nats.Header{message("X", "3", "0"), message("X", "3", "0"), eob("3")}, ErrIncomplete},
		{"the end never comes", []nats.Header{message("X", "3", "0")}, ErrUnavailable},
		{"nothing comes", nil, ErrUnavailable},
		{"another stream", []nats.Header{message("Y", "3", "0"), eob("3")}, ErrForeign},
		{"a deleted message", []nats.Header{message("X", "3", "0"), status("404", "Message Not Found")}, ErrIncomplete},
		{"too many", []nats.Header{status("413", "Too Many Results")}, ErrTooMany},
		{"refused", []nats.Header{status("408", "Bad Request")}, ErrRefused},
		{"another server version", []nats.Header{status("412", "Required Api Level")}, ErrRefused},
	} {
		sub, err := p.nc.Subscribe("$JS.API.DIRECT.GET.X", func(m *nats.Msg) {
			for _, h := range c.reply {
				_ = m.RespondMsg(&nats.Msg{Header: h})
			}
		})
		if err != nil || p.nc.Flush() != nil {
			t.Fatal(err)
		}
		b, err := p.read(Read{Stream: "X", From: 1, Batch: 10})
		if !errors.Is(err, c.want) || (c.want == nil) != (len(b.Messages) == 2 && b.Last == 5) || (c.want != nil && b.Messages != nil) {
			t.Errorf("%s: %+v, %v", c.name, b, err)
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
}

// The timeout counts from the last message, not from the request.
func TestProgressExtendsTheTimeout(t *testing.T) {
	p := newPlace(t, Options{}, jetstream.StreamConfig{})
	if _, err := p.nc.SubscribeSync("$JS.API.DIRECT.GET.X"); err != nil || p.nc.Flush() != nil {
		t.Fatal(err)
	}
	r, err := New(p.connect(), Options{}) // its clock is this test
	if err != nil {
		t.Fatal(err)
	}
	var got []error
	r.Read(Read{Stream: "X", From: 1, Batch: 10}, func(_ Batch, err error) { got = append(got, err) })
	r.launch()
	tick := func(n int) {
		for range n {
			r.expire()
		}
	}
	tick(timeoutTicks)
	r.take(&nats.Msg{Subject: r.inbox + ".1", Header: message("X", "3", "0")})
	tick(timeoutTicks)
	if len(got) > 0 || len(r.flights) != 1 {
		t.Fatal(got)
	}
	tick(1)
	if len(got) != 1 || !errors.Is(got[0], ErrUnavailable) || !strings.Contains(got[0].Error(), "5s") || len(r.flights) != 0 {
		t.Fatal(got)
	}
	r.take(&nats.Msg{Subject: r.inbox + ".1", Header: message("X", "5", "3")}) // too late
	if len(got) != 1 {
		t.Error(got)
	}
}
