package health

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// port accepts connections, one request each.
//
// At most maxConnections are open. Who comes then waits until one of them ends,
// or has been open for so long that it is no probe's: so that neither silent
// connections keep probes from being answered, nor a burst of probes cuts
// itself off.
type port struct {
	file     *os.File // the listening socket
	raw      syscall.RawConn
	slots    chan struct{}
	accepted atomic.Uint64
	closing  sync.Mutex // of connections, see conn

	mu     sync.Mutex
	open   map[*conn]time.Time // since when
	closed bool
}

// longForAProbe is how long a connection keeps its place whoever else wants it.
const longForAProbe = 250 * time.Millisecond

// newPort takes over a listener's socket: the listener itself would accept in
// ordinary system calls and hand out a net.Conn, see conn.
func newPort(ln *net.TCPListener) (*port, error) {
	defer ln.Close()
	listener, err := ln.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var dupErr error
	if err := listener.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil || dupErr != nil {
		return nil, errors.Join(err, dupErr)
	}
	file := os.NewFile(uintptr(fd), "health port")
	raw, err := file.SyscallConn()
	return &port{file: file, raw: raw, slots: make(chan struct{}, maxConnections), open: make(map[*conn]time.Time)}, err
}

// serve hands each connection to answer until close, and then returns nil.
func (p *port) serve(answer func(*conn)) error {
	for pause := time.Duration(0); ; {
		c, err := p.accept()
		if err == nil {
			p.place()
			if !p.add(c) {
				p.put(c)
				return nil
			}
		}
		if err != nil {
			if p.isClosed() {
				return nil
			}
			// Descriptors or memory are used up, or the client has left: it
			// passes. A second is the most that a probe may be late for it.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			time.Sleep(pause)
			continue
		}
		pause = 0
		go func() { // ends with the deadline of the connection, or with close
			defer func() {
				p.remove(c)
				<-p.slots
			}()
			c.file.SetDeadline(time.Now().Add(readTimeout))
			answer(c)
		}()
	}
}

func (p *port) accept() (*conn, error) {
	fd, err := transfer(p.raw.Read, unix.SYS_ACCEPT4, nil, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return nil, err
	}
	p.accepted.Add(1)
	return newConn(fd)
}

// place takes a place for one more connection.
func (p *port) place() {
	for {
		select {
		case p.slots <- struct{}{}:
			return
		default:
		}
		wait := longForAProbe
		if oldest, since := p.oldest(); oldest != nil {
			if wait -= time.Since(since); wait <= 0 {
				p.remove(oldest) // its goroutine then gives up the place
				wait = longForAProbe
			}
		}
		select {
		case p.slots <- struct{}{}:
			return
		case <-time.After(wait):
		}
	}
}

func (p *port) add(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.open[c] = time.Now()
	return true
}

func (p *port) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// oldest is the connection that has been open the longest, if there is one.
func (p *port) oldest() (oldest *conn, since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c, t := range p.open {
		if oldest == nil || t.Before(since) {
			oldest, since = c, t
		}
	}
	return oldest, since
}

func (p *port) remove(c *conn) {
	p.mu.Lock()
	delete(p.open, c)
	p.mu.Unlock()
	p.put(c)
}

// put closes a connection. Closing twice is harmless.
func (p *port) put(c *conn) {
	p.closing.Lock()
	defer p.closing.Unlock()
	c.Close()
}

// close ends serve and every connection.
func (p *port) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for c := range p.open {
		p.put(c)
	}
	return p.file.Close()
}

// conn is a connection that never makes the Go runtime want another thread.
//
// In an ordinary system call a goroutine gives up its processor, and if it
// takes long, as on a machine without time for us, another thread is made to go
// on there. Where the pids limit is used up that is the end of PID 1. A
// net.Conn's calls don't block, but each can be caught in the middle: with two
// clients and ten processes waiting for each CPU, more threads were wanted than
// are in reserve. These calls keep the processor, as in any program of one
// thread; and closing, which os.File does, is left to one goroutine at a time.
type conn struct {
	file *os.File
	raw  syscall.RawConn // file's
}

// newConn takes over a socket that does not block.
func newConn(fd int) (*conn, error) {
	f := os.NewFile(uintptr(fd), "connection")
	raw, err := f.SyscallConn()
	return &conn{f, raw}, err
}

// Read is io.Reader's.
func (c *conn) Read(b []byte) (n int, err error) {
	n, err = transfer(c.raw.Read, unix.SYS_RECVFROM, b, 0)
	if n == 0 && err == nil && len(b) > 0 {
		err = io.EOF
	}
	return n, err
}

// Write is io.Writer's.
func (c *conn) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var once int
		once, err = transfer(c.raw.Write, unix.SYS_SENDTO, b[n:], unix.MSG_NOSIGNAL)
		n += once
	}
	return n, err
}

// CloseWrite is a TCPConn's.
func (c *conn) CloseWrite() error {
	var errno syscall.Errno
	err := c.raw.Control(func(fd uintptr) { _, _, errno = unix.RawSyscall(unix.SYS_SHUTDOWN, fd, unix.SHUT_WR, 0) })
	if err == nil && errno != 0 {
		err = errno
	}
	return err
}

// Close must only be called by one goroutine at a time, see conn.
func (c *conn) Close() error { return c.file.Close() }

// transfer makes a call of the shape of send, recv and accept4 (a descriptor,
// two arguments that a nil b leaves 0, flags) whenever ready says that it may
// not have to wait, until it need not.
func transfer(ready func(func(uintptr) bool) error, call uintptr, b []byte, flags uintptr) (int, error) {
	var n uintptr
	var errno syscall.Errno
	err := ready(func(fd uintptr) bool {
		for {
			n, _, errno = unix.RawSyscall6(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
			if errno != unix.EINTR {
				return errno != unix.EAGAIN
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case errno != 0:
		return 0, errno
	}
	return int(n), nil
}
