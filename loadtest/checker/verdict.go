package checker

import "fmt"

// place is where a client stands in a room. The zero value is nowhere.
type place struct {
	epoch  string
	offset uint64
}

type kind uint8

const (
	message  kind = iota // offset, number
	joined               // without a position: place
	resumed              // from before: place, recovered, reason
	gap                  // place.offset is from, to, reason
	lagging              // place
	reset                // place
	left                 // the client left, or its connection ended
	stranger             // a message of a room that the client was not in
)

// event is one thing that a client was told about one room.
type event struct {
	kind      kind
	recovered bool
	number    int // of a message
	then      int // messages of the room acknowledged when it came
	to        uint64
	place     place
	before    place // the position that was asked for
	reason    string
}

// Violation is one broken promise.
type Violation struct {
	Client int    `json:"client"`
	Room   string `json:"room"`
	Rule   string `json:"rule"` // one of the Rule constants
	Detail string `json:"detail"`
}

// The rules that a Violation names.
const (
	RuleGap        = "gap"        // a message is missing and nobody said so
	RuleDuplicate  = "duplicate"  // a message came again
	RuleOrder      = "order"      // a message came behind a later one
	RuleContent    = "content"    // a message is not what was stored there
	RuleEpoch      = "epoch"      // an epoch or a position makes no sense
	RuleNeedless   = "needless"   // the client was told that it lost what was still kept
	RuleUnexpected = "unexpected" // a message of a room that the client was not in
	RuleTail       = "tail"       // the newest messages did not come
)

func (v Violation) String() string {
	return fmt.Sprintf("client %d, room %s: %s: %s", v.Client, v.Room, v.Rule, v.Detail)
}

// judge holds what one client was told about one room against the ledger.
type judge struct {
	client int
	room   string
	story  *story
	window int // messages that the policy keeps; the client may be told of a loss beyond
	report *Report

	at       place
	in       bool
	seen     map[string]map[uint64]bool // by epoch
	unstored unstored
}

func (j *judge) fault(rule, format string, args ...any) {
	j.report.fault(Violation{j.client, j.room, rule, fmt.Sprintf(format, args...)})
}

func (j *judge) run(log []event) {
	j.seen = make(map[string]map[uint64]bool)
	for i := range log {
		j.next(&log[i])
	}
	if !j.in {
		j.fault(RuleTail, "the client is not in the room at the end; it was at %s", j.at)
	} else if missing := j.missing(j.at.epoch, j.at.offset, 0); len(missing) > 0 {
		j.fault(RuleTail, "ends at %s, and %d messages from offset %d to %d did not come", j.at, len(missing), missing[0].offset, missing[len(missing)-1].offset)
	}
}

func (p place) String() string { return fmt.Sprintf("%s/%d", p.epoch, p.offset) }

func (j *judge) next(e *event) {
	switch e.kind {
	case message:
		if e.place.offset == 0 && j.unstored.told {
			j.notStored(e)
			return
		}
		j.message(e)
	case joined:
		j.at, j.in = e.place, true
	case resumed:
		j.in = true
		j.resumed(e)
	case gap:
		j.report.Gaps[e.reason]++
		j.gap(e)
	case lagging:
		j.report.Lagging++
		if e.place.epoch != j.at.epoch || len(j.missing(j.at.epoch, j.at.offset, e.place.offset+1)) > 0 {
			j.fault(RuleEpoch, "lagging at %s, and the client is at %s", e.place, j.at)
		}
	case reset:
		j.report.Resets++
		if e.place.epoch == j.at.epoch {
			j.excuse(j.at, e.place.offset+1, e.then, "reset")
		}
		j.at = e.place
	case left:
		j.in = false
		j.unstored.leave()
	case stranger:
		j.fault(RuleUnexpected, "message %d at offset %d", e.number, e.place.offset)
	}
}

func (j *judge) message(e *event) {
	offset := e.place.offset
	if j.at.epoch == "" {
		j.fault(RuleEpoch, "message at offset %d before any position was told", offset)
		return
	}
	known, ok := j.story.at(j.at.epoch, offset)
	switch {
	case !ok:
		j.fault(RuleContent, "a message at %s/%d that was never stored", j.at.epoch, offset)
	case known.number != e.number:
		j.fault(RuleContent, "message %d at %s/%d, where %d is stored", e.number, j.at.epoch, offset, known.number)
	}
	seen := j.seen[j.at.epoch]
	if seen == nil {
		seen = make(map[uint64]bool)
		j.seen[j.at.epoch] = seen
	}
	switch {
	case seen[offset]:
		j.fault(RuleDuplicate, "offset %d again, at %s", offset, j.at)
		return
	case offset <= j.at.offset:
		j.fault(RuleOrder, "offset %d, at %s", offset, j.at)
		return
	case j.unstored.now[e.number]:
		j.fault(RuleDuplicate, "message %d at offset %d again, which came without one", e.number, offset)
	}
	if missing := j.missing(j.at.epoch, j.at.offset, offset); len(missing) > 0 {
		j.fault(RuleGap, "%d messages from offset %d to %d are missing before offset %d; the client was at %s",
			len(missing), missing[0].offset, missing[len(missing)-1].offset, offset, j.at)
	}
	seen[offset] = true
	j.at.offset = offset
	if j.unstored.before[e.number] {
		j.report.Repeated++
		return
	}
	j.report.Delivered++
}

func (j *judge) resumed(e *event) {
	if e.recovered {
		j.report.Recovered++
		if e.place != e.before {
			j.fault(RuleEpoch, "recovered from %s, and told to be at %s", e.before, e.place)
		}
		j.at = e.place
		return
	}
	j.report.Unrecovered[e.reason]++
	switch {
	case e.place.epoch == "":
		// Nobody knows where the room stands: a reset follows. The client keeps
		// its own position until then.
		j.at = e.before
		j.fault(RuleNeedless, "%s: history was not read at %s", e.reason, e.before)
	case e.place.epoch == e.before.epoch:
		j.excuse(e.before, e.place.offset+1, e.then, e.reason)
		j.at = e.place
	default:
		j.at = e.place
	}
}

func (j *judge) gap(e *event) {
	to := e.to
	if to == 0 && e.reason == notStored {
		j.unstored.told = true
		return
	}
	if to == 0 {
		j.fault(RuleNeedless, "a gap of unknown size behind %s: %s", j.at, e.reason)
		return
	}
	j.excuse(j.at, to, e.then, e.reason)
	j.at.offset = max(j.at.offset, to-1)
}

// excuse takes a loss that the client was told of: what is behind from and
// before to. It is one only if the messages were no longer kept.
func (j *judge) excuse(from place, to uint64, then int, reason string) {
	// Messages that were stored and not acknowledged yet count, too.
	const under = 2
	lost := j.story.between(from.epoch, from.offset, to)
	for _, m := range lost {
		if m.offset > j.story.purged[from.epoch] && then+under-m.index < j.window {
			j.fault(RuleNeedless, "%s: told that offset %d is lost behind %s; it was message %d of the room when %d were stored, and %d are kept",
				reason, m.offset, from, m.index+1, then, j.window)
			break
		}
	}
	j.report.Lost += len(lost)
	if len(lost) == 0 && (j.story.purged[from.epoch] == 0 || from.offset > j.story.purged[from.epoch]) {
		// Nothing was lost, and the client could have been told so, unless what
		// proves it is gone.
		if own, ok := j.story.at(from.epoch, from.offset); ok && then+under-own.index < j.window {
			j.fault(RuleNeedless, "%s: told of a loss behind %s where nothing was stored", reason, from)
		}
	}
}
