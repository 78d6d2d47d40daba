package supervisor

import (
	"slices"
	"time"
)

// alarm is something that is due at an instant.
type alarm struct {
	at   time.Time
	fire func(*loop)
}

// alarms returns everything that the passing of time can bring about in this
// phase. arm waits for the earliest of them and fireDue runs those that are
// due, so neither can miss one that the other knows. Firing an alarm removes it
// from the list, by changing what the list is made from.
func (l *loop) alarms() []alarm {
	l.due = l.due[:0]
	l.addAlarm(l.watchdog.deadline(), (*loop).onWatchdogOverdue)
	switch {
	case l.phase == Killing:
		l.addAlarm(l.giveUpAt(), (*loop).onGiveUp)
	case l.child.exited:
		l.addAlarm(l.child.orphanAlarm(), (*loop).onKillDue)
	case l.phase == Ready:
		l.addAlarm(l.announced.retryAt, (*loop).announce)
	case l.phase == Draining:
		l.addAlarm(l.unreadyAt(), (*loop).onUnreadyDelayOver)
		if l.stop.waitOver {
			l.addAlarm(l.forwardNowAt(), (*loop).forwardAsDecided)
		} else {
			l.addAlarm(l.windowOverAt(), (*loop).onWindowOver)
			l.addAlarm(l.clients.reportAt, (*loop).logWaiting)
		}
		l.addAlarm(l.forwardBy(), (*loop).onForwardBy)
	case l.phase == Stopping:
		l.addAlarm(l.unreadyAt(), (*loop).onUnreadyDelayOver)
		l.addAlarm(l.killAt(), (*loop).onKillDue)
	}
	return l.due
}

// addAlarm lists an alarm; the zero time is never.
func (l *loop) addAlarm(at time.Time, fire func(*loop)) {
	if !at.IsZero() {
		l.due = append(l.due, alarm{at, fire})
	}
}

// arm sets the one timer to the earliest alarm. Without an alarm there is no
// timer, and so no wake-up at all.
func (l *loop) arm() {
	all := l.alarms()
	if len(all) == 0 {
		l.timer.Stop()
		return
	}
	l.timer.Reset(time.Until(earliest(all).at))
}

// fireDue runs the alarms that are due at now, the earliest first. It is called
// after every event, so a timer that fires together with something else loses
// nothing, whichever came first. What one alarm brings about may be due as
// well: hence the rounds, bounded so that events get their turn.
func (l *loop) fireDue(now time.Time) {
	for range 10 {
		all := l.alarms()
		if len(all) == 0 {
			return
		}
		a := earliest(all)
		if now.Before(a.at) {
			return
		}
		a.fire(l)
	}
}

// earliest returns the first alarm to fire: of several at one instant, the one
// that is listed first.
func earliest(all []alarm) alarm {
	return slices.MinFunc(all, func(a, b alarm) int { return a.at.Compare(b.at) })
}

// killAt returns when a child that has not ended gets SIGKILL. If drainit was
// late with the stop signal, the child still has what is left of the budget,
// and at least minGrace.
func (l *loop) killAt() time.Time {
	at := l.stop.at.Add(l.Timeline.KillAfter())
	if l.stop.late {
		return later(at, l.lateKillAt(l.stop.forwarded))
	}
	return at
}

// minGrace is how long a process has between its signal and SIGKILL where
// drainit was held up beyond every deadline.
const minGrace = 500 * time.Millisecond

// lateKillAt returns the end of the whole budget, or minGrace after a signal
// that was sent later than that.
func (l *loop) lateKillAt(signalled time.Time) time.Time {
	return later(l.stop.at.Add(l.Timeline.Grace), signalled.Add(minGrace))
}

// forwardBy returns the latest instant to forward the stop signal.
func (l *loop) forwardBy() time.Time { return l.stop.at.Add(l.Timeline.ForwardAfter()) }

// windowEnd returns the earliest instant to forward the stop signal: the end of
// DRAIN_WINDOW, or of the child's own extension.
func (l *loop) windowEnd() time.Time {
	end := l.stop.at.Add(l.Timeline.Window)
	if l.stop.extendedUntil.After(end) {
		return l.stop.extendedUntil
	}
	return end
}

// windowOverAt returns when the window ends the wait by itself, or zero while
// the clients decide.
func (l *loop) windowOverAt() time.Time {
	if l.clients.decides() {
		return time.Time{}
	}
	return l.windowEnd()
}

// forwardNowAt returns when to forward once the wait is over. t0 has passed, so
// it means at once. Zero means never: prestop has begun the stop, and the stop
// signal that it announces has not come.
func (l *loop) forwardNowAt() time.Time {
	if l.stop.prestop {
		return time.Time{}
	}
	return l.stop.at
}

// unreadyAt returns when /readyz turns 503, or zero if it has.
func (l *loop) unreadyAt() time.Time {
	if !l.stop.stillReady {
		return time.Time{}
	}
	return l.stop.at.Add(l.Timeline.UnreadyDelay)
}

// giveUpAt returns when drainit stops waiting for what SIGKILL did not end: a
// process in uninterruptible sleep, or one it may not signal. As PID 1 its own
// exit ends them all.
func (l *loop) giveUpAt() time.Time {
	if l.stop.gaveUp {
		return time.Time{}
	}
	return l.stop.killedAt.Add(min(time.Second, max(l.Timeline.Margin/2, 100*time.Millisecond)))
}
