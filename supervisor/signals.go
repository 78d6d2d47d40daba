package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/drainit/drainit/health"
	"golang.org/x/sys/unix"
)

// Control signals, which `drainit drain` and its siblings send to the loop.
// They are real-time signals that nothing else uses. The kernel then enforces
// that only a process allowed to signal drainit can control it. They are never
// forwarded.
const (
	SigPrestop unix.Signal = 60
	SigDrain   unix.Signal = 61
	SigUndrain unix.Signal = 62
	SigSkip    unix.Signal = 63
)

// onSignal handles one signal that drainit received.
func (l *loop) onSignal(sig unix.Signal) {
	l.count(sig).Seen++
	if l.debugging() {
		l.Log.Debug("signal", "signal", SignalName(sig))
	}
	switch {
	case sig == SigPrestop:
		l.onPrestop()
	case sig == SigDrain, sig == SigUndrain:
		l.onDrainCommand(sig == SigDrain)
	case sig == SigSkip:
		l.onSkip()
	case l.isStop(sig):
		l.onStopSignal(sig)
	case l.stop.prestop && slices.Contains(l.StopOn, sig):
		// forward_by or skip has sent it already: many servers treat a second
		// one as "stop immediately".
		l.stop.prestop = false
		l.Log.Info("the stop signal that prestop announced has come; it was already forwarded", "signal", SignalName(sig))
	default:
		l.forwardOther(sig)
	}
}

// isStop reports whether sig counts as a stop signal: it is in STOP_ON, and
// none has been forwarded yet. Afterwards it is a signal like any other.
func (l *loop) isStop(sig unix.Signal) bool {
	return l.phase <= Draining && slices.Contains(l.StopOn, sig)
}

// onStopSignal begins a stop, or handles a stop signal that comes while one
// waits to be forwarded.
func (l *loop) onStopSignal(sig unix.Signal) {
	again := l.stop.received != 0
	if !again {
		l.stop.received = sig
	}
	l.begin(SignalName(sig))
	switch {
	case l.stop.prestop:
		l.stop.prestop = false
		l.Log.Info("the stop signal that prestop announced has come", "signal", SignalName(sig))
	case again:
		// Runtimes repeat themselves; that must not cut the drain short.
		l.Log.Info("stop signal again: it changes nothing until the first is forwarded; `drainit skip` ends the wait",
			"signal", SignalName(sig))
	}
}

// onPrestop begins a stop whose signal is still to come.
func (l *loop) onPrestop() {
	switch {
	case l.child.exited:
		l.Log.Info("prestop changes nothing: the child has ended")
	case !l.stop.begun():
		l.stop.prestop = true
		l.begin("prestop")
	case l.phase == Draining:
		l.Log.Info("prestop again, nothing changes")
	}
}

// onSkip ends the wait of a stop.
func (l *loop) onSkip() {
	if l.phase != Draining {
		l.Log.Info("nothing to skip: no stop signal is waiting to be forwarded", "phase", l.phase.String())
		return
	}
	l.forward("skip")
}

// forwardOther forwards a signal that neither begins a stop nor controls
// drainit, through SIGNAL_MAP.
func (l *loop) forwardOther(sig unix.Signal) {
	to, mapped := l.SignalMap[sig]
	if !mapped {
		to = sig
	}
	if sig == unix.SIGCONT {
		l.System.Resume()
	}
	if to == 0 || l.child.exited && l.child.noProcesses {
		return
	}
	if !mapped {
		l.hintStopSignal(sig)
	}
	if !l.child.exited {
		if l.send(to) == nil {
			l.count(sig).Forwarded++
			l.child.lastSignal, l.child.lastSignalAt = to, time.Now()
		}
		return
	}
	l.count(sig).Forwarded++
	// The child has ended by itself; the budget runs for what it left behind.
	l.System.SignalOthers(to, false)
	if slices.Contains(l.StopOn, sig) && !l.child.orphanBy.IsZero() {
		l.child.orphanBy = earlier(l.child.orphanBy, time.Now().Add(l.Timeline.KillAfter()))
	}
}

// hintStopSignal says once that a signal that images use as STOPSIGNAL was
// forwarded and began no stop.
func (l *loop) hintStopSignal(sig unix.Signal) {
	if l.hinted || sig != unix.SIGQUIT && sig != unix.SIGWINCH || l.System.Terminal() {
		return
	}
	l.hinted = true
	l.Log.Info("forwarded at once; if it is the image's STOPSIGNAL, add it to DRAINIT_STOP_ON", "signal", SignalName(sig))
}

// send signals the child. An error (EPERM: the child has another uid) is logged
// and is no reason to stop supervising.
func (l *loop) send(sig unix.Signal) error {
	if l.child.exited {
		return nil
	}
	err := l.System.Signal(sig)
	if err != nil {
		l.Log.Warn("can't signal the child", "signal", SignalName(sig), "error", err, "hint", deniedHint)
	}
	return err
}

// deniedHint is the cure for a child that drainit may not signal.
const deniedHint = "run drainit as the server's user (gosu app /drainit -- server), or give the container CAP_KILL"

// checkSignal warns of a child that can't be told to stop: at the first ready,
// and at t0, since a wrapper may change the uid after it was called ready.
func (l *loop) checkSignal() {
	if l.warnedOfUID || l.child.exited {
		return
	}
	if err := l.System.CheckSignal(); err != nil {
		l.warnedOfUID = true
		l.Log.Warn("the child can't be signalled: it would not learn of a stop", "error", err, "hint", deniedHint)
	}
}

// debugging spares each signal and each reaped process the arguments of a line
// that is not logged: they would allocate.
func (l *loop) debugging() bool { return l.Log.Enabled(context.Background(), slog.LevelDebug) }

// count returns the counter of one signal.
func (l *loop) count(sig unix.Signal) *health.Count {
	c := l.counts[sig]
	if c == nil {
		c = new(health.Count)
		l.counts[sig] = c
	}
	return c
}

// SignalName returns a signal's name, or SIGRTMIN+n for those without one.
func SignalName(sig unix.Signal) string {
	if n := unix.SignalName(sig); n != "" {
		return n
	}
	const rtmin = 34 // as glibc and kill -l count; the C library keeps 32 and 33
	if sig >= rtmin {
		return fmt.Sprintf("SIGRTMIN+%d", sig-rtmin)
	}
	return fmt.Sprintf("signal %d", int(sig))
}
