package main

import (
	"context"
	"net/http"

	"github.com/centrifugal/centrifuge"
)

// centrifugePeer is the library that Centrifugo is made of, with its memory
// engine; clients speak its JSON protocol and are anonymous.
type centrifugePeer struct {
	http.Handler
	node *centrifuge.Node
}

func newCentrifuge() *centrifugePeer {
	node, err := centrifuge.New(centrifuge.Config{ClientQueueMaxSize: 64 << 20})
	if err != nil {
		panic(err) // a configuration that is a constant
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{}}, nil
	})
	node.OnConnect(func(c *centrifuge.Client) {
		c.OnSubscribe(func(_ centrifuge.SubscribeEvent, done centrifuge.SubscribeCallback) {
			done(centrifuge.SubscribeReply{}, nil)
		})
	})
	if err := node.Run(); err != nil {
		panic(err) // the memory engine cannot fail
	}
	return &centrifugePeer{node: node, Handler: centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		CheckOrigin: func(*http.Request) bool { return true },
	})}
}

// Broadcast publishes to the channel; the library queues for each client.
func (p *centrifugePeer) Broadcast(room string, body []byte) { _, _ = p.node.Publish(room, body) }
