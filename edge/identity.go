package edge

import (
	"encoding/binary"
	"encoding/hex"
	"strings"

	"nabat/edge/internal/loop"
)

// A connection's id says where it lives, so that nothing has to be kept to find
// it: "c" + the node's run (8 bytes), loop (1), slot (4) and generation (4) in
// hexadecimal. It is unique over the cluster and over restarts.
const sessionBytes = 8 + 1 + 4 + 4

func formatSession(instance uint64, index int, ref loop.Ref) string {
	var b [sessionBytes]byte
	binary.BigEndian.PutUint64(b[:], instance)
	b[8] = byte(index)
	binary.BigEndian.PutUint32(b[9:], ref.Slot)
	binary.BigEndian.PutUint32(b[13:], ref.Generation)
	return "c" + hex.EncodeToString(b[:])
}

func parseSession(id string) (instance uint64, index int, ref loop.Ref, ok bool) {
	digits, found := strings.CutPrefix(id, "c")
	if !found || len(digits) != 2*sessionBytes {
		return 0, 0, ref, false
	}
	var b [sessionBytes]byte
	if _, err := hex.Decode(b[:], []byte(digits)); err != nil {
		return 0, 0, ref, false
	}
	ref = loop.Ref{Slot: binary.BigEndian.Uint32(b[9:]), Generation: binary.BigEndian.Uint32(b[13:])}
	return binary.BigEndian.Uint64(b[:]), int(b[8]), ref, true
}
