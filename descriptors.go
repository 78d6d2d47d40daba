package main

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// closeInherited closes the descriptors above standard error that drainit was
// started with: they are the child's, which has them by now. A copy of a
// listening socket kept here would go on accepting connections into a backlog
// that nothing serves, after the child has closed its own.
//
// What has survived the execve that started drainit has no close-on-exec flag.
// All that drainit and the Go runtime open has.
func closeInherited() {
	for _, fd := range descriptors() {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if fd > unix.Stderr && err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
}

// descriptors returns the open descriptors, or where /proc can't be read those
// that are usual.
func descriptors() (fds []int) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		for fd := range 1024 {
			fds = append(fds, fd)
		}
		return fds
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil {
			fds = append(fds, fd)
		}
	}
	return fds
}
