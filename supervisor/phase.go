package supervisor

import "time"

// Phase is a stage in the life of a container. The log, /statusz and the
// metrics use the same words for it.
type Phase int

const (
	Starting Phase = iota // the child runs and has not been ready yet
	Ready                 // traffic may arrive
	Unready               // it was ready; for now traffic should stay away
	Draining              // t0 has passed: not ready, still serving
	Stopping              // the stop signal was forwarded, or the child has exited and others are left
	Killing               // SIGKILL was sent to everything
)

// Phases lists every phase in order.
var Phases = [...]Phase{Starting, Ready, Unready, Draining, Stopping, Killing}

func (p Phase) String() string {
	return [...]string{"starting", "ready", "unready", "draining", "stopping", "killing"}[p]
}

// event is what can move a container from one phase to another.
type event int

const (
	becameReady   event = iota // the check passes, and neither operator nor child declines
	becameUnready              // the opposite
	stopAsked                  // the first stop signal, or prestop: t0
	forwardDue                 // the wait for clients is over
	childExited                // the main child was reaped
	killDue                    // kill_at, or ORPHAN_GRACE after the child's exit
)

// next returns the phase that follows p on e: the whole state machine.
// Readiness comes and goes until t0; from there a container only moves forward,
// so a timer or a check that comes late changes nothing.
func (p Phase) next(e event) Phase {
	switch e {
	case becameReady:
		if p < Draining {
			return Ready
		}
	case becameUnready:
		if p < Draining {
			return Unready
		}
	case stopAsked:
		return max(p, Draining)
	case forwardDue, childExited:
		return max(p, Stopping)
	case killDue:
		return Killing
	}
	return p
}

// phaseTimes records how long a run has spent in each phase.
type phaseTimes struct {
	start time.Time // of the run
	since time.Time // of the current phase
	spent [len(Phases)]time.Duration
}

func startTimes(now time.Time) phaseTimes { return phaseTimes{start: now, since: now} }

// leave adds the time in p until now, when the next phase begins.
func (t *phaseTimes) leave(p Phase, now time.Time) {
	t.spent[p] += now.Sub(t.since)
	t.since = now
}

// in returns how long the run has spent in p, with current as the phase at now.
func (t *phaseTimes) in(p, current Phase, now time.Time) time.Duration {
	if p == current {
		return t.spent[p] + now.Sub(t.since)
	}
	return t.spent[p]
}
