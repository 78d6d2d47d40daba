package sockets

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// listener is a listening TCP socket.
type listener struct {
	family uint8
	port   uint16
	queue  uint32
	inode  uint32
	cgroup uint64
}

// The root of the cgroup v2 tree has this id, and so has every socket where only cgroup v1 is in use: such
// an id tells nobody apart.
const rootCgroup = 1

// owner tells the child's listeners from those of neighbours in the network namespace.
//
// An explicit list of ports is followed. Otherwise a listener is the child's if it carries the id of
// drainit's own cgroup; in so far as ids don't tell (no id, or the root's), if one of drainit's descendants
// holds it; and if their descriptors can't be read, every listener is the child's but drainit's own.
type owner struct {
	ports []uint16 // explicit
	own   uint16   // drainit's own port

	cgroup uint64 // drainit's own, 0 if unknown
	asked  bool   // for the cgroup

	inodes  map[uint32]verdict
	scanned time.Time
	unsure  bool // neighbours can't be told apart
}

type verdict uint8

const (
	theirs verdict = iota + 1
	ours
)

// Who holds a listener may change while the child starts; it is looked up again at this pace, and not more
// often, since it reads all of /proc.
const rescan = time.Second

// split returns the child's listeners, and whether there are foreign ones. It reuses all. self returns the id
// of drainit's own cgroup; it is nil where the listeners have come without ids.
func (o *owner) split(all []listener, self func() uint64) (mine []listener, foreign bool) {
	all = slices.DeleteFunc(all, func(l listener) bool { return o.own != 0 && l.port == o.own })
	n := len(all)
	if len(o.ports) > 0 {
		mine = slices.DeleteFunc(all, func(l listener) bool { return !slices.Contains(o.ports, l.port) })
		return mine, len(mine) < n
	}
	if n == 0 {
		return nil, false
	}
	if !o.asked && self != nil {
		o.cgroup, o.asked = self(), true
	}
	if o.cgroup > rootCgroup && self != nil {
		mine = slices.DeleteFunc(all, func(l listener) bool { return l.cgroup != o.cgroup })
	} else {
		mine = o.held(all)
	}
	return mine, len(mine) < n
}

// held returns those listeners that descendants hold.
func (o *owner) held(all []listener) []listener {
	missing := func(l listener) bool { return o.inodes[l.inode] != ours }
	if slices.ContainsFunc(all, missing) && time.Since(o.scanned) >= rescan {
		inodes, complete := descendantSockets(os.Getpid())
		o.scanned, o.unsure = time.Now(), !complete // a neighbour may be among those kept
		o.inodes = map[uint32]verdict{}
		for _, l := range all {
			_, found := inodes[l.inode]
			switch {
			case found:
				o.inodes[l.inode] = ours
			case complete:
				o.inodes[l.inode] = theirs
			}
		}
	}
	if o.unsure {
		// Somebody's descriptors are closed to us: what isn't known to be ours might be.
		return all
	}
	return slices.DeleteFunc(all, missing)
}

// descendantSockets returns the inodes of all sockets that descendants of a process hold. complete is false
// if one of them doesn't let itself be looked at, for being of another user.
func descendantSockets(root int) (inodes map[uint32]struct{}, complete bool) {
	parents := map[int]int{}
	var stat []byte
	for pid := range numbers("/proc") {
		var err error
		if stat, err = readFile("/proc/"+strconv.Itoa(pid)+"/stat", stat); err != nil {
			continue // gone
		}
		if parent, ok := parentOf(stat); ok {
			parents[pid] = parent
		}
	}
	inodes, complete = map[uint32]struct{}{}, len(parents) > 0
	for pid := range parents {
		if !descends(parents, pid, root) {
			continue
		}
		dir := "/proc/" + strconv.Itoa(pid) + "/fd"
		d, err := os.Open(dir)
		if err != nil {
			if !gone(err) {
				complete = false
			}
			continue
		}
		names, err := d.Readdirnames(-1)
		d.Close()
		if err != nil && !gone(err) {
			complete = false
		}
		for _, name := range names {
			if inode, ok := socketInode(dir + "/" + name); ok {
				inodes[inode] = struct{}{}
			}
		}
	}
	return inodes, complete
}

// gone reports whether a process was there no more.
func gone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// numbers yields the names in a directory that are numbers.
func numbers(dir string) func(func(int) bool) {
	return func(yield func(int) bool) {
		d, err := os.Open(dir)
		if err != nil {
			return
		}
		defer d.Close()
		names, _ := d.Readdirnames(-1)
		for _, name := range names {
			if n, err := strconv.Atoi(name); err == nil && !yield(n) {
				return
			}
		}
	}
}

func descends(parents map[int]int, pid, root int) bool {
	for range len(parents) {
		pid = parents[pid]
		if pid == root {
			return true
		}
		if pid == 0 {
			return false
		}
	}
	return false
}

// parentOf finds the parent in the text of /proc/<pid>/stat; the name before it may contain anything.
func parentOf(stat []byte) (int, bool) {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return 0, false
	}
	_, rest := field(stat[i+1:])
	parent, _ := field(rest)
	n, ok := number(parent, 10)
	return int(n), ok
}

func socketInode(link string) (uint32, bool) {
	var buf [64]byte
	n, err := unix.Readlink(link, buf[:])
	if err != nil {
		return 0, false
	}
	b, ok := bytes.CutPrefix(buf[:n], []byte("socket:["))
	if !ok {
		return 0, false
	}
	inode, ok := number(bytes.TrimSuffix(b, []byte("]")), 10)
	return uint32(inode), ok
}

// ownCgroup learns the id of drainit's own cgroup from a socket of its own that listens for no longer than
// it takes to ask about it, on loopback. (The health listener's would do, but there may be none; and a
// stat of the cgroup's directory needs it to be mounted.)
func ownCgroup(n *netlink) uint64 {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	if unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}) != nil || unix.Listen(fd, 0) != nil {
		return 0
	}
	var st unix.Stat_t
	addr, err := unix.Getsockname(fd)
	if err != nil || unix.Fstat(fd, &st) != nil {
		return 0
	}
	in4, ok := addr.(*unix.SockaddrInet4)
	if !ok {
		return 0
	}
	var id uint64
	err = n.dump(families{true}, maskListen, uint16(in4.Port), false, func(s *socket) {
		if uint64(s.inode) == st.Ino&0xffffffff {
			id = s.cgroup
		}
	})
	if err != nil {
		return 0
	}
	return id
}
