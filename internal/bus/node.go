package bus

import "strings"

// NodeToken is a node's name as one token of a subject, or one part of a key.
func NodeToken(node string) string {
	var b strings.Builder
	for i := range len(node) {
		c := node[i]
		if c > ' ' && c < 0x7f && !strings.ContainsRune(`%.*>"\<`+"`", rune(c)) {
			b.WriteByte(c)
			continue
		}
		const hex = "0123456789ABCDEF"
		b.Write([]byte{'%', hex[c>>4], hex[c&15]})
	}
	return b.String()
}
