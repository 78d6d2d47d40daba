package supervisor

import (
	"fmt"
	"slices"
	"time"

	"github.com/drainit/drainit/sockets"
	"golang.org/x/sys/unix"
)

// Control signals: how `drainit drain` and its sisters speak to the loop. Real
// time signals nobody else uses, so that only who may signal drainit may steer
// it. These four are never forwarded.
const (
	SigPrestop unix.Signal = 60
	SigDrain   unix.Signal = 61
	SigUndrain unix.Signal = 62
	SigSkip    unix.Signal = 63
)

// reportEvery is how often the log says what a stop waits for.
const reportEvery = 5 * time.Second

// signal deals with one signal that drainit received.
func (l *loop) signal(sig unix.Signal) {
	c := l.count(sig)
	c.Seen++
	l.Log.Debug("signal", "signal", SignalName(sig))
	switch {
	case sig == SigPrestop:
		l.prestopAsked()
	case sig == SigDrain, sig == SigUndrain:
		l.hold(sig == SigDrain)
	case sig == SigSkip:
		l.skip()
	case l.stops(sig):
		l.stop(sig)
	case l.prestop && slices.Contains(l.StopOn, sig):
		// forward_by or skip has sent it: a second one would mean "now".
		l.prestop = false
		l.Log.Info("the stop signal has come after prestop, and was forwarded before", "signal", SignalName(sig))
	default:
		l.pass(sig)
	}
}

// stops says whether sig is to begin a stop, or would be one if there were
// none yet. Once the stop signal was forwarded it is a signal like any other:
// servers take a second one as "now".
func (l *loop) stops(sig unix.Signal) bool {
	return l.phase <= Draining && slices.Contains(l.StopOn, sig)
}

// stop is t0, or a stop signal that comes after it and before the forwarding.
func (l *loop) stop(sig unix.Signal) {
	again := l.received != 0
	if !again {
		l.received = sig
	}
	l.begin(SignalName(sig))
	switch {
	case sig == unix.SIGINT && l.System.Terminal():
		// Somebody sits there and waits.
		l.prestop = false
		l.forward("terminal")
	case l.prestop:
		l.prestop = false
		l.Log.Info("the stop signal has come after prestop", "signal", SignalName(sig))
	case again:
		// Runtimes repeat themselves; that must not cut the drain short.
		l.Log.Info("stop signal again, nothing changes before it is forwarded; `drainit skip` ends the wait",
			"signal", SignalName(sig))
	}
}

// begin is t0: not ready, still serving. A second call changes nothing.
func (l *loop) begin(by string) {
	if !l.t0.IsZero() {
		return
	}
	now := time.Now()
	l.t0, l.askedBy, l.wasReady = now, by, l.phase == Ready
	if l.Until != sockets.Window && l.Clients != nil {
		// Before DRAIN_SIGNAL: the child may close its listeners on that.
		l.unwatch = make(chan struct{})
		l.verdicts = l.Clients.Watch(l.unwatch, l.Until)
	}
	if l.OnStop != nil {
		l.OnStop()
	}
	t := l.Timeline
	l.Log.Info("stop asked for: not ready, still serving", "by", by,
		"forward_not_before", t.Window, "until", string(l.Until), "forward_by", t.ForwardAfter(), "kill_after", t.KillAfter())
	l.transition(stopAsked)
}

func (l *loop) sendDrainSignal() {
	if l.DrainSignal != 0 {
		l.send(l.DrainSignal)
	}
}

func (l *loop) prestopAsked() {
	switch {
	case l.exited:
		l.Log.Info("prestop changes nothing: the child has ended")
	case l.t0.IsZero():
		l.prestop = true
		l.begin("prestop")
	case l.phase == Draining:
		l.Log.Info("prestop again, nothing changes")
	}
}

func (l *loop) hold(held bool) {
	if l.phase >= Draining {
		l.Log.Info("drain and undrain change nothing once a stop has begun")
		return
	}
	if l.held != held {
		l.held = held
		l.tell()
	}
}

func (l *loop) skip() {
	if l.phase != Draining {
		l.Log.Info("nothing to skip: no stop is waiting to be forwarded", "phase", l.phase.String())
		return
	}
	l.forward("skip")
}

// pass forwards a signal that is none of drainit's business, through
// SIGNAL_MAP.
func (l *loop) pass(sig unix.Signal) {
	to, mapped := l.SignalMap[sig]
	if !mapped {
		to = sig
	}
	if sig == unix.SIGCONT {
		l.System.Resume()
	}
	if to == 0 || l.exited && l.none {
		return
	}
	if (sig == unix.SIGQUIT || sig == unix.SIGWINCH) && !mapped && !l.hinted && !l.System.Terminal() {
		l.hinted = true
		l.Log.Info("forwarded at once; if it is the image's STOPSIGNAL, add it to DRAINIT_STOP_ON", "signal", SignalName(sig))
	}
	l.count(sig).Forwarded++
	if !l.exited {
		l.passed = to
		l.send(to)
		return
	}
	// The child has gone by itself; the budget runs for what it left behind.
	l.System.SignalOthers(to)
	if slices.Contains(l.StopOn, sig) && !l.orphanBy.IsZero() {
		l.orphanBy = earlier(l.orphanBy, time.Now().Add(l.Timeline.KillAfter()))
	}
}

// send signals the child. EPERM (it changed its uid) and ESRCH are its
// business, and no reason to stop supervising.
func (l *loop) send(sig unix.Signal) {
	if l.exited {
		return
	}
	if err := l.System.Signal(sig); err != nil {
		l.Log.Warn("can't signal the child", "signal", SignalName(sig), "error", err)
	}
}

