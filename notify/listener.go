package notify

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/drainit/drainit/internal/proc"
	"golang.org/x/sys/unix"
)

// Listener receives notifications from the processes of the container.
type Listener struct {
	file *os.File // non-blocking, so that reads wait in the runtime's poller
	addr string
	path string // the socket's file, which Close removes; empty if abstract
	pid  int    // drainit's own

	closing sync.Once
	done    chan struct{}

	malformed, foreign atomic.Uint64
	last               atomic.Pointer[refusal]
}

type refusal struct {
	pid int
	err error
}

// Listen opens the socket. pid is the caller's own and decides which senders
// are accepted:
//
//   - PID 1: every process that has a PID in this namespace, which is the
//     container. That includes processes started by `docker exec` and nested
//     PID namespaces. The name of the socket belongs to the network namespace,
//     which a pod's containers share, but a sender in another container has no
//     PID here and is rejected.
//   - Any other (a shared PID namespace, a bare machine): pid itself and its
//     descendants, according to /proc. Listen fails if /proc is unusable.
//
// The address is abstract, so it needs no writable disk and leaves no file
// behind. It can't be guessed but is listed in /proc/net/unix, so the check of
// the sender is what keeps strangers out.
//
// Not every sender knows abstract names: the Ruby code that Puma and Sidekiq
// share takes "@…" for a file and raises an error. ListenIn is for those.
func Listen(pid int) (*Listener, error) { return listen("@drainit/", pid) }

// ListenIn is Listen with a socket file in dir, which must be absolute and
// writable: /dev/shm usually is, even with a read-only root file system. Every
// uid may write to the file, as the server's uid may differ. Close removes it;
// after a SIGKILL it remains.
func ListenIn(dir string, pid int) (*Listener, error) {
	return listen(filepath.Join(dir, "drainit-notify-"), pid)
}

func listen(prefix string, pid int) (*Listener, error) {
	if pid != 1 {
		if err := proc.Check(); err != nil {
			return nil, fmt.Errorf("identify the senders of notifications: %w", err)
		}
	}
	var random [16]byte
	if err := getrandom(random[:]); err != nil {
		return nil, fmt.Errorf("name the notify socket: %w", err)
	}
	addr := prefix + hex.EncodeToString(random[:])

	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open the notify socket: %w", err)
	}
	// SO_PASSCRED is set before bind, so that the first datagram has its
	// sender's credentials too. SO_RCVBUF would change nothing: for Unix
	// datagrams the kernel counts packets (net.unix.max_dgram_qlen, 10) and
	// charges their bytes to the sender, so that the queue is always small and
	// a sender that finds it full waits.
	if err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_PASSCRED, 1); err == nil {
		err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: addr})
	}
	if err != nil {
		syscall.Close(fd)
		return nil, fmt.Errorf("bind the notify socket %s: %w", addr, err)
	}
	l := &Listener{
		file: os.NewFile(uintptr(fd), addr),
		addr: addr,
		pid:  pid,
		done: make(chan struct{}),
	}
	if addr[0] != '@' {
		l.path = addr
		// bind has applied the umask.
		if err := os.Chmod(addr, 0o666); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

// getrandom fills b with random bytes. crypto/rand would add its dependencies
// to the binary.
func getrandom(b []byte) error {
	for {
		n, err := unix.Getrandom(b, 0)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n < len(b):
			return errors.New("short read of random bytes")
		}
		return nil
	}
}

// Addr returns the value for NOTIFY_SOCKET: "@…", or a path from ListenIn.
func (l *Listener) Addr() string { return l.addr }

// Refused returns how many datagrams were rejected, wholly or in part:
// malformed for their content (including oversized ones), foreign for their
// sender.
func (l *Listener) Refused() (malformed, foreign uint64) {
	return l.malformed.Load(), l.foreign.Load()
}

// LastRefusal returns the sender and the reason of the latest rejection that
// Refused counts; err is nil if there was none. pid is 0 for a sender outside
// this PID namespace.
func (l *Listener) LastRefusal() (pid int, err error) {
	if r := l.last.Load(); r != nil {
		return r.pid, r.err
	}
	return 0, nil
}

