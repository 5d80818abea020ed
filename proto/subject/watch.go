package subject

import "strings"

// Watch is the name under which an edge keeps those who watch who is in a room:
// they are members of a room of its own, whose name no client can say.
func Watch(room string) string { return watchMark + room }

// Watched is the inverse of Watch. It allocates nothing.
func Watched(name string) (room string, ok bool) { return strings.CutPrefix(name, watchMark) }

const watchMark = "$" // no room begins with it
