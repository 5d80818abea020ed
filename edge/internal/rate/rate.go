// Package rate is a token bucket in one integer, on a clock of the caller's.
package rate

const second = 1_000_000_000

// MaxBurst bounds Limit.Burst, so that the arithmetic stays within an int64.
const MaxBurst = 1 << 32

// Limit is how many units may pass in a second, and how many at once after a
// pause. The zero Limit lets everything pass.
type Limit struct {
	PerSecond int64
	Burst     int64 // at least 1 where PerSecond is set
}

// On reports whether the limit limits anything.
func (l Limit) On() bool { return l.PerSecond > 0 }

// cost is the time in nanoseconds that n units take, rounded up.
func (l Limit) cost(n int64) int64 { return (n*second + l.PerSecond - 1) / l.PerSecond }

// Bucket is the moment at which everything that has passed is paid for, in
// nanoseconds of a clock that never goes back and begins at 0 or later. The
// zero value is full.
type Bucket int64

// Wait is how long n units have to wait until they may pass: 0 if they may now.
// More than a burst passes when the bucket is full, and is paid for afterwards:
// what could never pass would be a refusal without an end.
func (b Bucket) Wait(l Limit, n, now int64) int64 {
	if !l.On() {
		return 0
	}
	return max(int64(b)-now-l.cost(max(l.Burst-n, 0)), 0)
}

// Spend takes n units. Ask Wait before.
func (b *Bucket) Spend(l Limit, n, now int64) {
	if l.On() {
		*b = Bucket(max(int64(*b), now) + l.cost(n))
	}
}
