package nodes

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/control/internal/presence"
	"nabat/internal/bus"
)

// request is a snapshot that a node was asked for. A node is asked for one at a
// time, of all loops of which something is missing.
type request struct {
	at    time.Time     // when it was asked, or last answered
	pause time.Duration // until it is asked again without an answer
}

// Pauses before a node that does not answer is asked again. A snapshot of many
// connections takes a while; each part of it begins the time anew.
const (
	firstPause = 500 * time.Millisecond
	lastPause  = 8 * time.Second
)

// heard notes that a part has come, or that parts were lost.
func (r *request) heard(whole bool) {
	if whole {
		r.at, r.pause = time.Now(), firstPause
	}
}

// snapshotOrder is the order nabat.order.node.<node>.snapshot.
type snapshotOrder struct {
	Loops []uint32 `json:"loops,omitempty"` // absent: all
}

// ask asks the nodes for what is missing.
func (k *Keeper) ask(now time.Time, wants []presence.Want, known []presence.NodeInfo) {
	loops := make(map[string][]uint32)
	for _, w := range wants {
		loops[w.Node] = append(loops[w.Node], w.Loop)
	}
	for _, n := range known {
		if n.Loops == 0 && n.Epoch != 0 { // how many it has only a snapshot or a heartbeat tells
			loops[n.Node] = nil
		}
	}
	for _, l := range k.leases.live(bus.LeaseEdge) {
		if !slices.ContainsFunc(known, func(n presence.NodeInfo) bool { return n.Node == l.Node }) && !k.left(l.Node) {
			loops[l.Node] = nil
		}
	}
	for node := range k.asked {
		if _, wanted := loops[node]; !wanted {
			delete(k.asked, node)
		}
	}
	for node, list := range loops {
		r := k.asked[node]
		if r == nil {
			r = &request{pause: firstPause / 2}
			k.asked[node] = r
		} else if now.Sub(r.at) < r.pause {
			continue
		}
		r.at, r.pause = now, min(2*r.pause, lastPause)
		k.order(node, list)
	}
}

func (k *Keeper) left(node string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.picture.Left(node)
}

func (k *Keeper) order(node string, loops []uint32) {
	slices.Sort(loops)
	body, err := json.Marshal(snapshotOrder{loops})
	if err != nil {
		panic("nodes: " + err.Error()) // numbers always encode
	}
	k.opts.Counts.SnapshotAsked()
	// An error means that NATS is away: it is asked again.
	_ = k.opts.NATS.PublishMsg(&nats.Msg{Subject: bus.OrderPrefix + "node." + bus.NodeToken(node) + ".snapshot",
		Reply: k.inbox + "." + strconv.FormatInt(time.Now().UnixNano(), 36), Data: body})
}
