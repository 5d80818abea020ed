package edge

import (
	"nabat/edge/internal/loop"
	"nabat/proto/buspb"
)

// connection is what reports and session ids call a connection of one loop.
func connection(ref loop.Ref) uint64 { return uint64(ref.Slot)<<32 | uint64(ref.Generation) }

func formatSession(instance uint64, index int, ref loop.Ref) string {
	return buspb.SessionID(instance, uint32(index), connection(ref))
}

func parseSession(id string) (instance uint64, index int, ref loop.Ref, ok bool) {
	instance, l, c, ok := buspb.ParseSessionID(id)
	return instance, int(l), loop.Ref{Slot: uint32(c >> 32), Generation: uint32(c)}, ok
}
