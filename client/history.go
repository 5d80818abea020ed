package client

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"nabat/proto/wire"
)

// ErrHistoryChanged ends an iterator whose room's history began anew meanwhile.
var ErrHistoryChanged = errors.New("the room's history began anew while it was read")

// HistoryOption says which part of a room's history is wanted.
type HistoryOption func(*wire.HistoryRequest)

// Limit bounds one page. The server has a bound of its own, which is also the
// default.
func Limit(messages int) HistoryOption {
	return func(h *wire.HistoryRequest) { h.Limit = uint64(max(messages, 0)) }
}

// Before asks for the messages before an offset.
func Before(offset uint64) HistoryOption {
	return func(h *wire.HistoryRequest) { h.Before, h.After, h.IsAfter = offset, 0, false }
}

// After asks for the messages after an offset; 0 is the beginning.
func After(offset uint64) HistoryOption {
	return func(h *wire.HistoryRequest) { h.Before, h.After, h.IsAfter = 0, offset, true }
}

func historyRequest(room string, options []HistoryOption) wire.HistoryRequest {
	h := wire.HistoryRequest{Room: room}
	for _, option := range options {
		option(&h)
	}
	return h
}

// History reads one page of a room's history, oldest first: the newest messages,
// or those before or after an offset. The client need not be in the room.
func (c *Conn) History(ctx context.Context, room string, options ...HistoryOption) (wire.Page, error) {
	return c.page(ctx, historyRequest(room, options))
}

func (c *Conn) page(ctx context.Context, h wire.HistoryRequest) (wire.Page, error) {
	reply, err := c.do(ctx, wire.Command{Verb: wire.History, History: h})
	if err != nil {
		return wire.Page{}, err
	}
	page := reply.History
	if page == nil {
		return wire.Page{}, reply.unexpected(wire.History)
	}
	for _, m := range page.Messages {
		m.Epoch = page.Epoch
	}
	return *page, nil
}

// Messages goes through a room's history, page by page as it is read: forwards
// from the beginning or After an offset, backwards (newest first) with Before.
// An error is the last that it yields.
func (c *Conn) Messages(ctx context.Context, room string, options ...HistoryOption) iter.Seq2[*wire.Message, error] {
	return messages(ctx, c.page, historyRequest(room, options))
}

func messages(ctx context.Context, read func(context.Context, wire.HistoryRequest) (wire.Page, error), h wire.HistoryRequest) iter.Seq2[*wire.Message, error] {
	return func(yield func(*wire.Message, error) bool) {
		h, epoch := h, ""
		if h.Before == 0 {
			h.IsAfter = true
		}
		for {
			page, err := read(ctx, h)
			switch {
			case err != nil:
			case epoch != "" && page.Epoch != epoch:
				err = ErrHistoryChanged
			case page.More && len(page.Messages) == 0:
				err = fmt.Errorf("history of %s: the server has more, and does not show it", h.Room)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			epoch = page.Epoch
			for i := range page.Messages {
				m := page.Messages[i]
				if h.IsAfter {
					h.After = m.Offset
				} else {
					m = page.Messages[len(page.Messages)-1-i]
					h.Before = m.Offset
				}
				if !yield(m, nil) {
					return
				}
			}
			if !page.More {
				return
			}
		}
	}
}
