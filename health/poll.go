package health

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// poller waits for events on any number of sockets, in one goroutine and in no
// thread: an epoll instance is itself watched by the Go runtime's poller.
//
// What it prevents is the end of PID 1 with
//
//	runtime: failed to create new OS thread (have 10 already; errno=11)
//	fatal error: newosproc
//
// While a goroutine is in a system call, the runtime may give its processor to
// another thread, and creates one if none is idle. On a busy machine any call
// can be interrupted for that long, blocking or not. With a goroutine for each
// connection, 60 clients and ten processes waiting for each CPU, many of them
// were in a call at once; where the server has used up the pids limit, no
// thread can be created, and PID 1 died in 4 of 4 runs. So the port makes its
// calls one at a time, under port.mu, and needs one of the threads that the
// main package keeps in reserve. TestNoThreadIsCreatedUnderLoad fails
// otherwise. A connection that only waits costs no stack, no timer and no
// os.File either.
type poller struct {
	fd    int
	file  *os.File // fd's
	raw   syscall.RawConn
	calls sync.Locker // held during each system call
	armed time.Time   // the instant of wakeAt

	poll   func(fd uintptr) bool // what wait calls, made once
	events [64]unix.EpollEvent
	n      int // of them, from the last poll
	err    error
}

// newPoller returns a poller. The caller holds calls while it uses anything but
// wait and close.
func newPoller(calls sync.Locker) (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	unix.SetNonblock(fd, true) // or os.NewFile would not poll it
	file := os.NewFile(uintptr(fd), "epoll")
	raw, err := file.SyscallConn()
	p := &poller{fd: fd, file: file, raw: raw, calls: calls}
	p.poll = p.pollOnce
	return p, err
}

// pollOnce returns false if no socket is ready.
func (p *poller) pollOnce(fd uintptr) bool {
	p.calls.Lock()
	defer p.calls.Unlock()
	for p.n, p.err = -1, unix.EINTR; errors.Is(p.err, unix.EINTR); {
		p.n, p.err = unix.EpollWait(int(fd), p.events[:], 0)
	}
	return p.n != 0
}

// wait returns sockets that are ready, and none if the instant set by wakeAt
// has come. The slice is valid until the next call.
func (p *poller) wait() (ready []unix.EpollEvent, err error) {
	err = p.raw.Read(p.poll)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, nil
	case err != nil:
		return nil, err
	case p.err != nil:
		return nil, os.NewSyscallError("epoll_wait", p.err)
	}
	return p.events[:p.n], nil
}

// wakeAt ends the current and the next wait at t; the zero time cancels that.
func (p *poller) wakeAt(t time.Time) {
	if !t.Equal(p.armed) {
		p.file.SetReadDeadline(t)
		p.armed = t
	}
}

// watch replaces the events that are waited for on fd. With none fd is no
// longer watched, as after closing it.
func (p *poller) watch(fd int, before, events uint32) error {
	op := unix.EPOLL_CTL_MOD
	switch {
	case before == events:
		return nil
	case before == 0:
		op = unix.EPOLL_CTL_ADD
	case events == 0:
		op = unix.EPOLL_CTL_DEL
	}
	return unix.EpollCtl(p.fd, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// close makes wait return an error, and waits for that.
func (p *poller) close() error { return p.file.Close() }

// accept accepts a connection. unix.Accept4 would allocate the client's
// address.
func accept(listener int) (fd int, err error) {
	n, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(listener), 0, 0,
		unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
