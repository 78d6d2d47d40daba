package main

import (
	"os"
	"os/signal"
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
// on a channel of its own. SIGPIPE is caught so that writing to a closed stderr
// does not end PID 1, and discarded; to ignore it instead would have the child
// inherit that.
func notifySignals() (<-chan unix.Signal, <-chan struct{}) {
	p := newPending()
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	signals, children := make(chan unix.Signal), make(chan struct{}, 1)
	go func() { // ends with the program
		for {
			p.deliver(signals, children)
		}
	}()
	return signals, children
}

// pending holds the signals that have come and were not delivered yet.
//
// Each signal has a slot, so that a storm of one can't push out another; two of
// the same that are pending at once merge, as they do in the kernel. The bell
// says that there is something in a slot: one channel to wait for where a
// reflect.Select over all slots allocates at each signal. One goroutine for each
// slot would cost 150 KB.
type pending struct {
	bell  chan os.Signal
	slots []slot
}

type slot struct {
	signal unix.Signal
	came   chan os.Signal
}

func newPending() *pending {
	p := &pending{bell: make(chan os.Signal, 1)}
	for s := unix.Signal(1); s <= 64; s++ {
		if !slices.Contains(uncatchable, s) {
			p.notify(s)
		}
	}
	p.notify(unix.SIGCHLD)
	return p
}

func (p *pending) notify(s unix.Signal) {
	came := make(chan os.Signal, 1)
	signal.Notify(came, s)
	signal.Notify(p.bell, s)
	p.slots = append(p.slots, slot{s, came})
}

// deliver waits for the bell and empties the slots, in the order of the signals'
// numbers, as the kernel does: a stop comes before the control signals, undrain
// after drain. SIGCHLD is last, and its edges may merge: Reap collects every exit.
func (p *pending) deliver(signals chan<- unix.Signal, children chan<- struct{}) {
	<-p.bell
	// Package os/signal may have rung the bell, or found it full, before it fills
	// the slot: it does both under its lock, which this waits for.
	signal.Stop(nil)
	for _, s := range p.slots {
		select {
		case <-s.came:
		default:
			continue
		}
		if s.signal != unix.SIGCHLD {
			signals <- s.signal
			continue
		}
		select {
		case children <- struct{}{}:
		default:
		}
	}
}
