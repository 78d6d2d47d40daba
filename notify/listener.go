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

// Listener receives notifications from the processes of this container.
type Listener struct {
	file *os.File // non-blocking, so that reads wait in the runtime's poller
	addr string
	path string // the socket's file, to be removed; empty for an abstract one
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

// Listen opens the socket. pid is the caller's own: it says whose processes are
// listened to.
//
//   - PID 1: everybody the kernel can name in this PID namespace, which is the
//     container. That includes what `docker exec` starts and PID namespaces
//     nested in this one. The name of the socket belongs to the network
//     namespace, which a pod's containers share, but a sender in a neighbour
//     has no PID here and is refused.
//   - Any other (a shared PID namespace, a bare machine): pid itself and its
//     descendants, told by /proc. Listen fails if /proc can't tell.
//
// The address is in the abstract namespace, so it needs no writable disk and
// leaves nothing behind. Its name can't be guessed, but can be read in
// /proc/net/unix: it is the check of the sender that keeps strangers out.
//
// Not every sender knows abstract names: the Ruby code that Puma and Sidekiq
// share takes "@…" for a file and raises an error. ListenIn is for those.
func Listen(pid int) (*Listener, error) { return listen("@drainit/", pid) }

// ListenIn is Listen with a socket file in directory dir, which must be
// absolute and writable: /dev/shm usually is, with a read-only disk too. Every
// uid may write to the file, as the server's may be another. Close removes it;
// after a SIGKILL it stays.
func ListenIn(dir string, pid int) (*Listener, error) {
	return listen(filepath.Join(dir, "drainit-notify-"), pid)
}

func listen(prefix string, pid int) (*Listener, error) {
	if pid != 1 {
		if err := proc.Check(); err != nil {
			return nil, fmt.Errorf("tell own processes from others: %w", err)
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
	// Before bind: from the first datagram on, the kernel says who sent it.
	// SO_RCVBUF is left alone: for Unix datagrams the kernel counts packets
	// (net.unix.max_dgram_qlen, 10) and charges their bytes to the sender, so
	// the queue is small whatever is asked for, and a sender that finds it
	// full waits.
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

// getrandom is crypto/rand without what that links in.
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

// Addr is the value for NOTIFY_SOCKET: "@…", or a path from ListenIn.
func (l *Listener) Addr() string { return l.addr }

// Refused counts the datagrams that were ignored, wholly or in part: malformed
// for what they say (oversized ones included), foreign for who sent them.
func (l *Listener) Refused() (malformed, foreign uint64) {
	return l.malformed.Load(), l.foreign.Load()
}

// LastRefusal says why the latest of the datagrams Refused counts was, for
// people to read; nil if there was none. pid is 0 for a sender without one here.
func (l *Listener) LastRefusal() (pid int, err error) {
	if r := l.last.Load(); r != nil {
		return r.pid, r.err
	}
	return 0, nil
}

// Close closes the socket and ends Serve, wherever it waits, but does not wait
// for it: descriptors are closed there, and how long that takes is up to what
// they are. Closing twice is harmless.
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

// pause is how long Serve waits after an error it can't explain.
const pause = time.Second

// Serve reads datagrams until Close and sends what they say to out, one after
// the other. While out blocks nothing is read, and senders wait in the kernel:
// a flood takes no memory, here or there. It leaves out open.
//
// A BARRIER=1 is answered, by closing the descriptor that came with it, once all
// messages before it were handed on. Messages that are Empty are not.
func (l *Listener) Serve(out chan<- Message) {
	conn, err := l.file.SyscallConn()
	if err != nil {
		return // closed
	}
	r := reader{
		// That a datagram was longer than this, the kernel says itself.
		data: make([]byte, MaxDatagram),
		// Room for the credentials and one descriptor (two, with the padding):
		// those that don't fit are never installed, so that no flood can fill
		// the descriptor table, not even for a moment.
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
			// None is known to be possible here. It must neither end the
			// readiness of a healthy server nor keep a processor busy.
			select {
			case <-l.done:
				return
			case <-time.After(pause):
			}
		}
	}
}

// reader holds what is reused from one datagram to the next.
type reader struct {
	data, control []byte

	n, controlN, flags int
	err                error
}

// receive reads one datagram; false means there is none yet.
func (r *reader) receive(fd uintptr) bool {
	for {
		r.n, r.controlN, r.flags, _, r.err = syscall.Recvmsg(int(fd), r.data, r.control, syscall.MSG_CMSG_CLOEXEC)
		if r.err != syscall.EINTR {
			return r.err != syscall.EAGAIN
		}
	}
}

// handle deals with the datagram in r. A panic costs this one datagram.
func (l *Listener) handle(r *reader, out chan<- Message) {
	var pid int
	defer func() {
		if p := recover(); p != nil {
			l.refuse(&l.malformed, pid, fmt.Errorf("panic: %v", p))
		}
	}()

	pid, fds := parseControl(r.control[:r.controlN])
	// Last of all: for BARRIER=1 the closing is the answer.
	defer func() {
		for _, fd := range fds {
			syscall.Close(fd)
		}
	}()

	if err := l.ours(pid); err != nil {
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

// ours tells whether the sender is one of those Listen promises, with nil.
func (l *Listener) ours(pid int) error {
	switch {
	case pid <= 0:
		return errOutside
	case l.pid == 1:
		return nil
	}
	return proc.Descends(pid, l.pid)
}

// parseControl returns the sender's PID (0 if the kernel has none for it in this
// namespace, or gave none at all) and the descriptors that came along, which are
// the caller's to close.
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
