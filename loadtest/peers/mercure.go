package main

import (
	"net/http"

	"github.com/dunglas/mercure"
)

// mercurePeer is dunglas/mercure, whose clients receive server-sent events, with
// its local transport, which keeps no history.
type mercurePeer struct {
	http.Handler
	transport mercure.Transport
}

func newMercure() *mercurePeer {
	transport := mercure.NewLocalTransport()
	key := []byte("only this machine reaches it, and nobody publishes by HTTP")
	hub, err := mercure.NewHub(mercure.WithAnonymous(), mercure.WithTransport(transport), mercure.WithPublisherJWT(key, "HS256"), mercure.WithSubscriberJWT(key, "HS256"))
	if err != nil {
		panic(err) // options that are constants
	}
	return &mercurePeer{Handler: http.HandlerFunc(hub.SubscribeHandler), transport: transport}
}

// Broadcast hands an update to the hub's transport, which queues it for each
// subscriber.
func (p *mercurePeer) Broadcast(room string, body []byte) {
	_ = p.transport.Dispatch(&mercure.Update{Topics: []string{room}, Event: mercure.Event{Data: string(body)}})
}
