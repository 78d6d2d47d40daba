//go:build amd64 || arm64

package catch

import (
	"math/bits"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// What the handler and the goroutine that delivers share. The handler is in
// assembly: Go code can't run in it.
var (
	pending  atomic.Uint64 // bit n-1 is signal n
	arrivals atomic.Uint32 // a futex: counts what came
	//lint:ignore U1000 the handler reads it: this process's PID
	self uint32
	// runtimeHandler is the Go runtime's, which gets the faults.
	//lint:ignore U1000 the handler jumps to it
	runtimeHandler uintptr
	// handlerAddr is the address of our own.
	handlerAddr uintptr
)

// action is the kernel's struct sigaction.
type action struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

// original are the actions that Release restores.
var original [65]action

func init() {
	self = uint32(syscall.Getpid())
	// The flags and the restorer are the runtime's: any other handler has to
	// switch to its signal stack too.
	ours := sigaction(syscall.SIGUSR1, nil)
	runtimeHandler, ours.handler = ours.handler, handlerAddr
	for s := syscall.Signal(1); s <= 64; s++ {
		if Caught(s) || s == syscall.SIGCHLD || s == syscall.SIGPIPE {
			original[s] = sigaction(s, &ours)
		}
	}
}

// Caught reports whether s is delivered. SIGKILL and SIGSTOP can't be caught,
// SIGCHLD has a channel of its own, the runtime preempts goroutines by SIGURG,
// and SIGPIPE, which a write to a closed stderr raises, is discarded.
func Caught(s syscall.Signal) bool {
	switch s {
	case syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE:
		return false
	}
	return s >= 1 && s <= 64
}

// Signals returns the channels that all signals since the start of the program
// come on. It is called once.
func Signals() (<-chan syscall.Signal, <-chan struct{}) {
	unblocked := false
	return deliver(func() uint64 {
		if !unblocked {
			// This thread, if no other, takes what the parent has blocked.
			// Threads keep their mask, and stay. Were this goroutine to keep
			// the thread, each signal would take two more switches between
			// threads.
			runtime.LockOSThread()
			setMask(0)
			runtime.UnlockOSThread()
			unblocked = true
		}
		for {
			n := arrivals.Load()
			if set := pending.Swap(0) &^ bit(syscall.SIGPIPE); set != 0 {
				return set
			}
			const futexWaitPrivate = 0 | 128
			syscall.Syscall6(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(&arrivals)),
				futexWaitPrivate, uintptr(n), 0, 0, 0)
		}
	})
}

// Release has signals do again what they do to any program. Those that came
// already do it now.
func Release() {
	for s, a := range original {
		if a != (action{}) {
			sigaction(syscall.Signal(s), &a)
		}
	}
	for set := pending.Swap(0); set != 0; set &= set - 1 {
		syscall.Kill(syscall.Getpid(), syscall.Signal(bits.TrailingZeros64(set)+1))
	}
}

func bit(s syscall.Signal) uint64 { return 1 << (s - 1) }

// sigaction sets the action of s, unless it is nil, and returns the one before.
func sigaction(s syscall.Signal, to *action) (was action) {
	syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(to)),
		uintptr(unsafe.Pointer(&was)), unsafe.Sizeof(was.mask), 0, 0)
	return was
}

// setMask sets the signals that this thread blocks.
func setMask(set uint64) {
	const setmask = 2
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, setmask, uintptr(unsafe.Pointer(&set)),
		0, unsafe.Sizeof(set), 0, 0)
}
