// Package control is the service that decides: it makes keys and tokens,
// publishes policies to the edges, and answers the API over NATS and HTTP. What
// it knows lies in NATS: any number of replicas may run, and none has anything
// to lose.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"nabat/control/internal/api"
	"nabat/control/internal/apikeys"
	"nabat/control/internal/archive"
	"nabat/control/internal/balance"
	"nabat/control/internal/blocks"
	"nabat/control/internal/console"
	"nabat/control/internal/events"
	"nabat/control/internal/issuers"
	"nabat/control/internal/metrics"
	"nabat/control/internal/nodes"
	"nabat/control/internal/orders"
	"nabat/control/internal/policies"
	"nabat/control/internal/streams"
	"nabat/control/internal/tokens"
	"nabat/internal/bus"
	"nabat/internal/history"
	"nabat/proto/policy"
)

// Control is one replica.
type Control struct {
	// Set at creation, never changed.
	cfg      Config
	log      *slog.Logger
	nc       *nats.Conn
	reports  *nats.Conn // a connection of its own: nodes report a lot when many clients come at once
	recovery *nats.Conn // history is read on a connection of its own
	js       jetstream.JetStream
	history  *history.Reader
	keys     *apikeys.Store
	balance  *balance.Balancer
	listener net.Listener
	tokens   *tokens.Issuer
	blocks   *blocks.Keeper
	issuers  *issuers.Keeper
	policies *policies.Publisher
	streams  *streams.Keeper
	nodes    *nodes.Keeper
	events   *events.Speaker
	api      *api.API
	http     http.Server

	state atomic.Pointer[error] // why it is not ready; points to nil when it is
}

// New opens the listening socket and connects to NATS. A nil registry serves no
// metrics. Call Run to serve.
func New(cfg Config, log *slog.Logger, reg *prometheus.Registry) (*Control, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	key, err := cfg.apiKey()
	if err != nil {
		return nil, err
	}
	if key == "" {
		log.Info("the HTTP API is open to every program on this machine: development only", "address", cfg.Listen)
	}
	initial, err := LoadPolicies(cfg.Policies, cfg.Dev)
	if err != nil {
		return nil, err
	}
	others, err := issuers.ReadFile(cfg.Issuers)
	if err != nil {
		return nil, err
	}
	if others.Has(cfg.Issuer) {
		return nil, fmt.Errorf("issuers: %q is control's own issuer: its tokens are verified with the cluster's keys", cfg.Issuer)
	}
	c := &Control{cfg: cfg, log: log}
	starting := errors.New("control: starting")
	c.state.Store(&starting)
	if c.listener, err = net.Listen("tcp", cfg.Listen); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", cfg.Listen, err)
	}
	if err := c.open(key, initial, others, reg); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *Control) open(key string, initial *policy.Set, others *issuers.Config, reg *prometheus.Registry) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	connect := func(name string) (*nats.Conn, error) {
		return bus.Connect(ctx, bus.Options{URL: c.cfg.NATSURL, Credentials: c.cfg.NATSCredentials, Token: c.cfg.NATSToken,
			NKey: c.cfg.NATSNKey, Inbox: c.cfg.NATSInbox, Name: name, Log: c.log})
	}
	if c.nc, err = connect("nabat-control"); err != nil {
		return err
	}
	if c.recovery, err = connect("nabat-control history"); err != nil {
		return err
	}
	if c.history, err = history.New(c.recovery, history.Options{Log: c.log}); err != nil {
		return err
	}
	if c.js, err = jetstream.New(c.nc); err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	counts := metrics.New()
	if reg != nil {
		if err := counts.Register(reg); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
	}
	c.tokens = tokens.New(tokens.Options{TTL: c.cfg.TokenTTL, MaxTTL: c.cfg.MaxTokenTTL, Issuer: c.cfg.Issuer, Audience: c.cfg.Audience,
		KeyAge: c.cfg.KeyAge, KeyLead: c.cfg.KeyLead, Log: c.log})
	c.blocks = blocks.New(blocks.Options{Keep: c.cfg.MaxTokenTTL, Log: c.log})
	c.issuers = issuers.New(issuers.Options{Config: others, File: c.cfg.Issuers, Counts: counts, Log: c.log})
	c.policies = policies.New(initial, c.log)
	c.streams = streams.New(streams.Options{JetStream: c.js, Policies: c.policies, Prefix: c.cfg.SubjectPrefix, Live: c.cfg.LivePrefix,
		Interval: c.cfg.StreamVerify, Grace: c.cfg.StreamGrace, Counts: counts, Log: c.log})
	if err := c.observe(ctx, counts); err != nil {
		return err
	}
	c.openAPI(key, counts)
	pages := http.NewServeMux()
	pages.Handle("/v1/", c.api.HTTP())
	pages.Handle("/openapi.yaml", c.api.HTTP())
	pages.Handle("/", console.Handler(console.Options{EdgeURL: c.cfg.EdgeURL}))
	c.http = http.Server{Handler: pages, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(c.log.Handler(), slog.LevelDebug)}
	c.http.RegisterOnShutdown(c.api.Close)
	return nil
}