// Close closes the socket and makes Serve return, but does not wait for that:
// Serve may be closing a received descriptor, which can take any time. Closing
// twice does nothing.
func (l *Listener) Close() error {
	var err error
	l.closing.Do(func() {
		close(l.done)
		err = l.file.Close()
		if l.path != "" {
			err = errors.Join(err, os.Remove(l.path))
		}
	})
	return err
}

// pause is how long Serve waits after an unexpected error.
const pause = time.Second

// Serve reads datagrams until Close and sends them to out in order. While out
// blocks, nothing is read and senders wait in the kernel, so that a flood costs
// no memory. It does not close out.
//
// A BARRIER=1 is answered, by closing the descriptor that came with it, after
// all messages before it were sent to out. Empty messages are not sent.
func (l *Listener) Serve(out chan<- Message) {
	conn, err := l.file.SyscallConn()
	if err != nil {
		return // closed
	}
	r := reader{
		// The kernel reports a longer datagram by MSG_TRUNC.
		data: make([]byte, MaxDatagram),
		// Room for the credentials and one descriptor (two, with the padding).
		// The kernel does not install descriptors that don't fit, so that a
		// flood can't fill the descriptor table even for a moment.
		control: make([]byte, syscall.CmsgSpace(syscall.SizeofUcred)+syscall.CmsgSpace(4)),
	}
	for {
		err := conn.Read(r.receive)
		if err == nil {
			err = r.err
		}
		if err == nil {
			l.handle(&r, out)
		}
		select {
		case <-l.done:
			return
		default:
		}
		if err != nil {
			// No error is known to be possible here. If there is one, it must
			// neither end the readiness of a healthy server nor spin.
			select {
			case <-l.done:
				return
			case <-time.After(pause):
			}
		}
	}
}

// reader holds the buffers that are reused for each datagram.
type reader struct {
	data, control []byte

	n, controlN, flags int
	err                error
}

// receive reads one datagram. It returns false if none is queued.
func (r *reader) receive(fd uintptr) bool {
	for {
		r.n, r.controlN, r.flags, _, r.err = syscall.Recvmsg(int(fd), r.data, r.control, syscall.MSG_CMSG_CLOEXEC)
		if !errors.Is(r.err, syscall.EINTR) {
			return !errors.Is(r.err, syscall.EAGAIN)
		}
	}
}

// handle processes the datagram in r. A panic costs only this datagram.
func (l *Listener) handle(r *reader, out chan<- Message) {
	var pid int
	defer func() {
		if p := recover(); p != nil {
			l.refuse(&l.malformed, pid, fmt.Errorf("panic: %v", p))
		}
	}()

	pid, fds := parseControl(r.control[:r.controlN])
	// Deferred to the end: for BARRIER=1 closing the descriptor is the answer.
	defer func() {
		for _, fd := range fds {
			syscall.Close(fd)
		}
	}()

	if err := l.checkSender(pid); err != nil {
		l.refuse(&l.foreign, pid, err)
		return
	}
	if r.flags&syscall.MSG_TRUNC != 0 {
		l.refuse(&l.malformed, pid, errOversized)
		return
	}
	m, err := Parse(r.data[:r.n])
	if err != nil {
		l.refuse(&l.malformed, pid, err)
	}
	if m.Empty() {
		return
	}
	m.PID = pid
	select {
	case out <- m:
	case <-l.done:
	}
}

func (l *Listener) refuse(counter *atomic.Uint64, pid int, err error) {
	l.last.Store(&refusal{pid, err})
	counter.Add(1)
}

var errOutside = errors.New("sender is outside this PID namespace")

// checkSender returns an error unless pid is one of the senders that Listen
// accepts.
func (l *Listener) checkSender(pid int) error {
	switch {
	case pid <= 0:
		return errOutside
	case l.pid == 1:
		return nil
	}
	return proc.Descends(pid, l.pid)
}

// parseControl returns the sender's PID (0 if it has none in this namespace, or
// if the kernel reported none) and the received descriptors, which the caller
// closes.
func parseControl(control []byte) (pid int, fds []int) {
	messages, err := syscall.ParseSocketControlMessage(control)
	if err != nil {
		return 0, nil
	}
	for i := range messages {
		if rights, err := syscall.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, rights...)
		} else if cred, err := syscall.ParseUnixCredentials(&messages[i]); err == nil {
			pid = int(cred.Pid)
		}
	}
	return pid, fds
}
