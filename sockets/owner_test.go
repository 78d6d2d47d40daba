package sockets

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cgroup2 makes a cgroup, and returns its descriptor.
func cgroup2(t *testing.T, name string) int {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		var st unix.Statfs_t
		if unix.Statfs(root, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		dir := filepath.Join(root, fmt.Sprintf("drainit-test-%d-%s", os.Getpid(), name))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Skipf("no cgroup: %v", err)
		}
		t.Cleanup(func() { os.Remove(dir) })
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return int(f.Fd())
	}
	t.Skip("no cgroup v2 tree")
	return 0
}

func TestANeighbourInAnotherCgroupIsNotTheChild(t *testing.T) {
	ours, theirs := cgroup2(t, "ours"), cgroup2(t, "theirs")
	neighbour := start(t, "listen", theirs)
	var port string
	var known bool
	got := start(t, "listening", ours)
	if _, err := fmt.Sscan(got, &port); err != nil {
		t.Fatal(err)
	}
	known = got == port+" ["+port+"] <nil> true"
	if !known {
		t.Errorf("saw %q; want its own port %s alone, and not the neighbour's %s", got, port, neighbour)
	}
}

func TestADescendantsListenerIsFoundWithoutCgroups(t *testing.T) {
	port := start(t, "listen", 0)
	want, _ := strconv.Atoi(port)
	inodes, complete := descendantSockets(os.Getpid())
	if !complete {
		t.Skip("some descendant can't be looked at")
	}
	nl, err := openNetlink()
	if err != nil {
		t.Skip(err)
	}
	defer nl.close()
	found := false
	err = nl.dump(bothFamilies, maskListen, uint16(want), false, func(s *socket) {
		_, held := inodes[s.inode]
		found = found || held
	})
	if err != nil || !found {
		t.Errorf("the listener of a descendant was not found: %v", err)
	}
}

func TestSplit(t *testing.T) {
	l := func(port uint16, cgroup uint64) listener {
		return listener{port: port, cgroup: cgroup, inode: uint32(port)}
	}
	id := func(n uint64) func() uint64 { return func() uint64 { return n } }
	everything := []listener{l(8099, 7), l(80, 7), l(15001, 9)}
	for _, tt := range []struct {
		name    string
		owner   owner
		self    func() uint64
		want    []uint16
		foreign bool
	}{
		{"by cgroup", owner{own: 8099}, id(7), []uint16{80}, true},
		{"explicit ports win", owner{own: 8099, ports: []uint16{15001, 1}}, id(7), []uint16{15001}, true},
		{"descendants' in the root cgroup", owner{own: 8099, inodes: map[uint32]ownership{80: ours}}, id(1), []uint16{80}, true},
		{"all, where nothing tells", owner{own: 8099, unsure: true}, nil, []uint16{80, 15001}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.owner.inodes != nil || tt.owner.unsure {
				tt.owner.scanned = time.Now().Add(time.Hour)
			}
			mine, foreign := tt.owner.split(slices.Clone(everything), tt.self)
			var ports []uint16
			for _, l := range mine {
				ports = append(ports, l.port)
			}
			if !slices.Equal(ports, tt.want) || foreign != tt.foreign {
				t.Errorf("got %v, foreign %v", ports, foreign)
			}
		})
	}
}
