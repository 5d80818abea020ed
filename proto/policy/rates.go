package policy

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// Rates bound what one client publishes to all rooms under a policy, at one edge.
// A client is a user or, without a token, a connection.
type Rates struct {
	Publish int `json:"publish"`         // messages in a second
	Burst   int `json:"burst,omitempty"` // at once after a pause; at least Publish, which 0 is
}

// Bounds of rates and of message sizes.
const (
	MaxRate         = 1_000_000
	MaxMessageBytes = 64 << 20 // NATS's own bound on its max_payload
)

func (p *Policy) checkBounds() error {
	if p.MaxMessageBytes < 0 || p.MaxMessageBytes > MaxMessageBytes {
		return fmt.Errorf("max_message_bytes is %d: must be 1 to 64MiB", p.MaxMessageBytes)
	}
	r := p.Rates
	switch {
	case r == nil:
		return nil
	case r.Publish < 1 || r.Publish > MaxRate:
		return fmt.Errorf("rates.publish is %d: must be 1 to %d", r.Publish, MaxRate)
	case r.Burst != 0 && r.Burst < r.Publish || r.Burst > MaxRate:
		return fmt.Errorf("rates.burst is %d: must be rates.publish (%d) to %d", r.Burst, r.Publish, MaxRate)
	}
	return nil
}

func (p parser) rates(n *yaml.Node, to *Rates) error {
	return p.each(n, "rates", func(key string, k, v *yaml.Node) (err error) {
		switch key {
		case "publish":
			to.Publish, err = p.count(v, "rates.publish", MaxRate)
		case "burst":
			to.Burst, err = p.count(v, "rates.burst", MaxRate)
		default:
			err = p.at(k, "unknown key %q in rates: there are publish and burst", key)
		}
		return err
	})
}
