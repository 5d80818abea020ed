// Package subject maps rooms to NATS subjects and matches room patterns.
package subject

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// RoomPrefix is the default prefix of room subjects.
const RoomPrefix = "room."

// Limits of a room name.
const (
	MaxRoomBytes    = 200
	MaxTokens       = 16
	MaxSubjectBytes = 255
	Shards          = 1024
)

// Error says which rule a name broke.
type Error struct {
	Name string
	Rule string
}

func (e *Error) Error() string { return fmt.Sprintf("room %q: %s", shorten(e.Name), e.Rule) }

func shorten(s string) string {
	const limit = 60
	if len(s) <= limit {
		return s
	}
	n := limit
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// CheckRoom reports the first rule that name breaks, as an *Error.
func CheckRoom(name string) error {
	if rule := check(name, false); rule != "" {
		return &Error{name, rule}
	}
	return nil
}

// CheckPattern is CheckRoom for a pattern: a whole token may be *, and the last
// one may be >.
func CheckPattern(pattern string) error {
	if rule := check(pattern, true); rule != "" {
		return &Error{pattern, "pattern: " + rule}
	}
	return nil
}

func check(name string, pattern bool) string {
	switch {
	case name == "":
		return "a name must not be empty"
	case len(name) > MaxRoomBytes:
		return fmt.Sprintf("a name has at most %d bytes, this has %d", MaxRoomBytes, len(name))
	case !utf8.ValidString(name):
		return "a name must be valid UTF-8"
	case name[0] == '_' || name[0] == '$':
		return "names that begin with _ or $ are reserved"
	}
	for _, r := range name {
		switch {
		case unicode.IsControl(r) || r == '\u2028' || r == '\u2029':
			return "a name must not contain control characters"
		case r == utf8.RuneError:
			return "a name must not contain U+FFFD"
		}
	}
	if strings.Count(name, ".") >= MaxTokens {
		return fmt.Sprintf("a name has at most %d tokens between dots", MaxTokens)
	}
	for rest, more := name, true; more; {
		var token string
		token, rest, more = strings.Cut(rest, ".")
		switch {
		case token == "":
			return "a token between dots must not be empty"
		case !pattern && (token == "*" || token == ">"):
			return "* and > are patterns, not names"
		case pattern && token == ">" && more:
			return "> must be the last token"
		}
	}
	if encodedLen(name) > MaxSubjectBytes-len(RoomPrefix) {
		return fmt.Sprintf("the encoded subject would be longer than %d bytes", MaxSubjectBytes)
	}
	return ""
}

// escaped reports the bytes that stand as %XX in a subject.
func escaped(c byte) bool {
	switch c {
	case ' ', '%', '*', '>', '"', '\\', '<', '`':
		return true
	}
	return false
}

func encodedLen(name string) int {
	n := len(name)
	for i := range len(name) {
		if escaped(name[i]) {
			n += 2
		}
	}
	return n
}

const upperHex = "0123456789ABCDEF"

// Encode returns the subject of room: "team chat 1" → "room.team%20chat%201".
func Encode(prefix, room string) (string, error) {
	if err := CheckRoom(room); err != nil {
		return "", err
	}
	if encodedLen(room) == len(room) {
		return prefix + room, nil
	}
	b := make([]byte, 0, len(prefix)+encodedLen(room))
	b = append(b, prefix...)
	for i := range len(room) {
		if c := room[i]; escaped(c) {
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		} else {
			b = append(b, c)
		}
	}
	return string(b), nil
}

// Decode is the inverse of Encode. Only the form that Encode writes is
// accepted, so that one room has one subject.
func Decode(prefix, subj string) (string, error) {
	name, ok := strings.CutPrefix(subj, prefix)
	if !ok {
		return "", &Error{subj, "the subject does not begin with " + prefix}
	}
	if strings.IndexByte(name, '%') >= 0 {
		b := make([]byte, 0, len(name))
		for i := 0; i < len(name); i++ {
			if name[i] != '%' {
				b = append(b, name[i])
				continue
			}
			if i+2 >= len(name) || strings.IndexByte(upperHex, name[i+1]) < 0 || strings.IndexByte(upperHex, name[i+2]) < 0 {
				return "", &Error{subj, "% must be followed by two upper-case hex digits"}
			}
			b = append(b, byte(strings.IndexByte(upperHex, name[i+1])<<4|strings.IndexByte(upperHex, name[i+2])))
			i += 2
		}
		name = string(b)
	}
	again, err := Encode(prefix, name)
	if err != nil {
		return "", err
	}
	if again != subj {
		return "", &Error{subj, "not the canonical form, which is " + again}
	}
	return name, nil
}

// Match reports whether room matches pattern: * is one token, a last > one or
// more. It allocates nothing. Both are taken to be valid.
func Match(pattern, room string) bool {
	for {
		p, restP, moreP := strings.Cut(pattern, ".")
		if p == ">" && !moreP {
			return room != ""
		}
		r, restR, moreR := strings.Cut(room, ".")
		if p != "*" && p != r {
			return false
		}
		if !moreP || !moreR {
			return moreP == moreR
		}
		pattern, room = restP, restR
	}
}

// Overlap reports whether some room matches both patterns.
func Overlap(a, b string) bool {
	for {
		pa, restA, moreA := strings.Cut(a, ".")
		pb, restB, moreB := strings.Cut(b, ".")
		if (pa == ">" && !moreA) || (pb == ">" && !moreB) {
			return true
		}
		if pa != "*" && pb != "*" && pa != pb {
			return false
		}
		if !moreA || !moreB {
			return moreA == moreB
		}
		a, b = restA, restB
	}
}

// Shard is the partition that NATS gives to a source subject: FNV-1a of its
// bytes, modulo Shards.
func Shard(subj string) uint32 {
	h := uint32(2166136261)
	for i := range len(subj) {
		h = (h ^ uint32(subj[i])) * 16777619
	}
	return h % Shards
}
