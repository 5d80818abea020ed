package swarm

// Verdict is what Order says of one message.
type Verdict uint8

// Late is a message that came after a later one: it fills a hole.
const (
	InOrder Verdict = iota
	Late
	Duplicate
)

// maxHoles bounds what one client remembers. Beyond it the oldest hole is
// final: what still comes for it counts as a duplicate.
const maxHoles = 256

// hole is a range of messages that were passed over.
type hole struct{ first, last uint64 }

// Order follows one client's messages, numbered 1, 2, 3, …, and tells a
// duplicate from a hole from a swap. The zero value expects message 1.
// Not safe for concurrent use.
type Order struct {
	last  uint64 // highest number seen
	lost  uint64 // messages in holes that were forgotten
	holes []hole // Invariant: ascending, disjoint, all below last.
}

// Take records that message n arrived.
func (o *Order) Take(n uint64) Verdict {
	if n == o.last+1 {
		o.last = n
		return InOrder
	}
	if n > o.last {
		o.addHole(hole{o.last + 1, n - 1})
		o.last = n
		return InOrder
	}
	return o.takeLate(n)
}

func (o *Order) addHole(h hole) {
	if len(o.holes) == maxHoles {
		o.lost += o.holes[0].last - o.holes[0].first + 1
		o.holes = append(o.holes[:0], o.holes[1:]...)
	}
	o.holes = append(o.holes, h)
}

func (o *Order) takeLate(n uint64) Verdict {
	for i, h := range o.holes {
		if n < h.first || n > h.last {
			continue
		}
		switch {
		case h.first == h.last:
			o.holes = append(o.holes[:i], o.holes[i+1:]...)
		case n == h.first:
			o.holes[i].first++
		case n == h.last:
			o.holes[i].last--
		default:
			o.holes[i].last = n - 1
			o.holes = append(o.holes, hole{})
			copy(o.holes[i+2:], o.holes[i+1:])
			o.holes[i+1] = hole{n + 1, h.last}
		}
		return Late
	}
	return Duplicate
}

// Missing counts the messages out of 1 … total that never came.
func (o *Order) Missing(total uint64) uint64 {
	missing := o.lost
	for _, h := range o.holes {
		missing += h.last - h.first + 1
	}
	if total > o.last {
		missing += total - o.last
	}
	return missing
}
