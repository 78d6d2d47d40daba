package sockets

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// message makes a netlink message around a body.
func message(typ, flags uint16, seq uint32, body []byte) []byte {
	b := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(body))
	binary.NativeEndian.PutUint32(b, uint32(unix.NLMSG_HDRLEN+len(body)))
	binary.NativeEndian.PutUint16(b[4:], typ)
	binary.NativeEndian.PutUint16(b[6:], flags)
	binary.NativeEndian.PutUint32(b[8:], seq)
	return append(b, body...)
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecodeSocketFromAKernelsBytes(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the bytes are a little-endian machine's")
	}
	for _, tt := range capturedSockets {
		t.Run(tt.name, func(t *testing.T) {
			var s socket
			if err := decodeSocket(unhex(t, tt.bytes), &s); err != nil {
				t.Fatal(err)
			}
			if s != tt.want {
				t.Errorf("got  %+v\nwant %+v", s, tt.want)
			}
		})
	}
}

func TestDecodeDumpRefusesWhatMayBeIncomplete(t *testing.T) {
	body := make([]byte, diagMsgLen)
	one := message(sockDiagByFamily, 0, 7, body)
	errno := func(e unix.Errno) []byte {
		b := make([]byte, 20)
		binary.NativeEndian.PutUint32(b, uint32(-int32(e)))
		return b
	}
	for _, tt := range []struct {
		name string
		in   []byte
		done bool
		want error
		seen int
	}{
		{"a socket", one, false, nil, 1},
		{"a socket and the end", append(append([]byte{}, one...), message(unix.NLMSG_DONE, 0, 7, make([]byte, 4))...), true, nil, 1},
		{"an end that reports an error", message(unix.NLMSG_DONE, 0, 7, errno(unix.ENOMEM)), false, unix.ENOMEM, 0},
		{"an error after a socket", append(append([]byte{}, one...), message(unix.NLMSG_ERROR, 0, 7, errno(unix.EPERM))...), false, unix.EPERM, 1},
		{"an interrupted dump", message(sockDiagByFamily, unix.NLM_F_DUMP_INTR, 7, body), false, errInterrupted, 0},
		{"an interrupted end", message(unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR, 7, make([]byte, 4)), false, errInterrupted, 0},
		{"an overrun", message(unix.NLMSG_OVERRUN, 0, 7, nil), false, errOverrun, 0},
		{"half a header", one[:9], false, errTruncated, 0},
		{"half a socket", one[:len(one)-1], false, errTruncated, 0},
		{"a short socket", message(sockDiagByFamily, 0, 7, body[:40]), false, errTruncated, 0},
		{"an attribute beyond the end", message(sockDiagByFamily, 0, 7, append(append([]byte{}, body...), 9, 0, 1, 0)), false, errTruncated, 0},
		{"remains of another dump", message(unix.NLMSG_DONE, 0, 6, nil), false, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seen := 0
			done, err := decodeDump(tt.in, 7, func(*socket) { seen++ })
			if done != tt.done || !errors.Is(err, tt.want) || seen != tt.seen {
				t.Errorf("done %v, error %v, %d seen; want %v, %v, %d", done, err, seen, tt.done, tt.want, tt.seen)
			}
		})
	}
}

func TestDecodingAllocatesNothingPerSocket(t *testing.T) {
	var dump []byte
	for range 100 {
		dump = append(dump, message(sockDiagByFamily, 0, 7, make([]byte, diagMsgLen))...)
	}
	table := []byte("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n")
	for range 100 {
		table = append(table, tcpRow...)
	}
	n := 0
	visit := func(*socket) { n++ }
	allocs := testing.AllocsPerRun(100, func() {
		decodeDump(dump, 7, visit)
		parseTable(table, visit)
	})
	if allocs > 2 {
		t.Errorf("%v allocations for 200 sockets", allocs)
	}
}

const tcpRow = "   3: 0100007F:1F90 0200007F:A2C4 01 00000005:00000007 02:000A7214 00000000  1000        0 4242 1 0000000000000000 20 4 30 10 -1\n"

func TestParseTable(t *testing.T) {
	text := []byte("  sl  local_address\n" + tcpRow +
		"   0: 00000000000000000000000000000000:1F91 00000000000000000000000000000000:0000 0A 00000000:00000003 00:00000000 00000000     0        0 99 1\n" +
		"   1: 0000000000000000FFFF00000100007F:FFFF 0000000000000000FFFF00000100007F:0001 08 00000000:00000000 00:00000000 00000000     0        0 0 1\n")
	var got []socket
	if err := parseTable(text, func(s *socket) { got = append(got, *s) }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 {
		t.Fatalf("%d sockets", len(got))
	}
	want := socket{state: stEstablished, local: 8080, peerPort: 41668, peer: netip.MustParseAddr("127.0.0.2"), cookie: 4242, inode: 4242, rqueue: 7, wqueue: 5}
	if got[0] != want && binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		t.Errorf("got  %+v\nwant %+v", got[0], want)
	}
	if l := got[1]; l.state != stListen || l.local != 8081 || l.rqueue != 3 || l.inode != 99 {
		t.Errorf("listener %+v", l)
	}
	if c := got[2]; c.local != 65535 || c.peerPort != 1 || !c.self || c.cookie == 0 {
		t.Errorf("not accepted %+v", c)
	}
	for _, bad := range []string{"", "header\nx\n", "header\n" + tcpRow[:40], "header\n" + tcpRow[:40] + "\n"} {
		if err := parseTable([]byte(bad), func(*socket) {}); err == nil {
			t.Errorf("%q was taken for a whole table", bad)
		}
	}
}

func TestPassiveOpens(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want uint64
		ok   bool
	}{
		{"Ip: A B\nIp: 1 2\nTcp: RtoMin MaxConn ActiveOpens PassiveOpens X\nTcp: 1 -1 242 156 9\n", 156, true},
		{"Tcp: PassiveOpens\nTcp: 18446744073709551615\n", 1<<64 - 1, true},
		{"Tcp: PassiveOpens\nTcp: 18446744073709551616\n", 0, false},
		{"Tcp: ActiveOpens PassiveOpens\nTcp: 1\n", 0, false},
		{"Tcp: ActiveOpens\nTcp: 1\n", 0, false},
		{"Tcp: PassiveOpens\n", 0, false},
		{"", 0, false},
	} {
		got, err := passiveOpens([]byte(tt.in))
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("%q: %d, %v", tt.in, got, err)
		}
	}
}

func FuzzDecodeDump(f *testing.F) {
	f.Add(message(sockDiagByFamily, 0, 7, make([]byte, diagMsgLen+8)))
	f.Add(message(unix.NLMSG_DONE, 0, 7, make([]byte, 4)))
	for _, c := range capturedSockets {
		f.Add(message(sockDiagByFamily, unix.NLM_F_MULTI, 7, unhex(f, c.bytes)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		done, err := decodeDump(b, 7, func(*socket) {})
		if done && err != nil {
			t.Error("a dump both complete and failed")
		}
		_ = decodeEvents(b, func(*socket) {})
	})
}

func FuzzParseTable(f *testing.F) {
	f.Add([]byte("header\n" + tcpRow))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = parseTable(b, func(s *socket) {
			if s.expires != 0 || s.info {
				t.Errorf("invented %+v", s)
			}
		})
	})
}

func FuzzPassiveOpens(f *testing.F) {
	f.Add([]byte("Tcp: A PassiveOpens\nTcp: 1 2\n"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = passiveOpens(b) })
}
