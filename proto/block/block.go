// Package block is what takes access away from tokens and users that would have
// it: entries of the bucket NABAT_BLOCKS. Control writes them, edges obey them.
package block

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Kind says what an entry is about. It begins the entry's key in the bucket.
type Kind string

// The kinds.
const (
	Token  Kind = "token"  // one token, by its id
	User   Kind = "user"   // whatever a user shows
	Issued Kind = "issued" // a user's tokens that were issued before a time
)

// MaxSubject bounds a token id and a user's name.
const MaxSubject = 1024

// Entry is one revocation or block. Times are unix seconds.
type Entry struct {
	Kind    Kind   `json:"kind"`
	Subject string `json:"subject"`          // the token's id (jti), or the user (sub)
	Before  int64  `json:"before,omitempty"` // of Issued: the tokens issued before
	Created int64  `json:"created"`
	// Until is when the entry loses its force: there is no such token any more, or
	// the block is over. 0: never.
	Until  int64  `json:"until,omitempty"`
	Reason string `json:"reason,omitempty"` // for operators; clients do not see it
}

// Check reports what is wrong with the entry.
func (e *Entry) Check() error {
	switch {
	case e.Kind != Token && e.Kind != User && e.Kind != Issued:
		return fmt.Errorf("kind %q is not known", e.Kind)
	case e.Subject == "":
		return errors.New("the subject is empty")
	case len(e.Subject) > MaxSubject:
		return fmt.Errorf("the subject has %d bytes: at most %d", len(e.Subject), MaxSubject)
	case (e.Kind == Issued) != (e.Before > 0):
		return errors.New("before belongs to entries of kind issued, and to no others")
	case e.Until < 0:
		return errors.New("until is negative")
	}
	return nil
}

// Over reports whether the entry has lost its force.
func (e *Entry) Over(now time.Time) bool { return e.Until != 0 && now.Unix() >= e.Until }

// Key is the entry's key in the bucket: the kind and a digest of the subject,
// which may hold what a key must not.
func (e *Entry) Key() string { return Key(e.Kind, e.Subject) }

// Key is the key of the entry about a subject.
func Key(kind Kind, subject string) string {
	sum := sha256.Sum256([]byte(subject))
	return string(kind) + "." + hex.EncodeToString(sum[:16])
}

// Encode writes the entry.
func (e *Entry) Encode() []byte {
	data, err := json.Marshal(e)
	if err != nil {
		panic("block: " + err.Error()) // texts and numbers always encode
	}
	return data
}

// Decode reads what Encode wrote.
func Decode(data []byte) (*Entry, error) {
	var e Entry
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("block: %w", err)
	}
	if err := e.Check(); err != nil {
		return nil, fmt.Errorf("block: %w", err)
	}
	return &e, nil
}
