package sockets

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/drainit/drainit/internal/proc"
)

// Serving is what the processes below drainit hold of sockets that clients can
// reach.
type Serving struct {
	// TCP are the ports that are listened on, or have been since the start.
	TCP []uint16
	// UDP are the local ports of bound, unconnected UDP sockets, QUIC's among
	// them. Their clients are not counted.
	UDP []uint16
	// Unix are the names of listening Unix sockets. Their clients are not
	// counted.
	Unix []string
}

// Nothing reports whether there is no such socket: no client can be waited for.
func (s *Serving) Nothing() bool { return len(s.TCP)+len(s.UDP)+len(s.Unix) == 0 }

var errHidden = errors.New("the descriptors of some process can't be read")

// Serving looks through the descriptors of every process below drainit. An
// error means that it may have missed some: nothing follows from their absence
// then.
func (c *Counter) Serving() (Serving, error) {
	inodes, complete := descendantSockets(os.Getpid())
	var s Serving
	err := s.read(inodes)
	// A server that has closed its listener, for a reload or to hand it over,
	// is no worker: what it has listened on since the start counts.
	c.mu.Lock()
	s.TCP = sorted(append(s.TCP, c.ports...))
	c.mu.Unlock()
	if err == nil && !complete {
		err = errHidden
	}
	return s, err
}

// read looks the inodes up in the tables of the network namespace.
func (s *Serving) read(inodes map[uint32]struct{}) error {
	held := func(x *socket) bool { _, ok := inodes[x.inode]; return ok }
	buf, err := tables(nil, func(x *socket) {
		if x.state == stListen && held(x) {
			s.TCP = append(s.TCP, x.local)
		}
	})
	if err != nil {
		return err
	}
	for _, name := range [...]string{"/proc/net/udp", "/proc/net/udp6"} {
		if buf, err = proc.ReadFile(name, buf); err != nil {
			if errors.Is(err, os.ErrNotExist) && name == "/proc/net/udp6" {
				continue // a kernel without IPv6
			}
			return err
		}
		err = parseTable(buf, func(x *socket) {
			if x.local != 0 && x.peerPort == 0 && held(x) {
				s.UDP = append(s.UDP, x.local)
			}
		})
		if err != nil {
			return err
		}
	}
	if buf, err = proc.ReadFile("/proc/net/unix", buf); err != nil {
		return err
	}
	s.Unix = unixListeners(buf, inodes)
	s.TCP, s.UDP = sorted(s.TCP), sorted(s.UDP)
	return nil
}

func sorted(ports []uint16) []uint16 {
	slices.Sort(ports)
	return slices.Compact(ports)
}

// unixListeners returns the names of the listening sockets among the inodes,
// SOCK_STREAM or SOCK_SEQPACKET, from the text of /proc/net/unix:
//
//	Num       RefCount Protocol Flags    Type St Inode Path
//	0000…: 00000002 00000000 00010000 0001 01 20193 /run/server.sock
func unixListeners(text []byte, inodes map[uint32]struct{}) (names []string) {
	for line := range bytes.Lines(text) {
		_, rest := field(line)
		_, rest = field(rest)
		_, rest = field(rest)
		flags, rest := field(rest)
		_, rest = field(rest)
		_, rest = field(rest)
		inode, rest := field(rest)
		f, ok1 := number(flags, 16)
		n, ok2 := number(inode, 10)
		const acceptsConnections = 1 << 16 // __SO_ACCEPTCON
		if !ok1 || !ok2 || f&acceptsConnections == 0 {
			continue
		}
		if _, ok := inodes[uint32(n)]; !ok {
			continue
		}
		name := strings.TrimSpace(string(rest))
		if name == "" {
			name = "unnamed"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
