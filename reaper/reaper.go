// Package reaper collects the exits of child processes.
//
// The caller of Reap owns wait4(-1). The package has no goroutine and no
// channel, so no second waiter can steal a status, and a PID stays reserved (by
// the zombie) until that caller has reaped it. If the same goroutine also sends
// the signals, none can reach a process that reused a PID.
package reaper

import (
	"errors"

	"golang.org/x/sys/unix"
)

// batch bounds one call of Reap, so that a storm of exits can't keep its caller
// from handling a signal. In practice far fewer processes end at once.
const batch = 4096

// Exit is a process that has ended, or one that job control stopped or
// continued if Status.Stopped or Status.Continued is true.
type Exit struct {
	PID    int
	Status unix.WaitStatus
}

// Code returns the exit code a shell would report: the process's own, or 128 +
// n if signal n killed it. It is -1 for a process that has not ended.
func (e Exit) Code() int {
	switch {
	case e.Status.Exited():
		return e.Status.ExitStatus()
	case e.Status.Signaled():
		// ExitStatus returns -1 for a killed process.
		return 128 + int(e.Status.Signal())
	}
	return -1
}

// Ended reports whether the process has ended, rather than stopped or
// continued.
func (e Exit) Ended() bool { return e.Status.Exited() || e.Status.Signaled() }

// State is what is left after a Reap.
type State int

const (
	Waiting State = iota // children are left, none with a status to collect
	More                 // batch was full: call again before the next SIGCHLD
	None                 // no child is left, living or dead
)

// Reap collects all pending exits without blocking. SIGCHLD coalesces: one
// wake-up may stand for any number of exits. Reap appends to exits, which may
// be nil, and returns the extended slice.
func Reap(exits []Exit) ([]Exit, State) {
	for range batch {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG|unix.WUNTRACED|unix.WCONTINUED, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return exits, None
		case err != nil || pid == 0:
			return exits, Waiting
		}
		exits = append(exits, Exit{pid, status})
	}
	return exits, More
}

// Subreap makes this process the new parent of orphans among its descendants
// (prctl(2), PR_SET_CHILD_SUBREAPER; Linux 3.4). PID 1 needs no call.
func Subreap() error {
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}
