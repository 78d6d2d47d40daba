package supervisor

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/drainit/drainit/internal/proc"
	"github.com/drainit/drainit/reaper"
	"golang.org/x/sys/unix"
)

// Process is the child and its descendants, as the kernel knows them. Nothing
// else in a running drainit touches a PID.
type Process struct {
	pid    int // the main process: the one started, or its successor by MAINPID=
	first  int // the process that was started, which leads the group
	thread forkThread
	group  bool // signals go to the whole process group
	init   bool // drainit is PID 1: every process here is its descendant
	tty    int  // the descriptor of the terminal the child is in the foreground of; -1: none
}

var _ System = (*Process)(nil)

// Start runs argv with the environment env, in a process group of its own and
// with drainit's descriptors, directory and limits. The variables pidVars are
// set to its own PID. The error is a *StartError.
//
// It uses neither os.Process nor exec.Cmd: both wait, and only the loop may.
func Start(argv, env []string, group bool, pidVars []string) (*Process, error) {
	file, err := Lookup(argv[0])
	if err != nil {
		return nil, err
	}
	p := &Process{thread: newForkThread(), group: group, init: os.Getpid() == 1, tty: foreground()}
	if self := executable(); len(pidVars) > 0 && self != "" {
		p.pid, err = p.exec(self, trampolineArgs(pidVars, file, argv), env)
	} else {
		p.pid, err = p.exec(file, argv, env)
	}
	if errors.Is(err, unix.ENOEXEC) && !looksBinary(file) {
		// A script without #!: a shell runs it, as execvp and every shell do.
		if shell, serr := p.exec("/bin/sh", shellArgs(file, argv), env); serr == nil {
			p.pid, err = shell, nil
		}
	}
	if err != nil {
		return nil, explain(file, err)
	}
	p.first = p.pid
	return p, nil
}

func shellArgs(file string, argv []string) []string {
	return append([]string{"/bin/sh", file}, argv[1:]...)
}

// Trampoline is the zeroth argument under which drainit executes itself to
// become the child: WATCHDOG_PID and LISTEN_PID must be in the child's
// environment, and only the child knows its PID before it runs.
const Trampoline = "drainit: starting the child"

// trampolineArgs returns the arguments that ExecChild understands.
func trampolineArgs(pidVars []string, file string, argv []string) []string {
	return append([]string{Trampoline, strings.Join(pidVars, ","), file}, argv...)
}

// executable returns the path of drainit itself, or nothing where /proc is not
// mounted and drainit was found in PATH: a child without WATCHDOG_PID sends
// WATCHDOG=1 all the same.
func executable() string {
	for _, path := range []string{"/proc/self/exe", os.Args[0]} {
		if strings.Contains(path, "/") && checkExecutable(path) == nil {
			return path
		}
	}
	return ""
}

// ExecChild is the trampoline's main: it sets the variables that args[0] names
// to its PID, executes the file args[1] with the arguments args[2:], and
// returns, with an exit code, only if that fails.
func ExecChild(args []string) int {
	file, argv := args[1], args[2:]
	env := proc.Environ()
	for name := range strings.SplitSeq(args[0], ",") {
		env = append(env, name+"="+strconv.Itoa(os.Getpid()))
	}
	err := syscall.Exec(file, argv, env)
	if errors.Is(err, unix.ENOEXEC) && !looksBinary(file) {
		err = syscall.Exec("/bin/sh", shellArgs(file, argv), env)
	}
	e := new(StartError)
	errors.As(explain(file, err), &e)
	fmt.Fprintf(os.Stderr, "drainit: %s\ndrainit: hint: %s\n", e.Msg, e.Hint)
	return e.Code
}

// exec forks and executes file. If the terminal can't be handed over it starts
// the child without.
func (p *Process) exec(file string, argv, env []string) (pid int, err error) {
	p.thread.do(func() { pid, err = p.forkExec(file, argv, env) })
	return pid, err
}