// openAPI wires the API and what only it uses.
func (c *Control) openAPI(key string, counts *metrics.Counts) {
	sender := orders.New(orders.Options{NATS: c.nc, Nodes: orders.NewLeases(c.js)})
	c.keys = apikeys.New(c.js)
	c.balance = balance.New(sender, c.js, c.log)
	o := api.Options{Tokens: c.tokens, Blocks: c.blocks, Policies: c.policies, NATS: c.nc, JetStream: c.js, Picture: c.nodes, Archive: archive.New(c.history, c.policies, c.cfg.SubjectPrefix),
		Streams: c.streams, Orders: sender, Balance: c.balance, Prefix: c.cfg.SubjectPrefix, Keys: c.keys, Open: key == "", Counts: counts, Log: c.log}
	if key != "" {
		o.Bootstrap = apikeys.NewBootstrap(key)
	}
	c.api = api.New(o)
}

// LoadPolicies reads a policy file; without one the set is open in development
// and closed otherwise.
func LoadPolicies(file string, dev bool) (*policy.Set, error) {
	switch {
	case file != "":
		return policies.ReadFile(file)
	case dev:
		return policy.Dev(), nil
	}
	return policy.Production(), nil
}

// Run serves until ctx ends, then answers what it began and returns nil.
func (c *Control) Run(ctx context.Context) error {
	defer c.close()
	inner, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	service, err := c.api.Serve()
	if err != nil {
		return err
	}
	// An error here means that NATS is gone, and the service with it.
	defer func() { _ = service.Stop() }()
	wg.Go(func() { c.history.Run(inner) })
	wg.Go(func() { c.keys.Run(inner) })
	wg.Go(func() { c.balance.Run(inner) })
	watched := make(chan error, 1)
	wg.Go(func() { watched <- c.nodes.Run(inner) })
	wg.Go(func() { c.events.Run(inner) })
	wg.Go(func() {
		if c.prepare(inner) {
			wg.Go(func() { c.streams.Run(inner) })
			wg.Go(func() { c.tokens.Run(inner, c.js) })
			wg.Go(func() { c.blocks.Run(inner) })
			wg.Go(func() { c.issuers.Run(inner) })
			c.follow(inner)
		}
	})
	served := make(chan error, 1)
	go func() { served <- c.http.Serve(c.listener) }()
	c.log.Info("control serves", "address", c.Addr())
	select {
	case err := <-served:
		return fmt.Errorf("serve HTTP: %w", err)
	case err := <-watched:
		if ctx.Err() == nil {
			return fmt.Errorf("presence: %w", err)
		}
	case <-ctx.Done():
	}
	grace, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer done()
	if err := c.http.Shutdown(grace); err != nil {
		_ = c.http.Close()
	}
	return nil
}

// prepare puts keys and policies where the edges find them, trying until it
// succeeds or ctx ends.
func (c *Control) prepare(ctx context.Context) bool {
	for {
		err := c.publish(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		problem := fmt.Errorf("control: %w", err)
		c.state.Store(&problem)
		c.log.Warn("keys and policies are not published yet", "error", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// follow says that control is ready and follows the policy file.
func (c *Control) follow(ctx context.Context) {
	c.state.Store(new(error))
	if c.cfg.Policies != "" {
		c.policies.Follow(ctx, c.cfg.Policies)
	}
}

func (c *Control) publish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	config, err := bus.EnsureBucket(ctx, c.js, bus.BucketConfig, "Nabat: policies and public keys", c.cfg.Replicas)
	if err != nil {
		return err
	}
	secrets, err := bus.EnsureBucket(ctx, c.js, bus.BucketKeys, "Nabat: secret keys", c.cfg.Replicas)
	if err != nil {
		return err
	}
	// Edges serve nobody before they have read this one: it comes first.
	blocked, err := bus.EnsureBucket(ctx, c.js, bus.BucketBlocks, "Nabat: revoked tokens and blocked users", c.cfg.Replicas)
	if err != nil {
		return err
	}
	c.blocks.Prepare(blocked)
	if err := c.issuers.Publish(ctx, secrets); err != nil {
		return err
	}
	if err := c.tokens.Prepare(ctx, config, secrets); err != nil {
		return err
	}
	return c.policies.Publish(ctx, config)
}

// Ready says why the service should not be asked, nil when it should. Safe from
// any goroutine.
func (c *Control) Ready() error {
	if err := *c.state.Load(); err != nil {
		return err
	}
	if !c.nc.IsConnected() {
		return errors.New("control: NATS is not connected")
	}
	for _, err := range []error{c.streams.Ready(), c.nodes.Ready(), c.events.Ready()} {
		if err != nil {
			return fmt.Errorf("control: %w", err)
		}
	}
	return nil
}

// Addr is the address of the HTTP API, host:port.
func (c *Control) Addr() string { return c.listener.Addr().String() }

func (c *Control) close() {
	_ = c.listener.Close()
	for _, nc := range []*nats.Conn{c.nc, c.recovery, c.reports} {
		if nc != nil {
			nc.Close()
		}
	}
}
