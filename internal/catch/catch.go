// Package catch catches signals from the first moment of the program on. Its
// init function runs before almost any other code: it imports next to nothing.
//
// On amd64 and arm64 it has a signal handler of its own, a few lines of
// assembly, in place of os/signal. The handler notes the signal in a bit set
// and wakes a goroutine that delivers it. It is there for what os/signal can't
// do:
//
//   - see which process sent a signal. A fault signal (SIGSEGV and the like) that a
//     process has sent with sigqueue(3) is a crash to the Go runtime, which
//     knows kill(2) alone: any process of the container could end PID 1. And a
//     signal that the kernel raises for a write of drainit's own (SIGXFSZ) is
//     not meant for the child.
//   - catch 32, 33 and 34 (glibc's SIGRTMIN), which the runtime leaves to C
//     libraries, and SIGPROF, which it keeps for its profiler.
//   - catch all signals at once: os/signal takes two thread switches for each,
//     ten milliseconds in all, in which a SIGTERM ends PID 1 with code 2.
//
// Faults of the program itself still go to the Go runtime, and so can be
// recovered. On other architectures os/signal does what it can.
package catch

import (
	"math/bits"
	"runtime"
	"syscall"
)

// deliver delivers the signals in the bit sets that next returns, until the
// program ends: SIGCHLD to children, all others to signals. Those in one set go
// in the order of their numbers, as pending signals do in the kernel: a stop
// before the control signals, undrain after drain.
func deliver(next func() uint64) (<-chan syscall.Signal, <-chan struct{}) {
	signals, children := make(chan syscall.Signal), make(chan struct{}, 1)
	go func() { // ends with the program
		for {
			set := next()
			// A new time slice: the receiver inherits this one's, which began
			// before the wait, and the runtime would preempt it at once, in
			// favor of the next wait below: 0.15 ms.
			runtime.Gosched()
			for ; set != 0; set &= set - 1 {
				s := syscall.Signal(bits.TrailingZeros64(set) + 1)
				switch {
				case s != syscall.SIGCHLD:
					signals <- s
				case len(children) == 0:
					children <- struct{}{} // a second edge tells nothing new
				}
			}
			// The receiver first: to wait for the next signal is a system call,
			// and the runtime takes the processor away from that some time
			// later.
			runtime.Gosched()
		}
	}()
	return signals, children
}
