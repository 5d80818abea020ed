package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nabat/control/internal/metrics"
	"nabat/internal/bus"
	"nabat/proto/policy"
)

// pass is one look at everything.
type pass struct {
	*Keeper
	kv       jetstream.KeyValue
	list     *stored
	set      *policy.Set
	revision uint64 // of set
}

func (p *pass) run(ctx context.Context) (err error) {
	if p.list, err = load(ctx, p.kv); err != nil {
		return err
	}
	if p.set, p.revision, err = p.opts.Policies.InForce(ctx); err != nil {
		return err
	}
	if p.revision < p.list.Policies {
		return errAgain // a stale read
	}
	before := len(p.list.Parked)
	p.list.settle(p.set, time.Now(), p.opts.Grace)
	if err := p.name(ctx); err != nil {
		return err
	}
	if err := p.list.save(ctx, p.kv, p.revision); err != nil {
		return err
	}
	for _, r := range p.list.Parked[before:] {
		p.opts.Log.Warn("a stream is parked: no policy uses it; it captures nothing and keeps what it holds until it is deleted by hand",
			"stream", r.Name, "mirror", r.Mirror, "pattern", r.Pattern)
	}
	return p.apply(ctx)
}

// name gives a stream to each policy with history that has none: one that lies
// in NATS and is not in the list (the bucket was lost), or a new one.
func (p *pass) name(ctx context.Context) error {
	for i := range p.set.Rooms {
		pol := &p.set.Rooms[i]
		if pol.History == nil || p.list.Streams[pol.Match] != nil {
			continue
		}
		subj, err := filter(p.opts.Prefix, pol.Match)
		if err != nil {
			return err
		}
		found, err := p.overlapping(ctx, subj)
		if err != nil {
			return err
		}
		for _, info := range found {
			pattern, epoch := info.Config.Metadata[metaPattern], info.Config.Metadata[metaEpoch]
			if pattern == "" || epoch == "" || p.list.knows(info.Config.Name) {
				continue
			}
			name := info.Config.Name
			r := &record{Pattern: pattern, Created: info.Created, Stream: policy.Stream{Name: name, Mirror: name + bus.MirrorSuffix, Epoch: epoch}}
			if pattern == pol.Match && slices.Equal(info.Config.Subjects, []string{subj}) && p.list.Streams[pattern] == nil {
				p.list.Streams[pattern] = r // it has captured all the time
			} else {
				p.list.park(r, time.Now())
			}
		}
		if p.list.Streams[pol.Match] == nil {
			p.list.Streams[pol.Match] = newRecord(pol.Match)
		}
	}
	return nil
}

// overlapping returns the streams that capture a part of subj. It asks for names
// first: a list with all details waits for streams that have no leader yet.
func (p *pass) overlapping(ctx context.Context, subj string) ([]*jetstream.StreamInfo, error) {
	var found []*jetstream.StreamInfo
	list := p.opts.JetStream.StreamNames(ctx, jetstream.WithStreamListSubject(subj))
	var names []string
	for name := range list.Name() {
		names = append(names, name)
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list streams that capture %s: %w", subj, err)
	}
	for _, name := range names {
		info, err := p.info(ctx, name)
		if err != nil {
			return nil, err
		}
		if info != nil {
			found = append(found, info)
		}
	}
	return found, nil
}

// apply makes NATS obey the list, parked streams first: they hold subjects that
// others wait for.
func (p *pass) apply(ctx context.Context) error {
	var problems []error
	states := make(map[string]int)
	for _, r := range slices.Clone(p.list.Parked) {
		gone, err := p.parked(ctx, r)
		if err != nil {
			problems = append(problems, fmt.Errorf("park %s: %w", r.Name, err))
		}
		if gone && time.Since(r.Orphaned) > forgetAfter {
			p.list.Parked = slices.DeleteFunc(p.list.Parked, func(other *record) bool { return other == r })
		}
		states[metrics.StreamParked]++
	}
	lost := false
	for i := range p.set.Rooms {
		pol := &p.set.Rooms[i]
		if pol.History == nil {
			continue
		}
		err := p.active(ctx, pol, p.list.Streams[pol.Match])
		switch {
		case errors.Is(err, errLost):
			r := p.list.Streams[pol.Match]
			p.opts.Log.Warn("a stream is lost: a new one takes its place, under a new epoch; the mirror keeps what it holds until it is deleted by hand",
				"stream", r.Name, "mirror", r.Mirror, "pattern", r.Pattern, "reason", err)
			p.list.park(r, time.Now())
			p.list.Streams[pol.Match] = newRecord(pol.Match)
			lost = true
		case err != nil:
			problems = append(problems, fmt.Errorf("policy %q: %w", pol.Match, err))
			states[metrics.StreamFailed]++
		default:
			states[metrics.StreamReady]++
		}
	}
	if err := p.list.save(ctx, p.kv, p.revision); err != nil {
		return err
	}
	if lost {
		return errAgain
	}
	ready := make(map[string]*policy.Stream)
	for pattern, r := range p.list.Streams {
		if r.Ready {
			ready[pattern] = &r.Stream
		}
		if !r.Orphaned.IsZero() {
			states[metrics.StreamOrphaned]++
		}
	}
	p.opts.Counts.Streams(states)
	return errors.Join(append(problems, p.opts.Policies.Mark(ctx, p.revision, ready))...)
}

// forgetAfter is how long a parked stream that is not there stays in the list:
// another replica may be about to make it.
const forgetAfter = time.Minute

// errLost: what was stored is gone, and offsets begin again.
var errLost = errors.New("offsets would begin again")

