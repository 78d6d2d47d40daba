package supervisor

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// forkThread is the OS thread that starts the child, kept for the life of the
// program. It blocks no signal, and so neither does the child, whatever
// drainit's parent has blocked and on whichever thread the runtime would have
// started it. A child that asks to be traced (PTRACE_TRACEME, as programs do
// that defend themselves against debuggers) is traced by that thread, and only
// from there can it be let go: see ptrace(2).
type forkThread chan func()

func newForkThread() forkThread {
	t := make(forkThread)
	go func() { // ends with the program
		runtime.LockOSThread()
		unix.PthreadSigmask(unix.SIG_SETMASK, new(unix.Sigset_t), nil)
		for f := range t {
			f()
		}
	}()
	return t
}

// do runs f on the thread and waits for it.
func (t forkThread) do(f func()) {
	done := make(chan struct{})
	t <- func() {
		defer close(done)
		f()
	}
	<-done
}

// Detach lets a child go on that was stopped by sig because it asked to be
// traced, and reports whether it was: the kernel would otherwise keep it
// stopped at each signal. sig is delivered, but for the SIGTRAP that execve(2)
// raises in a traced process.
func (p *Process) Detach(pid int, sig unix.Signal) bool {
	if sig == unix.SIGTRAP {
		sig = 0
	}
	var errno unix.Errno
	p.thread.do(func() {
		_, _, errno = unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(pid), 0, uintptr(sig), 0, 0)
	})
	return errno == 0
}
