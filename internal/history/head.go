package history

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
)

// Head asks the stream's leader for the sequence of its newest message, 0 when
// it never had one. Direct Get may be answered by a copy that is behind: who has
// seen Head first knows how far an answer must reach. done is called once, from
// another goroutine. Safe from any goroutine; never blocks.
func (r *Reader) Head(stream string, done func(last uint64, err error)) {
	r.Ends(stream, func(_, last uint64, err error) { done(last, err) })
}

// Ends is Head with the sequence of the oldest message, too: the one above last
// when there is none, 0 when there never was.
func (r *Reader) Ends(stream string, done func(first, last uint64, err error)) {
	r.heads.Add(1)
	go func() { done(r.ends(stream)) }() // ends by its timeout, or with the connection
}

func (r *Reader) ends(stream string) (first, last uint64, err error) {
	m, err := r.nc.Request("$JS.API.STREAM.INFO."+stream, nil, r.opts.Timeout)
	if err != nil {
		if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) || !r.nc.IsConnected() {
			return 0, 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return 0, 0, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	var info struct {
		State struct {
			FirstSeq uint64 `json:"first_seq"`
			LastSeq  uint64 `json:"last_seq"`
		} `json:"state"`
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &info); err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if info.Error != nil {
		return 0, 0, fmt.Errorf("%w: %s", ErrUnavailable, info.Error.Description)
	}
	return info.State.FirstSeq, info.State.LastSeq, nil
}