// active makes or corrects the stream of a policy and its mirror.
func (p *pass) active(ctx context.Context, pol *policy.Policy, r *record) error {
	want, err := p.streamConfig(pol, r)
	if err != nil {
		return err
	}
	info, err := p.info(ctx, r.Name)
	switch {
	case err != nil:
		return err
	case info == nil && !r.Created.IsZero():
		return fmt.Errorf("stream %s was deleted: %w", r.Name, errLost)
	case info != nil && !r.Created.IsZero() && info.Created.Sub(r.Created).Abs() > time.Second:
		return fmt.Errorf("stream %s was made again by somebody: %w", r.Name, errLost)
	}
	if info, err = p.bring(ctx, info, want); err != nil {
		return p.explain(ctx, err, want.Subjects)
	}
	if r.Created.IsZero() {
		r.Created = info.Created
	}
	if err := p.mirror(ctx, pol, r); err != nil {
		return err
	}
	r.Ready = true
	return nil
}

// mirror makes or corrects the mirror, and waits at first until it follows.
func (p *pass) mirror(ctx context.Context, pol *policy.Policy, r *record) error {
	info, err := p.info(ctx, r.Mirror)
	if err != nil {
		return err
	}
	if info, err = p.bring(ctx, info, mirrorConfig(pol, r)); err != nil {
		return err
	}
	const patience, pause = 3 * time.Second, 20 * time.Millisecond
	deadline := time.Now().Add(patience)
	for {
		switch {
		case info == nil:
			return fmt.Errorf("the mirror %s was deleted", r.Mirror)
		case info.Config.Mirror == nil || info.Config.Mirror.Name != r.Name:
			return fmt.Errorf("stream %s exists and is no mirror of %s: delete it", r.Mirror, r.Name)
		case r.Ready, info.Mirror != nil && info.Mirror.Error == nil && info.Mirror.Active >= 0:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("the mirror %s does not follow its stream", r.Mirror)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		if info, err = p.info(ctx, r.Mirror); err != nil {
			return err
		}
	}
}

// parked takes a stream's subjects away. Its limits stay: what it holds ages as
// it did. It reports whether neither the stream nor its mirror is there.
func (p *pass) parked(ctx context.Context, r *record) (gone bool, err error) {
	info, err := p.info(ctx, r.Name)
	if err != nil {
		return false, err
	}
	if info == nil {
		mirror, err := p.info(ctx, r.Mirror)
		return mirror == nil, err
	}
	next := info.Config
	next.Subjects, next.RePublish = []string{bus.ParkedPrefix + r.Name}, nil
	if info.Config.RePublish == nil && slices.Equal(info.Config.Subjects, next.Subjects) {
		return false, nil
	}
	_, err = p.opts.JetStream.UpdateStream(ctx, next)
	return false, err
}

// Nobody answers for a stream whose leader is not elected yet, not even later:
// it is asked again, with more patience each time.
const (
	firstAnswer = 250 * time.Millisecond
	lastAnswer  = 2 * time.Second
)

// info returns nil when there is no such stream.
func (p *pass) info(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	for wait := firstAnswer; ; wait *= 2 {
		asked, cancel := context.WithTimeout(ctx, wait)
		s, err := p.opts.JetStream.Stream(asked, name)
		cancel()
		switch {
		case err == nil:
			return s.CachedInfo(), nil
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return nil, nil
		case !errors.Is(err, context.DeadlineExceeded) || wait >= lastAnswer || ctx.Err() != nil:
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
	}
}

// unanswered turns silence into another look. When replicas make or change one
// replicated stream at once, the server answers one of them only; the others see
// at the next look what came of it.
func unanswered(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.Join(err, errAgain)
	}
	return err
}

// bring makes a stream that is not there and corrects one that differs.
func (p *pass) bring(ctx context.Context, have *jetstream.StreamInfo, want jetstream.StreamConfig) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, lastAnswer)
	defer cancel()
	if have == nil {
		s, err := p.opts.JetStream.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return nil, fmt.Errorf("stream %s: %w", want.Name, errAgain) // another replica was faster, with other policies
		}
		if err != nil {
			return nil, fmt.Errorf("create stream %s: %w", want.Name, unanswered(err))
		}
		p.opts.Log.Info("stream created", "stream", want.Name, "subjects", want.Subjects)
		return s.CachedInfo(), nil
	}
	next, differed := correct(have.Config, want)
	if len(differed) == 0 {
		return have, nil
	}
	s, err := p.opts.JetStream.UpdateStream(ctx, next)
	if err != nil {
		return nil, fmt.Errorf("correct %s of stream %s: %w", strings.Join(differed, ", "), want.Name, unanswered(err))
	}
	p.opts.Log.Info("stream corrected to what its policy says", "stream", want.Name, "settings", differed)
	return s.CachedInfo(), nil
}

const errCodeSubjectsOverlap jetstream.ErrorCode = 10065

// explain names the stream that is in the way.
func (p *pass) explain(ctx context.Context, err error, subjects []string) error {
	var apiErr *jetstream.APIError
	if !errors.As(err, &apiErr) || apiErr.ErrorCode != errCodeSubjectsOverlap {
		return err
	}
	found, listErr := p.overlapping(ctx, subjects[0])
	if listErr != nil {
		return errors.Join(err, listErr)
	}
	var names []string
	for _, info := range found {
		names = append(names, fmt.Sprintf("%s (%s)", info.Config.Name, strings.Join(info.Config.Subjects, ", ")))
	}
	return fmt.Errorf("%w: %s is captured by %s, and NATS gives a subject to one stream only", err, subjects[0], strings.Join(names, " and "))
}
