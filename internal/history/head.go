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
	r.heads.Add(1)
	go func() { done(r.head(stream)) }() // ends by its timeout, or with the connection
}

func (r *Reader) head(stream string) (uint64, error) {
	m, err := r.nc.Request("$JS.API.STREAM.INFO."+stream, nil, r.opts.Timeout)
	if err != nil {
		if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) || !r.nc.IsConnected() {
			return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return 0, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	var info struct {
		State struct {
			LastSeq uint64 `json:"last_seq"`
		} `json:"state"`
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &info); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if info.Error != nil {
		return 0, fmt.Errorf("%w: %s", ErrUnavailable, info.Error.Description)
	}
	return info.State.LastSeq, nil
}
