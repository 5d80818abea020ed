package tlsconn

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// pollInterval is how often the certificate's files are looked at.
const pollInterval = 3 * time.Second

// Files name a certificate chain and its key, in PEM.
type Files struct{ Certificate, Key string }

// Server is TLS for a whole node: its certificate, its settings, its session
// tickets, and the processor time of handshakes. Safe from any goroutine.
type Server struct {
	config      *tls.Config
	files       Files
	first       []byte // what the files held
	log         *slog.Logger
	certificate atomic.Pointer[tls.Certificate]
	processors  chan struct{} // one token for each handshake that computes
}

// NewServer reads the certificate. version is the least that is spoken, as
// ParseVersion takes it.
func NewServer(files Files, version string, log *slog.Logger) (*Server, error) {
	least, err := ParseVersion(version)
	if err != nil {
		return nil, err
	}
	s := &Server{files: files, log: log, processors: make(chan struct{}, max(runtime.GOMAXPROCS(0)-1, 1))}
	pair, both, err := files.load()
	if err != nil {
		return nil, err
	}
	s.first = both
	s.use(pair)
	s.config = &tls.Config{
		MinVersion: least,
		NextProtos: []string{"http/1.1"},
		// One configuration for all certificates: the ticket keys, which change
		// daily by themselves, outlive a renewal.
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.certificate.Load(), nil },
		// A client can use nothing of a message before it is whole.
		DynamicRecordSizingDisabled: true,
	}
	return s, nil
}

// ParseVersion reads "1.2" or "1.3".
func ParseVersion(s string) (uint16, error) {
	switch s {
	case "1.2":
		return tls.VersionTLS12, nil
	case "1.3":
		return tls.VersionTLS13, nil
	}
	return 0, fmt.Errorf("%q is no TLS version that is spoken here: 1.2 or 1.3", s)
}

// Load reads the files and describes the certificate in words.
func (f Files) Load() (string, error) {
	pair, _, err := f.load()
	if err != nil {
		return "", err
	}
	return describe(pair), nil
}

// load returns what the files hold also when it is not usable.
func (f Files) load() (*tls.Certificate, []byte, error) {
	cert, err := os.ReadFile(f.Certificate)
	if err != nil {
		return nil, nil, fmt.Errorf("tls_cert: %w", err)
	}
	key, err := os.ReadFile(f.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("tls_key: %w", err)
	}
	both := bytes.Join([][]byte{cert, key}, []byte{0})
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, both, fmt.Errorf("tls_cert %s and tls_key %s are not usable: %w", f.Certificate, f.Key, err)
	}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) {
		return nil, both, fmt.Errorf("tls_cert %s has expired: it was good until %s", f.Certificate, pair.Leaf.NotAfter.Format(time.RFC3339))
	}
	return &pair, both, nil
}

func (s *Server) use(pair *tls.Certificate) {
	s.certificate.Store(pair)
	s.log.Info("certificate in force", "certificate", describe(pair))
	if _, rsaKey := pair.PrivateKey.(*rsa.PrivateKey); rsaKey {
		s.log.Warn("an RSA key costs four times the processor time of an ECDSA P-256 key at every handshake")
	}
}

// describe is a certificate in words.
func describe(pair *tls.Certificate) string {
	leaf := pair.Leaf
	names := append([]string(nil), leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		names = []string{leaf.Subject.String()}
	}
	key := leaf.PublicKeyAlgorithm.String()
	if public, ok := leaf.PublicKey.(*ecdsa.PublicKey); ok {
		key += " " + public.Curve.Params().Name
	}
	return fmt.Sprintf("%s; %s; until %s", strings.Join(names, ", "), key, leaf.NotAfter.UTC().Format(time.RFC3339))
}

// Expires is the end of the certificate in force.
func (s *Server) Expires() time.Time { return s.certificate.Load().Leaf.NotAfter }

// Follow takes a new certificate whenever the files change or SIGHUP arrives,
// until ctx ends. Connections go on. Files that cannot be used change nothing
// but the log.
func (s *Server) Follow(ctx context.Context) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	r := &reloader{server: s, seen: s.first}
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			r.look(true)
		case <-tick.C:
			r.look(false)
		}
	}
}

// reloader compares the files with what they held.
type reloader struct {
	server *Server
	seen   []byte // what was taken last, or refused with a word in the log
	before []byte // what could not be used at the look before
	quiet  bool   // the files could not be read, and the log says so
}

// look reads the files. A pair is written one file after the other: what does
// not fit is worth a word only when it stays so, or when somebody asked.
func (r *reloader) look(asked bool) {
	pair, both, err := r.server.files.load()
	if pair != nil {
		if !bytes.Equal(both, r.seen) {
			r.server.use(pair)
		}
		r.seen, r.before, r.quiet = both, nil, false
		return
	}
	known := (both == nil && r.quiet) || (both != nil && bytes.Equal(both, r.seen))
	again := r.before != nil && bytes.Equal(both, r.before)
	r.before = append([]byte{}, both...)
	if (known || !again) && !asked {
		return
	}
	r.seen, r.quiet = both, both == nil
	r.server.log.Error("the certificate stays as it was", "error", err)
}
