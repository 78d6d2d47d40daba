package sockets

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
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

// TestANewListenerIsLookedUpSoon: where sockets have no ids, a neighbour's
// listener must not make the child's count late.
func TestANewListenerIsLookedUpSoon(t *testing.T) {
	const neighbours, childs = 15001, 80
	l := func(inode uint32) listener { return listener{inode: inode} }
	before := []listener{l(neighbours)}
	after := []listener{l(neighbours), l(childs)}
	for _, tt := range []struct {
		name    string
		scanned time.Duration // ago
		known   map[uint32]ownership
		all     []listener
		want    bool
	}{
		{"nothing was looked up", time.Hour, nil, before, true},
		{"a neighbour's, looked up just now", rescanNew, map[uint32]ownership{neighbours: theirs}, before, false},
		{"a neighbour's may have been handed on", rescan, map[uint32]ownership{neighbours: theirs}, before, true},
		{"one more", rescanNew, map[uint32]ownership{neighbours: theirs}, after, true},
		{"one more, at once", 0, map[uint32]ownership{neighbours: theirs}, after, false},
		{"one with a hidden holder", rescanNew, map[uint32]ownership{neighbours: hidden}, before, false},
		{"the child's alone", time.Hour, map[uint32]ownership{childs: ours}, []listener{l(childs)}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := owner{inodes: tt.known, scanned: time.Now().Add(-tt.scanned)}
				missing := func(l listener) bool { return o.inodes[l.inode] != ours }
				if got := o.due(tt.all, missing); got != tt.want {
					t.Errorf("due: %v", got)
				}
			})
		})
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
