package api

import (
	"context"
	"errors"

	"nabat/control/internal/archive"
	"nabat/control/internal/streams"
	"nabat/internal/history"
	"nabat/proto/subject"
)

// messages is the verbs that write into rooms and read what is stored of them.
type messages struct{ *Options }

func (m messages) verbs() []verb {
	return []verb{
		{"publish", scopePublish, "POST", "/v1/publish /v1/rooms/{room}", typed(m.publish)},
		{"publish.batch", scopePublish, "POST", "/v1/publish/batch", typed(m.batch)},
		{"publish.rooms", scopePublish, "POST", "/v1/publish/rooms", typed(m.broadcast)},
		{"history", scopeRead, "GET", "/v1/rooms/{room}/history", typed(m.history)},
		{"history.purge", scopeAdmin, "DELETE", "/v1/rooms/{room}/history", typed(m.purge)},
		{"snapshot", scopeRead, "POST", "/v1/snapshot", typed(m.snapshot)},
	}
}

type historyRequest struct {
	Room   string  `json:"room"`
	Before uint64  `json:"before"`
	After  *uint64 `json:"after"`
	Limit  *int    `json:"limit"`
}

func (r *historyRequest) rooms() []string { return []string{r.Room} }

// defaultLimit is the size of a page whose request names none.
const defaultLimit = 100

func (m messages) history(ctx context.Context, r *historyRequest) (*archive.Page, error) {
	q := archive.Query{Room: r.Room, Before: r.Before, Limit: defaultLimit}
	if r.Limit != nil {
		q.Limit = *r.Limit
	}
	if q.Limit < 1 || q.Limit > archive.MaxLimit {
		return nil, badRequest("limit is %d: must be 1 to %d", q.Limit, archive.MaxLimit)
	}
	if r.After != nil {
		if r.Before != 0 {
			return nil, badRequest("give one of before and after")
		}
		q.After, q.Forwards = *r.After, true
	}
	if err := checkRoom(r.Room); err != nil {
		return nil, err
	}
	page, err := m.Archive.Page(ctx, q)
	return page, archived(err)
}

func checkRoom(room string) error {
	if err := subject.CheckRoom(room); err != nil {
		return refuse(badRoom, "%v", err)
	}
	return nil
}

// archived is an error of the archive as callers are told of it.
func archived(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, archive.ErrNoHistory), errors.Is(err, streams.ErrNoHistory):
		return refuse(noHistory, "%v", err)
	case errors.Is(err, history.ErrUnavailable), errors.Is(err, history.ErrIncomplete), errors.Is(err, history.ErrBusy), errors.Is(err, history.ErrClosed):
		return refuse(unavailable, "%v", err)
	}
	return err
}

type snapshotRequest struct {
	Rooms []string `json:"rooms"`
}

func (r *snapshotRequest) rooms() []string { return r.Rooms }

func (m messages) snapshot(ctx context.Context, r *snapshotRequest) (*archive.Snapshot, error) {
	if n := len(r.Rooms); n < 1 || n > archive.MaxRooms {
		return nil, badRequest("rooms has %d entries: must be 1 to %d", n, archive.MaxRooms)
	}
	for _, room := range r.Rooms {
		if err := checkRoom(room); err != nil {
			return nil, err
		}
	}
	s, err := m.Archive.Newest(ctx, r.Rooms)
	return s, archived(err)
}

type purgeRequest struct {
	Room string `json:"room"`
}

func (r *purgeRequest) rooms() []string { return []string{r.Room} }

type purgeReply struct {
	Room string `json:"room"`
	UpTo uint64 `json:"up_to"` // the last offset that may be gone
}

func (m messages) purge(ctx context.Context, r *purgeRequest) (*purgeReply, error) {
	if err := checkRoom(r.Room); err != nil {
		return nil, err
	}
	upTo, err := m.Streams.Purge(ctx, r.Room)
	if err != nil {
		return nil, archived(err)
	}
	return &purgeReply{r.Room, upTo}, nil
}
