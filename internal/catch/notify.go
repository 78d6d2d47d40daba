//go:build !amd64 && !arm64

package catch

import (
	"os"
	"os/signal"
	"syscall"
)

// slots hold one signal each, so that a storm of one can't push out another.
// Two of the same that are pending merge, as they do in the kernel. The bell
// says that a slot is full: a reflect.Select over all of them would allocate at
// each signal, and a goroutine for each would cost 150 KB.
var (
	slots [65]chan os.Signal
	bell  = make(chan os.Signal, 1)
)

func init() {
	for s := syscall.Signal(1); s <= 64; s++ {
		if Caught(s) || s == syscall.SIGCHLD {
			slots[s] = make(chan os.Signal, 1)
			signal.Notify(slots[s], s)
			signal.Notify(bell, s)
		}
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // which is discarded
}

// Caught reports whether s is delivered. SIGKILL and SIGSTOP can't be caught,
// SIGCHLD has a channel of its own, the runtime preempts goroutines by SIGURG,
// SIGPIPE, which a write to a closed stderr raises, is discarded, the runtime
// keeps SIGPROF for its profiler, and leaves 32 to 34 to C libraries.
func Caught(s syscall.Signal) bool {
	switch s {
	case syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE,
		syscall.SIGPROF, 32, 33, 34:
		return false
	}
	return s >= 1 && s <= 64
}

// Signals returns the channels that all signals since the start of the program
// come on. It is called once.
func Signals() (<-chan syscall.Signal, <-chan struct{}) {
	return deliver(func() (set uint64) {
		<-bell
		// Package os/signal may have rung the bell, or found it full, before it
		// fills the slot: it does both under its lock, which this waits for.
		signal.Stop(nil)
		for s, slot := range slots {
			select {
			case <-slot:
				set |= 1 << (s - 1)
			default:
			}
		}
		return set
	})
}

// Release has signals do again what they do to any program.
func Release() { signal.Reset() }
