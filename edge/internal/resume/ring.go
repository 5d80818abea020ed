package resume

// Ring keeps the newest messages of one room, without a hole between them. It
// is bounded in number and in bytes; a room without messages costs no buffer.
// The zero value keeps nothing until Bound was called. Not safe for use by
// several goroutines: the caller locks.
type Ring[T any] struct {
	buf        []slot[T]
	head       int // of the oldest
	n          int
	low        uint64
	newest     uint64
	bytes      int
	maxEntries int
	maxBytes   int
}

type slot[T any] struct {
	Entry[T]
	size int
}

// firstSlots is the size of a ring's first buffer; it doubles up to the bound.
const firstSlots = 4

// Bound sets how many messages, and how many bytes, are kept at most.
func (r *Ring[T]) Bound(entries, bytes int) {
	r.maxEntries, r.maxBytes = entries, bytes
	r.evict()
}

// Low is the offset behind which the ring has everything.
func (r *Ring[T]) Low() uint64 { return r.low }

// Newest is the offset of the newest message, kept or not.
func (r *Ring[T]) Newest() uint64 { return r.newest }

// Len is the number of messages kept.
func (r *Ring[T]) Len() int { return r.n }

// Reset forgets all messages: the next one is the first behind last. It is
// needed when a chain opens, after a cut (with its To-1, or the offset below
// the next message where To is 0), and when the room was purged.
func (r *Ring[T]) Reset(last uint64) {
	r.buf, r.head, r.n, r.bytes = nil, 0, 0, 0
	r.low, r.newest = last, last
}

// Forget drops the messages up to an offset, which nobody may have any more.
func (r *Ring[T]) Forget(upTo uint64) {
	for r.n > 0 && r.at(0).Offset <= upTo {
		r.evictOne()
	}
	r.low = max(r.low, min(upTo, r.newest))
}

// Push appends the message that follows Newest, and evicts what no longer fits.
// Messages that are not new are ignored.
func (r *Ring[T]) Push(e Entry[T], size int) {
	if e.Offset <= r.newest {
		return
	}
	r.newest = e.Offset
	if r.maxEntries < 1 || size > r.maxBytes { // no room even when empty
		r.Reset(e.Offset)
		return
	}
	if r.n == r.maxEntries {
		r.evictOne()
	}
	if r.n == len(r.buf) {
		r.grow()
	}
	r.buf[(r.head+r.n)%len(r.buf)] = slot[T]{e, size}
	r.n++
	r.bytes += size
	r.evict()
}

func (r *Ring[T]) grow() {
	buf := make([]slot[T], min(max(firstSlots, 2*len(r.buf)), r.maxEntries))
	k := copy(buf, r.buf[r.head:])
	copy(buf[k:], r.buf[:r.head])
	r.buf, r.head = buf, 0
}

func (r *Ring[T]) evict() {
	for r.n > 0 && (r.n > r.maxEntries || r.bytes > r.maxBytes) {
		r.evictOne()
	}
}

func (r *Ring[T]) evictOne() {
	s := &r.buf[r.head]
	r.low = s.Offset
	r.bytes -= s.size
	*s = slot[T]{}
	r.head = (r.head + 1) % len(r.buf)
	r.n--
}

// After lists what came after offset. It is ok only if the ring proves that
// nothing is missing, which is so from Low on; an offset above Newest has
// nothing after it yet. The list is the caller's.
func (r *Ring[T]) After(offset uint64) (list []Entry[T], ok bool) {
	if offset < r.low {
		return nil, false
	}
	return r.between(offset, r.newest, r.n), true
}

// between lists at most limit messages after the offset after, up to end.
func (r *Ring[T]) between(after, end uint64, limit int) (list []Entry[T]) {
	i := r.search(after)
	n := min(r.search(end)-i, limit)
	if n <= 0 {
		return nil
	}
	list = make([]Entry[T], n)
	for k := range list {
		list[k] = r.at(i + k).Entry
	}
	return list
}

func (r *Ring[T]) at(i int) *slot[T] { return &r.buf[(r.head+i)%len(r.buf)] }

// search is the number of kept messages that are not after offset.
func (r *Ring[T]) search(offset uint64) int {
	lo, hi := 0, r.n
	for lo < hi {
		if mid := (lo + hi) / 2; r.at(mid).Offset <= offset {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// has reports whether the message at offset is kept.
func (r *Ring[T]) has(offset uint64) bool {
	i := r.search(offset)
	return i > 0 && r.at(i-1).Offset == offset
}
