package streams

import (
	"crypto/rand"
	"encoding/binary"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/bus"
	"nabat/proto/policy"
	"nabat/proto/subject"
)

// Metadata that a stream and its mirror carry.
const (
	metaPattern = "nabat.pattern"
	metaEpoch   = "nabat.epoch"
)

// duplicateWindow is how long a message id is remembered. A stream whose
// messages live shorter forgets with them.
const duplicateWindow = 2 * time.Minute

// newRecord invents a stream for a pattern. The name carries the epoch, because
// a stream that is made again begins at offset 1 under its old name.
func newRecord(pattern string) *record {
	epoch := newEpoch()
	name := bus.StreamPrefix + slug(pattern) + "_" + epoch
	return &record{Pattern: pattern, Stream: policy.Stream{Name: name, Mirror: name + bus.MirrorSuffix, Epoch: epoch}}
}

func newEpoch() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	const sevenDigits = 36 * 36 * 36 * 36 * 36 * 36 * 36
	return strconv.FormatUint(binary.LittleEndian.Uint64(b[:])%sevenDigits, 36)
}

// slug is the part of a stream's name that a person recognizes. It need not be
// unique.
func slug(pattern string) string {
	if pattern == policy.Default {
		return "all"
	}
	const most = 32
	b := []byte(strings.TrimSuffix(pattern, ".>"))
	b = b[:min(len(b), most)]
	for i, c := range b {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			b[i] = '-'
		}
	}
	return string(b)
}

// filter is the subject that captures the rooms of a pattern: a room or
// <prefix>.>, encoded as rooms are.
func filter(prefix, pattern string) (string, error) {
	if pattern == policy.Default {
		return prefix + ">", nil
	}
	literal, wild := strings.CutSuffix(pattern, ".>")
	subj, err := subject.Encode(prefix, literal)
	if err == nil && wild {
		subj += ".>"
	}
	return subj, err
}

// streamConfig is what control wants of the stream of a policy. Zero fields are
// the operator's: placement, compression and the like.
func (k *Keeper) streamConfig(p *policy.Policy, r *record) (jetstream.StreamConfig, error) {
	subj, err := filter(k.opts.Prefix, p.Match)
	if err != nil {
		return jetstream.StreamConfig{}, err
	}
	cfg := limits(p.History)
	cfg.Name, cfg.Subjects, cfg.Metadata = r.Name, []string{subj}, r.metadata()
	cfg.Description = "Nabat: messages of rooms under " + p.Match
	cfg.Duplicates = duplicateWindow
	if cfg.MaxAge > 0 {
		cfg.Duplicates = min(cfg.Duplicates, cfg.MaxAge)
	}
	// partition without tokens hashes the whole subject, as subject.Shard does.
	cfg.RePublish = &jetstream.RePublish{Source: subj, Destination: k.opts.Live + "{{partition(" + strconv.Itoa(subject.Shards) + ")}}." +
		strings.TrimPrefix(subj, k.opts.Prefix)}
	return cfg, nil
}

// mirrorConfig is what control wants of the mirror. It has the limits of the
// stream, because a mirror does not follow what limits remove from its origin.
// The server turns mirror_direct on wherever the origin allows direct reads: who
// reads by the mirror's name is still answered by the mirror alone.
func mirrorConfig(p *policy.Policy, r *record) jetstream.StreamConfig {
	cfg := limits(p.History)
	cfg.Name, cfg.Metadata = r.Mirror, r.metadata()
	cfg.Description = "Nabat: answers reads of history under " + p.Match
	cfg.Mirror = &jetstream.StreamSource{Name: r.Name}
	return cfg
}

func (r *record) metadata() map[string]string {
	return map[string]string{metaPattern: r.Pattern, metaEpoch: r.Epoch}
}

// limits are the settings that a stream and its mirror share. Rollup, expiry of
// single messages and schedules stay off: with them any publisher could remove
// what others sent.
func limits(h *policy.History) jetstream.StreamConfig {
	cfg := jetstream.StreamConfig{Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld,
		MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: -1, MaxAge: h.Age, Replicas: max(h.Replicas, 1), AllowDirect: true}
	if h.Messages > 0 {
		cfg.MaxMsgsPerSubject = int64(h.Messages)
	}
	if h.Bytes > 0 {
		cfg.MaxBytes = h.Bytes
	}
	return cfg
}

// correct overlays what control wants on what a stream has, and names the
// settings that differed. What control does not care for stays as it is.
func correct(have, want jetstream.StreamConfig) (next jetstream.StreamConfig, differed []string) {
	next = have
	note := func(name string, same bool) {
		if !same {
			differed = append(differed, name)
		}
	}
	note("subjects", len(have.Subjects) == len(want.Subjects) && strings.Join(have.Subjects, " ") == strings.Join(want.Subjects, " "))
	note("republish", reflect.DeepEqual(have.RePublish, want.RePublish))
	note("subject_transform", have.SubjectTransform == nil)
	note("retention", have.Retention == want.Retention)
	note("discard", have.Discard == want.Discard && !have.DiscardNewPerSubject)
	note("max_msgs", have.MaxMsgs == want.MaxMsgs)
	note("max_bytes", have.MaxBytes == want.MaxBytes)
	note("max_age", have.MaxAge == want.MaxAge)
	note("max_msgs_per_subject", have.MaxMsgsPerSubject == want.MaxMsgsPerSubject)
	note("num_replicas", have.Replicas == want.Replicas)
	note("duplicate_window", have.Duplicates == want.Duplicates)
	note("no_ack", !have.NoAck)
	note("sealed", !have.Sealed)
	note("deny_purge", !have.DenyPurge)
	note("allow_direct", have.AllowDirect)
	note("allow_rollup_hdrs", !have.AllowRollup)
	note("allow_msg_ttl", !have.AllowMsgTTL && have.SubjectDeleteMarkerTTL == 0)
	note("allow_msg_schedules", !have.AllowMsgSchedules)
	note("allow_msg_counter", !have.AllowMsgCounter)
	note("metadata", have.Metadata[metaPattern] == want.Metadata[metaPattern] && have.Metadata[metaEpoch] == want.Metadata[metaEpoch])

	next.Subjects, next.RePublish, next.SubjectTransform = want.Subjects, want.RePublish, nil
	next.Retention, next.Discard, next.DiscardNewPerSubject = want.Retention, want.Discard, false
	next.MaxMsgs, next.MaxBytes, next.MaxAge = want.MaxMsgs, want.MaxBytes, want.MaxAge
	next.MaxMsgsPerSubject, next.Replicas, next.Duplicates = want.MaxMsgsPerSubject, want.Replicas, want.Duplicates
	next.NoAck, next.Sealed, next.DenyPurge, next.AllowDirect, next.AllowRollup = false, false, false, true, false
	next.AllowMsgTTL, next.SubjectDeleteMarkerTTL, next.AllowMsgSchedules, next.AllowMsgCounter = false, 0, false, false
	next.Metadata = make(map[string]string)
	for key, value := range have.Metadata {
		next.Metadata[key] = value
	}
	for key, value := range want.Metadata {
		next.Metadata[key] = value
	}
	return next, differed
}
