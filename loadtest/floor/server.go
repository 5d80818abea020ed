// Package floor makes the system calls that no server can avoid and nothing
// else: what a scenario measures is shown as a ratio to it.
package floor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"nabat/loadtest/swarm"
)

// switching is the answer to every request: 129 bytes, right for the one key
// that a swarm sends.
const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

// send orders messages, each sent to all members in turn.
type send struct {
	Run   uint32 `json:"run"`
	First uint64 `json:"first"` // sequence of the first message
	Count int    `json:"count"`
	At    int64  `json:"at"`   // the time in the stamps
	Size  int    `json:"size"` // of a frame with its head, in bytes
}

// told is one line from the floor server; one field is set.
type told struct {
	Listening string `json:"listening,omitempty"`
	Sent      *sent  `json:"sent,omitempty"`
}

type sent struct {
	Frames  int `json:"frames"`  // that the kernel took
	Blocked int `json:"blocked"` // sends that had to wait for a full socket
	Failed  int `json:"failed"`  // sends that ended in an error
}

// Events carry a descriptor; these two are known beforehand.
const commandDescriptor = 0 // standard input

// server is the floor server: one thread, one epoll instance.
type server struct {
	epoll    int
	listener int
	greeted  []bool  // by descriptor: its request was answered
	members  []int32 // descriptors in the order of their requests
	buffer   []byte
	input    bytes.Buffer // commands
	out      *bufio.Writer
	frame    []byte
	payload  []byte // part of frame
}

// Serve is the floor server's process: it listens on a free port of 127.0.0.1,
// tells its address on standard output, and obeys send commands, one JSON
// object a line, on standard input until that ends.
func Serve() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := &server{buffer: make([]byte, 16<<10), out: bufio.NewWriter(os.Stdout)}
	address, err := s.listen()
	if err != nil {
		return err
	}
	if err := s.tell(told{Listening: address}); err != nil {
		return err
	}
	return s.run()
}

func (s *server) listen() (string, error) {
	var err error
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return "", fmt.Errorf("epoll_create: %w", err)
	}
	if s.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return "", fmt.Errorf("socket: %w", err)
	}
	// Inherited by the accepted sockets.
	if err := unix.SetsockoptInt(s.listener, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return "", fmt.Errorf("TCP_NODELAY: %w", err)
	}
	if err := unix.Bind(s.listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return "", fmt.Errorf("bind: %w", err)
	}
	if err := unix.Listen(s.listener, 4096); err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	name, err := unix.Getsockname(s.listener)
	if err != nil {
		return "", fmt.Errorf("getsockname: %w", err)
	}
	if err := unix.SetNonblock(commandDescriptor, true); err != nil {
		return "", fmt.Errorf("standard input: %w", err)
	}
	for _, fd := range []int{s.listener, commandDescriptor} {
		if err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			return "", fmt.Errorf("epoll_ctl: %w", err)
		}
	}
	return fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port), nil
}

// run returns nil when the commands end.
func (s *server) run() error {
	events := make([]unix.EpollEvent, 512)
	for {
		n, err := unix.EpollWait(s.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll_wait: %w", err)
		}
		for _, event := range events[:max(n, 0)] {
			switch fd := int(event.Fd); fd {
			case s.listener:
				err = s.accept()
			case commandDescriptor:
				err = s.commands()
			default:
				s.read(fd)
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
		}
	}
}

func (s *server) accept() error {
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff}
	for {
		fd, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(s.listener), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case 0:
		case unix.EAGAIN:
			return nil
		default:
			return fmt.Errorf("accept4: %w", errno)
		}
		for int(fd) >= len(s.greeted) {
			s.greeted = append(s.greeted, make([]bool, 1024)...)
		}
		s.greeted[fd] = false
		event.Fd = int32(fd)
		if _, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(s.epoll), unix.EPOLL_CTL_ADD, fd, uintptr(unsafe.Pointer(&event)), 0, 0); errno != 0 {
			return fmt.Errorf("epoll_ctl: %w", errno)
		}
	}
}

