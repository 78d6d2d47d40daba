package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// TCP states, as include/net/tcp_states.h numbers them.
const (
	stEstablished = 1
	stFinWait1    = 4
	stFinWait2    = 5
	stTimeWait    = 6
	stClose       = 7
	stCloseWait   = 8
	stLastAck     = 9
	stListen      = 10
	stClosing     = 11
)

// maskOpen holds every state a full socket with a peer can be in. A socket that
// has left them all has been destroyed, and its end was announced.
const (
	maskOpen     = 1<<stEstablished | 1<<stFinWait1 | 1<<stFinWait2 | 1<<stCloseWait | 1<<stLastAck | 1<<stClosing
	maskListen   = 1 << stListen
	maskTimeWait = 1 << stTimeWait
)

const (
	sockDiagByFamily = 20
	diagReqLen       = unix.NLMSG_HDRLEN + 56
	diagMsgLen       = 72
	attrInfo         = 2  // INET_DIAG_INFO
	attrCgroup       = 21 // INET_DIAG_CGROUP_ID
)

// socket is one TCP socket as the kernel describes it. A time says how long ago
// something happened.
type socket struct {
	family   uint8
	state    uint8
	local    uint16
	peerPort uint16
	peer     netip.Addr
	self     bool   // both ends have the same address: a client in this network namespace
	cookie   uint64 // unique until the machine restarts; the inode where there is no cookie
	inode    uint32 // 0 until accepted
	rqueue   uint32 // unread bytes; of a listener, connections waiting to be accepted
	wqueue   uint32 // bytes unsent or unacknowledged
	expires  time.Duration
	cgroup   uint64

	info       bool // the fields below are known
	sentAgo    time.Duration
	recvAgo    time.Duration
	ackAgo     time.Duration
	sent, recv uint64 // bytes, without those sent again
	acked      uint64 // bytes of sent
	segsOut    uint32
	segsIn     uint32
	dataOut    uint32
	dataIn     uint32
	unsent     uint32        // the part of wqueue not sent yet
	lost       uint32        // segments considered lost, or retransmitted and not acknowledged
	rtt        time.Duration // the lowest measured
}

// peerAddr returns the client's address and port.
func (s *socket) peerAddr() netip.AddrPort { return netip.AddrPortFrom(s.peer, s.peerPort) }

var (
	errTruncated   = errors.New("message truncated")
	errInterrupted = errors.New("dump interrupted")
	errOverrun     = errors.New("dump lost in a full receive buffer")
)

