package edge

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"nabat/edge/internal/listen"
	"nabat/edge/internal/tlsconn"
)

// ListenError says which address could not be had.
type ListenError struct {
	Setting string // such as tls_listen
	Address string
	Err     error
}

func (e *ListenError) Error() string { return e.Err.Error() }

// Unwrap returns what the system said.
func (e *ListenError) Unwrap() error { return e.Err }

func (c *Config) files() tlsconn.Files {
	return tlsconn.Files{Certificate: c.TLSCert, Key: c.TLSKey}
}

// checkTLS finds what would keep TLS from working, down to the files.
func (c *Config) checkTLS() error {
	if _, err := tlsconn.ParseVersion(c.TLSMinVersion); err != nil {
		return fmt.Errorf("tls_min_version is %w", err)
	}
	switch files := c.files(); {
	case (files.Certificate == "") != (files.Key == ""):
		return errors.New("tls_cert and tls_key belong together: give both, or none")
	case files.Certificate == "" && c.TLSListen == "":
		return nil
	case files.Certificate == "":
		return errors.New("tls_listen needs a certificate: give tls_cert and tls_key, or put a TLS proxy before listen")
	case c.TLSListen == "":
		return errors.New("tls_cert is given and tls_listen is empty: give the address for wss and https, such as :8443")
	}
	_, err := c.files().Load()
	return err
}

// Certificate describes the certificate that the node would use, in words; it
// is empty without TLS.
func (c *Config) Certificate() (string, error) {
	if c.TLSCert == "" {
		return "", nil
	}
	return c.files().Load()
}

// sockets are the listening sockets of one loop, −1 for none.
type sockets struct{ plain, secure int }

// listen opens the sockets of all loops.
func (e *Edge) listen() ([]sockets, error) {
	list := make([]sockets, e.cfg.Loops)
	for i := range list {
		list[i] = sockets{-1, -1}
	}
	options := e.cfg.socketOptions()
	if e.cfg.Listen != "" {
		fds, bound, err := listen.Sockets(e.cfg.Listen, e.cfg.Loops, options)
		if err != nil {
			return nil, &ListenError{"listen", e.cfg.Listen, err}
		}
		e.address = bound
		for i, fd := range fds {
			list[i].plain = fd
		}
	}
	if e.cfg.TLSListen == "" {
		return list, nil
	}
	var err error
	if e.tls, err = tlsconn.NewServer(e.cfg.files(), e.cfg.TLSMinVersion, e.log); err == nil {
		var fds []int
		if fds, e.secure, err = listen.Sockets(e.cfg.TLSListen, e.cfg.Loops, options); err != nil {
			err = &ListenError{"tls_listen", e.cfg.TLSListen, err}
		}
		for i, fd := range fds {
			list[i].secure = fd
		}
	}
	if err != nil {
		for _, s := range list {
			if s.plain >= 0 {
				_ = unix.Close(s.plain)
			}
		}
		return nil, err
	}
	return list, nil
}

// Expires implements metrics.Source.
func (e *Edge) Expires() float64 {
	if e.tls == nil {
		return 0
	}
	return float64(e.tls.Expires().Unix())
}

// open makes the acceptors of a loop.
func (w *worker) open(s sockets, limits listen.Limits) {
	if s.plain >= 0 {
		w.doors = append(w.doors, listen.NewAcceptor(w.loop, s.plain, (*router)(w), limits, w.counts))
	}
	if s.secure >= 0 {
		c := &w.edge.cfg
		w.engine = tlsconn.NewEngine(w.edge.tls, max(c.MaxTLSHandshakes/c.Loops, 1), w.loop.Post, w.loop.Now, w.counts)
		door := listen.NewAcceptor(w.loop, s.secure, (*router)(w), limits, w.counts)
		door.Secure(w.engine)
		w.doors = append(w.doors, door)
	}
}

// accept lets clients in.
func (w *worker) accept() error {
	for _, door := range w.doors {
		if err := door.Start(); err != nil {
			return err
		}
	}
	return nil
}

// shut closes the listening sockets.
func (w *worker) shut() {
	for _, door := range w.doors {
		door.Stop()
	}
}

// stop is the end of what the loop would not end itself.
func (w *worker) stop() {
	w.shut()
	if w.engine != nil {
		w.engine.Stop()
	}
}
