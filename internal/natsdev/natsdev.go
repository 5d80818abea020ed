// Package natsdev runs a NATS server inside the process: with JetStream and no
// configuration for development and for tests, and by a configuration file as
// nats-server does. It is the only importer of nats-server.
package natsdev

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Options of a development server.
type Options struct {
	// Listen is host:port; port 0 picks a free one. Default 127.0.0.1:0.
	Listen string
	// Dir is where JetStream stores. Empty: a temporary folder that Shutdown
	// removes.
	Dir string
	// MaxPayload is the largest message in bytes. Default 1 MiB.
	MaxPayload int32

	// Of a server in a cluster.
	name    string
	cluster string   // where it listens for routes, host:port
	routes  []string // where all do
}

// Server is a running NATS server.
type Server struct {
	opts   Options
	server *server.Server
	url    string
	own    bool // Dir is temporary
}

// Start runs a server and returns when it accepts connections.
func Start(opts Options) (*Server, error) {
	if opts.Listen == "" {
		opts.Listen = "127.0.0.1:0"
	}
	s := &Server{opts: opts}
	if opts.Dir == "" {
		dir, err := os.MkdirTemp("", "nabat-nats-")
		if err != nil {
			return nil, fmt.Errorf("temporary folder for JetStream: %w", err)
		}
		s.opts.Dir, s.own = dir, true
	}
	if err := s.start(); err != nil {
		s.clean()
		return nil, err
	}
	return s, nil
}

func (s *Server) start() error {
	host, portText, err := net.SplitHostPort(s.opts.Listen)
	if err != nil {
		return fmt.Errorf("NATS address %q: %w", s.opts.Listen, err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil || port < 0 || port > 65535 {
		return fmt.Errorf("NATS address %q: the port is not a number from 0 to 65535", s.opts.Listen)
	}
	// The server itself reports a taken port only in its log.
	probe, err := net.Listen("tcp", s.opts.Listen)
	if err != nil {
		return fmt.Errorf("NATS on %s: %w", s.opts.Listen, err)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	if err := probe.Close(); err != nil {
		return fmt.Errorf("NATS on %s: %w", s.opts.Listen, err)
	}
	options := &server.Options{
		ServerName: "nabat-dev", Host: host, Port: port, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: s.opts.Dir, JetStreamMaxMemory: 256 << 20, JetStreamMaxStore: 1 << 40,
		MaxPayload: s.opts.MaxPayload, WriteDeadline: 10 * time.Second, DisableJetStreamBanner: true,
		LameDuckDuration: 2 * time.Second, LameDuckGracePeriod: time.Second,
	}
	if err := s.opts.join(options); err != nil {
		return err
	}
	ns, err := server.NewServer(options)
	if err != nil {
		return fmt.Errorf("NATS on %s: %w", s.opts.Listen, err)
	}
	ns.Start()
	if !ns.ReadyForConnections(20 * time.Second) {
		ns.Shutdown()
		ns.WaitForShutdown()
		return errors.New("NATS on " + s.opts.Listen + " was not ready in 20 s")
	}
	s.server, s.url = ns, ns.ClientURL()
	s.opts.Listen = ns.Addr().String() // so that Restart takes the same port
	return nil
}

// URL is where clients connect.
func (s *Server) URL() string { return s.url }

// Stop ends the server; Restart goes on where it stopped.
func (s *Server) Stop() {
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

// LameDuck ends the server as an operator does: clients are told first and moved
// away over a few seconds, and it leads nothing any more.
func (s *Server) LameDuck() {
	s.server.LameDuckShutdown()
	s.server.WaitForShutdown()
}

// Restart runs the server again on the same port and with the same store.
func (s *Server) Restart() error { return s.start() }

// Shutdown ends the server and removes a temporary store.
func (s *Server) Shutdown() {
	s.Stop()
	s.clean()
}

func (s *Server) clean() {
	if s.own {
		// What cannot be removed stays for the system to clean.
		_ = os.RemoveAll(s.opts.Dir)
	}
}
