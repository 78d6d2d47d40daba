package supervisor

import (
	"time"

	"github.com/drainit/drainit/sockets"
	"golang.org/x/sys/unix"
)

// stop is one stop, from its first trigger on. Its zero value is no stop.
type stop struct {
	at         time.Time // t0
	by         string    // what asked for it
	neverReady bool      // at t0
	stillReady bool      // UNREADY_DELAY keeps /readyz at 200
	prestop    bool      // begun by prestop; the signal it announces has not come
	received   unix.Signal

	extendedUntil time.Time // EXTEND_TIMEOUT_USEC
	waitOver      bool      // the wait is over: forward as soon as asked
	why           string    // what ended the wait
	forwarded     time.Time
	late          bool  // drainit was held up, and forwarded after forward_by
	err           error // the child could not be sent its stop signal

	killedAt time.Time
	killErr  error   // the child could not be sent SIGKILL
	left     []Other // what was left then
	gaveUp   bool    // on what SIGKILL did not end
}

// begun reports whether there is a stop.
func (s *stop) begun() bool { return !s.at.IsZero() }

// begin is t0: not ready, still serving. A second call changes nothing.
func (l *loop) begin(by string) {
	if l.stop.begun() {
		return
	}
	l.stop.at, l.stop.by = time.Now(), by
	l.stop.neverReady = !l.readiness.started
	l.stop.stillReady = l.phase == Ready && l.Timeline.UnreadyDelay > 0
	l.watchClients() // before DRAIN_SIGNAL: the child may close its listeners on that
	if l.OnStop != nil {
		l.OnStop()
	}
	l.logBegin()
	l.transition(stopAsked)
	l.checkSignal()
}

// logBegin reports the timeline of the stop.
func (l *loop) logBegin() {
	t := l.Timeline
	if t.Window == 0 && l.Until == sockets.Window {
		l.Log.Info("stop asked for: the signal is forwarded at once", "by", l.stop.by)
		return
	}
	l.Log.Info("stop asked for: not ready, still serving", "by", l.stop.by,
		"forward_not_before", t.Window, "until", string(l.Until), "forward_by", t.ForwardAfter(), "kill_after", t.KillAfter())
}

// sendDrainSignal tells the child at t0 to take no more work.
func (l *loop) sendDrainSignal() {
	if l.DrainSignal != 0 {
		l.send(l.DrainSignal)
	}
}

// onWindowOver ends the wait where the window alone decides.
func (l *loop) onWindowOver() {
	l.decideToForward("window")
	if l.stop.prestop {
		l.Log.Info("drained: the stop signal will be forwarded as soon as it comes", "after", round(time.Since(l.stop.at)))
	}
}

// decideToForward ends the wait. The stop signal is forwarded at once, or as
// soon as it comes where prestop has begun the stop.
func (l *loop) decideToForward(why string) { l.stop.waitOver, l.stop.why = true, why }

// forwardAsDecided forwards the stop signal after the wait has ended.
func (l *loop) forwardAsDecided() { l.forward(l.stop.why) }

// onForwardBy forwards the stop signal at the latest instant, whatever the stop
// still waits for.
func (l *loop) onForwardBy() {
	switch {
	case l.stop.waitOver:
		l.forward(l.stop.why)
	case l.Until == sockets.Window:
		l.forward("window") // the window and forward_by coincide
	default:
		l.forward("forward_by")
	}
}

// heldUpAfter is how much later than forward_by the stop signal is forwarded if
// drainit itself was held up: paused, or without CPU time.
const heldUpAfter = 500 * time.Millisecond

// forward sends the child its stop signal.
func (l *loop) forward(why string) {
	if l.phase == Draining {
		// Whether the child is stopped, or gone, may be news still to be read:
		// a SIGCHLD that came together with the stop signal waits behind it.
		l.reap()
	}
	if l.phase != Draining {
		return
	}
	now := time.Now()
	l.decideToForward(why)
	l.stop.forwarded = now
	l.stop.late = now.Sub(l.forwardBy()) >= heldUpAfter
	l.clients.atSignal = l.clients.last
	// Deferred so that it happens even after a panic: kill_at is only armed in
	// phase Stopping.
	defer l.transition(forwardDue)
	// Signal first, log second: a slow stderr must not delay the signal.
	l.stop.err = l.send(l.stopSignal())
	if l.stop.received != 0 && l.stop.err == nil {
		l.count(l.stop.received).Forwarded++
	}
	if l.child.stopped {
		// A stopped process would act on its signal only when continued.
		l.send(unix.SIGCONT)
	}
	if l.Clients != nil {
		l.Clients.Relax()
	}
	l.logForwarded(now)
}

// logForwarded reports the forwarding, and what it may have cut short.
func (l *loop) logForwarded(now time.Time) {
	if l.stop.late {
		l.Log.Warn("held up (paused, or without CPU time): the stop signal is late",
			"late", round(now.Sub(l.forwardBy())))
	}
	attrs := []any{"signal", SignalName(l.stopSignal()), "why", l.stop.why, "after", round(now.Sub(l.stop.at))}
	attrs = append(attrs, clientAttrs(l.clients.atSignal)...)
	if l.stop.err == nil {
		l.Log.Info("stop signal forwarded", attrs...)
	}
	l.warnOfClients()
}

// stopSignal returns what the child is sent: STOP_SIGNAL, or the signal
// received.
func (l *loop) stopSignal() unix.Signal { return l.Policy.ForwardedAs(l.stop.received) }

// ForwardedAs returns what the child is sent for the stop signal received. For
// none, as when prestop began the stop, that is SIGTERM unless STOP_SIGNAL is
// set.
func (p *Policy) ForwardedAs(received unix.Signal) unix.Signal {
	switch {
	case p.StopSignal != 0:
		return p.StopSignal
	case received != 0:
		return received
	}
	return unix.SIGTERM
}

// onKillDue sends SIGKILL at kill_at, or when the time for what the child left
// behind is over.
func (l *loop) onKillDue() {
	// What has exited by now needs no SIGKILL, and must not be reported as if
	// it had been killed.
	l.reap()
	if !l.child.noProcesses {
		l.transition(killDue)
	}
}

// kill ends everything that is left.
func (l *loop) kill(now time.Time) {
	l.stop.killedAt = now
	l.stop.left, _ = l.System.Others()
	l.System.SignalOthers(unix.SIGKILL, false)
	if !l.child.exited {
		// Also where the others can't be listed.
		l.stop.killErr = l.send(unix.SIGKILL)
	}
	msg := "deadline: SIGKILL to everything that is left"
	if denied, killed := splitDenied(l.stop.left); len(denied) > 0 && len(killed) == 0 {
		msg = "deadline: drainit may not kill anything that is left"
	} else if len(denied) > 0 {
		msg = "deadline: SIGKILL to what is left and drainit may kill"
	}
	attrs := killedAttrs(l.stop.left)
	if l.stop.begun() {
		attrs = append(attrs, "after", round(now.Sub(l.stop.at)))
	}
	l.Log.Warn(msg, append(attrs, clientAttrs(l.clients.last)...)...)
}

// onGiveUp ends the run although SIGKILL has not ended everything.
func (l *loop) onGiveUp() { l.stop.gaveUp = true }