// read answers the first bytes of a connection, whatever they are, and drops
// all others.
func (s *server) read(fd int) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&s.buffer[0])), uintptr(len(s.buffer)))
	switch {
	case errno == unix.EAGAIN:
		return
	case errno != 0 || n == 0:
		if i := slices.Index(s.members, int32(fd)); i >= 0 {
			s.members = slices.Delete(s.members, i, i+1)
		}
		_ = unix.Close(fd)
		return
	case s.greeted[fd]:
		return
	}
	s.greeted[fd] = true
	s.members = append(s.members, int32(fd))
	answer := unsafe.StringData(switching)
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(answer)), uintptr(len(switching)))
}

// commands obeys what standard input holds; io.EOF at its end.
func (s *server) commands() error {
	n, err := unix.Read(commandDescriptor, s.buffer)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return fmt.Errorf("standard input: %w", err)
	case n == 0:
		return io.EOF
	}
	s.input.Write(s.buffer[:n])
	for {
		line, err := s.input.ReadBytes('\n')
		if err != nil { // not a whole line yet
			s.input.Write(line)
			return nil
		}
		var order send
		if err := json.Unmarshal(line, &order); err != nil {
			return fmt.Errorf("command %q: %w", line, err)
		}
		result := s.broadcast(&order)
		if err := s.tell(told{Sent: &result}); err != nil {
			return err
		}
	}
}

func (s *server) tell(t told) error {
	if err := json.NewEncoder(s.out).Encode(t); err != nil {
		return fmt.Errorf("standard output: %w", err)
	}
	return s.out.Flush()
}

// broadcast sends each message to every member: one frame, made once, one
// system call for each member.
func (s *server) broadcast(order *send) sent {
	s.build(order.Size)
	var result sent
	for n := range order.Count {
		swarm.Restamp(s.payload, swarm.Stamp{Run: order.Run, Sequence: order.First + uint64(n), At: order.At})
		frame, size := uintptr(unsafe.Pointer(&s.frame[0])), uintptr(len(s.frame))
		for _, fd := range s.members {
			_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), frame, size, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
			if errno != 0 && !s.retry(int(fd), errno, &result) {
				continue
			}
			result.Frames++
		}
	}
	runtime.KeepAlive(s.frame)
	return result
}

// retry waits until a full socket takes the frame. A frame that was taken in
// part is not expected: the swarm would see garbage.
func (s *server) retry(fd int, errno unix.Errno, result *sent) bool {
	for errno == unix.EAGAIN || errno == unix.EINTR {
		result.Blocked++
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 1000)
		_, _, errno = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&s.frame[0])), uintptr(len(s.frame)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	}
	if errno != 0 {
		result.Failed++
	}
	return errno == 0
}

// build makes the frame: a WebSocket head and a payload with a stamp.
func (s *server) build(size int) {
	if s.frame != nil {
		return // all of one server's frames are alike
	}
	length := frameSize(size)
	s.frame = appendHead(nil, length)
	head := len(s.frame)
	s.frame = swarm.AppendPayload(s.frame, swarm.Stamp{}, length)
	s.payload = s.frame[head:]
}

// frameSize is the payload of a text frame that is size bytes long in all; at
// least what a stamp needs. (No frame has 128 or 129 bytes: those get 126.)
func frameSize(size int) int {
	switch {
	case size-2 <= 125:
		size -= 2
	case size-4 <= 65535:
		size -= 4
	default:
		size -= 10
	}
	return max(size, swarm.MinPayload)
}

// appendHead appends the head of an unmasked text frame (RFC 6455 §5.2).
func appendHead(dst []byte, length int) []byte {
	const textFinal = 0x81
	switch {
	case length <= 125:
		return append(dst, textFinal, byte(length))
	case length <= 65535:
		return append(dst, textFinal, 126, byte(length>>8), byte(length))
	}
	return append(dst, textFinal, 127, 0, 0, 0, 0, byte(length>>24), byte(length>>16), byte(length>>8), byte(length))
}
