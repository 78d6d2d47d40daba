// Package reaper collects exits.
//
// One caller owns wait4(-1): whoever calls Reap. There is no goroutine and no
// channel here, so no second waiter can steal a status, and a PID stays
// reserved (a zombie still holds it) until that caller has reaped it. Signal
// from the same goroutine and nothing is ever signalled late.
package reaper

import (
	"errors"

	"golang.org/x/sys/unix"
)

// batch bounds one call of Reap, so that a storm of exits can't keep its
// caller from a signal. It is far above what is dead at once in practice.
const batch = 4096

// Exit is one process that ended, or, if Status.Stopped or Status.Continued
// says so, one that job control stopped or continued.
type Exit struct {
	PID    int
	Status unix.WaitStatus
}

// Code is the exit code a shell would report: the process's own, or 128 + n
// if signal n killed it. It is -1 for a process that has not ended.
func (e Exit) Code() int {
	switch {
	case e.Status.Exited():
		return e.Status.ExitStatus()
	case e.Status.Signaled():
		// ExitStatus is -1 here: not a code anybody may see.
		return 128 + int(e.Status.Signal())
	}
	return -1
}

// Ended says whether the process is gone, rather than stopped or continued.
func (e Exit) Ended() bool { return e.Status.Exited() || e.Status.Signaled() }

// State says what is left after a Reap.
type State int

const (
	Waiting State = iota // children are left, none of them has anything to report
	More                 // the batch was full: call again without waiting for SIGCHLD
	None                 // no child is left, living or dead
)

// Reap collects every exit there is, without blocking. SIGCHLD coalesces: one
// wake-up may stand for any number of exits. It appends to exits, which may be
// nil or a slice to use again.
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

// Subreap makes this process the one that orphans among its descendants are
// given to (prctl(2), PR_SET_CHILD_SUBREAPER; Linux 3.4). PID 1 is that
// already, and needs no call.
func Subreap() error {
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}
