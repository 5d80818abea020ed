package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// ParseYAML reads the file that an operator writes. Errors begin with
// file:line: and say what to change.
func ParseYAML(file string, data []byte) (*Set, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		text := strings.TrimPrefix(err.Error(), "yaml: ")
		if rest, ok := strings.CutPrefix(text, "line "); ok {
			return nil, fmt.Errorf("%s:%s", file, rest)
		}
		return nil, fmt.Errorf("%s: %s", file, text)
	}
	p := parser{file: file}
	set := &Set{}
	if len(doc.Content) == 0 {
		return nil, fmt.Errorf("%s: the file is empty: it needs a list under rooms", file)
	}
	rooms, err := p.rooms(doc.Content[0])
	if err != nil {
		return nil, err
	}
	for _, node := range rooms {
		one, err := p.policy(node)
		if err != nil {
			return nil, err
		}
		set.Rooms = append(set.Rooms, *one)
		if err := set.check(len(set.Rooms) - 1); err != nil {
			return nil, p.at(node, "%w", err)
		}
	}
	if len(set.Rooms) == 0 {
		return nil, fmt.Errorf("%s: rooms is empty: give at least the default, match: \">\"", file)
	}
	return set, nil
}

type parser struct{ file string }

func (p parser) at(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %w", p.file, n.Line, fmt.Errorf(format, args...))
}

func (p parser) rooms(root *yaml.Node) (list []*yaml.Node, err error) {
	err = p.each(root, "the file", func(key string, k, v *yaml.Node) error {
		if key != "rooms" {
			return p.at(k, "unknown key %q: the file has one key, rooms", key)
		}
		if v.Kind != yaml.SequenceNode {
			return p.at(v, "rooms must be a list of policies")
		}
		list = v.Content
		return nil
	})
	return list, err
}

// each calls fn for each pair of a mapping, refusing repeated keys.
func (p parser) each(n *yaml.Node, what string, fn func(key string, k, v *yaml.Node) error) error {
	if n.Kind == yaml.AliasNode {
		return p.at(n, "%s: YAML aliases are not supported here", what)
	}
	if n.Kind != yaml.MappingNode {
		return p.at(n, "%s must be a mapping of keys to values", what)
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if seen[k.Value] {
			return p.at(k, "key %q is there twice", k.Value)
		}
		seen[k.Value] = true
		if err := fn(k.Value, k, v); err != nil {
			return err
		}
	}
	return nil
}

func (p parser) policy(n *yaml.Node) (*Policy, error) {
	one := &Policy{}
	err := p.each(n, "a policy", func(key string, k, v *yaml.Node) error {
		switch key {
		case "match":
			return p.text(v, key, &one.Match)
		case "publish":
			return p.flag(v, key, &one.Publish)
		case "slow":
			return p.slow(v, &one.Slow)
		case "latest":
			return p.flag(v, key, &one.Latest)
		case "conflate":
			one.Conflation = &Conflation{}
			return p.conflate(v, one.Conflation)
		case "compress":
			return p.flag(v, key, &one.Compress)
		case "rates":
			one.Rates = &Rates{}
			return p.rates(v, one.Rates)
		case "hooks":
			one.Hooks = &Hooks{}
			return p.hooks(v, one.Hooks)
		case "max_message_bytes":
			n, err := p.size(v, key, 1, "a size of 1 byte to 64MiB, such as 4KiB")
			one.MaxMessageBytes = n
			return err
		case "history":
			one.History = &History{}
			return p.history(v, one.History)
		case "presence":
			return p.presence(v, &one.Presence)
		case "anonymous":
			return p.each(v, "anonymous", func(key string, k, v *yaml.Node) error {
				switch key {
				case "subscribe":
					return p.flag(v, "anonymous.subscribe", &one.Anonymous.Subscribe)
				case "publish":
					return p.flag(v, "anonymous.publish", &one.Anonymous.Publish)
				}
				return p.at(k, "unknown key %q in anonymous: there are subscribe and publish", key)
			})
		}
		return p.at(k, "unknown key %q: a policy has match, anonymous, publish, rates, max_message_bytes, slow, conflate, history, latest, presence, hooks and compress", key)
	})
	if err == nil && one.Match == "" {
		err = p.at(n, "a policy needs match: the pattern of its rooms")
	}
	return one, err
}

