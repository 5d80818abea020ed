package upstream

import (
	"github.com/nats-io/nats.go"

	"nabat/proto/wire"
)

// losses are the messages that a link's full queue could not take. nats.go
// reports only the first of a row; the rest is found by counting. Owner: the
// link's dispatcher.
type losses struct {
	link *link
	told map[*nats.Subscription]int // those that lost messages, and how many were told of
	full bool                       // the queue was full since they were told
}

// look is called before each receive: a message was lost only if the queue was
// full, and only the dispatcher empties it.
func (s *losses) look(queue chan *nats.Msg) { s.full = s.full || len(queue) == cap(queue) }

// begin notes a subscription that lost a message. It is told of once what the
// queue did take has been handed out, or with the next tick.
func (s *losses) begin(sub *nats.Subscription) {
	s.told[sub] += 0
	s.full = true
}

// tell tells the rooms that have lost messages since they were told.
func (s *losses) tell() {
	if !s.full {
		return
	}
	s.full = false
	for sub := range s.told {
		s.count(sub)
	}
	s.link.handOut()
}

func (s *losses) count(sub *nats.Subscription) {
	n, err := sub.Dropped()
	if err != nil {
		delete(s.told, sub) // unsubscribed meanwhile
		return
	}
	lost := n - s.told[sub]
	if lost == 0 {
		return
	}
	s.told[sub] = n
	s.link.u.countLost(wire.GapOverload, uint64(lost))
	switch r := s.link.bySubject[sub.Subject]; {
	case r == nil:
	case r.ear != nil && r.ear.sub == sub:
		s.link.gap(r, wire.Gap{Reason: wire.GapNotStored})
	case r.chain != nil:
		s.link.whole.broken(r)
	default:
		s.link.gap(r, wire.Gap{Reason: wire.GapOverload})
	}
}
