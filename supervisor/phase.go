package supervisor

// Phase is where a container is in its life. The words are the same in the
// log, in /statusz and in the metrics.
type Phase int

const (
	Starting Phase = iota // the child runs and has not been ready yet
	Ready                 // clients may come
	Unready               // it was ready; for now clients should stay away
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
	becameReady   event = iota // the readiness check passes and nobody holds it back
	becameUnready              // it no longer does, or an operator or the child said so
	stopAsked                  // the first stop signal, or prestop: t0
	forwardDue                 // the wait for clients is over
	childExited                // the main child was reaped
	killDue                    // kill_at, or ORPHAN_GRACE after the child's exit
)

// next is the whole state machine. Readiness comes and goes until t0; from
// there a container only moves forward, so a timer or a check that comes late
// changes nothing.
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
