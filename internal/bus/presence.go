package bus

import "time"

// Presence on the bus: leases, reports and what control tells of them.
const (
	BucketNodes     = "NABAT_NODES" // leases of edges and of control replicas
	LeaseEdge       = "edge."       // before a node, in its key
	LeaseControl    = "control."    // before a replica's id
	LeaseTTL        = 15 * time.Second
	LeaseEvery      = 5 * time.Second // how often its owner renews it
	ReportPrefix    = "nabat.report." // before the node
	ReportHeartbeat = 2 * time.Second // how often an edge reports at least
	NodeTimeout     = 6 * time.Second // silent for so long, and without a lease, a node is dead
	PresencePrefix  = "nabat.presence."
	EventPrefix     = "nabat.event." // before kind, and room or node
	StreamEvents    = "NABAT_EVENTS"
	HeaderSeen      = "Nabat-Seen" // <epoch hex>.<loop>.<number>: what the caller has reported
)
