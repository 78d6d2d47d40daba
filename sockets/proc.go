package sockets

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/drainit/drainit/internal/proc"
)

// passiveOpens returns the number of connections the network namespace has ever
// accepted, from the text of /proc/net/snmp. It finds columns by name, since
// kernels have added some.
func passiveOpens(text []byte) (uint64, error) {
	var names []byte
	for line := range bytes.Lines(text) {
		rest, ok := bytes.CutPrefix(line, []byte("Tcp: "))
		if !ok {
			continue
		}
		if names == nil {
			names = rest
			continue
		}
		for {
			var name, value []byte
			name, names = field(names)
			value, rest = field(rest)
			if len(name) == 0 || len(value) == 0 {
				return 0, errors.New("no Tcp PassiveOpens in /proc/net/snmp")
			}
			if string(name) == "PassiveOpens" {
				n, ok := number(value, 10)
				if !ok {
					return 0, fmt.Errorf("/proc/net/snmp: PassiveOpens is %q", value)
				}
				return n, nil
			}
		}
	}
	return 0, errors.New("no Tcp line in /proc/net/snmp")
}

// parseTable parses the text of /proc/net/tcp or tcp6 and passes each socket to
// visit. There is no tcp_info there, and no cookie: the inode is all that
// identifies a socket.
func parseTable(text []byte, visit func(*socket)) error {
	header := true
	var s socket
	for line := range bytes.Lines(text) {
		if header {
			header = false
			continue
		}
		if len(line) == 0 || line[len(line)-1] != '\n' {
			return errTruncated
		}
		if err := parseRow(line, &s); err != nil {
			return err
		}
		visit(&s)
	}
	if header {
		return errTruncated // even an empty table has a header
	}
	return nil
}

// parseRow parses a line such as
//
//	0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000  0  0 12345 …
func parseRow(line []byte, s *socket) error {
	bad := func() error { return fmt.Errorf("bad line in /proc/net/tcp: %q", line) }
	_, rest := field(line)
	local, rest := field(rest)
	remote, rest := field(rest)
	state, rest := field(rest)
	queues, rest := field(rest)
	for range 4 { // timer, retransmits, uid, timeout
		_, rest = field(rest)
	}
	inode, _ := field(rest)

	*s = socket{}
	here, lport, ok1 := address(local)
	peer, pport, ok2 := address(remote)
	st, ok3 := number(state, 16)
	tx, rx, _ := bytes.Cut(queues, []byte(":"))
	w, ok4 := number(tx, 16)
	r, ok5 := number(rx, 16)
	ino, ok6 := number(inode, 10)
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6) || st > 255 {
		return bad()
	}
	s.state, s.local, s.peerPort, s.peer = uint8(st), lport, pport, peer
	s.self = here == peer
	s.wqueue, s.rqueue, s.inode = uint32(w), uint32(r), uint32(ino)
	s.cookie = ino
	if ino == 0 {
		// Not accepted yet, or abandoned: only its addresses identify it.
		a := peer.As16()
		s.cookie = 1<<63 | uint64(lport)<<32 | uint64(pport)<<16 | uint64(a[14])<<8 | uint64(a[15])
	}
	return nil
}

// address parses a hexadecimal address and port. The address is in words of the
// machine's byte order.
func address(b []byte) (netip.Addr, uint16, bool) {
	host, port, ok := bytes.Cut(b, []byte(":"))
	if !ok || len(port) != 4 {
		return netip.Addr{}, 0, false
	}
	p, ok := number(port, 16)
	if !ok || (len(host) != 8 && len(host) != 32) {
		return netip.Addr{}, 0, false
	}
	var a [16]byte
	for i := 0; i < len(host)/8; i++ {
		w, ok := number(host[i*8:i*8+8], 16)
		if !ok {
			return netip.Addr{}, 0, false
		}
		binary.NativeEndian.PutUint32(a[i*4:], uint32(w))
	}
	if len(host) == 8 {
		return netip.AddrFrom4([4]byte(a[:4])), uint16(p), true
	}
	return netip.AddrFrom16(a).Unmap(), uint16(p), true
}

// field returns the first word of b and what follows it.
func field(b []byte) (word, rest []byte) {
	b = bytes.TrimLeft(b, " \t\n")
	if i := bytes.IndexAny(b, " \t\n"); i >= 0 {
		return b[:i], b[i:]
	}
	return b, nil
}

// number parses a number without the string that strconv would need.
func number(b []byte, base uint64) (n uint64, ok bool) {
	if len(b) == 0 || len(b) > 20 {
		return 0, false
	}
	for _, c := range b {
		var d uint64
		switch {
		case c >= '0' && c <= '9':
			d = uint64(c - '0')
		case base == 16 && c >= 'A' && c <= 'F':
			d = uint64(c-'A') + 10
		case base == 16 && c >= 'a' && c <= 'f':
			d = uint64(c-'a') + 10
		default:
			return 0, false
		}
		if n > (1<<64-1-d)/base {
			return 0, false
		}
		n = n*base + d
	}
	return n, true
}

// tables reads the tables of both families. A kernel without IPv6 has no second
// table.
func tables(buf []byte, visit func(*socket)) ([]byte, error) {
	for _, name := range [...]string{"/proc/net/tcp", "/proc/net/tcp6"} {
		var err error
		buf, err = proc.ReadFile(name, buf)
		if errors.Is(err, os.ErrNotExist) && name == "/proc/net/tcp6" {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
		if err := parseTable(buf, visit); err != nil {
			return buf, err
		}
	}
	return buf, nil
}