func (p *Process) forkExec(file string, argv, env []string) (int, error) {
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

// foreground returns a descriptor of the controlling terminal if drainit is in
// its foreground, and -1 otherwise: a shell's background job must not take the
// terminal.
func foreground() int {
	for fd := range 3 {
		pgrp, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		if err == nil && pgrp == unix.Getpgrp() {
			return fd
		}
	}
	return -1
}

// PID returns the child's PID.
func (p *Process) PID() int { return p.pid }

// FirstPID returns the PID of the process that was started. It differs from PID
// once a successor has taken over.
func (p *Process) FirstPID() int { return p.first }

// SetMain makes a descendant of drainit the child in place of the process that
// was started. It returns an error for any other process.
func (p *Process) SetMain(pid int) error {
	if pid == os.Getpid() {
		return errors.New("that is drainit itself")
	}
	if err := proc.Descends(pid, os.Getpid()); err != nil {
		return err
	}
	p.pid = pid
	return nil
}

// MainAlive reports whether a successor still runs. Until its parent has ended
// it is not drainit's own child, so its PID could be another process's by now:
// only a living descendant counts.
func (p *Process) MainAlive() bool {
	stat, err := proc.Stat(p.pid)
	return err == nil && !stat.Ended() && proc.Descends(p.pid, os.Getpid()) == nil
}

// Terminal reports whether the child was given a terminal's foreground.
func (p *Process) Terminal() bool { return p.tty >= 0 }

// Signal sends sig to the child or its group. Only the goroutine that reaps
// calls it, so the PID cannot have been reused. It is not an error if the
// process has ended.
func (p *Process) Signal(sig unix.Signal) error {
	err := error(unix.ESRCH)
	if p.group {
		err = unix.Kill(-p.first, sig)
	}
	if p.pid != p.first && !p.MainAlive() {
		p.pid = p.first // a successor that has ended: its PID may be reused
	}
	if errors.Is(err, unix.ESRCH) { // also where the child has left its group
		err = unix.Kill(p.pid, sig)
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return p.explainDenied(err)
}

// CheckSignal returns an error if the child can't be signalled.
func (p *Process) CheckSignal() error { return p.explainDenied(unix.Kill(p.pid, 0)) }

// explainDenied adds to EPERM whose the child is.
func (p *Process) explainDenied(err error) error {
	var st unix.Stat_t
	if !errors.Is(err, unix.EPERM) || unix.Stat(fmt.Sprintf("/proc/%d", p.pid), &st) != nil {
		return err
	}
	return fmt.Errorf("%w: it runs as uid %d, and drainit as uid %d without CAP_KILL", err, st.Uid, os.Geteuid())
}

// SignalOthers sends sig to every process that is left, or only to those
// outside the child's process group: to drainit's own descendants, and so never
// to a command that was started with `docker exec` or `kubectl exec`. SIGKILL
// as PID 1 is for everything in the PID namespace, in one call that no fork can
// slip through.
func (p *Process) SignalOthers(sig unix.Signal, outsideGroup bool) {
	if p.init && sig == unix.SIGKILL {
		unix.Kill(-1, sig)
		return
	}
	signalled := make(map[int]bool)
	for range 3 { // what is forked while the list is read is in the next one
		found, err := proc.Descendants(os.Getpid())
		if err != nil {
			p.signalUnlisted(sig, outsideGroup)
			return
		}
		again := false
		for _, d := range found {
			if signalled[d.PID] || outsideGroup && p.inGroup(d.PID) {
				continue
			}
			unix.Kill(d.PID, sig)
			signalled[d.PID], again = true, true
		}
		if !again {
			return
		}
	}
}

// signalUnlisted is SignalOthers where /proc is hidden.
func (p *Process) signalUnlisted(sig unix.Signal, outsideGroup bool) {
	switch {
	case outsideGroup: // that can't be told: most servers would take it twice
	case p.init:
		unix.Kill(-1, sig)
	default:
		unix.Kill(-p.first, sig)
	}
}

// inGroup reports whether a process is in the child's process group.
func (p *Process) inGroup(pid int) bool {
	group, err := unix.Getpgid(pid)
	return err == nil && group == p.first
}

// Others returns the living processes that descend from drainit. The error is
// not nil where /proc is hidden.
func (p *Process) Others() ([]Other, error) {
	found, err := proc.Descendants(os.Getpid())
	if err != nil {
		return nil, err
	}
	others := make([]Other, 0, len(found))
	for _, d := range found {
		others = append(others, Other{d, errors.Is(unix.Kill(d.PID, 0), unix.EPERM)})
	}
	return others, nil
}

// Reap collects exits.
func (p *Process) Reap(exits []reaper.Exit) ([]reaper.Exit, reaper.State) { return reaper.Reap(exits) }

// Suspend hands the terminal back: drainit stops too, with the rest of its
// job, so that the shell that waits for the job sees it stopped. Where there
// is no such shell (PID 1, or the leader of the session) a stop from the
// terminal would never end, so it is undone.
func (p *Process) Suspend(by unix.Signal) {
	// In the session leader's own group there is no such shell either, and
	// other processes would stop with drainit.
	if sid, err := unix.Getsid(0); p.init || err != nil || sid == unix.Getpgrp() {
		if by != unix.SIGSTOP {
			unix.Kill(-p.first, unix.SIGCONT)
		}
		return
	}
	unix.Kill(0, unix.SIGSTOP)
}

// Resume gives the terminal to the child's group, if `fg` gave it to drainit;
// `bg` does not.
func (p *Process) Resume() {
	if p.tty < 0 || foreground() < 0 {
		return
	}
	unix.IoctlSetPointerInt(p.tty, unix.TIOCSPGRP, p.first)
	unix.Kill(-p.first, unix.SIGCONT)
}

// Release takes the terminal back when the child has ended: drainit may have
// been started by a script that goes on to read from it. From the background
// that raises SIGTTOU, unless the thread blocks it.
func (p *Process) Release() {
	if p.tty < 0 {
		return
	}
	if pgrp, err := unix.IoctlGetInt(p.tty, unix.TIOCGPGRP); err != nil || pgrp != p.first {
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
