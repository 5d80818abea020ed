package presence

import "slices"

// entry is a name in an order, with a count that belongs to it.
type entry struct{ id, count uint32 }

// order is a set of names in bytewise order. It is cut into chunks, so that a
// change moves little and a page is read from where it begins.
//
// Invariant: no chunk is empty, and none has more than chunkSize entries.
type order struct {
	chunks [][]entry
	size   int
}

const chunkSize = 128

// place finds where text is, or belongs.
func (o *order) place(texts []string, text string) (chunk, at int, found bool) {
	if len(o.chunks) > 1 {
		// The last chunk that does not begin behind text.
		lo, hi := 0, len(o.chunks)
		for hi-lo > 1 {
			mid := int(uint(lo+hi) / 2)
			if texts[o.chunks[mid][0].id] <= text {
				lo = mid
			} else {
				hi = mid
			}
		}
		chunk = lo
	}
	if len(o.chunks) == 0 {
		return 0, 0, false
	}
	list := o.chunks[chunk]
	lo, hi := 0, len(list)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if texts[list[mid].id] < text {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return chunk, lo, lo < len(list) && texts[list[lo].id] == text
}

// find returns the entry of text, nil if there is none. It is valid until the
// next change.
func (o *order) find(texts []string, text string) *entry {
	if c, i, found := o.place(texts, text); found {
		return &o.chunks[c][i]
	}
	return nil
}

// insert adds id, which is not there yet.
func (o *order) insert(texts []string, id uint32) *entry {
	o.size++
	if len(o.chunks) == 0 {
		o.chunks = [][]entry{{{id: id}}}
		return &o.chunks[0][0]
	}
	c, i, _ := o.place(texts, texts[id])
	if list := o.chunks[c]; len(list) == chunkSize {
		half := append(make([]entry, 0, chunkSize*3/4), list[chunkSize/2:]...)
		o.chunks = slices.Insert(o.chunks, c+1, half)
		o.chunks[c] = append(make([]entry, 0, chunkSize*3/4), list[:chunkSize/2]...)
		if i > chunkSize/2 {
			c, i = c+1, i-chunkSize/2
		}
	}
	o.chunks[c] = slices.Insert(o.chunks[c], i, entry{id: id})
	return &o.chunks[c][i]
}

// remove takes out text, which is there.
func (o *order) remove(texts []string, text string) {
	c, i, _ := o.place(texts, text)
	o.size--
	o.chunks[c] = slices.Delete(o.chunks[c], i, i+1)
	switch n := len(o.chunks[c]); {
	case n == 0:
		o.chunks = slices.Delete(o.chunks, c, c+1)
		if len(o.chunks) == 0 {
			o.chunks = nil
		}
	case n < chunkSize/8 && c+1 < len(o.chunks) && n+len(o.chunks[c+1]) <= chunkSize/2:
		o.chunks[c] = append(o.chunks[c], o.chunks[c+1]...)
		o.chunks = slices.Delete(o.chunks, c+1, c+2)
	}
}

// from calls fn for each entry from text on, without text itself if after is
// set, until fn returns false.
func (o *order) from(texts []string, text string, after bool, fn func(entry) bool) {
	c, i, found := o.place(texts, text)
	if found && after {
		i++
	}
	for ; c < len(o.chunks); c, i = c+1, 0 {
		for _, e := range o.chunks[c][i:] {
			if !fn(e) {
				return
			}
		}
	}
}
