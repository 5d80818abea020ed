package listen

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// accept4 is accept4(2) on a socket that never blocks. The wrapper of x/sys asks
// the kernel for the protocol of every socket, allocates the address, and tells
// the scheduler to expect a wait.
func accept4(listener int) (fd int, client netip.Addr, errno unix.Errno) {
	var sa unix.RawSockaddrAny
	size := uint32(unsafe.Sizeof(sa))
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, netip.Addr{}, errno
	}
	switch sa.Addr.Family {
	case unix.AF_INET:
		client = netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&sa)).Addr)
	case unix.AF_INET6:
		in6 := (*unix.RawSockaddrInet6)(unsafe.Pointer(&sa))
		client = netip.AddrFrom16(in6.Addr).Unmap()
	}
	return int(n), client, 0
}

// readNow is read(2) on a descriptor that never blocks.
func readNow(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), errno
}
