package floor

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"

	"nabat/loadtest/certificate"
)

// ServeTLS is the floor of a handshake with TLS: crypto/tls, which no server in
// Go can do without, one read and one write. It sends no messages. It tells its
// address on standard output and ends with standard input.
func ServeTLS() error {
	chain, key, err := certificate.New()
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer listener.Close()
	out := bufio.NewWriter(os.Stdout)
	if err := json.NewEncoder(out).Encode(told{Listening: listener.Addr().String()}); err != nil {
		return fmt.Errorf("standard output: %w", err)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("standard output: %w", err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	go func() { // ends with the listener, at the end of the process
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go greet(tls.Server(conn, config))
		}
	}()
	_, err = io.Copy(io.Discard, os.Stdin) // its end is the signal
	return err
}

// greet answers the first bytes and waits for the end of the connection.
func greet(conn *tls.Conn) {
	defer conn.Close()
	buffer := make([]byte, 1024)
	if _, err := conn.Read(buffer); err != nil {
		return
	}
	if _, err := io.WriteString(conn, switching); err != nil {
		return
	}
	_, _ = conn.Read(buffer) // until the client is gone
}
