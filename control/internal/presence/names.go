package presence

import "hash/maphash"

// names gives each text a small number for as long as somebody holds it: room
// names, users and what tokens say about them stand in memory once. Number 0 is
// the empty text, which needs no holding.
type names struct {
	seed  maphash.Seed
	texts []string // by number
	holds []uint32 // how many hold it; 0: the number is free
	table []uint32 // open addressing with linear probing; 0: free
	free  []uint32
	used  int
}

func newNames() names {
	return names{seed: maphash.MakeSeed(), texts: make([]string, 1), holds: make([]uint32, 1), table: make([]uint32, 16)}
}

func (n *names) slot(text string) int {
	return int(maphash.String(n.seed, text) & uint64(len(n.table)-1))
}

// find returns the number of a text that somebody holds.
func (n *names) find(text string) (uint32, bool) {
	if text == "" {
		return 0, true
	}
	for i := n.slot(text); n.table[i] != 0; i = (i + 1) & (len(n.table) - 1) {
		if n.texts[n.table[i]] == text {
			return n.table[i], true
		}
	}
	return 0, false
}

// hold returns the number of a text, and holds it once more. fresh is true when
// nobody held it before.
func (n *names) hold(text string) (id uint32, fresh bool) {
	if id, ok := n.find(text); ok {
		if id != 0 {
			n.holds[id]++
		}
		return id, false
	}
	if (n.used+1)*4 > len(n.table)*3 {
		n.grow()
	}
	if last := len(n.free) - 1; last >= 0 {
		id, n.free = n.free[last], n.free[:last]
		n.texts[id], n.holds[id] = text, 1
	} else {
		id = uint32(len(n.texts))
		n.texts, n.holds = append(n.texts, text), append(n.holds, 1)
	}
	n.used++
	n.place(id)
	return id, true
}

func (n *names) place(id uint32) {
	i := n.slot(n.texts[id])
	for n.table[i] != 0 {
		i = (i + 1) & (len(n.table) - 1)
	}
	n.table[i] = id
}

func (n *names) grow() {
	old := n.table
	n.table = make([]uint32, 2*len(old))
	for _, id := range old {
		if id != 0 {
			n.place(id)
		}
	}
}

// again holds a number that is held already.
func (n *names) again(id uint32) {
	if id != 0 {
		n.holds[id]++
	}
}

// release ends one hold, and reports whether it was the last.
func (n *names) release(id uint32) bool {
	if id == 0 {
		return false
	}
	if n.holds[id]--; n.holds[id] > 0 {
		return false
	}
	mask := len(n.table) - 1
	i := n.slot(n.texts[id])
	for n.table[i] != id {
		i = (i + 1) & mask
	}
	// Those that probed past the place move up, so that no tombstone is needed.
	for j := (i + 1) & mask; n.table[j] != 0; j = (j + 1) & mask {
		if home := n.slot(n.texts[n.table[j]]); (j-home)&mask >= (j-i)&mask {
			n.table[i], i = n.table[j], j
		}
	}
	n.table[i] = 0
	n.texts[id] = ""
	n.free = append(n.free, id)
	n.used--
	return true
}