// drained forwards if the wait is over. It is asked after every event.
func (l *loop) drained(now time.Time) {
	if !now.Before(l.forwardBy()) {
		why := "forward_by"
		if l.clear {
			why = l.why
		} else if l.Until == sockets.Window {
			why = "window" // with a window that ends at forward_by, to the dot
		}
		l.forward(why)
		return
	}
	if at := l.clearAt(); !l.clear && !at.IsZero() && !now.Before(at) {
		l.clear = true
		l.why = "window"
		if l.prestop {
			l.Log.Info("drained: the stop signal will be forwarded as soon as it comes", "after", round(now.Sub(l.t0)))
		}
	}
	if l.clear && !l.prestop {
		l.forward(l.why)
		return
	}
	if !l.clear && !l.nextReport.IsZero() && !now.Before(l.nextReport) {
		l.report(now)
	}
}

// clearAt is the instant from which the stop signal may be forwarded, as far
// as the clock alone decides: zero if the clients do.
func (l *loop) clearAt() time.Time {
	at := l.t0.Add(l.Timeline.Window)
	if l.holdUntil.After(at) {
		at = l.holdUntil
	}
	if l.verdicts != nil && !l.verdict.Blind {
		return time.Time{}
	}
	return at
}

// counted takes what the watcher saw. A verdict is about this instant: one
// that comes before the window has passed is of no use later.
func (l *loop) counted(v sockets.Verdict, ok bool) {
	if !ok {
		// The watcher is gone: counting has failed, the window decides.
		l.verdicts = nil
		l.verdict = sockets.Verdict{Blind: true}
		return
	}
	first := !l.verdict.Known && v.Known
	blind := v.Blind && !l.verdict.Blind
	l.verdict = v
	if l.phase != Draining || l.clear {
		return
	}
	now := time.Now()
	open := !now.Before(l.t0.Add(l.Timeline.Window)) && !now.Before(l.holdUntil)
	switch {
	case blind:
		l.Log.Warn("can't count clients: the window alone decides", "error", v.Err)
	case v.Met && !v.Blind && open:
		l.clear, l.why = true, string(l.Until)
	case first:
		l.report(now)
	}
}

// report says what the stop waits for.
func (l *loop) report(now time.Time) {
	l.nextReport = now.Add(reportEvery)
	what := l.verdict.Waiting
	if what == "" {
		what = "the window to pass"
	}
	l.Log.Info(fmt.Sprintf("waiting for %s, at most %s more", what, l.forwardBy().Sub(now).Round(100*time.Millisecond)),
		"connections", l.verdict.Open, "in_flight", l.verdict.InFlight, "accept_queue", l.verdict.Queued)
}

// forward sends the child its stop signal.
func (l *loop) forward(why string) {
	if l.phase == Draining {
		// Whether the child is stopped, or gone, may be news still to be read: a
		// SIGCHLD that came together with the stop signal waits behind it.
		l.reap()
	}
	if l.phase != Draining {
		return
	}
	now := time.Now()
	l.forwarded, l.why, l.clear, l.atSignal = now, why, true, l.verdict
	// Whatever goes wrong here: kill_at is looked for in the next phase only.
	defer l.transition(forwardDue)
	sig := l.stopSignal()
	if l.received != 0 {
		l.count(l.received).Forwarded++
	}
	// First the signal, then the words about it.
	l.send(sig)
	if l.stopped {
		// A stopped process would take its signal only when continued.
		l.send(unix.SIGCONT)
	}
	if l.Clients != nil {
		l.Clients.Relax()
	}
	attrs := []any{"signal", SignalName(sig), "why", why, "after", round(now.Sub(l.t0))}
	l.Log.Info("stop signal forwarded", append(attrs, l.present(l.atSignal)...)...)
}

// kill ends everything that is left.
func (l *loop) kill(now time.Time) {
	l.killed = now
	l.killedLeft = l.System.CountOthers()
	l.System.SignalOthers(unix.SIGKILL)
	if !l.exited {
		// Also where the rest can't be listed.
		l.send(unix.SIGKILL)
	}
	attrs := []any{"processes", l.killedLeft}
	if !l.t0.IsZero() {
		attrs = append(attrs, "after", round(now.Sub(l.t0)))
	}
	l.Log.Warn("deadline: SIGKILL to everything that is left", append(attrs, l.present(l.verdict)...)...)
}

// present is who was there, where that is known.
func (l *loop) present(v sockets.Verdict) []any {
	if !v.Known {
		return nil
	}
	return []any{"connections", v.Open, "in_flight", v.InFlight, "accept_queue", v.Queued}
}

// stopSignal is what the child is sent: STOP_SIGNAL, or the one received.
func (l *loop) stopSignal() unix.Signal {
	switch {
	case l.StopSignal != 0:
		return l.StopSignal
	case l.received != 0:
		return l.received
	}
	return unix.SIGTERM
}

func (l *loop) killAt() time.Time    { return l.t0.Add(l.Timeline.KillAfter()) }
func (l *loop) forwardBy() time.Time { return l.t0.Add(l.Timeline.ForwardAfter()) }

// unreadyAt is when /readyz turns 503, zero if it has.
func (l *loop) unreadyAt() time.Time {
	if !l.logged.Ready {
		return time.Time{}
	}
	return l.t0.Add(l.Timeline.UnreadyDelay)
}

// giveUpAt is when drainit stops waiting for what SIGKILL did not end: a
// process in uninterruptible sleep, or one it may not signal. As PID 1 its own
// exit ends them all.
func (l *loop) giveUpAt() time.Time {
	return l.killed.Add(min(time.Second, max(l.Timeline.Margin/2, 100*time.Millisecond)))
}
