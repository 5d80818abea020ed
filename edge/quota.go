package edge

import (
	"fmt"
	"math"
	"strings"
	"time"

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
	if c.MaxConnectionsPerAddress == 0 && (c.AddressMessageRate > 0 || c.AddressByteRate > 0) {
		return math.MaxInt32
	}
	return c.MaxConnectionsPerAddress
}

// since is the clock of the quotas, which all loops share.
func (h host) since() int64 { return max(int64(h.loop.Now().Sub(h.edge.began)), 0) }

// Within implements session.Host.
func (h host) Within(ref session.Ref, id *session.Identity, bytes int) (reason string, wait int64) {
	c, q, now := &h.edge.cfg, h.edge.quotas, h.since()
	take := func(owner uint64, kind string, perSecond int64, n int) bool {
		if wait = q.Take(owner, limit(perSecond, 0), int64(n), now); wait == 0 {
			return true
		}
		reason = kind + " in a second"
		return false
	}
	if id != nil && id.User != "" {
		if !take(q.Owner("user messages", id.User), "this user sends too many messages", int64(c.UserMessageRate), 1) ||
			!take(q.Owner("user bytes", id.User), "this user sends too many bytes", int64(c.UserByteRate), bytes) {
			return reason, wait
		}
	}
	if address := h.seats.Address(ref.Slot); address != 0 {
		if !take(address, "this address sends too many messages", int64(c.AddressMessageRate), 1) ||
			!take(^address, "this address sends too many bytes", int64(c.AddressByteRate), bytes) {
			return reason, wait
		}
	}
	return "", 0
}

// mayPublishNow holds a publish to the policy's bounds, and to the namespace's.
// What it takes from the first is lost when the second refuses.
func (h host) mayPublishNow(ref session.Ref, id *session.Identity, pol *policy.Policy, p *wire.Publication) *wire.Error {
	if pol != nil && pol.MaxMessageBytes > 0 && int64(len(p.Body)) > pol.MaxMessageBytes {
		return &wire.Error{Code: wire.TooLarge, Reason: fmt.Sprintf("the body has %d bytes: at most %d in room %s", len(p.Body), pol.MaxMessageBytes, p.Room)}
	}
	q, now := h.edge.quotas, h.since()
	if pol != nil && pol.Rates != nil {
		client, _ := h.Name(ref)
		if id != nil && id.User != "" {
			client = id.User
		}
		l := rate.Limit{PerSecond: int64(pol.Rates.Publish), Burst: int64(max(pol.Rates.Burst, pol.Rates.Publish))}
		if wait := q.Take(q.Owner("publish "+pol.Match, client), l, 1, now); wait > 0 {
			return tooFast("you publish too many messages in a second to rooms of "+pol.Match, wait)
		}
	}
	if perSecond := h.edge.cfg.NamespacePublishRate; perSecond > 0 {
		namespace, _, _ := strings.Cut(p.Room, ".")
		if wait := q.Take(q.Owner("namespace", namespace), limit(int64(perSecond), 0), 1, now); wait > 0 {
			return tooFast("clients of this node publish too many messages in a second to rooms of "+namespace, wait)
		}
	}
	return nil
}

func tooFast(reason string, wait int64) *wire.Error {
	const ms = int64(time.Millisecond)
	return &wire.Error{Code: wire.RateLimited, Reason: reason, RetryMS: int((wait + ms - 1) / ms)}
}
