package listen

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// SocketOptions are set on the listening socket; accepted sockets inherit them
// at no cost of their own. What is 0 is left as the kernel has it.
type SocketOptions struct {
	Backlog      int           // connections the kernel holds until they are accepted
	SendBuffer   int           // SO_SNDBUF, bytes: bounds what a stalled reader costs the kernel
	NotSentLowat int           // TCP_NOTSENT_LOWAT, bytes
	UserTimeout  time.Duration // TCP_USER_TIMEOUT: unacknowledged data older than this ends the connection
	KeepAlive    time.Duration // TCP_KEEPIDLE: silence after which the kernel asks whether the peer is there
}

// Sockets opens n listening sockets on one address, so that each loop accepts
// for itself (SO_REUSEPORT). Port 0 picks a free port once for all.
// A taken port is an error even where SO_REUSEPORT would let us share it: two
// programs on one port would each get half of the clients.
func Sockets(address string, n int, opts SocketOptions) (fds []int, bound netip.AddrPort, err error) {
	sa, domain, err := resolve(address)
	if err != nil {
		return nil, bound, err
	}
	if port(sa) != 0 {
		probe, err := bind(sa, domain, false)
		if err != nil {
			return nil, bound, fmt.Errorf("listen on %s: %w", address, err)
		}
		_ = unix.Close(probe)
	}
	defer func() {
		if err != nil {
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
			fds = nil
		}
	}()
	for range n {
		fd, err := bind(sa, domain, true)
		if err != nil {
			return fds, bound, fmt.Errorf("listen on %s: %w", address, err)
		}
		fds = append(fds, fd)
		if err := apply(fd, opts); err != nil {
			return fds, bound, fmt.Errorf("listen on %s: %w", address, err)
		}
		if sa, err = unix.Getsockname(fd); err != nil {
			return fds, bound, fmt.Errorf("listen on %s: %w", address, os.NewSyscallError("getsockname", err))
		}
	}
	return fds, addrPort(sa), nil
}

func resolve(address string) (unix.Sockaddr, int, error) {
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, 0, fmt.Errorf("listen address %q: %w", address, err)
	}
	if ip := tcp.IP.To4(); ip != nil {
		return &unix.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(ip)}, unix.AF_INET, nil
	}
	sa := &unix.SockaddrInet6{Port: tcp.Port}
	if tcp.IP != nil {
		sa.Addr = [16]byte(tcp.IP.To16())
	} else if !hasIPv6() {
		return &unix.SockaddrInet4{Port: tcp.Port}, unix.AF_INET, nil
	}
	return sa, unix.AF_INET6, nil
}

func hasIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Bind(fd, &unix.SockaddrInet6{}) == nil
}

func bind(sa unix.Sockaddr, domain int, share bool) (int, error) {
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	// Old connections in TIME_WAIT do not keep the port.
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil && share {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}
	if err == nil && domain == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil && !share {
		// SO_REUSEADDR lets a bind pass beside a listener; listening tells.
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// keepAliveProbes without an answer end a connection. They are spread over as
// long again as the silence before them.
const keepAliveProbes = 4

func apply(fd int, o SocketOptions) error {
	type option struct{ level, name, value int }
	options := []option{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	}
	if o.KeepAlive > 0 {
		idle := max(int(o.KeepAlive.Seconds()), 1)
		options = append(options, option{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, option{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, idle},
			option{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, max(idle/keepAliveProbes, 1)}, option{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveProbes})
	}
	if o.SendBuffer > 0 {
		options = append(options, option{unix.SOL_SOCKET, unix.SO_SNDBUF, o.SendBuffer})
	}
	if o.NotSentLowat > 0 {
		options = append(options, option{unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, o.NotSentLowat})
	}
	if o.UserTimeout > 0 {
		options = append(options, option{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(o.UserTimeout.Milliseconds())})
	}
	for _, opt := range options {
		if err := unix.SetsockoptInt(fd, opt.level, opt.name, opt.value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if err := unix.Listen(fd, o.Backlog); err != nil {
		return os.NewSyscallError("listen", err)
	}
	return nil
}

func port(sa unix.Sockaddr) int { return int(addrPort(sa).Port()) }

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}
