package listen

import (
	"bytes"
	"errors"
)

// Query is the first value of a query parameter, percent-decoded.
func (h *Head) Query(name string) (value string, ok bool, err error) {
	list, err := h.QueryAll(name)
	if err != nil || len(list) == 0 {
		return "", false, err
	}
	return list[0], true, nil
}

// QueryAll is every value of a query parameter, percent-decoded. A + is a
// space, as browsers' URLSearchParams write it.
func (h *Head) QueryAll(name string) (list []string, err error) {
	for rest, more := h.query, len(h.query) > 0; more; {
		var pair []byte
		pair, rest, more = bytes.Cut(rest, []byte("&"))
		k, v, _ := bytes.Cut(pair, []byte("="))
		same, err := isKey(k, name)
		if err != nil {
			return nil, err
		}
		if !same {
			continue
		}
		value, err := unescape(v)
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	return list, nil
}

// isKey reports whether the key k, which may be escaped, is name.
func isKey(k []byte, name string) (bool, error) {
	if bytes.IndexByte(k, '%') < 0 && bytes.IndexByte(k, '+') < 0 {
		return string(k) == name, nil // no copy is made to compare
	}
	key, err := unescape(k)
	return key == name, err
}

// Segment is the one segment of the path that follows prefix, percent-decoded;
// false when there is none, or more than one.
func (h *Head) Segment(prefix string) (string, bool) {
	rest, ok := bytes.CutPrefix(h.Path, []byte(prefix))
	if !ok || len(rest) == 0 || bytes.IndexByte(rest, '/') >= 0 {
		return "", false
	}
	// In a path a + is a plus.
	segment, err := unescape(bytes.ReplaceAll(rest, []byte("+"), []byte("%2B")))
	return segment, err == nil
}

var errEscape = errors.New("listen: bad percent-encoding")

func unescape(b []byte) (string, error) {
	if bytes.IndexByte(b, '%') < 0 && bytes.IndexByte(b, '+') < 0 {
		return string(b), nil
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '+':
			out = append(out, ' ')
		case '%':
			if i+2 >= len(b) {
				return "", errEscape
			}
			hi, lo := unhex(b[i+1]), unhex(b[i+2])
			if hi < 0 || lo < 0 {
				return "", errEscape
			}
			out = append(out, byte(hi<<4|lo))
			i += 2
		default:
			out = append(out, b[i])
		}
	}
	return string(out), nil
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// Cookie is the value of a cookie (RFC 6265 §5.4).
func (h *Head) Cookie(name string) (string, bool) {
	for _, f := range h.fields {
		if !equalFold(f.name, "Cookie") {
			continue
		}
		for rest, more := f.value, true; more; {
			var pair []byte
			pair, rest, more = bytes.Cut(rest, []byte(";"))
			k, v, ok := bytes.Cut(bytes.TrimSpace(pair), []byte("="))
			if ok && string(k) == name {
				return string(bytes.Trim(v, `"`)), true
			}
		}
	}
	return "", false
}
