package main

import (
	"os"
	"os/signal"
	"reflect"
	"slices"

	"github.com/drainit/drainit/supervisor"
	"golang.org/x/sys/unix"
)

// uncatchable signals can't be caught, or do not mean that another process sent
// them: SIGCHLD, SIGPIPE and SIGURG are drainit's own, the Go runtime keeps
// SIGPROF for its profiler, and it leaves 32 to 34 to C libraries.
var uncatchable = []unix.Signal{
	unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE,
	unix.SIGPROF, 32, 33, 34,
}

// control signals are drainit's own: `drainit drain` and the like send them.
var control = []unix.Signal{
	supervisor.SigPrestop,
	supervisor.SigDrain,
	supervisor.SigUndrain,
	supervisor.SigSkip,
}

// unusable returns why s can be in neither STOP_ON nor SIGNAL_MAP, or nothing.
func unusable(s unix.Signal) string {
	switch {
	case slices.Contains(uncatchable, s):
		return "can't be caught"
	case slices.Contains(control, s):
		return "is one of drainit's own control signals"
	}
	return ""
}

// notifySignals catches every signal that can be caught, and delivers SIGCHLD
// on a channel of its own.
//
// Each signal has a slot, so that a storm of one can't push out another; two of
// the same that are pending at once merge, as they do in the kernel. SIGCHLD's
// edges may merge in their channel: Reap collects every exit. SIGPIPE is caught
// so that writing to a closed stderr does not end PID 1, and discarded; to
// ignore it instead would have the child inherit that.
func notifySignals() (<-chan unix.Signal, <-chan struct{}) {
	var slots []reflect.SelectCase
	var caught []unix.Signal
	notify := func(s unix.Signal) {
		slot := make(chan os.Signal, 1)
		signal.Notify(slot, s)
		slots = append(slots, reflect.SelectCase{
			Dir:  reflect.SelectRecv,
			Chan: reflect.ValueOf(slot),
		})
		caught = append(caught, s)
	}
	for s := unix.Signal(1); s <= 64; s++ {
		if !slices.Contains(uncatchable, s) {
			notify(s)
		}
	}
	notify(unix.SIGCHLD)
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)

	signals, children := make(chan unix.Signal), make(chan struct{}, 1)
	go func() { // ends with the program
		for {
			// One goroutine over all slots: one each would cost 150 KB. Signals
			// that are pending together are delivered in the order of their
			// numbers, as the kernel does: a stop before the control signals,
			// undrain after drain.
			first, _, _ := reflect.Select(slots)
			for i, s := range caught {
				if i != first {
					if _, ok := slots[i].Chan.TryRecv(); !ok {
						continue
					}
				}
				if s != unix.SIGCHLD {
					signals <- s
					continue
				}
				select {
				case children <- struct{}{}:
				default:
				}
			}
		}
	}()
	return signals, children
}
