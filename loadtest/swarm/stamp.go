package swarm

import (
	"bytes"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// Stamp identifies one message inside whatever a server wraps around it.
type Stamp struct {
	Run      uint32 // messages of another run are counted as strays
	Sequence uint64 // 1, 2, 3, … in each run; at most 40 bits
	At       int64  // Now() at the send, or at the intended send of a fixed-rate schedule
	Room     uint32 // number of the room, below 1<<24; each room has its own sequence
}

// A stamp is text that passes through JSON unescaped:
// "@LT", run in 8 hexadecimal digits, sequence in 10, time in 16, room in 6, "@".
const (
	stampMark  = "@LT"
	stampBytes = len(stampMark) + 8 + 10 + 16 + 6 + 1
	bodyHead   = `{"stamp":"`
	bodyMiddle = `","fill":"`
	bodyTail   = `"}`
)

// MinPayload is the smallest message, in bytes; MaxPayload the largest.
const (
	MinPayload = len(bodyHead) + stampBytes + len(bodyMiddle) + len(bodyTail)
	MaxPayload = 1 << 20
)

// AppendPayload appends a JSON message of size bytes that carries s.
// A size below MinPayload gives MinPayload bytes.
func AppendPayload(dst []byte, s Stamp, size int) []byte {
	dst = append(dst, bodyHead...)
	dst = appendStamp(dst, s)
	dst = append(dst, bodyMiddle...)
	for range max(0, size-MinPayload) {
		dst = append(dst, 'x')
	}
	return append(dst, bodyTail...)
}

// Restamp writes s over the stamp of a payload made by AppendPayload.
func Restamp(payload []byte, s Stamp) {
	at := len(bodyHead)
	appendStamp(payload[: at : at+stampBytes][:at], s)
}

func appendStamp(dst []byte, s Stamp) []byte {
	dst = append(dst, stampMark...)
	dst = appendHex(dst, uint64(s.Run), 8)
	dst = appendHex(dst, s.Sequence, 10)
	dst = appendHex(dst, uint64(s.At), 16)
	dst = appendHex(dst, uint64(s.Room), 6)
	return append(dst, '@')
}

func appendHex(dst []byte, n uint64, digits int) []byte {
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		dst = append(dst, "0123456789abcdef"[n>>shift&15])
	}
	return dst
}

// findStamp looks for the next stamp in text from offset from on and returns
// where it ends, −1 when there is none.
func findStamp(text []byte, from int) (Stamp, int) {
	at := bytes.Index(text[from:], []byte(stampMark))
	if at < 0 {
		return Stamp{}, -1
	}
	at += from
	end := at + stampBytes
	if len(text) < end || text[end-1] != '@' {
		return Stamp{}, -1
	}
	digits := text[at+len(stampMark) : end-1]
	run, ok1 := parseHex(digits[:8])
	sequence, ok2 := parseHex(digits[8:18])
	sent, ok3 := parseHex(digits[18:34])
	room, ok4 := parseHex(digits[34:])
	if !ok1 || !ok2 || !ok3 || !ok4 || sent > math.MaxInt64 {
		return Stamp{}, -1
	}
	return Stamp{Run: uint32(run), Sequence: sequence, At: int64(sent), Room: uint32(room)}, end
}

func parseHex(digits []byte) (uint64, bool) {
	var n uint64
	for _, c := range digits {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		default:
			return 0, false
		}
		n = n<<4 | uint64(c)
	}
	return n, true
}

// Go's monotonic clock is relative to the process; the anchor ties it to the
// machine's, which all processes share and nobody steps.
var anchor, anchorNanos = anchorClock()

// anchorTries is how often the two clocks are read: on a busy machine another
// process may run in between, and the two would be that far apart for good.
const anchorTries = 100

func anchorClock() (best time.Time, nanos int64) {
	closest := int64(math.MaxInt64)
	for range anchorTries {
		before := monotonic()
		now := time.Now()
		after := monotonic()
		if gap := after - before; gap < closest {
			closest, best, nanos = gap, now, before+gap/2
		}
	}
	return best, nanos
}

func monotonic() int64 {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &at); err != nil {
		panic(fmt.Sprintf("clock_gettime(CLOCK_MONOTONIC): %v", err)) // cannot fail on Linux
	}
	return at.Nano()
}

// Now is the machine's monotonic clock in nanoseconds, equal in all processes, or
// that of another machine; see AdjustClock.
func Now() int64 { return anchorNanos + int64(time.Since(anchor)) }

// AdjustClock adds nanoseconds to Now: the clients of this process get messages
// whose times are another machine's. Call it before anything else.
func AdjustClock(nanoseconds int64) { anchorNanos += nanoseconds }
