package policy

import "go.yaml.in/yaml/v3"

// Hooks says what backends are asked about before a client may do it, beyond what
// grant and policy allow.
type Hooks struct {
	Subscribe bool `json:"subscribe,omitempty"`
	Publish   bool `json:"publish,omitempty"`
}

// AsksSubscribe reports whether a backend decides who joins.
func (p *Policy) AsksSubscribe() bool { return p != nil && p.Hooks != nil && p.Hooks.Subscribe }

// AsksPublish reports whether a backend decides what clients publish.
func (p *Policy) AsksPublish() bool { return p != nil && p.Hooks != nil && p.Hooks.Publish }

func (p parser) hooks(n *yaml.Node, to *Hooks) error {
	return p.each(n, "hooks", func(key string, k, v *yaml.Node) error {
		switch key {
		case "subscribe":
			return p.flag(v, "hooks.subscribe", &to.Subscribe)
		case "publish":
			return p.flag(v, "hooks.publish", &to.Publish)
		}
		return p.at(k, "unknown key %q in hooks: there are subscribe and publish", key)
	})
}
