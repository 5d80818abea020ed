package bus

import "strings"

// EdgeLease is an edge's key in BucketNodes. NATS takes no % in keys: = stands for
// it.
func EdgeLease(node string) string {
	return LeaseEdge + strings.ReplaceAll(strings.ReplaceAll(NodeToken(node), "=", "%3D"), "%", "=")
}

// Lease is what a running edge says of itself in BucketNodes, in JSON.
type Lease struct {
	Node    string `json:"node"`
	Epoch   string `json:"epoch"` // of this run, 16 hexadecimal digits
	Role    string `json:"role"`  // edge
	Version string `json:"version"`
	Started int64  `json:"started"` // unix milliseconds
	Listen  string `json:"listen"`
	State   string `json:"state"` // ready, degraded or draining
}
