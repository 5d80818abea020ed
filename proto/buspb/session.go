package buspb

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
)

// A connection's id says where it lives, so that nothing has to be kept to find
// it: "c" + the node's epoch (8 bytes), loop (1), slot (4) and generation (4) in
// hexadecimal. It is unique over the cluster and over restarts.
const sessionBytes = 8 + 1 + 4 + 4

// SessionID is the id that clients see of a connection: slot << 32 | generation.
func SessionID(epoch uint64, loop uint32, connection uint64) string {
	var b [sessionBytes]byte
	binary.BigEndian.PutUint64(b[:], epoch)
	b[8] = byte(loop)
	binary.BigEndian.PutUint64(b[9:], connection)
	var text [1 + 2*sessionBytes]byte
	text[0] = 'c'
	hex.Encode(text[1:], b[:])
	return string(text[:])
}

// ParseSessionID is the inverse of SessionID.
func ParseSessionID(id string) (epoch uint64, loop uint32, connection uint64, ok bool) {
	digits, found := strings.CutPrefix(id, "c")
	if !found || len(digits) != 2*sessionBytes {
		return 0, 0, 0, false
	}
	var b [sessionBytes]byte
	if _, err := hex.Decode(b[:], []byte(digits)); err != nil {
		return 0, 0, 0, false
	}
	return binary.BigEndian.Uint64(b[:]), uint32(b[8]), binary.BigEndian.Uint64(b[9:]), true
}
