package checker

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	ackTimeout = 2 * time.Second
	retryPause = 100 * time.Millisecond
)

// publisher stores the messages of one room, one after the other. Each is tried
// until it is acknowledged; its id makes the tries one message.
type publisher struct {
	js      jetstream.JetStream
	ledger  *ledger
	room    string
	subject string
	run     string // makes ids unique over runs
	padding string
	every   time.Duration
}

// publish runs until stop closes or ctx ends. A message that was begun is
// finished first, unless ctx ends.
func (p *publisher) publish(ctx context.Context, stop <-chan struct{}) {
	ticker := time.NewTicker(p.every)
	defer ticker.Stop()
	for number := 0; ; number++ {
		select {
		case <-ctx.Done():
			return
		case <-stop:
			return
		case <-ticker.C:
		}
		p.store(ctx, number)
	}
}

func (p *publisher) store(ctx context.Context, number int) {
	m := &nats.Msg{Subject: p.subject, Header: nats.Header{"Nats-Msg-Id": {fmt.Sprintf("%s-%s-%d", p.run, p.room, number)}},
		Data: fmt.Appendf(nil, `{"number":%d,"padding":%q}`, number, p.padding)}
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, ackTimeout)
		ack, err := p.js.PublishMsg(try, m)
		cancel()
		if err == nil {
			p.ledger.add(p.room, number, ack)
			return
		}
		p.ledger.retried()
		select {
		case <-ctx.Done():
		case <-time.After(retryPause):
		}
	}
}

func padding(bytes int) string { return strings.Repeat("x", bytes) }
