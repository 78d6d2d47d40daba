package supervisor

import (
	"time"

	"github.com/drainit/drainit/health"
	"github.com/drainit/drainit/notify"
)

// readiness is what the child, its check and the operators say about traffic.
// It knows no clock and no stop.
type readiness struct {
	byNotify           bool          // READY=1 decides, not the check
	check              health.Result // the latest
	notified           bool          // READY=1 came
	declined           string        // RELOADING=1 or STOPPING=1, until the next READY=1
	declinedByOperator bool          // by `drainit drain`
	started            bool          // the container has been ready once
}

// state reports whether the child and the operators allow traffic, and why or
// why not.
func (r *readiness) state() (ready bool, why string) {
	switch {
	case r.declinedByOperator:
		return false, "drained by `drainit drain`; `drainit undrain` ends it"
	case r.declined != "":
		return false, r.declined
	case r.byNotify && !r.notified:
		return false, "no READY=1 from the child yet"
	case !r.byNotify && !r.check.OK:
		return false, r.check.Reason
	}
	return true, r.check.Reason
}

// childReady reports whether the child itself is ready, even if an operator or
// the child declines traffic for now.
func (r *readiness) childReady() bool {
	if r.byNotify {
		return r.notified
	}
	return r.check.OK
}

// update applies what a message of the child says about readiness.
func (r *readiness) update(m notify.Message) {
	if m.Ready {
		r.notified, r.declined = true, ""
	}
	if m.Reloading {
		r.declined = "the child is reloading"
	}
	if m.Stopping {
		r.declined = "the child is stopping"
	}
}

// onReadiness handles a result of the readiness check.
func (l *loop) onReadiness(r health.Result) {
	l.readiness.check = r
	if r.Hint != "" {
		l.Log.Warn(r.Hint)
	}
	l.readinessChanged()
}

// onNotification handles one message of the child's readiness protocol.
func (l *loop) onNotification(m notify.Message) {
	if m.HasStatus {
		l.child.statusText = m.Status
	}
	if m.MainPID > 0 {
		l.onMainPID(m.MainPID)
	}
	l.relay(m)
	l.readiness.update(m)
	if !l.child.exited && l.watchdog.update(m, time.Now()) {
		l.Log.Info("watchdog: the child is alive again")
	}
	if m.WatchdogTrigger {
		l.watchdogMissed("WATCHDOG=trigger")
	}
	if m.ExtendTimeout > 0 {
		l.extend(m.ExtendTimeout)
	}
	l.readinessChanged()
}

// onDrainCommand handles `drainit drain` and `drainit undrain`.
func (l *loop) onDrainCommand(drained bool) {
	if l.phase >= Draining {
		l.Log.Info("drain and undrain change nothing once a stop has begun")
		return
	}
	l.readiness.declinedByOperator = drained
	l.readinessChanged()
}

// readinessChanged moves the phase along and publishes the answer.
func (l *loop) readinessChanged() {
	ready, _ := l.readiness.state()
	switch {
	case ready:
		l.transition(becameReady)
	case l.phase == Ready, l.readiness.childReady():
		l.transition(becameUnready)
	}
	l.publish()
}

// publish sets the gate, and logs readiness that changes before a stop. The
// first ready is the normal case and is not logged; a stop logs its own lines.
func (l *loop) publish() {
	a := l.probeAnswer()
	l.Gate.Set(a)
	if a.Ready != l.published.Ready && l.published.Started && l.phase < Draining {
		if a.Ready {
			l.Log.Info("ready")
		} else {
			_, why := l.readiness.state()
			l.Log.Info("not ready", "why", why)
		}
	}
	l.published = a
}

// probeAnswer returns what probes are told in this state.
func (l *loop) probeAnswer() health.Answer {
	a := health.Answer{
		Ready:    l.phase == Ready,
		Started:  l.readiness.started,
		NotAlive: l.notAlive(),
		Reason:   l.phase.String(),
	}
	if l.phase >= Draining {
		a.Ready = l.stop.stillReady
		a.Started = true
		if l.stop.begun() {
			a.Reason += ": stop asked for by " + l.stop.by
		} else {
			a.Reason += ": the child has exited"
		}
	} else if _, why := l.readiness.state(); why != "" {
		a.Reason += ": " + why
	}
	return a
}

// onUnreadyDelayOver turns /readyz to 503 at the end of UNREADY_DELAY.
func (l *loop) onUnreadyDelayOver() {
	l.stop.stillReady = false
	l.publish()
}

// extend grants the child more time: while clients are waited for it postpones
// the forwarding, after the child's exit it prolongs the wait for what is left.
// It moves neither forward_by nor kill_at.
func (l *loop) extend(by time.Duration) {
	until := time.Now().Add(by)
	switch {
	case l.phase == Draining:
		if until.After(l.stop.extendedUntil) {
			l.stop.extendedUntil = earlier(until, l.forwardBy())
		}
	case l.child.exited && !l.child.orphanBy.IsZero() && l.stop.begun():
		if until.After(l.child.orphanBy) {
			l.child.orphanBy = earlier(until, l.killAt())
		}
	}
}
