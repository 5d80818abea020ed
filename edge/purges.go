package edge

import "nabat/proto/policy"

// setPurges takes the list of purges: what this node has in memory of purged
// messages goes, too.
func (e *Edge) setPurges(value []byte, revision uint64) {
	list, err := policy.DecodePurges(value)
	if err != nil {
		e.log.Error("the list of purges is not usable; the old one stays", "revision", revision, "error", err)
		return
	}
	e.purges.Store(list)
	for _, p := range list.Purges {
		if pol := e.policy(p.Room); pol != nil && pol.Stream != nil && pol.Stream.Name == p.Stream {
			e.upstream.Purged(p.Room, pol.Stream.Epoch, p.UpTo)
		}
	}
}
