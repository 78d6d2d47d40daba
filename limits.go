package main

import (
	"fmt"

	"github.com/drainit/drainit/cgroup"
	"golang.org/x/sys/unix"
)

// What drainit needs at the start, with some room. Where it is not to be had
// the Go runtime ends the program in the middle of its work, with a dump and
// code 2.
const (
	freeDescriptors = 12
	freeProcesses   = 8 // threads count: six more, the child, and one
)

// checkLimits returns an error if a limit leaves too little for drainit and the
// start of the child. What the Go runtime needs before the program's first line
// can't be checked: the address space of RLIMIT_AS, and five threads.
func checkLimits() error {
	if !descriptorsFree(freeDescriptors) {
		return &userError{
			fmt.Sprintf("the limit of open files leaves less than %d to drainit", freeDescriptors),
			"raise it (docker run --ulimit nofile=1024), or pass on fewer descriptors"}
	}
	if free, err := cgroup.FreeProcesses(); err == nil && free < freeProcesses {
		return &userError{
			fmt.Sprintf("the limit of processes leaves %d, and drainit needs %d for its threads and the child",
				free, freeProcesses),
			"raise it (docker run --pids-limit, podPidsLimit)"}
	}
	return nil
}

// descriptorsFree reports whether n more descriptors can be opened.
func descriptorsFree(n int) bool {
	for range n {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			return false
		}
		defer unix.Close(fd)
	}
	return true
}
