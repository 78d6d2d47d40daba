package notify

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// maxDepth bounds the walk up from a sender, in processes: a tree deeper than
// this is nobody's server, and the walk is paid per datagram.
const maxDepth = 128

// descends reports, with nil, that process pid is root or descends from it.
//
// Every doubt refuses: without a readable /proc, or when the sender has gone
// before its datagram was read, nothing tells it from a stranger. Who sends and
// exits at once is safe with BARRIER=1, as systemd-notify does it; systemd has
// the same race and answers it the same way. An ancestor that goes during the
// walk is no doubt: the kernel has given its children a new parent (root itself,
// which is a subreaper), so the walk begins again. parentOf is the function of
// that name.
func descends(pid, root int, parentOf func(int) (int, error)) error {
	var err error
	for range 8 {
		at := pid
		for range maxDepth {
			if at == root {
				return nil
			}
			var parent int
			if parent, err = parentOf(at); err != nil {
				break
			}
			// 0 is the parent of PID 1, and of one whose parent is outside
			// this PID namespace.
			if parent == 0 {
				return fmt.Errorf("process %d does not descend from %d", pid, root)
			}
			at = parent
		}
		if err == nil {
			return fmt.Errorf("process %d is more than %d levels deep", pid, maxDepth)
		}
		if at == pid {
			break
		}
	}
	return fmt.Errorf("where process %d comes from can't be told: %w", pid, err)
}

// parentOf reads the parent's PID from /proc/<pid>/stat.
func parentOf(pid int) (int, error) {
	// Plain system calls: an os.File would be registered with the poller,
	// and given a finalizer, for one read of a file that never blocks.
	fd, err := syscall.Open("/proc/"+strconv.Itoa(pid)+"/stat", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer syscall.Close(fd)
	var buf [512]byte
	n, err := syscall.Read(fd, buf[:])
	if err != nil {
		return 0, err // ESRCH: it went between open and read
	}
	return parseStat(buf[:n])
}

var errStat = errors.New("unexpected format of /proc/<pid>/stat")

// parseStat finds the parent in `pid (comm) state ppid …`. A process names
// itself, so comm may hold spaces, parentheses and newlines: only the last
// parenthesis is certain to be the kernel's, as only numbers follow it.
func parseStat(stat []byte) (int, error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, errStat
	}
	fields := bytes.Fields(stat[end+1:])
	// With fewer than three the number may have been cut off.
	if len(fields) < 3 {
		return 0, errStat
	}
	ppid, err := strconv.ParseUint(string(fields[1]), 10, 31)
	if err != nil {
		return 0, errStat
	}
	return int(ppid), nil
}

// checkProc makes sure that /proc is there and is this PID namespace's own: a
// container may be given the host's, where the same numbers are other processes.
func checkProc() error {
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return err
	}
	if self != strconv.Itoa(os.Getpid()) {
		return errors.New("/proc belongs to another PID namespace")
	}
	_, err = parentOf(os.Getpid())
	return err
}
