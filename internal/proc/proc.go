// Package proc reads from /proc which processes there are, what they are
// called, and which descend from which.
//
// Reading /proc is not atomic: a process may end, and its PID may be reused,
// between two reads. So every walk is bounded, and an answer is true of a
// moment that has passed.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Process is a process as /proc/<pid>/stat shows it.
type Process struct {
	PID    int
	Parent int    // 0 for PID 1, and where the parent is outside this PID namespace
	State  byte   // as ps shows it: R, S, D, T, Z, …
	Name   string // the command, cut to 15 bytes; a process can change its own
}

// Ended reports whether the process has ended and only waits to be reaped. A
// process whose first thread alone has ended looks the same.
func (p Process) Ended() bool { return p.State == 'Z' || p.State == 'X' }

// String returns the name and the PID, for the log.
func (p Process) String() string { return fmt.Sprintf("%s (pid %d)", p.Name, p.PID) }

// statSize holds the PID, a name of 64 bytes (a kernel worker's; others have
// 15) and the first fields after it.
const statSize = 512

// Stat reads /proc/<pid>/stat. The error is ENOENT or ESRCH if there is no such
// process.
func Stat(pid int) (Process, error) {
	// Plain system calls: an os.File would be registered with the poller, and
	// given a finalizer, for one read of a file that never blocks.
	name := "/proc/" + strconv.Itoa(pid) + "/stat"
	fd, err := retry(func() (int, error) { return unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return Process{}, err
	}
	defer unix.Close(fd)
	var buf [statSize]byte
	n, err := retry(func() (int, error) { return unix.Read(fd, buf[:]) })
	if err != nil {
		return Process{}, err // ESRCH: it ended between open and read
	}
	return parseStat(buf[:n])
}

func retry(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

var errStat = errors.New("unexpected format of /proc/<pid>/stat")

// parseStat parses `pid (name) state parent …`. A process chooses its own name,
// so that may hold spaces, parentheses and newlines: only the last parenthesis
// is certain to be the kernel's, as only numbers follow it.
func parseStat(stat []byte) (p Process, err error) {
	begin, end := bytes.Index(stat, []byte(" (")), bytes.LastIndexByte(stat, ')')
	if begin < 0 || end < begin+2 {
		return Process{}, errStat
	}
	fields := bytes.Fields(stat[end+1:])
	// With fewer than three the parent's number may have been cut off.
	if len(fields) < 3 || len(fields[0]) != 1 || fields[0][0] > '~' {
		return Process{}, errStat
	}
	pid, err1 := strconv.ParseUint(string(stat[:begin]), 10, 31)
	parent, err2 := strconv.ParseUint(string(fields[1]), 10, 31)
	if err1 != nil || err2 != nil {
		return Process{}, errStat
	}
	return Process{
		PID:    int(pid),
		Parent: int(parent),
		State:  fields[0][0],
		Name:   string(stat[begin+2 : end]),
	}, nil
}

// Check returns an error unless /proc is there and is this PID namespace's own:
// a container may be given the host's, where the same numbers are other
// processes.
func Check() error {
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return err
	}
	if self != strconv.Itoa(os.Getpid()) {
		return errors.New("/proc belongs to another PID namespace")
	}
	_, err = Stat(os.Getpid())
	return err
}

// All returns every process of the PID namespace, those that have ended and
// wait to be reaped included. Processes that go away meanwhile are left out.
func All() ([]Process, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, err := Stat(pid); err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}
