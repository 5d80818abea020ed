package wire

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// AppendCursor appends positions as one line: the id of a server-sent event, and
// what Last-Event-ID brings back. It is a JSON object, {"room":"epoch:offset"}.
// Positions without an epoch are left out.
func AppendCursor(dst []byte, list []Position) []byte {
	dst = append(dst, '{')
	first := true
	for _, p := range list {
		if p.Epoch == "" {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(appendText(dst, p.Room), ':')
		dst = appendText(dst, p.Epoch+":"+strconv.FormatUint(p.Offset, 10))
	}
	return append(dst, '}')
}

// ParseCursor is the inverse of AppendCursor. The order is not kept.
func ParseCursor(s string) (map[string]Position, *Error) {
	var raw map[string]string
	if err := json.Unmarshal([]byte(s), &raw); err != nil {
		return nil, &Error{Code: BadRequest, Reason: "Last-Event-ID is not one of this server's: leave it out to begin anew"}
	}
	list := make(map[string]Position, len(raw))
	for room, at := range raw {
		epoch, digits, _ := strings.Cut(at, ":")
		offset, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || epoch == "" {
			return nil, &Error{Code: BadRequest, Reason: fmt.Sprintf("Last-Event-ID has no position of room %q: leave it out to begin anew", clip(room))}
		}
		list[room] = Position{Room: room, Epoch: epoch, Offset: offset}
	}
	return list, nil
}