func (p parser) text(v *yaml.Node, key string, to *string) error {
	if v.Kind != yaml.ScalarNode || v.Tag != "!!str" || v.Value == "" {
		return p.at(v, "%s must be a text", key)
	}
	*to = v.Value
	return nil
}

func (p parser) flag(v *yaml.Node, key string, to *bool) error {
	if v.Kind != yaml.ScalarNode || v.Tag != "!!bool" {
		return p.at(v, "%s must be true or false", key)
	}
	if err := v.Decode(to); err != nil {
		return errors.Join(p.at(v, "%s must be true or false", key), err)
	}
	return nil
}

func (p parser) slow(v *yaml.Node, to *Slow) error {
	var s string
	if err := p.text(v, "slow", &s); err != nil {
		return err
	}
	switch Slow(s) {
	case Lag, Conflate, Drop, Disconnect:
		*to = Slow(s)
		return nil
	}
	return p.at(v, "slow is %q: must be lag, conflate, drop or disconnect", s)
}

func (p parser) conflate(n *yaml.Node, to *Conflation) error {
	return p.each(n, "conflate", func(key string, k, v *yaml.Node) (err error) {
		if key != "every" {
			return p.at(k, "unknown key %q in conflate: there is every", key)
		}
		if to.Every, err = time.ParseDuration(v.Value); err != nil || to.Every < MinEvery || to.Every > MaxEvery {
			return p.at(v, "conflate.every is %q: must be a duration from %s to %s, such as 250ms", v.Value, MinEvery, MaxEvery)
		}
		return nil
	})
}

func (p parser) history(n *yaml.Node, to *History) error {
	err := p.each(n, "history", func(key string, k, v *yaml.Node) (err error) {
		switch key {
		case "messages":
			to.Messages, err = p.count(v, "history.messages", MaxMessages)
		case "replicas":
			to.Replicas, err = p.count(v, "history.replicas", MaxReplicas)
		case "age":
			if to.Age, err = time.ParseDuration(v.Value); err != nil || to.Age < MinAge {
				err = p.at(v, "history.age is %q: must be a duration of at least %s, such as 30m or 24h", v.Value, MinAge)
			}
		case "bytes":
			to.Bytes, err = p.size(v, "history.bytes", MinBytes, "a size of at least 1MiB, such as 500MB or 1GiB")
		default:
			err = p.at(k, "unknown key %q in history: there are messages, age, bytes and replicas", key)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := to.Check(); err != nil {
		return p.at(n, "%w", err)
	}
	return nil
}

func (p parser) count(v *yaml.Node, key string, most int) (int, error) {
	n, err := strconv.Atoi(v.Value)
	if v.Kind != yaml.ScalarNode || v.Tag != "!!int" || err != nil || n < 1 || n > most {
		return 0, p.at(v, "%s is %q: must be a number from 1 to %d", key, v.Value, most)
	}
	return n, nil
}

// units of sizes, as in the other settings.
var units = []struct {
	suffix string
	size   int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
}

func (p parser) size(v *yaml.Node, key string, least int64, want string) (int64, error) {
	text, unit := v.Value, int64(1)
	for _, u := range units {
		if t, ok := strings.CutSuffix(text, u.suffix); ok {
			text, unit = strings.TrimSpace(t), u.size
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if v.Kind != yaml.ScalarNode || err != nil || n < 1 || n > 1<<60/unit || n*unit < least {
		return 0, p.at(v, "%s is %q: must be %s", key, v.Value, want)
	}
	return n * unit, nil
}
