package sockets

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// netlink is a NETLINK_SOCK_DIAG socket and its read buffer. One goroutine uses
// it.
type netlink struct {
	fd  int
	seq uint32
	req []byte
	buf []byte

	// recv is recvfrom; tests inject faults here.
	recv func(fd int, b []byte) (n int, err error)
}

// The kernel fills a dump's datagrams up to the size of the read buffer, at
// most 32 KiB.
const bufferSize = 32 << 10

// The kernel makes a dump's datagrams as they are read. One that has not come
// within this time will not come.
const receiveTimeout = time.Second

func openNetlink() (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	tv := unix.NsecToTimeval(int64(receiveTimeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open netlink: receive timeout: %w", err)
	}
	return &netlink{fd: fd, buf: make([]byte, bufferSize), recv: receive}, nil
}

func (n *netlink) close() {
	if n != nil {
		unix.Close(n.fd)
	}
}

// families is the set of address families to query, IPv4 and IPv6; the zero
// value means both. A dual-stack listener's IPv4 clients are AF_INET6 sockets.
// Leaving out a family without a listener saves a walk of the machine's whole
// hash table: 0.5 ms with 262,144 buckets.
type families [2]bool

var bothFamilies = families{true, true}

func (f *families) add(family uint8) {
	f[0] = f[0] || family == unix.AF_INET
	f[1] = f[1] || family == unix.AF_INET6
}

// dump passes to visit every TCP socket of the families that is in the states
// of the mask and has the port, unless that is 0. After an error nothing
// visited may be relied on.
func (n *netlink) dump(f families, states uint32, port uint16, info bool, visit func(*socket)) error {
	if f == (families{}) {
		f = bothFamilies
	}
	if f[0] {
		if err := n.dumpFamily(unix.AF_INET, states, port, info, visit); err != nil {
			return err
		}
	}
	if f[1] {
		err := n.dumpFamily(unix.AF_INET6, states, port, info, visit)
		if err != nil && !(f[0] && errors.Is(err, unix.ENOENT)) { // the answer of a kernel without IPv6
			return err
		}
	}
	return nil
}

func (n *netlink) dumpFamily(family uint8, states uint32, port uint16, info bool, visit func(*socket)) error {
	n.seq++
	n.req = appendRequest(n.req[:0], n.seq, family, states, port, info)
	err := retry(func() error {
		return unix.Sendto(n.fd, n.req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
	if err != nil {
		return fmt.Errorf("ask for sockets: %w", err)
	}
	for {
		got, err := n.recv(n.fd, n.buf)
		if err != nil {
			return fmt.Errorf("read sockets: %w", err)
		}
		if got == 0 || got > len(n.buf) {
			return fmt.Errorf("read sockets: %w", errTruncated)
		}
		done, err := decodeDump(n.buf[:got], n.seq, visit)
		if err != nil {
			return fmt.Errorf("read sockets: %w", err)
		}
		if done {
			return nil
		}
	}
}

// receive reads a datagram and returns its real length, even if b was too
// short. Unlike unix.Recvfrom it does not return the address, which would be an
// allocation each time.
func receive(fd int, b []byte) (n int, err error) {
	for {
		r, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))),
			uintptr(len(b)), unix.MSG_TRUNC, 0, 0)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// In these groups the kernel announces each TCP socket that is destroyed, with
// its tcp_info. So even a connection that lived for a millisecond is seen, with
// its peer and byte counts. Receiving needs no privilege. Groups are numbered
// from 1 (linux/sock_diag.h); bits of the mask from 0.
const (
	groupTCPDestroy  = 1 // SKNLGRP_INET_TCP_DESTROY
	groupTCP6Destroy = 3 // SKNLGRP_INET6_TCP_DESTROY
	destroyGroups    = 1<<groupTCPDestroy>>1 | 1<<groupTCP6Destroy>>1
)

// eventBuffer is room for about two thousand announcements: each is charged
// about 1 KiB, and the kernel doubles the size requested. It silently limits
// that to net.core.rmem_max.
const eventBuffer = 1 << 20

// events is a subscription to the ends of TCP sockets.
type events struct {
	fd   int
	buf  []byte
	recv func(fd int, b []byte) (n int, err error)
}

func openEvents() (*events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, eventBuffer)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: destroyGroups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("subscribe to the ends of connections: %w", err)
	}
	return &events{fd: fd, buf: make([]byte, 8<<10), recv: receive}, nil
}

func (e *events) close() {
	if e != nil {
		unix.Close(e.fd)
	}
}

// drain passes the announcements received so far to visit, without waiting.
// lost is true if some were dropped.
func (e *events) drain(visit func(*socket)) (lost bool) {
	for {
		n, err := e.recv(e.fd, e.buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return lost
		case errors.Is(err, unix.ENOBUFS):
			lost = true // reported once; what is still queued is good
			continue
		case err != nil:
			return true
		case n == 0, n > len(e.buf):
			lost = true
			continue
		}
		if decodeEvents(e.buf[:n], visit) != nil {
			lost = true
		}
	}
}
