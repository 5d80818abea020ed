package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nabat/client"
	"nabat/proto/wire"
)

func TestSendTakesSoMuchAndNoMore(t *testing.T) {
	k := keep(t, "127.0.0.1:1", client.Options{Outbox: 2}) // where nobody is
	var receipts []*client.Receipt
	for n := range 2 {
		receipt, err := k.Send(t.Context(), wire.Publication{Room: fmt.Sprint(n), Body: []byte("1")})
		if err != nil {
			t.Fatal(err)
		}
		receipts = append(receipts, receipt)
	}
	if _, err := k.Send(t.Context(), wire.Publication{Room: "0"}); !errors.Is(err, client.ErrQueueFull) {
		t.Errorf("one too many: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := k.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("flush of what cannot go: %v", err)
	}
	if _, err := receipts[0].Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a receipt: %v", err)
	}
	k.Close()
	for _, receipt := range receipts {
		if _, err := receipt.Wait(limit(t)); !errors.Is(err, client.ErrClosed) {
			t.Errorf("what was waiting at the end: %v", err)
		}
	}
	if _, err := k.Send(t.Context(), wire.Publication{Room: "0"}); !errors.Is(err, client.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
	if err := k.Flush(limit(t)); err != nil {
		t.Errorf("flush of nothing: %v", err)
	}
}

// The first answer is lost with its connection, the second publication is refused
// for now, the third for good: none comes before the one before it.
func TestSendKeepsTheOrder(t *testing.T) {
	published := make(chan string, 10)
	var dials atomic.Int32
	address := serve(t, func(p *peer) {
		p.connect()
		for refuse := true; ; {
			command := p.read()
			if command == nil {
				return
			}
			var publish struct {
				Data int
				ID   string `json:"message_id"`
			}
			if err := json.Unmarshal(command["publish"], &publish); err != nil || publish.ID == "" {
				t.Errorf("%s: %v", command["publish"], err)
			}
			published <- fmt.Sprint(publish.Data)
			switch {
			case publish.Data == 1 && dials.Add(1) == 1:
				return
			case publish.Data == 2 && refuse:
				refuse = false
				p.send(`{"id":%s,"error":{"code":"rate_limited","reason":"slowly","retry_ms":1}}`, command["id"])
			case publish.Data == 3:
				p.send(`{"id":%s,"error":{"code":"not_allowed","reason":"no","retry_ms":0}}`, command["id"])
			default:
				p.send(`{"id":%s,"published":{"room":"a","epoch":"k3","offset":%d}}`, command["id"], publish.Data)
			}
		}
	})
	k := keep(t, address, client.Options{}) // and nobody reads Events
	body := []byte{0}
	var receipts []*client.Receipt
	for n := range 4 {
		body[0] = byte('1' + n) // it is the caller's again when Send has returned
		receipt, err := k.Send(patience(t), wire.Publication{Room: "a", Body: body})
		if err != nil {
			t.Fatal(err)
		}
		receipts = append(receipts, receipt)
	}
	if err := k.Flush(patience(t)); err != nil {
		t.Fatal(err)
	}
	var outcomes []string
	for _, receipt := range receipts {
		<-receipt.Done()
		at, err := receipt.Wait(limit(t))
		outcomes = append(outcomes, fmt.Sprint(at.Offset, err))
	}
	if diff := cmp.Diff([]string{"1 <nil>", "2 <nil>", "0 not_allowed: no", "4 <nil>"}, outcomes); diff != "" {
		t.Errorf("receipts (-want +got):\n%s", diff)
	}
	close(published)
	var order []string
	for data := range published {
		order = append(order, data)
	}
	if diff := cmp.Diff([]string{"1", "1", "2", "2", "3", "4"}, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestKeeperRenewsItsToken(t *testing.T) {
	renewed := make(chan string, 1)
	address := serve(t, func(p *peer) {
		p.connect()
		p.send(`{"expiring":{"in":1}}`)
		command := p.read()
		renewed <- string(command["auth"])
		p.send(`{"id":%s,"authed":{"user":"alice"}}`, command["id"])
		p.wait()
	})
	var asked atomic.Int32
	k := keep(t, address, client.Options{TokenSource: func(context.Context) (string, error) {
		return fmt.Sprintf("token %d", asked.Add(1)), nil
	}})
	await(t, k, func(e client.Event) *time.Duration {
		if e.Expiring == 0 {
			return nil
		}
		return &e.Expiring
	})
	select {
	case got := <-renewed:
		if got != `{"token":"token 2"}` {
			t.Errorf("renewed with %s", got)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("not renewed")
	}
}
