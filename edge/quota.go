package edge

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"nabat/edge/internal/listen"
	"nabat/edge/internal/loop"
	"nabat/edge/internal/quota"
	"nabat/edge/internal/rate"
	"nabat/edge/internal/session"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

// maxOwners bounds who is remembered of those that share a rate: users,
// addresses, namespaces, and clients in rooms with a rate.
const maxOwners = 1 << 18

// addressSeats is the bound on connections of an address. Where only their rate
// is bounded they are counted all the same: that is how they are known.
func (c *Config) addressSeats() int {
	if c.MaxConnectionsPerAddress == 0 && (c.AddressMessageRate+c.AddressSubscribeRate+c.AddressRPCRate > 0 || c.AddressByteRate > 0) {
		return math.MaxInt32
	}
	return c.MaxConnectionsPerAddress
}

// since is the clock of the quotas, which all loops share.
func (h host) since() int64 { return max(int64(h.loop.Now().Sub(h.edge.began)), 0) }

// shared is a rate that the connections of a user, and of an address, share.
type shared struct {
	what          string // they do too much of
	user, address int64  // in a second; 0: not bounded
}

// sharedRates are those of a use; of frames there are two.
func (c *Config) sharedRates(use session.Use) (first, second shared) {
	switch use {
	case session.OfSubscribes:
		return shared{"subscribes to too many rooms", int64(c.UserSubscribeRate), int64(c.AddressSubscribeRate)}, second
	case session.OfCalls:
		return shared{"makes too many calls", int64(c.UserRPCRate), int64(c.AddressRPCRate)}, second
	}
	return shared{"sends too many messages", int64(c.UserMessageRate), int64(c.AddressMessageRate)},
		shared{"sends too many bytes", int64(c.UserByteRate), int64(c.AddressByteRate)}
}

func (s shared) on() bool { return s.user > 0 || s.address > 0 }

// Within implements session.Host.
func (h host) Within(ref session.Ref, id *session.Identity, use session.Use, n int) (reason string, wait int64) {
	first, second := h.edge.cfg.sharedRates(use)
	amount := int64(n)
	if use == session.OfFrames {
		amount = 1
	}
	if reason, wait = h.withinShared(ref, id, first, amount); wait > 0 {
		return reason, wait
	}
	return h.withinShared(ref, id, second, int64(n))
}

func (h host) withinShared(ref session.Ref, id *session.Identity, s shared, n int64) (reason string, wait int64) {
	q, now := h.edge.quotas, h.since()
	if s.user > 0 && id != nil && id.User != "" {
		if wait = q.Take(q.Owner("user "+s.what, id.User), limit(s.user, 0), n, now); wait > 0 {
			return "this user " + s.what + " in a second", wait
		}
	}
	if address := h.seats.Address(ref.Slot); s.address > 0 && address != 0 {
		if wait = q.Take(q.Owned("address "+s.what, address), limit(s.address, 0), n, now); wait > 0 {
			return "this address " + s.what + " in a second", wait
		}
	}
	return "", 0
}

// namespaceFull refuses a room for what its namespace has already.
func namespaceFull(e *Edge, room string) *wire.Error {
	name := quota.Namespace(room)
	rooms, members := e.namespaces.Count(name)
	return &wire.Error{Code: wire.NamespaceFull, RetryMS: 5000,
		Reason: fmt.Sprintf("%s has %d rooms with %d members on this node: there may be no more", name, rooms, members)}
}

// mayPublishNow holds a publish to the policy's bounds, and to the namespace's.
// What it takes from the first is lost when the second refuses.
func (h host) mayPublishNow(ref session.Ref, id *session.Identity, pol *policy.Policy, p *wire.Publication) *wire.Error {
	if pol != nil && pol.MaxMessageBytes > 0 && int64(len(p.Body)) > pol.MaxMessageBytes {
		return &wire.Error{Code: wire.TooLarge, Reason: fmt.Sprintf("the body has %d bytes: at most %d in room %s", len(p.Body), pol.MaxMessageBytes, p.Room)}
	}
	q, now := h.edge.quotas, h.since()
	if pol != nil && pol.Rates != nil {
		l := rate.Limit{PerSecond: int64(pol.Rates.Publish), Burst: int64(max(pol.Rates.Burst, pol.Rates.Publish))}
		if wait := q.Take(q.Owner("publish "+pol.Match, h.publisher(ref, id)), l, 1, now); wait > 0 {
			return tooFast("you publish too many messages in a second to rooms of "+pol.Match, wait)
		}
	}
	if perSecond := h.edge.cfg.NamespacePublishRate; perSecond > 0 {
		namespace := quota.Namespace(p.Room)
		if wait := q.Take(q.Owner("namespace", namespace), limit(int64(perSecond), 0), 1, now); wait > 0 {
			return tooFast("clients of this node publish too many messages in a second to rooms of "+namespace, wait)
		}
	}
	return nil
}

// publisher is whose publishes a rate of a policy counts together: the user's, and
// without one the connection's. A connection that brings a single message has no
// rate, so there it is the address's (IPv6: the /64's, as elsewhere).
func (h host) publisher(ref session.Ref, id *session.Identity) string {
	if id != nil && id.User != "" {
		return id.User
	}
	if c, ok := h.loop.Handler(loop.Ref(ref)).(*listen.Handshake); ok {
		a := c.Client().Unmap()
		if a.Is6() {
			return netip.PrefixFrom(a, 64).Masked().String()
		}
		return a.String()
	}
	name, _ := h.Name(ref)
	return name
}

func tooFast(reason string, wait int64) *wire.Error {
	const ms = int64(time.Millisecond)
	return &wire.Error{Code: wire.RateLimited, Reason: reason, RetryMS: int((wait + ms - 1) / ms)}
}
