package sockets

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/drainit/drainit/internal/proc"
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

// rootCgroup is the id of the root of the cgroup v2 tree. Where only cgroup v1
// is in use every socket has it, so it distinguishes nothing.
const rootCgroup = 1

// owner distinguishes the child's listeners from those of neighbours in the
// network namespace.
//
// An explicit list of ports decides. Otherwise a listener is the child's if it
// carries the id of drainit's own cgroup. Where ids distinguish nothing (no id,
// or the root's), it is the child's if a descendant of drainit holds it. Where
// their descriptors can't be read, every listener but drainit's own is taken
// for the child's.
type owner struct {
	ports []uint16 // explicit
	own   uint16   // drainit's own port

	cgroup uint64 // drainit's own, 0 if unknown
	asked  bool   // the cgroup has been looked up

	inodes  map[uint32]ownership
	scanned time.Time
	unsure  bool // neighbours can't be distinguished
}

type ownership uint8

const (
	hidden ownership = iota + 1 // its holder may be a process that can't be read
	theirs
	ours
)

// A look-up of the holders of listeners reads all of /proc.
const (
	// rescan is how often they are looked up again: listeners may be handed on
	// while the child starts.
	rescan = time.Second
	// rescanNew is how often they are if there is a listener that has not been
	// looked up: readiness may be waiting for it.
	rescanNew = 50 * time.Millisecond
)

// split returns the child's listeners, and whether there are foreign ones. It
// reuses all. self returns the id of drainit's own cgroup; it is nil if the
// listeners carry no ids.
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

// held returns the listeners that descendants of drainit hold.
func (o *owner) held(all []listener) []listener {
	missing := func(l listener) bool { return o.inodes[l.inode] != ours }
	if o.due(all, missing) {
		inodes, complete := descendantSockets(os.Getpid())
		o.scanned, o.unsure = time.Now(), !complete // a neighbour's may be among those kept
		o.inodes = map[uint32]ownership{}
		for _, l := range all {
			_, found := inodes[l.inode]
			switch {
			case found:
				o.inodes[l.inode] = ours
			case complete:
				o.inodes[l.inode] = theirs
			default:
				o.inodes[l.inode] = hidden
			}
		}
	}
	if o.unsure {
		// Some process's descriptors can't be read: a listener without a known
		// holder may be ours.
		return all
	}
	return slices.DeleteFunc(all, missing)
}

// due reports whether the holders of listeners are to be looked up.
func (o *owner) due(all []listener, missing func(listener) bool) bool {
	passed := time.Since(o.scanned)
	isNew := func(l listener) bool { return o.inodes[l.inode] == 0 }
	return passed >= rescan && slices.ContainsFunc(all, missing) ||
		passed >= rescanNew && slices.ContainsFunc(all, isNew)
}

// descendantSockets returns the inodes of all sockets that descendants of a
// process hold. complete is false if the descriptors of one of them can't be
// read, as those of another user's process.
func descendantSockets(root int) (inodes map[uint32]struct{}, complete bool) {
	inodes = map[uint32]struct{}{}
	found, err := proc.Descendants(root)
	if err != nil {
		return inodes, false
	}
	complete = true
	for _, p := range found {
		dir := "/proc/" + strconv.Itoa(p.PID) + "/fd"
		names, err := readNames(dir)
		if err != nil && !processGone(err) {
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

func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// processGone reports whether err means that a process has ended meanwhile.
func processGone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
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

// ownCgroup returns the id of drainit's own cgroup, or 0. It reads it from a
// socket that listens on loopback just for that. (There may be no health
// listener, and a stat of the cgroup's directory needs it to be mounted.)
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
