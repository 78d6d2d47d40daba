package supervisor

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"github.com/drainit/drainit/internal/proc"
	"github.com/drainit/drainit/reaper"
	"golang.org/x/sys/unix"
)

// Process is the child and what descends from it, as the kernel has them. It
// is the one place where a PID is touched.
type Process struct {
	pid   int
	group bool // signals go to the whole process group
	init  bool // drainit is PID 1: whatever runs here is ours
	tty   int  // the descriptor of the terminal the child is in the foreground of; -1: none
}

var _ System = (*Process)(nil)

// Start runs argv with the environment env, in a process group of its own and
// with drainit's descriptors, directory and limits. With watched the child's
// WATCHDOG_PID is set to its own PID. The error is a *StartError.
//
// There is no os.Process or exec.Cmd here: both wait, and only the loop may.
func Start(argv, env []string, group, watched bool) (*Process, error) {
	file, err := Lookup(argv[0])
	if err != nil {
		return nil, err
	}
	p := &Process{group: group, init: os.Getpid() == 1, tty: foreground()}
	if watched {
		p.pid, err = p.exec("/proc/self/exe", append([]string{Trampoline, file}, argv...), env)
	} else {
		p.pid, err = p.exec(file, argv, env)
	}
	if errors.Is(err, unix.ENOEXEC) && !binary(file) {
		// A script without #!: a shell runs it, as execvp and every shell do.
		if shell, serr := p.exec("/bin/sh", shellArgs(file, argv), env); serr == nil {
			p.pid, err = shell, nil
		}
	}
	if err != nil {
		return nil, explain(file, err)
	}
	return p, nil
}

func shellArgs(file string, argv []string) []string {
	return append([]string{"/bin/sh", file}, argv[1:]...)
}

// Trampoline is the zeroth argument under which drainit executes itself to
// become the child: WATCHDOG_PID has to be in the child's environment, and only
// the child knows its PID before it runs.
const Trampoline = "drainit: starting the child"

// ExecChild is the trampoline: args are the file to execute and its arguments. It
// returns, with an exit code, only if that fails.
func ExecChild(args []string) int {
	file, argv := args[0], args[1:]
	env := append(os.Environ(), "WATCHDOG_PID="+strconv.Itoa(os.Getpid()))
	err := syscall.Exec(file, argv, env)
	if errors.Is(err, unix.ENOEXEC) && !binary(file) {
		err = syscall.Exec("/bin/sh", shellArgs(file, argv), env)
	}
	e := new(StartError)
	errors.As(explain(file, err), &e)
	fmt.Fprintf(os.Stderr, "drainit: %s\n  %s\n", e.Msg, e.Hint)
	return e.Code
}

// exec forks and executes. A terminal that won't be given away is no reason
// not to start.
func (p *Process) exec(file string, argv, env []string) (int, error) {
	attr := &syscall.ProcAttr{Env: env, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setpgid: true}}
	if p.tty >= 0 {
		attr.Sys.Foreground, attr.Sys.Ctty = true, p.tty
		if pid, err := syscall.ForkExec(file, argv, attr); err == nil {
			return pid, nil
		}
		attr.Sys = &syscall.SysProcAttr{Setpgid: true}
	}
	return syscall.ForkExec(file, argv, attr)
}

// foreground finds a descriptor of the controlling terminal, if drainit is in
// its foreground: a shell's background job must not take the terminal.
func foreground() int {
	for fd := range 3 {
		pgrp, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		if err == nil && pgrp == unix.Getpgrp() {
			return fd
		}
	}
	return -1
}

// PID is the child's.
func (p *Process) PID() int { return p.pid }

// Terminal says whether the child was given a terminal's foreground.
func (p *Process) Terminal() bool { return p.tty >= 0 }

// Signal sends sig to the child or its group. It is called by who reaps, so
// the PID can't have been reused; that it is gone is no error.
func (p *Process) Signal(sig unix.Signal) error {
	err := error(unix.ESRCH)
	if p.group {
		err = unix.Kill(-p.pid, sig)
	}
	if errors.Is(err, unix.ESRCH) { // also where the child has left its group
		err = unix.Kill(p.pid, sig)
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// SignalOthers sends sig to every process that is left. As PID 1 that is
// everything in the PID namespace but drainit itself, in one call that no fork
// can slip through. Otherwise it is drainit's own descendants and never a
// neighbour; a fork may slip through there, and is met when its parent's end
// brings it to the subreaper.
func (p *Process) SignalOthers(sig unix.Signal) {
	if p.init {
		unix.Kill(-1, sig)
		return
	}
	found, err := proc.Descendants(os.Getpid())
	if err != nil {
		// /proc is hidden: the child's group is what is known.
		unix.Kill(-p.pid, sig)
		return
	}
	for _, d := range found {
		unix.Kill(d.PID, sig)
	}
}

// CountOthers counts the living processes SignalOthers would reach, or returns -1.
func (p *Process) CountOthers() int {
	found, err := proc.Descendants(os.Getpid())
	if err != nil {
		return -1
	}
	return len(found)
}

// Reap collects exits.
func (p *Process) Reap(exits []reaper.Exit) ([]reaper.Exit, reaper.State) { return reaper.Reap(exits) }

// Suspend hands the terminal back: drainit stops too, with the rest of its
// job, so that the shell that waits for the job sees it stopped. Where there
// is no such shell (PID 1, or the leader of the session) a stop from the
// terminal would be for ever, and is undone.
func (p *Process) Suspend(by unix.Signal) {
	// In the session leader's own group there is no such shell either, but
	// others who would stop with us.
	if sid, err := unix.Getsid(0); p.init || err != nil || sid == unix.Getpgrp() {
		if by != unix.SIGSTOP {
			unix.Kill(-p.pid, unix.SIGCONT)
		}
		return
	}
	unix.Kill(0, unix.SIGSTOP)
}

// Resume gives the terminal to the child's group, if `fg` gave it to drainit.
// After `bg` it did not.
func (p *Process) Resume() {
	if p.tty < 0 || foreground() < 0 {
		return
	}
	unix.IoctlSetPointerInt(p.tty, unix.TIOCSPGRP, p.pid)
	unix.Kill(-p.pid, unix.SIGCONT)
}

// Release takes the terminal back when the child has ended: whoever started
// drainit may be a script that goes on to read from it. From the background
// that raises SIGTTOU, unless the thread blocks it.
func (p *Process) Release() {
	if p.tty < 0 {
		return
	}
	if pgrp, err := unix.IoctlGetInt(p.tty, unix.TIOCGPGRP); err != nil || pgrp != p.pid {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var set, old unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGTTOU - 1)
	unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old)
	unix.IoctlSetPointerInt(p.tty, unix.TIOCSPGRP, unix.Getpgrp())
	unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
}
