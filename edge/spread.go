package edge

import (
	"math/rand/v2"
	"time"
)

// spread is a time within d after which one of many clients comes back.
func spread(d time.Duration) time.Duration { return rand.N(max(d, time.Millisecond)) }

// anySlot is a place to begin a walk at. Safe from any goroutine.
func anySlot(w *worker) uint32 {
	return uint32(rand.IntN(max(w.loop.Connections(), 1)))
}
