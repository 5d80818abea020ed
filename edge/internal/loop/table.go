package loop

// table holds the connections of a loop by slot. Slots are used again; the
// generation of a slot grows with each removal.
type table struct {
	entries []entry
	free    []uint32
}

type entry struct {
	handler    Handler // nil when the slot is free
	fd         int32
	generation uint32
	wake       uint32 // tick of the pending deadline, 0 for none
	again      bool   // on the list of those who go on reading in the next turn
	writes     bool   // room in the send buffer is reported
}

func (t *table) add(fd int, h Handler) Ref {
	var slot uint32
	if n := len(t.free); n > 0 {
		slot = t.free[n-1]
		t.free = t.free[:n-1]
	} else {
		slot = uint32(len(t.entries))
		t.entries = append(t.entries, entry{generation: 1})
	}
	e := &t.entries[slot]
	e.handler, e.fd, e.wake, e.again, e.writes = h, int32(fd), 0, false, false
	return Ref{slot, e.generation}
}

func (t *table) entry(ref Ref) *entry {
	if int(ref.Slot) >= len(t.entries) {
		return nil
	}
	e := &t.entries[ref.Slot]
	if e.generation != ref.Generation || e.handler == nil {
		return nil
	}
	return e
}

func (t *table) ref(slot uint32) (Ref, bool) {
	if int(slot) >= len(t.entries) || t.entries[slot].handler == nil {
		return Ref{}, false
	}
	return Ref{slot, t.entries[slot].generation}, true
}

func (t *table) get(ref Ref) Handler {
	if e := t.entry(ref); e != nil {
		return e.handler
	}
	return nil
}

func (t *table) swap(ref Ref, h Handler) {
	if e := t.entry(ref); e != nil {
		e.handler = h
	}
}

func (t *table) remove(ref Ref) (fd int, ok bool) {
	e := t.entry(ref)
	if e == nil {
		return -1, false
	}
	fd = int(e.fd)
	e.handler, e.fd, e.wake = nil, -1, 0
	e.generation++
	t.free = append(t.free, ref.Slot)
	return fd, true
}

// each returns the slot behind the n, or 0 at the end.
func (t *table) each(from uint32, n int, fn func(Ref, Handler)) uint32 {
	for slot := int(from); slot < len(t.entries); slot++ {
		if slot == int(from)+n {
			return uint32(slot)
		}
		if e := &t.entries[slot]; e.handler != nil {
			fn(Ref{uint32(slot), e.generation}, e.handler)
		}
	}
	return 0
}