// appendRequest appends a dump request for the TCP sockets of a family in the
// states of the mask. It filters by local port unless that is 0, and asks for
// tcp_info if info is set.
func appendRequest(b []byte, seq uint32, family uint8, states uint32, port uint16, info bool) []byte {
	n := len(b)
	b = append(b, make([]byte, diagReqLen)...)
	r := b[n:]
	binary.NativeEndian.PutUint32(r[0:], diagReqLen)
	binary.NativeEndian.PutUint16(r[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(r[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	binary.NativeEndian.PutUint32(r[8:], seq)
	r[16] = family
	r[17] = unix.IPPROTO_TCP
	if info {
		r[18] = 1 << (attrInfo - 1)
	}
	binary.NativeEndian.PutUint32(r[20:], states)
	binary.BigEndian.PutUint16(r[24:], port)
	return b
}

// decodeDump decodes one datagram of a dump and passes each socket to visit,
// which must not keep the pointer. done is true at the dump's last message. Any
// doubt about completeness is an error: a partial dump must never pass for a
// small one. Messages with another sequence number belong to an abandoned dump
// and are skipped.
func decodeDump(b []byte, seq uint32, visit func(*socket)) (done bool, err error) {
	var s socket
	for len(b) > 0 {
		typ, flags, mseq, body, rest, err := nextMessage(b)
		if err != nil {
			return false, err
		}
		b = rest
		if mseq != seq {
			continue
		}
		if flags&unix.NLM_F_DUMP_INTR != 0 {
			return false, errInterrupted
		}
		switch typ {
		case unix.NLMSG_NOOP:
		case unix.NLMSG_OVERRUN:
			return false, errOverrun
		case unix.NLMSG_ERROR:
			return false, messageError(body)
		case unix.NLMSG_DONE:
			// The body, if there is one, is the dump's return code.
			if len(body) >= 4 {
				if code := int32(binary.NativeEndian.Uint32(body)); code < 0 {
					return false, unix.Errno(-code)
				}
			}
			return true, nil
		case sockDiagByFamily:
			if err := decodeSocket(body, &s); err != nil {
				return false, err
			}
			visit(&s)
		default:
			return false, fmt.Errorf("unexpected message type %d", typ)
		}
	}
	return false, nil
}

// decodeEvents decodes a datagram of the destroy groups. A message that can't
// be decoded is an error; the caller has to assume that arrivals were lost with
// it.
func decodeEvents(b []byte, visit func(*socket)) error {
	var s socket
	for len(b) > 0 {
		typ, _, _, body, rest, err := nextMessage(b)
		if err != nil {
			return err
		}
		b = rest
		if typ != sockDiagByFamily {
			continue
		}
		if err := decodeSocket(body, &s); err != nil {
			return err
		}
		visit(&s)
	}
	return nil
}

func nextMessage(b []byte) (typ, flags uint16, seq uint32, body, rest []byte, err error) {
	if len(b) < unix.NLMSG_HDRLEN {
		return 0, 0, 0, nil, nil, errTruncated
	}
	n := binary.NativeEndian.Uint32(b)
	if n < unix.NLMSG_HDRLEN || uint64(n) > uint64(len(b)) {
		return 0, 0, 0, nil, nil, errTruncated
	}
	typ = binary.NativeEndian.Uint16(b[4:])
	flags = binary.NativeEndian.Uint16(b[6:])
	seq = binary.NativeEndian.Uint32(b[8:])
	body = b[unix.NLMSG_HDRLEN:n]
	next := (uint64(n) + 3) &^ 3
	if next > uint64(len(b)) {
		next = uint64(len(b)) // the last message may lack its padding
	}
	return typ, flags, seq, body, b[next:], nil
}

func messageError(body []byte) error {
	if len(body) < 4 {
		return errTruncated
	}
	code := int32(binary.NativeEndian.Uint32(body))
	if code >= 0 {
		return errors.New("acknowledgement in place of a dump")
	}
	return unix.Errno(-code)
}

// decodeSocket decodes an inet_diag_msg and its attributes. It overwrites all
// of s.
func decodeSocket(b []byte, s *socket) error {
	if len(b) < diagMsgLen {
		return errTruncated
	}
	*s = socket{
		family:   b[0],
		state:    b[1],
		local:    binary.BigEndian.Uint16(b[4:]),
		peerPort: binary.BigEndian.Uint16(b[6:]),
		cookie:   uint64(binary.NativeEndian.Uint32(b[44:])) | uint64(binary.NativeEndian.Uint32(b[48:]))<<32,
		expires:  time.Duration(binary.NativeEndian.Uint32(b[52:])) * time.Millisecond,
		rqueue:   binary.NativeEndian.Uint32(b[56:]),
		wqueue:   binary.NativeEndian.Uint32(b[60:]),
		inode:    binary.NativeEndian.Uint32(b[68:]),
	}
	switch b[0] {
	case unix.AF_INET:
		s.peer = netip.AddrFrom4([4]byte(b[24:28]))
		s.self = [4]byte(b[8:12]) == [4]byte(b[24:28])
	case unix.AF_INET6:
		s.peer = netip.AddrFrom16([16]byte(b[24:40])).Unmap()
		s.self = [16]byte(b[8:24]) == [16]byte(b[24:40])
	}
	for b = b[diagMsgLen:]; len(b) > 0; {
		if len(b) < 4 {
			return errTruncated
		}
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return errTruncated
		}
		v := b[4:n]
		switch binary.NativeEndian.Uint16(b[2:]) {
		case attrInfo:
			decodeInfo(v, s)
		case attrCgroup:
			if len(v) >= 8 {
				s.cgroup = binary.NativeEndian.Uint64(v)
			}
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// decodeInfo reads the fields needed from a struct tcp_info, which has grown
// over the years. Without data_segs_out (kernels before 4.6) requests in flight
// can't be deduced, and info stays false. Without bytes_sent (before 4.19) it
// reads bytes_acked, which is equal once the write queue is empty.
func decodeInfo(v []byte, s *socket) {
	if len(v) < 160 {
		return
	}
	ms := func(at int) time.Duration {
		return time.Duration(binary.NativeEndian.Uint32(v[at:])) * time.Millisecond
	}
	s.info = true
	s.sentAgo, s.recvAgo, s.ackAgo = ms(44), ms(52), ms(56)
	s.sent = binary.NativeEndian.Uint64(v[120:])
	s.recv = binary.NativeEndian.Uint64(v[128:])
	s.segsOut = binary.NativeEndian.Uint32(v[136:])
	s.segsIn = binary.NativeEndian.Uint32(v[140:])
	s.lost = binary.NativeEndian.Uint32(v[32:]) + binary.NativeEndian.Uint32(v[36:])
	s.unsent = binary.NativeEndian.Uint32(v[144:])
	s.rtt = time.Duration(binary.NativeEndian.Uint32(v[148:])) * time.Microsecond
	s.dataIn = binary.NativeEndian.Uint32(v[152:])
	s.dataOut = binary.NativeEndian.Uint32(v[156:])
	s.acked = s.sent
	if len(v) >= 216 {
		again := binary.NativeEndian.Uint64(v[208:])
		s.sent = binary.NativeEndian.Uint64(v[200:]) - again
	}
}
