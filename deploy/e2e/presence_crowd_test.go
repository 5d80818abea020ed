package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/client"
	"nabat/control"
	"nabat/internal/ops"
)

// beControl runs a control replica until it is told to stop.
func beControl(text string) error {
	var cfg control.Config
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	log, err := ops.NewLogger(os.Stderr, cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return err
	}
	registry := ops.NewRegistry()
	c, err := control.New(cfg, log, registry)
	if err != nil {
		return err
	}
	server, err := ops.New(ops.Options{Listen: cfg.OpsListen, Registry: registry, Ready: c.Ready, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	ctx := stopped()
	go func() { _ = server.Run(ctx) }() // it ends with the process
	ready()
	return c.Run(ctx)
}

// crowdPlan is clients that come, go and move between rooms as they are told.
type crowdPlan struct {
	Edges   []string
	NATS    string // where control gives tokens
	First   int    // the number of the first client
	Clients int
	Rooms   int
	Each    int // rooms of a client
	Seed    uint64
}

// crowd is the clients, and where each is: the truth that control is held to.
type crowd struct {
	plan crowdPlan

	mu      sync.Mutex // guards the fields below
	clients []*crowdClient
	rng     *rand.Rand
}

// crowdClient is one client. The crowd's mutex guards what changes.
type crowdClient struct {
	user, token string
	rooms       map[string]bool
	conn        *client.Conn // nil while it is away
}

// beCrowd does what lines tell it.
func beCrowd(text string) error {
	var plan crowdPlan
	if err := json.Unmarshal([]byte(text), &plan); err != nil {
		return err
	}
	c := &crowd{plan: plan, rng: rand.New(rand.NewPCG(plan.Seed, 1))}
	if err := c.tokens(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dialing := make(chan struct{}, 64)
	for _, one := range c.clients {
		go c.live(ctx, one, dialing) // it ends with the process
	}
	lines := bufio.NewScanner(os.Stdin)
	ready()
	for lines.Scan() {
		switch word, rest, _ := strings.Cut(lines.Text(), " "); word {
		case "present":
			fmt.Println("present", c.present())
		case "stir":
			n, _ := strconv.Atoi(rest)
			fmt.Println("stir", c.stir(ctx, n))
		case "truth":
			if err := json.NewEncoder(os.Stdout).Encode(c.truth()); err != nil {
				return err
			}
		}
	}
	return nil
}

// tokens asks control for one of each user. A third of the users have two
// connections, and some clients have no user.
func (c *crowd) tokens() error {
	nc, err := nats.Connect(c.plan.NATS)
	if err != nil {
		return err
	}
	defer nc.Close()
	tokens := make(map[string]string)
	for i := c.plan.First; i < c.plan.First+c.plan.Clients; i++ {
		one := &crowdClient{rooms: make(map[string]bool)}
		if i%10 > 0 {
			one.user = fmt.Sprintf("user-%05d", i*3/4)
		}
		for len(one.rooms) < c.plan.Each {
			one.rooms[fmt.Sprintf("room.%d", c.rng.IntN(c.plan.Rooms))] = true
		}
		if one.user != "" && tokens[one.user] == "" {
			m, err := nc.Request("nabat.api.token.issue", []byte(`{"sub":"`+one.user+`","subscribe":["room.>"],"info":{"name":"`+one.user+`"}}`), 30*time.Second)
			if err != nil {
				return err
			}
			var answer struct{ Token string }
			if err := json.Unmarshal(m.Data, &answer); err != nil || answer.Token == "" {
				return fmt.Errorf("no token: %s", m.Data)
			}
			tokens[one.user] = answer.Token
		}
		one.token = tokens[one.user]
		c.clients = append(c.clients, one)
	}
	return nil
}

// live keeps one client connected to some edge.
func (c *crowd) live(ctx context.Context, one *crowdClient, dialing chan struct{}) {
	for ctx.Err() == nil {
		dialing <- struct{}{}
		c.mu.Lock()
		address := c.plan.Edges[c.rng.IntN(len(c.plan.Edges))]
		var rooms []string
		for room := range one.rooms {
			rooms = append(rooms, room)
		}
		c.mu.Unlock()
		limited, cancel := context.WithTimeout(ctx, 20*time.Second)
		conn, err := client.Dial(limited, address, client.Options{Token: one.token, Rooms: rooms})
		cancel()
		<-dialing
		if err != nil {
			// The edge may be gone: another one next time, and not at once, as clients do.
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
			continue
		}
		c.mu.Lock()
		one.conn = conn
		c.mu.Unlock()
		for range conn.Events() { // until the connection ends
		}
		c.mu.Lock()
		one.conn = nil
		c.mu.Unlock()
	}
}

func (c *crowd) present() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.clients {
		if one.conn != nil && one.conn.Err() == nil {
			n++
		}
	}
	return n
}

// stir makes n clients do something: change a room, or come again.
func (c *crowd) stir(ctx context.Context, n int) (done int) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	places := make(chan struct{}, 32)
	c.mu.Lock()
	order := c.rng.Perm(len(c.clients))[:n]
	c.mu.Unlock()
	for _, i := range order {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			if c.move(ctx, c.clients[i]) {
				mu.Lock()
				done++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return done
}

func (c *crowd) move(ctx context.Context, one *crowdClient) bool {
	c.mu.Lock()
	conn, pick := one.conn, c.rng.IntN(3)
	next := fmt.Sprintf("room.%d", c.rng.IntN(c.plan.Rooms))
	var old string
	for room := range one.rooms {
		old = room
		break
	}
	c.mu.Unlock()
	if conn == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	switch {
	case pick == 0:
		conn.Close() // live dials again
		return true
	case pick == 1 || old == "":
		c.mu.Lock()
		there := one.rooms[next]
		c.mu.Unlock()
		if there {
			return false
		}
		if _, err := conn.Subscribe(ctx, []string{next}); err != nil {
			conn.Close() // whether it is in the room is not known: it comes again
			return false
		}
		c.mu.Lock()
		one.rooms[next] = true
		c.mu.Unlock()
	default:
		if conn.Unsubscribe(ctx, old) != nil {
			conn.Close()
			return false
		}
		c.mu.Lock()
		delete(one.rooms, old)
		c.mu.Unlock()
	}
	return true
}

// roomTruth is who is in a room.
type roomTruth struct {
	Users     map[string]int // connections of each
	Anonymous int
}

func (c *crowd) truth() map[string]*roomTruth {
	c.mu.Lock()
	defer c.mu.Unlock()
	rooms := make(map[string]*roomTruth)
	for i := range c.plan.Rooms {
		rooms[fmt.Sprintf("room.%d", i)] = &roomTruth{Users: make(map[string]int)}
	}
	for _, one := range c.clients {
		if one.conn == nil || one.conn.Err() != nil {
			continue
		}
		for room := range one.rooms {
			if one.user == "" {
				rooms[room].Anonymous++
			} else {
				rooms[room].Users[one.user]++
			}
		}
	}
	return rooms
}
