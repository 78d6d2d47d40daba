package sockets

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestUnixListeners(t *testing.T) {
	text := []byte("Num       RefCount Protocol Flags    Type St Inode Path\n" +
		"0000000000000000: 00000002 00000000 00010000 0001 01 11 /run/a server.sock\n" +
		"0000000000000000: 00000002 00000000 00010000 0001 01 12 @abstract\n" +
		"0000000000000000: 00000002 00000000 00010000 0005 01 19 @packets\n" +
		"0000000000000000: 00000003 00000000 00000000 0001 03 13 /run/connected.sock\n" +
		"0000000000000000: 00000002 00000000 00000000 0002 01 14 /run/datagram.sock\n" +
		"0000000000000000: 00000002 00000000 00010000 0001 01 15 /run/neighbour.sock\n" +
		"0000000000000000: 00000002 00000000 00010000 0001 01 16\n" +
		"0000000000000000: 00000002 00000000 0001")
	inodes := map[uint32]struct{}{11: {}, 12: {}, 13: {}, 14: {}, 16: {}, 19: {}}
	want := []string{"/run/a server.sock", "@abstract", "@packets", "unnamed"}
	if got := unixListeners(text, inodes); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestServing: only what a process below holds counts, and not what this one
// does.
func TestServing(t *testing.T) {
	c := New(Options{})
	if s, err := c.Serving(); err != nil || !s.Nothing() {
		t.Skipf("something runs below already: %+v, %v", s, err)
	}
	_, own := listen(t, "tcp", "127.0.0.1:0")
	start(t, "listen", 0)
	s, err := c.Serving()
	if err != nil || len(s.TCP) != 1 || s.TCP[0] == own || len(s.UDP)+len(s.Unix) != 0 {
		t.Errorf("got %+v, %v; want one TCP port", s, err)
	}
}

func TestServingReadsAllKinds(t *testing.T) {
	l, port := listen(t, "tcp", "127.0.0.1:0")
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Skip(err)
	}
	defer p.Close()
	connected, err := net.Dial("udp", "127.0.0.1:53") // as a resolver's
	if err != nil {
		t.Skip(err)
	}
	defer connected.Close()
	path := filepath.Join(t.TempDir(), "s")
	u, err := net.Listen("unix", path)
	if err != nil {
		t.Skip(err)
	}
	defer u.Close()
	defer l.Close()
	inodes := map[uint32]struct{}{}
	names, _ := os.ReadDir("/proc/self/fd")
	for _, n := range names {
		if inode, ok := socketInode("/proc/self/fd/" + n.Name()); ok {
			inodes[inode] = struct{}{}
		}
	}
	var s Serving
	if err := s.read(inodes); err != nil {
		t.Fatal(err)
	}
	udp := uint16(p.LocalAddr().(*net.UDPAddr).Port)
	if !slices.Contains(s.TCP, port) || !slices.Equal(s.UDP, []uint16{udp}) || !slices.Equal(s.Unix, []string{path}) {
		t.Errorf("got %+v; want TCP %d, UDP %d, Unix %s", s, port, udp, path)
	}
}
