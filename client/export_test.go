package client

import "time"

// SetAudit makes lists of members that are begun from now on ask for the counts more
// often.
func SetAudit(every time.Duration) (restore func()) {
	before := auditEvery
	auditEvery = every
	return func() { auditEvery = before }
}
