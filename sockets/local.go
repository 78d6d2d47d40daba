package sockets

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"

	"github.com/drainit/drainit/internal/proc"
)

// gateways returns the addresses of the default gateways of this network
// namespace. On a bridge that is the host, from which a kubelet or Docker
// probes.
func gateways() (all []netip.Addr) {
	if text, err := proc.ReadFile("/proc/net/route", nil); err == nil {
		all = append(all, gateways4(text)...)
	}
	if text, err := proc.ReadFile("/proc/net/ipv6_route", nil); err == nil {
		all = append(all, gateways6(text)...)
	}
	return all
}

// gateways4 parses /proc/net/route: addresses are words in the machine's byte
// order, in hexadecimal.
//
//	Iface	Destination	Gateway	Flags	RefCnt	Use	Metric	Mask …
//	eth0	00000000	010011AC	0003	0	0	0	00000000 …
func gateways4(text []byte) (all []netip.Addr) {
	for line := range bytes.Lines(text) {
		_, rest := field(line)
		destination, rest := field(rest)
		gateway, _ := field(rest)
		to, ok1 := number(destination, 16)
		via, ok2 := number(gateway, 16)
		if !ok1 || !ok2 || to != 0 || via == 0 || via > 1<<32-1 {
			continue
		}
		var a [4]byte
		binary.NativeEndian.PutUint32(a[:], uint32(via))
		all = append(all, netip.AddrFrom4(a))
	}
	return all
}

// gateways6 parses /proc/net/ipv6_route: destination, its prefix length,
// source, its prefix length, next hop, all in hexadecimal.
func gateways6(text []byte) (all []netip.Addr) {
	for line := range bytes.Lines(text) {
		_, rest := field(line)
		length, rest := field(rest)
		_, rest = field(rest)
		_, rest = field(rest)
		hop, _ := field(rest)
		n, ok := number(length, 16)
		var a [16]byte
		if !ok || n != 0 || len(hop) != 32 {
			continue
		}
		if _, err := hex.Decode(a[:], hop); err != nil || a == [16]byte{} {
			continue
		}
		all = append(all, netip.AddrFrom16(a))
	}
	return all
}
