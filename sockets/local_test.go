package sockets

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

func TestGateways(t *testing.T) {
	route := []byte("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
		"eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
		"eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n" +
		"eth1\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n" +
		"torn\t0000")
	want := []netip.Addr{netip.MustParseAddr("172.17.0.1")}
	if got := gateways4(route); binary.NativeEndian.Uint16([]byte{1, 0}) == 1 && !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	route6 := []byte("00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000042acfffe110001 00000400 00000001 00000000 00000003 eth0\n" +
		"fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001 eth0\n" +
		"00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200 lo\n")
	want = []netip.Addr{netip.MustParseAddr("fe80::42:acff:fe11:1")}
	if got := gateways6(route6); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
