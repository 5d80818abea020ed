package loop

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Calls that return at once. The wrappers of x/sys tell the scheduler to expect a
// wait, which costs more than some of the calls.

// ready fills events with what is ready, and does not wait.
func ready(epoll int, events []unix.EpollEvent) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	return int(n), errno
}

// control adds or changes what is watched of a descriptor.
func control(epoll, op, fd int, ev *unix.EpollEvent) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(ev)), 0, 0)
	return errno
}

// closeSocket closes a socket that does not linger.
func closeSocket(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }
