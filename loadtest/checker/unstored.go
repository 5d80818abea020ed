package checker

// notStored is the reason of a gap that says that messages come without an offset
// from here on, because nothing is stored. What is published with an
// acknowledgement, as here, is stored later; it must not come again then, but
// once more to a client that has come back in between.
const notStored = "not_stored"

// unstored are the messages that a client got without an offset, by number. The
// zero value is ready.
type unstored struct {
	told   bool         // that such messages come
	now    map[int]bool // on this connection
	before map[int]bool // on earlier ones
}

func (u *unstored) add(number int) {
	if u.now == nil {
		u.now = make(map[int]bool)
	}
	u.now[number] = true
}

// leave notes that the client has left the room.
func (u *unstored) leave() {
	if u.before == nil {
		u.before = make(map[int]bool)
	}
	for number := range u.now {
		u.before[number] = true
	}
	u.told, u.now = false, nil
}

// notStored judges a message without an offset.
func (j *judge) notStored(e *event) {
	switch {
	case !j.story.has(e.number):
		j.fault(RuleContent, "message %d without an offset was never published", e.number)
		return
	case j.unstored.now[e.number] || j.unstored.before[e.number] || j.seen[j.at.epoch][j.story.offset(j.at.epoch, e.number)]:
		j.fault(RuleDuplicate, "message %d again, without an offset", e.number)
		return
	}
	j.unstored.add(e.number)
	j.report.Unstored++
	j.report.Delivered++
}

// missing are the messages of an epoch behind after and before before that did
// not come without an offset either.
func (j *judge) missing(epoch string, after, before uint64) (list []stored) {
	for _, m := range j.story.between(epoch, after, before) {
		if !j.unstored.now[m.number] {
			list = append(list, m)
		}
	}
	return list
}

// has reports whether a message was acknowledged, at any place.
func (s *story) has(number int) bool {
	for epoch := range s.epochs {
		if s.offset(epoch, number) != 0 {
			return true
		}
	}
	return false
}

// offset is where an epoch has a message, or 0.
func (s *story) offset(epoch string, number int) uint64 {
	for _, m := range s.epochs[epoch] {
		if m.number == number {
			return m.offset
		}
	}
	return 0
}
